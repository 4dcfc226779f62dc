/** The frame of a keeper (`app/keeper.html`), and the port to it. */

import { TunnelError } from "../../core/errors.js";

const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-downloads allow-modals allow-pointer-lock";
const PAGE = "/~llmtunnel/keeper.html";
/** Milliseconds in which a keeper must do what it is told. */
const PATIENCE = 20_000;

/** Another tab uses the origin. */
export class OriginTaken extends TunnelError {}

export class KeeperFrame {
  #origin;
  #frame;
  #heard;
  /** @type {MessagePort | null} */
  #port = null;

  /**
   * @param {string} origin
   * @param {HTMLElement} container The frame fills it.
   * @param {(message: any, ports: readonly MessagePort[]) => void} [heard] Gets the messages of the app's origin, which
   *   may be anything.
   */
  constructor(origin, container, heard = () => {}) {
    this.#origin = origin;
    this.#heard = heard;
    this.#frame = document.createElement("iframe");
    this.#frame.title = "App";
    this.#frame.setAttribute("sandbox", SANDBOX);
    this.#frame.allow = "fullscreen; clipboard-write; autoplay";
    this.#frame.style.cssText = "position:absolute;inset:0;width:100%;height:100%;border:0;background:#fff";
    this.#frame.src = origin + PAGE;
    container.append(this.#frame);
  }

  /**
   * Tell the keeper what to do, and return when it has done it.
   *
   * Throws `TunnelError` if it cannot, or the signal's reason.
   *
   * @param {{kind: "start" | "clear", target?: string}} order
   * @param {{signal: AbortSignal, ports?: MessagePort[]}} options
   */
  async order(order, { signal, ports = [] }) {
    signal.throwIfAborted();
    /** @type {(reason: unknown) => void} */
    let reject = () => {};
    const failed = new Promise((_, refuse) => {
      reject = refuse;
    });
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort);
    const timer = setTimeout(() => {
      const hint = "The server of this page must serve it too: see --web-app-host.";
      reject(new TunnelError(`The app's address ${this.#origin} does not answer.`, { hint }));
    }, PATIENCE);
    try {
      const loaded = new Promise((resolve) => this.#frame.addEventListener("load", resolve, { once: true }));
      await Promise.race([loaded, failed]);
      const { port1, port2 } = new MessageChannel();
      this.#port = port1;
      const done = this.#listen(port1);
      this.#frame.contentWindow?.postMessage(order, this.#origin, [port2, ...ports]);
      await Promise.race([done, failed]);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
  }

  /** Let the person neither see nor hit it. */
  hide() {
    this.#frame.hidden = true;
  }

  /** @param {object} message */
  post(message) {
    this.#port?.postMessage(message);
  }

  remove() {
    this.#port?.close();
    this.#frame.remove();
  }

  /** @param {MessagePort} port */
  #listen(port) {
    return new Promise((resolve, reject) => {
      port.onmessage = ({ data, ports }) => {
        if (data?.kind === "done") {
          resolve(undefined);
        } else if (data?.kind === "taken") {
          const hint = "Disconnect there, or close that tab.";
          reject(new OriginTaken("Another tab already shows an app of this page.", { hint }));
        } else if (data?.kind === "failed") {
          const hint = "Leave the private window, permit storage for this page, or use another browser.";
          reject(new TunnelError(`The browser cannot run the app: ${data.message}`, { hint }));
        } else {
          this.#heard(data, ports);
        }
      };
    });
  }
}

/**
 * Clear what is stored for an origin, in a frame for this alone.
 *
 * No script of an app runs there. And a frame whose storage has been cleared does not share its locks with later ones.
 *
 * @param {string} origin
 * @param {{container: HTMLElement, signal: AbortSignal}} options
 */
export async function clearOrigin(origin, { container, signal }) {
  const frame = new KeeperFrame(origin, container);
  frame.hide();
  try {
    await frame.order({ kind: "clear" }, { signal });
  } finally {
    frame.remove();
  }
}
