/**
 * The frame around an app's own frame, on the app's origin. It stays while the app moves from page to page.
 *
 *     shell (another origin)  <- port ->  keeper  <- messages ->  worker
 *                                           └ frame of the app
 *
 * - It takes orders from its parent only, which `frame-ancestors` limits to the shell.
 * - It gives the worker a port to the shell, again after a browser has ended the worker, and keeps it awake.
 * - It answers for `document.cookie` of the app's documents, which call it (`shim.js`).
 *
 * The app's scripts can do everything here, since the origin is theirs. So it holds nothing that they must not have.
 */

import { SAVE, saveUrl } from "./admission.js";
import { ScriptCookies } from "./cookies.js";
import { passSockets } from "./passage.js";

const FOLDER = "/~llmtunnel/";
/** Milliseconds between two messages that keep the worker awake. Browsers end an idle one after 30 s. */
const AWAKE = 10_000;
/** Milliseconds in which an earlier keeper, which the shell has removed, lets go of the lock. */
const LEFT = 3_000;
/** Milliseconds in which a file that is saved must begin to come. */
const SAVED = 3_600_000;
const LOCK = "~llmtunnel.keeper";

/** @typedef {{kind: string, target?: string}} Order */

/** The state of a keeper that shows an app. */
class Keeper {
  #port;
  #shell;
  #cookies;
  #shim = { code: "", hash: "" };

  /**
   * @param {MessagePort} port
   * @param {string} shell
   */
  constructor(port, shell) {
    this.#port = port;
    this.#shell = shell;
    this.#cookies = new ScriptCookies(location.origin, (text, path) => port.postMessage({ kind: "cookie", text, path }));
    port.onmessage = ({ data }) => data.kind === "cookies" && this.#cookies.receive(data);
  }

  /**
   * Install the worker, and show the app.
   *
   * @param {string} target
   */
  async start(target) {
    this.#shim = await shimOf(["shim.js", "socket.js", "eventsource.js"]);
    const options = /** @type {RegistrationOptions} */ ({ scope: "/", type: "module", updateViaCache: "none" });
    const registration = await navigator.serviceWorker.register(`${FOLDER}worker.js`, options);
    const worker = registration.installing ?? registration.waiting ?? registration.active;
    await activated(/** @type {ServiceWorker} */ (worker));
    const ready = new Promise((resolve) => {
      navigator.serviceWorker.onmessage = ({ data }) => {
        if (data?.kind === "port") {
          this.#connect(registration);
        } else if (data?.kind === "ready") {
          resolve(undefined);
        }
      };
    });
    this.#connect(registration);
    await ready; // a request that came before the port would ask for another one, which ends this one
    setInterval(() => registration.active?.postMessage({ kind: "stay" }), AWAKE);
    show(target);
  }

  /** @param {string} path */
  cookies(path) {
    return this.#cookies.visible(path, Date.now());
  }

  /**
   * @param {string} text
   * @param {string} path
   */
  setCookie(text, path) {
    this.#cookies.set(text, { path, now: Date.now() });
  }

  /**
   * Save what the app answers as a file.
   *
   * @param {string} target
   * @param {string} name
   */
  save(target, name) {
    const frame = newFrame();
    frame.hidden = true;
    frame.src = saveUrl(target, name);
    frame.onload = () => {
      // A file that is saved shows no document.
      if (frame.contentDocument?.URL.startsWith(location.origin + SAVE)) {
        console.error(`llmtunnel: ${target} was not saved.`, frame.contentDocument.body.innerText);
        this.#port.postMessage({ kind: "unsaved", name: name || target });
        frame.remove();
      }
    };
    document.body.append(frame);
    setTimeout(() => frame.remove(), SAVED); // the download goes on without it
  }

  /**
   * Ask the person whether to open a page of another site.
   *
   * @param {string} url
   */
  offer(url) {
    this.#port.postMessage({ kind: "link", url });
  }

