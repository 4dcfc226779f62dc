/**
 * The shell: from a code to a tunnel, and to the chat or the app that answers at its other end.
 *
 *     no tunnel ── code ──▶ connecting ── upstream asked ──▶ chat or app
 *         ▲                     │                                │
 *         └───── Disconnect ────┴────────── Disconnect ──────────┘
 *
 * The code stays in this page's memory until "Disconnect", for "Try again", and is stored nowhere.
 */

import { TunnelError } from "../core/errors.js";
import { parseInvite } from "../core/invite.js";
import { Library } from "../chat/library.js";
import { forgetIdentity, loadIdentity, nameOf } from "../peer/identity.js";
import { Peer } from "../peer/peer.js";
import { cardOf, withCommands } from "./card.js";
import { codeForm } from "./code-form.js";
import { ask } from "./dialog.js";
import { el } from "./dom.js";
import { useSignal } from "./site.js";
import { describe } from "./texts.js";
import { Work } from "./work.js";

/** @typedef {import("./code-form.js").Entered} Entered */
/** @typedef {import("./site.js").Site} Site */
/** @typedef {import("./texts.js").Action} Action */
/** @typedef {import("./texts.js").Notice} Notice */

/** @type {Notice} */
const INSECURE = {
  tone: "error",
  title: "This page was not loaded securely",
  text: "Browsers permit encryption and WebRTC only on pages from https, or from this machine.",
  hint: "Open it over https, or run `llmtunnel web` on this machine.",
  actions: [],
};

/** Holds the page. Call `opened` with the code that the page was opened with. */
export class Shell {
  #site;
  /** The conversations, until "Disconnect". */
  #library = new Library();
  #main = el("div", { class: "page" });
  /**
   * What the tunnel was made from.
   *
   * @type {Entered | null}
   */
  #entered = null;
  /** @type {Peer | null} */
  #peer = null;
  /** The name by which serve's views show this page. */
  #name = Promise.resolve("");
  /**
   * What the tunnel is used for, once it has been connected.
   *
   * @type {Work | null}
   */
  #work = null;
  /** The state that the page shows now, so that it is not drawn twice. */
  #shown = "";
  #beforeUnload = (/** @type {Event} */ event) => event.preventDefault();

