/**
 * An app that comes through the tunnel, in a frame of the app's own origin.
 *
 *     const app = new AppFrame(peer, { origin: "https://LABEL.app.example.org", container, changed });
 *     await app.start("/");
 *     await app.stop();
 *
 * The frame shows the keeper (`app/keeper.html`), which shows the app. The keeper gets a port, and each of its workers
 * another one; nothing else of this page is reachable from there. The frame's sandbox, which the app cannot lift,
 * permits no popups and keeps the app from navigating this page.
 */

import { Bridge } from "./bridge.js";
import { KeeperFrame, OriginTaken, clearOrigin } from "./keeper.js";
import { Sockets } from "./sockets.js";
import { markCleared, markUsed, usedOrigins } from "./used.js";
import { CookieJar } from "../../app/cookies.js";
import { SettingError, TunnelError } from "../../core/errors.js";

/** @typedef {import("../../peer/peer.js").Peer} Peer */

/**
 * @typedef {object} State
 * @property {"stopped" | "starting" | "running" | "stopping"} phase
 * @property {string | null} link A page of another site that the app wants to open. Ask the person, then `dismiss()`.
 * @property {string | null} unsaved Name of a file that could not be saved. Tell the person, then `dismiss()`.
 */

const MAX_LINK = 4096;
const MAX_NAME = 200;

export class AppFrame {
  #peer;
  #origin;
  #container;
  #changed;
  /** @type {State} */
  #state = { phase: "stopped", link: null, unsaved: null };
  /** @type {KeeperFrame | null} */
  #keeper = null;
  /** @type {Bridge | null} */
  #bridge = null;
  /** @type {Sockets | null} */
  #sockets = null;
  #jar;
  /** Ends what is being done. */
  #abort = new AbortController();
  /** Settles when `start` has ended. */
  #starting = Promise.resolve();

  /**
   * @param {Peer} peer
   * @param {object} options
   * @param {string} options.origin The app's origin. It must differ from this page's.
   * @param {HTMLElement} options.container The frame fills it.
   * @param {() => void} [options.changed] Called when `state` has changed.
   */
  constructor(peer, { origin, container, changed = () => {} }) {
    if (new URL(origin).origin === location.origin) {
      throw new SettingError("An app needs an origin of its own.", { hint: "Configure --web-app-host." });
    }
    this.#peer = peer;
    this.#origin = new URL(origin).origin;
    this.#container = container;
    this.#changed = changed;
    this.#jar = new CookieJar(this.#origin);
  }

  /** The state now. */
  get state() {
    return this.#state;
  }

  /**
   * Clear the app's origin, and show the app.
   *
   * Throws `TunnelError` if the browser cannot do that; the message says why.
   *
   * @param {string} [target] Path of the first page.
   */
  async start(target = "/") {
    if (this.#state.phase !== "stopped") {
      return;
    }
    if (!("serviceWorker" in navigator)) {
      throw new TunnelError("This browser has no service workers, which apps need.", {
        hint: "Leave the private window, or use another browser.",
      });
    }
    this.#set({ phase: "starting" });
    this.#abort = new AbortController();
    const started = this.#begin(target);
    this.#starting = started.catch(() => {}); // its caller hears of it
    await started;
    void this.#clearOthers(this.#abort.signal);
  }