  /** @param {ServiceWorkerRegistration} registration */
  #connect(registration) {
    const { port1, port2 } = new MessageChannel();
    this.#port.postMessage({ kind: "port" }, [port1]);
    registration.active?.postMessage({ kind: "port", shell: this.#shell, shim: this.#shim }, [port2]);
  }
}

/**
 * Return the code that runs before an app's own, with its hash.
 *
 * @param {string[]} names
 */
async function shimOf(names) {
  const texts = names.map(async (name) => {
    const answer = await fetch(FOLDER + name);
    if (!answer.ok) {
      throw new Error(`The server of this page answered ${answer.status} for ${name}.`);
    }
    return answer.text();
  });
  const code = (await Promise.all(texts)).join("\n");
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(code));
  return { code, hash: btoa(String.fromCharCode(...new Uint8Array(digest))) };
}

/** @param {ServiceWorker} worker */
function activated(worker) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === "activated") {
        resolve(undefined);
      } else if (worker.state === "redundant") {
        reject(new Error("The browser did not start the app's service worker."));
      }
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

/** Return a frame whose navigation is known as ours: see `admission.js`. */
function newFrame() {
  const frame = document.createElement("iframe");
  frame.referrerPolicy = "same-origin";
  return frame;
}

/** @param {string} target */
function show(target) {
  const frame = newFrame();
  frame.name = "app";
  frame.title = "App";
  frame.allow = "fullscreen; clipboard-write; autoplay";
  frame.style.cssText = "position:fixed;inset:0;width:100%;height:100%;border:0";
  frame.src = target;
  document.body.append(frame);
  frame.focus();
}

/** Remove everything that is stored for this origin. */
async function clear() {
  const registrations = await navigator.serviceWorker.getRegistrations();
  await Promise.all(registrations.map((each) => each.unregister()));
  sessionStorage.clear();
  localStorage.clear();
  for (const name of await caches.keys()) {
    await caches.delete(name);
  }
  const databases = (await indexedDB.databases?.()) ?? [];
  await Promise.all(databases.map(({ name = "" }) => deleted(indexedDB.deleteDatabase(name))));
  const root = /** @type {any} */ (await navigator.storage.getDirectory?.().catch(() => null)); // not in private windows
  for await (const name of root?.keys() ?? []) {
    await root.removeEntry(name, { recursive: true });
  }
  await fetch(`${FOLDER}clear`, { cache: "no-store" }); // its answer clears the rest, such as cookies
}

/** @param {IDBOpenDBRequest} request */
function deleted(request) {
  return new Promise((resolve) => {
    request.onsuccess = request.onerror = request.onblocked = () => resolve(undefined);
  });
}

/**
 * Do what the shell wants of this frame.
 *
 * @param {Order} order
 * @param {readonly MessagePort[]} ports
 * @param {string} shell
 */
async function obey({ kind, target = "/" }, [port, sockets], shell) {
  if (port === undefined) {
    return;
  }
  try {
    if (kind === "clear") {
      await clear();
    } else if (sockets !== undefined) {
      const keeper = new Keeper(port, shell);
      /** @type {any} */ (window).llmtunnelKeeper = keeper;
      passSockets(sockets);
      await keeper.start(target);
    }
    port.postMessage({ kind: "done" });
  } catch (error) {
    port.postMessage({ kind: "failed", message: error instanceof Error ? error.message : `${error}` });
  }
}

/**
 * Keep other tabs from using the same origin, whose one worker could not tell their tunnels apart.
 *
 * @param {MessageEvent} event
 */
async function begin({ data, ports, origin }) {
  try {
    await navigator.locks.request(LOCK, { signal: AbortSignal.timeout(LEFT) }, async () => {
      await obey(data, ports, origin);
      return data.kind === "start" ? forever() : undefined;
    });
  } catch {
    ports[0]?.postMessage({ kind: "taken" });
  }
}

/** @returns {Promise<never>} */
function forever() {
  return new Promise(() => {});
}

const first = (/** @type {MessageEvent} */ event) => {
  if (event.source === parent && parent !== window && event.origin !== location.origin) {
    removeEventListener("message", first);
    void begin(event);
  }
};
addEventListener("message", first);
