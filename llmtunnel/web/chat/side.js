/** The list of conversations, and the choice to keep them on this device. */

import { titleOf } from "./conversation.js";
import { ask } from "../shell/dialog.js";
import { el, icon, iconButton } from "../shell/dom.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./library.js").Library} Library */

/**
 * @typedef {object} SideOwner
 * @property {() => void} begin
 * @property {(conversation: Conversation) => void} choose
 * @property {(conversation: Conversation) => void} deleted
 */

/** Shows itself as `element`. On narrow screens it covers the chat while it is open. */
export class Side {
  #library;
  #owner;
  /**
   * What had the focus before it was opened.
   *
   * @type {Element | null}
   */
  #opener = null;
  #list = el("ul");
  #none = el("p", { class: "help" }, "No conversations yet.");
  #keep = el("input", { type: "checkbox", id: "keep", role: "switch", change: () => this.#setKeep() });

  /**
   * @param {Library} library
   * @param {SideOwner} owner
   */
  constructor(library, owner) {
    this.#library = library;
    this.#owner = owner;
    const begin = () => {
      this.close();
      owner.begin();
    };
    this.element = el(
      "aside",
      {
        class: "side",
        id: "side",
        "aria-label": "Conversations",
        keydown: (/** @type {KeyboardEvent} */ event) => this.#keyDown(event),
      },
      el(
        "div",
        { class: "row" },
        el("button", { type: "button", class: "wide", click: begin }, icon("plus"), "New chat"),
        iconButton("close", "Close conversations", () => this.close()),
      ),
      el("nav", { "aria-label": "Conversations" }, this.#list, this.#none),
      el(
        "div",
        { class: "keep" },
        el("label", { for: "keep" }, this.#keep, "Keep on this device"),
        el("p", { class: "help" }, "Otherwise conversations end with this page."),
      ),
    );
    this.draw();
  }

  open() {
    this.#opener = document.activeElement;
    this.element.classList.add("open");
    this.element.querySelector("button")?.focus();
  }

  close() {
    const held = this.element.contains(document.activeElement);
    if (this.element.classList.contains("open") && held && this.#opener instanceof HTMLElement) {
      this.#opener.focus(); // what has the focus is hidden now
    }
    this.element.classList.remove("open");
  }

  /** @param {KeyboardEvent} event */
  #keyDown(event) {
    if (event.key === "Escape" && this.element.classList.contains("open")) {
      event.stopPropagation(); // it stops no answer
      this.close();
    }
  }

  /** Show the conversations as they are now. */
  draw() {
    const { all, current, keeps } = this.#library;
    this.#keep.checked = keeps;
    this.#none.hidden = all.length > 0;
    const held = this.#list.contains(document.activeElement);
    this.#list.replaceChildren(...all.map((each) => this.#itemOf(each, each === current)));
    if (held) {
      const next = this.#list.querySelector("[aria-current]") ?? this.element.querySelector("button");
      /** @type {HTMLElement | null} */ (next)?.focus(); // the button that had the focus is gone
    }
  }

  /**
   * @param {Conversation} conversation
   * @param {boolean} current
   */
  #itemOf(conversation, current) {
    const title = titleOf(conversation);
    const choose = () => {
      this.close();
      this.#owner.choose(conversation);
    };
    return el(
      "li",
      {},
      el("button", { type: "button", class: "title", ...(current ? { "aria-current": "true" } : {}), click: choose }, title),
      iconButton("trash", `Delete: ${title}`, () => this.#delete(conversation, title)),
    );
  }

  /**
   * @param {Conversation} conversation
   * @param {string} title
   */
  async #delete(conversation, title) {
    const said = await ask("Delete this conversation?", title, [
      { value: "", label: "Cancel" },
      { value: "delete", label: "Delete", kind: "danger" },
    ]);
    if (said === "delete") {
      this.#library.delete(conversation);
      this.#owner.deleted(conversation);
    }
  }

  async #setKeep() {
    if (this.#keep.checked) {
      await this.#library.keep();
    } else if (this.#library.all.length === 0 || (await this.#confirmForget())) {
      await this.#library.forget();
    }
    this.draw();
  }

  async #confirmForget() {
    const text = "All conversations are deleted from this device. They stay in this page until it is closed.";
    const said = await ask("Keep nothing on this device?", text, [
      { value: "", label: "Cancel" },
      { value: "delete", label: "Delete from this device", kind: "danger" },
    ]);
    return said === "delete";
  }
}
