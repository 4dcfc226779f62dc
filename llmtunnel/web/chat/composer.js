/** Where a person writes: the text box, images, and the button that sends or stops. */

import { ImageError, imagesIn, pastedImages, readImage } from "./images.js";
import { composes, el, icon, iconButton } from "../shell/dom.js";

/** Images of one message. Model servers limit them, and a request holds them all. */
const MOST_IMAGES = 8;
/** Height of the text box at which it scrolls, as a part of the window's. */
const TALLEST = 0.4;

/**
 * @typedef {object} ComposerOwner
 * @property {(text: string, images: string[]) => boolean} send Return whether it was accepted.
 * @property {() => void} stop
 * @property {(text: string) => void} tell Show a problem.
 */

/** Shows itself as `element`. */
export class Composer {
  #owner;
  /** @type {string[]} */
  #images = [];
  /** Resolves once all images that were attached have been read, one after the other. */
  #reading = Promise.resolve();
  #text = el("textarea", {
    ...{ rows: "1", placeholder: "Write a message", "aria-label": "Message", enterkeyhint: "send", name: "message" },
    input: () => this.#fit(),
    keydown: (/** @type {KeyboardEvent} */ event) => this.#keyDown(event),
    paste: (/** @type {ClipboardEvent} */ event) => this.#attach(pastedImages(event.clipboardData), event),
  });
  #previews = el("div", { class: "previews", hidden: true });
  #file = el("input", {
    ...{ type: "file", accept: "image/*", multiple: true, hidden: true, "aria-label": "Image files" },
    change: () => this.#chosen(),
  });
  #send = el(
    "button",
    { type: "submit", class: "round primary", "aria-label": "Send", title: "Send (Enter)" },
    icon("send"),
  );
  #stop = el(
    "button",
    { type: "button", class: "round", "aria-label": "Stop", title: "Stop (Esc)", hidden: true, click: () => this.#owner.stop() },
    icon("stop"),
  );

  /** @param {ComposerOwner} owner */
  constructor(owner) {
    this.#owner = owner;
    const attach = iconButton("attach", "Attach images", () => this.#file.click());
    this.element = el(
      "form",
      {
        class: "composer",
        submit: (/** @type {Event} */ event) => this.#submit(event),
      },
      this.#previews,
      this.#text,
      el("div", { class: "row" }, attach, this.#file, el("span", { class: "space" }), this.#send, this.#stop),
    );
  }

  /** @param {boolean} busy Whether an answer runs, which can be stopped. */
  setBusy(busy) {
    const held = document.activeElement === (busy ? this.#send : this.#stop);
    this.#send.hidden = busy;
    this.#stop.hidden = !busy;
    if (held) {
      (busy ? this.#stop : this.#text).focus(); // the button that had the focus is gone
    }
  }

  /**
   * Let the person write this again.
   *
   * @param {string} text
   * @param {readonly string[]} images
   */
  fill(text, images) {
    this.#text.value = text;
    this.#images = [...images];
    this.#showImages();
    this.#fit();
  }

  /**
   * Attach what was dropped.
   *
   * @param {DragEvent} event
   */
  drop(event) {
    const images = imagesIn(event.dataTransfer);
    if (images.length === 0 && (event.dataTransfer?.files.length ?? 0) > 0) {
      this.#owner.tell("Only images can be attached. Copy the text of another file into the message.");
    }
    this.#attach(images, event);
  }

  focus() {
    this.#text.focus();
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    await this.#reading; // an image that was attached just now belongs to this message
    const text = this.#text.value.trim();
    if ((text !== "" || this.#images.length > 0) && this.#owner.send(text, this.#images)) {
      this.fill("", []);
      this.focus();
    }
  }

  /** @param {KeyboardEvent} event */
  #keyDown(event) {
    if (event.key === "Enter" && !event.shiftKey && !composes(event)) {
      this.#submit(event);
    }
  }

  #chosen() {
    this.#attach([...(this.#file.files ?? [])]);
    this.#file.value = "";
  }

  /**
   * @param {File[]} files
   * @param {Event} [event] What brought them, which the browser is not to handle itself.
   */
  #attach(files, event) {
    if (files.length > 0) {
      event?.preventDefault();
      this.#reading = this.#reading.then(() => this.#read(files));
    }
  }

  /** @param {File[]} files */
  async #read(files) {
    for (const file of files) {
      if (this.#images.length >= MOST_IMAGES) {
        this.#owner.tell(`A message can have ${MOST_IMAGES} images. Send more of them in another one.`);
        break;
      }
      try {
        this.#images.push(await readImage(file));
      } catch (error) {
        const known = error instanceof ImageError;
        this.#owner.tell(known ? error.message : `An internal error: ${error}. Please report this.`);
      }
    }
    this.#showImages();
  }

  #showImages() {
    const shown = this.#images.map((url, place) =>
      el(
        "div",
        { class: "preview" },
        el("img", { src: url, alt: `Image ${place + 1}` }),
        iconButton("close", `Remove image ${place + 1}`, () => {
          this.#images.splice(place, 1);
          this.#showImages();
        }),
      ),
    );
    this.#previews.replaceChildren(...shown);
    this.#previews.hidden = shown.length === 0;
  }

  /** Make the text box as tall as its text. */
  #fit() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight, window.innerHeight * TALLEST)}px`;
  }
}
