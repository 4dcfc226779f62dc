/** What a connected tunnel is used for: the chat, the app, or both with a switch. Above them the tunnel's state. */

import { Chat } from "../chat/chat.js";
import { TunnelError } from "../core/errors.js";
import { AppView } from "./app-view.js";
import { buttonsOf, cardOf, withCommands } from "./card.js";
import { el } from "./dom.js";
import { appOrigin } from "./site.js";
import { Status } from "./status.js";
import { look } from "./upstream.js";

/** @typedef {import("../peer/peer.js").Peer} Peer */
/** @typedef {import("../chat/library.js").Library} Library */
/** @typedef {import("./site.js").Site} Site */
/** @typedef {import("./texts.js").Action} Action */
/** @typedef {import("./texts.js").Notice} Notice */
/** @typedef {import("./upstream.js").Upstream} Upstream */
/** @typedef {"App" | "Chat"} Mode */

/**
 * @typedef {object} WorkOptions
 * @property {Site} site
 * @property {Promise<string>} name The name by which serve's views show this page.
 * @property {Library} library The conversations.
 * @property {() => void} disconnect The person asks to disconnect.
 * @property {() => void} changed `busy` may have changed.
 */

const CHECK = "Check the server on the other machine, and its address in `llmtunnel serve`.";
const SLOW = "A server that starts, or loads a model, may need a while.";
const NO_APP = {
  text: "A web app answers there, and this page can show a chat only.",
  hint: "An app needs a second host name: see `--web-app-host` of the server that this page came from.",
};

/** Shows itself as `element`. Call `show` when the tunnel's state has changed, and `close` at the end. */
export class Work {
  #peer;
  #options;
  #status;
  #banner = el("div", { class: "banner", role: "status", hidden: true });
  #switch = el("div", { class: "switch", role: "group", "aria-label": "View", hidden: true });
  #place = el("div", { class: "place" });
  #shown = "";
  #leaving = new AbortController();
  /** @type {Chat | null} */
  #chat = null;
  /** @type {AppView | null} */
  #app = null;

  /**
   * @param {Peer} peer
   * @param {WorkOptions} options
   */
  constructor(peer, options) {
    this.#peer = peer;
    this.#options = options;
    this.#status = new Status(() => peer.state, { changed: options.changed, name: options.name, reconnect: () => peer.reconnect() });
    const leave = el("button", { type: "button", click: () => options.disconnect() }, "Disconnect");
    this.element = el(
      "div",
      { class: "work" },
      el(
        "header",
        { class: "bar" },
        el("span", { class: "brand" }, "llmtunnel"),
        this.#switch,
        el("span", { class: "space" }),
        this.#status.element,
        leave,
      ),
      this.#banner,
      this.#place,
    );
    this.#begin();
  }

  /** Whether a stream runs, which closing the page would end. */
  get busy() {
    return (this.#chat?.busy ?? false) || (this.#app !== null && this.#peer.state.requests > 0);
  }

  /**
   * Show the tunnel's state.
   *
   * @param {Notice | null} notice What is wrong; null if nothing is.
   * @param {(action: Action) => void} act
   */
  show(notice, act) {
    this.#status.show();
    const shown = JSON.stringify(notice);
    if (shown === this.#shown) {
      return;
    }
    this.#shown = shown;
    this.#banner.hidden = notice === null;
    if (notice !== null) {
      const text = [notice.text, notice.hint].filter(Boolean).join(" ");
      this.#banner.className = `banner ${notice.tone}`;
      this.#banner.replaceChildren(
        el("p", {}, el("strong", {}, `${notice.title}. `), ...withCommands(text)),
        el("div", { class: "buttons" }, ...buttonsOf(notice.actions, act)),
      );
    }
  }

  async close() {
    this.#leaving.abort();
    this.#status.close();
    this.#chat?.close();
    await this.#app?.close();
    this.element.remove();
  }

  /** Ask the upstream what it is, and show that. */
  async #begin() {
    const card = cardOf(noticeOf("busy", "Connected", "Asking what answers there.", SLOW), () => {});
    this.#place.replaceChildren(el("main", { class: "start" }, card));
    const { signal } = this.#leaving;
    try {
      this.#use(await look(this.#peer, { signal }));
    } catch (error) {
      if (!signal.aborted) {
        const text = error instanceof TunnelError ? error.message : `An internal error: ${error}.`;
        this.#fail({ text, hint: (error instanceof TunnelError && error.hint) || CHECK });
      }
    }
  }

  /** @param {Upstream} upstream */
  #use({ chat, app, problem }) {
    const { library, site, changed } = this.#options;
    const { app: origin } = site;
    /** @type {Mode[]} */
    const modes = [];
    this.#place.replaceChildren();
    if (app && origin !== null) {
      this.#app = new AppView(this.#peer, appOrigin(origin));
      this.#place.append(this.#app.element);
      this.#app.start();
      modes.push("App");
    }
    if (chat !== null) {
      this.#chat = new Chat(this.#peer, { ...chat, library, changed });
      this.#place.append(this.#chat.element);
      this.#chat.load();
      modes.push("Chat");
    }
    const [first] = modes;
    if (first === undefined) {
      this.#fail(app ? NO_APP : { text: problem, hint: CHECK });
      return;
    }
    this.#switch.replaceChildren(...modes.map((mode) => el("button", { type: "button", click: () => this.#to(mode) }, mode)));
    this.#switch.hidden = modes.length < 2;
    this.#to(first);
  }

  /**
   * Show the app or the chat. The other one continues meanwhile.
   *
   * @param {Mode} mode
   */
  #to(mode) {
    for (const button of this.#switch.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.textContent === mode));
    }
    this.#app?.element.toggleAttribute("hidden", mode !== "App");
    this.#chat?.element.toggleAttribute("hidden", mode !== "Chat");
  }

  /** @param {{text: string, hint: string}} problem */
  #fail({ text, hint }) {
    const card = noticeOf("error", "There is nothing to show", text, hint, ["retry"]);
    this.#place.replaceChildren(el("main", { class: "start" }, cardOf(card, () => this.#begin())));
  }
}

/**
 * @param {Notice["tone"]} tone
 * @param {string} title
 * @param {string} text
 * @param {string} [hint]
 * @param {Action[]} [actions]
 * @returns {Notice}
 */
function noticeOf(tone, title, text, hint = "", actions = []) {
  return { tone, title, text, hint, actions };
}