  /**
   * @param {HTMLElement} body
   * @param {Site} site
   */
  constructor(body, site) {
    this.#site = site;
    body.replaceChildren(this.#main);
    for (const kind of ["dragover", "drop"]) {
      body.addEventListener(kind, (event) => event.preventDefault()); // a dropped file would replace the page
    }
  }

  /**
   * Note that the page has been opened with a code, at first or by another link in the same tab; empty: with none.
   *
   * @param {string} code
   */
  async opened(code) {
    if (!isSecureContext) {
      this.#showCard(INSECURE);
      return;
    }
    if (this.#peer !== null) {
      // A link must not replace a tunnel by itself: the next message would go to somebody else.
      if (code === "" || !(await this.#confirmOther())) {
        return;
      }
      await this.#disconnect();
    }
    if (code === "") {
      this.#showForm({});
      return;
    }
    try {
      this.#connect({ invite: parseInvite(code), code, access: null });
    } catch (error) {
      if (!(error instanceof TunnelError)) {
        throw error;
      }
      this.#showForm({ code, problem: `${error.message} ${error.hint}` });
    }
  }

  async #confirmOther() {
    const said = await ask("Open the other tunnel?", "This link is for another tunnel. Opening it ends this one.", [
      { value: "", label: "Stay here" },
      { value: "open", label: "Open the other tunnel", kind: "primary" },
    ]);
    return said === "open";
  }

  // -- the tunnel

  /** @param {Entered} entered */
  #connect(entered) {
    this.#entered = entered;
    const identity = loadIdentity();
    this.#name = identity.then(nameOf);
    try {
      this.#peer = new Peer(useSignal(entered.invite, entered.code, this.#site), {
        access: entered.access,
        identity,
        changed: () => this.#changed(),
      });
    } catch (error) {
      if (!(error instanceof TunnelError)) {
        throw error;
      }
      this.#showCard({ tone: "error", title: "This page cannot connect", text: error.message, hint: error.hint, actions: [] });
      return;
    }
    this.#changed();
  }

  #changed() {
    const peer = this.#peer;
    if (peer === null) {
      return; // it leaves
    }
    const { state } = peer;
    const notice = describe(state);
    if (this.#work !== null) {
      this.#work.show(notice, (action) => this.#act(action));
      this.#guard();
    } else if (notice === null) {
      this.#begin(peer);
    } else {
      this.#showCard(notice);
    }
  }

  /**
   * Find out what the tunnel is for.
   *
   * @param {Peer} peer
   */
  #begin(peer) {
    this.#work = new Work(peer, {
      site: this.#site,
      name: this.#name,
      library: this.#library,
      disconnect: () => this.#leave(),
      changed: () => this.#guard(),
    });
    this.#shown = "";
    this.#main.replaceChildren(this.#work.element);
  }

  /** @param {Action} action */
  async #act(action) {
    const entered = this.#entered;
    if (action === "retry" && this.#peer !== null && this.#peer.state.phase !== "failed") {
      this.#peer.reconnect();
      return;
    }
    await this.#end();
    if (action === "retry" && entered !== null) {
      this.#connect(entered);
    } else if (action === "token") {
      this.#showForm({ code: entered?.code ?? "", token: true });
    } else {
      this.#showForm({});
    }
  }

  /** Disconnect as the person asks, who may also delete what this device keeps. */
  async #leave() {
    await this.#library.load();
    const { kept } = this.#library;
    let said = "keep";
    if (kept > 0) {
      const what = kept === 1 ? "One conversation is" : `${kept} conversations are`;
      said = await ask("Disconnect", `${what} kept on this device. Anyone who uses this browser can read them.`, [
        { value: "", label: "Cancel" },
        { value: "delete", label: "Delete and disconnect", kind: "danger" },
        { value: "keep", label: "Keep and disconnect", kind: "primary" },
      ]);
    }
    if (said !== "") {
      await this.#disconnect({ erase: said === "delete" });
      this.#showForm({});
    }
  }

  /**
   * End the tunnel, and forget all that this page knows of it.
   *
   * @param {{erase?: boolean}} [options] Whether to delete the conversations that this device keeps.
   */
  async #disconnect({ erase = false } = {}) {
    await this.#end();
    await forgetIdentity(); // serve takes this browser for another one the next time
    if (erase) {
      await this.#library.forget();
    }
    await this.#library.close();
  }

  /** End the tunnel. The conversations stay, and serve would know this page again. */
  async #end() {
    const [peer, work] = [this.#peer, this.#work];
    this.#entered = this.#peer = this.#work = null;
    this.#shown = "";
    this.#guard();
    await work?.close();
    await peer?.close();
  }

  /** Let the browser ask before the page is closed, while something would be lost. */
  #guard() {
    if (this.#work?.busy) {
      window.addEventListener("beforeunload", this.#beforeUnload);
    } else {
      window.removeEventListener("beforeunload", this.#beforeUnload);
    }
  }

  // -- before there is a tunnel

  /** @param {{code?: string, token?: boolean, problem?: string}} options */
  #showForm(options) {
    const form = codeForm({ ...options, entered: (entered) => this.#connect(entered) });
    this.#shown = "";
    this.#main.replaceChildren(
      el(
        "main",
        { class: "start" },
        el("p", { class: "brand" }, "llmtunnel"),
        el("h1", {}, "Connect to a model or web app"),
        el(
          "p",
          { class: "lead" },
          ...withCommands("Type the code that `llmtunnel serve` shows on the other machine, or open its link again."),
        ),
        form,
        el("p", { class: "help" }, "The connection is end-to-end encrypted, and goes directly where it can."),
      ),
    );
    /** @type {NodeListOf<HTMLInputElement>} */
    const inputs = form.querySelectorAll("input");
    inputs[inputs.length - 1]?.focus();
  }

  /** @param {Notice} notice */
  #showCard(notice) {
    const shown = JSON.stringify(notice);
    if (shown === this.#shown) {
      return; // a screen reader would read it again
    }
    this.#shown = shown;
    const leave =
      this.#entered === null ? [] : [el("button", { type: "button", click: () => this.#leave() }, "Disconnect")];
    this.#main.replaceChildren(
      el(
        "main",
        { class: "start" },
        el("p", { class: "brand" }, "llmtunnel"),
        cardOf(notice, (action) => this.#act(action), ...leave),
      ),
    );
  }
}

