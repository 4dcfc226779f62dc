/** The web app of the upstream, in a frame that fills the page below the head. */

import { TunnelError } from "../core/errors.js";
import { AppFrame } from "./app/frame.js";
import { cardOf } from "./card.js";
import { ask } from "./dialog.js";
import { el } from "./dom.js";

/** @typedef {import("../peer/peer.js").Peer} Peer */

/** Shows itself as `element`. Call `start` once, and `close` at the end. */
export class AppView {
  #frame;
  #place = el("div", { class: "frame" });
  #note = el("div", { class: "start" });
  /** Whether a dialog is open. */
  #asks = false;

  /**
   * @param {Peer} peer
   * @param {string} origin The app's origin, which no other tunnel has or had before it was cleared.
   */
  constructor(peer, origin) {
    this.element = el("main", { class: "app", "aria-label": "App" }, this.#place, this.#note);
    this.#frame = new AppFrame(peer, { origin, container: this.#place, changed: () => this.#changed() });
  }

  /** Show the app, or why it cannot be shown. */
  async start() {
    this.#say({ tone: "busy", title: "Opening the app", text: "", hint: "", actions: [] });
    try {
      await this.#frame.start("/");
      this.#note.replaceChildren();
    } catch (error) {
      const known = error instanceof TunnelError;
      const text = known ? error.message : `An internal error: ${error}.`;
      const hint = known ? error.hint : "Please report this.";
      this.#say({ tone: "error", title: "The app cannot be shown", text, hint, actions: ["retry"] });
    }
  }

  /** End the app, and clear what it has stored. */
  async close() {
    await this.#frame.stop();
  }

  /** @param {import("./texts.js").Notice} notice */
  #say(notice) {
    this.#note.replaceChildren(cardOf(notice, () => this.start()));
  }

  async #changed() {
    const { link, unsaved } = this.#frame.state;
    if (this.#asks || (link === null && unsaved === null)) {
      return;
    }
    this.#asks = true;
    await (link === null ? tellUnsaved(unsaved) : offer(link));
    this.#asks = false;
    this.#frame.dismiss();
  }
}

/** @param {string} link */
async function offer(link) {
  const said = await ask("Open another site?", `The app links to a site outside the tunnel: ${link}`, [
    { value: "", label: "Stay here" },
    { value: "open", label: "Open in a new tab", kind: "primary" },
  ]);
  if (said === "open") {
    window.open(link, "_blank", "noopener,noreferrer");
  }
}

/** @param {string | null} name */
function tellUnsaved(name) {
  const text = `The app or the tunnel answered with an error: ${name}. The browser's console says which.`;
  return ask("The file was not saved", text, [{ value: "", label: "Close" }]);
}