  /** @param {string} target */
  async #begin(target) {
    try {
      await this.#clear();
      await this.#show(target);
    } catch (error) {
      await this.#end();
      this.#set({ phase: "stopped" });
      throw error;
    }
    this.#set({ phase: "running" });
  }

  /** @param {string} target */
  async #show(target) {
    const { port1: sockets, port2 } = new MessageChannel();
    this.#sockets = new Sockets(sockets, {
      peer: this.#peer,
      origin: this.#origin,
      cookiesFor: (url) => this.#jar.header(new URL(url).pathname, Date.now()),
      setCookie: (url, value) => this.#keep([value], new URL(url).pathname),
    });
    this.#bridge = new Bridge({
      origin: this.#origin,
      jar: this.#jar,
      agent: navigator.userAgent,
      languages: navigator.languages,
      request: (request) => this.#peer.request(request),
      cookiesChanged: () => this.#tellCookies(),
    });
    markUsed(this.#origin);
    this.#keeper = new KeeperFrame(this.#origin, this.#container, (message, ports) => this.#heard(message, ports));
    await this.#keeper.order({ kind: "start", target }, { signal: this.#abort.signal, ports: [port2] });
  }

  /** End the app with all of its requests, and clear its origin. Return whether that could be done. */
  async stop() {
    if (this.#state.phase === "stopping") {
      return true;
    }
    this.#abort.abort(new TunnelError("The app was closed."));
    await this.#starting;
    if (!usedOrigins().includes(this.#origin) && this.#state.phase !== "running") {
      return true;
    }
    this.#set({ phase: "stopping", link: null, unsaved: null });
    await this.#end();
    this.#abort = new AbortController();
    try {
      await this.#clear();
      return true;
    } catch {
      return false; // the page's server is gone. `start` clears the origin later.
    } finally {
      this.#set({ phase: "stopped" });
    }
  }

  /** Forget the page that the app wants to open, and the file. */
  dismiss() {
    this.#set({ link: null, unsaved: null });
  }

  async #clear() {
    await clearOrigin(this.#origin, { container: this.#container, signal: this.#abort.signal });
    markCleared(this.#origin);
  }

  /**
   * Clear the origins of earlier apps whose tab was closed.
   *
   * @param {AbortSignal} signal
   */
  async #clearOthers(signal) {
    for (const origin of usedOrigins().filter((each) => each !== this.#origin)) {
      try {
        await clearOrigin(origin, { container: this.#container, signal });
        markCleared(origin);
      } catch (error) {
        if (signal.aborted) {
          return;
        }
        if (!(error instanceof OriginTaken)) {
          markCleared(origin); // the page is served elsewhere now, so nothing can reach that origin
        }
      }
    }
  }

  async #end() {
    this.#bridge?.close();
    this.#bridge = null;
    const sockets = this.#sockets;
    this.#sockets = null;
    this.#keeper?.remove();
    this.#keeper = null;
    this.#jar.clear();
    await sockets?.close();
  }

  /**
   * @param {any} message
   * @param {readonly MessagePort[]} ports
   */
  #heard(message, [port]) {
    switch (message?.kind) {
      case "port":
        if (port !== undefined) {
          this.#bridge?.attach(port);
        }
        break;
      case "cookie":
        this.#setCookie(message);
        break;
      case "link":
        this.#offer(message.url);
        break;
      case "unsaved":
        this.#set({ unsaved: `${message.name}`.slice(0, MAX_NAME) });
        break;
    }
  }

  /** @param {{text: unknown, path: unknown}} message */
  #setCookie({ text, path }) {
    if (typeof text === "string" && typeof path === "string") {
      this.#jar.set(text, { path, now: Date.now(), script: true });
      this.#tellCookies({ answer: true });
    }
  }

  /**
   * @param {string[]} cookies
   * @param {string} path
   */
  #keep(cookies, path) {
    if (this.#keeper !== null && cookies.map((each) => this.#jar.set(each, { path, now: Date.now() })).some(Boolean)) {
      this.#tellCookies();
    }
  }

  /** @param {{answer?: boolean}} [options] `answer`: to a cookie that a script has set. */
  #tellCookies({ answer = false } = {}) {
    this.#keeper?.post({ kind: "cookies", cookies: this.#jar.list(), answer });
  }

  /** @param {unknown} url */
  #offer(url) {
    if (typeof url === "string" && url.length <= MAX_LINK && URL.canParse(url) && /^https?:/.test(url)) {
      this.#set({ link: url });
    }
  }

  /** @param {Partial<State>} change */
  #set(change) {
    this.#state = { ...this.#state, ...change };
    this.#changed();
  }
}
