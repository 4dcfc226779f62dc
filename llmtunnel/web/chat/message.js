/** One message on the page. A growing answer is drawn at most once for each frame, and only its last part again. */

import { outcomeText } from "./conversation.js";
import { render, stableEnd } from "./markdown.js";
import { toText } from "./pace.js";
import { el, icon, iconButton } from "../shell/dom.js";

/** @typedef {import("./conversation.js").Message} Message */

/** A drawing takes at most this part of the time, so that a huge answer does not make the page slow. */
const SHARE = 4;
/** Milliseconds for which a button says that it has copied. */
const COPIED = 2000;

/**
 * What a person can do with a message. A missing one is not offered.
 *
 * @typedef {{regenerate?: () => void, edit?: () => void}} Actions
 */

/** Shows a message: `element`. Call `changed` after each change of the message, and `finish` after the last one. */
export class MessageView {
  #message;
  #drew;
  #done = el("div", { class: "prose" });
  #tail = el("div", { class: "prose" });
  #thinking = el("div", { class: "thinking" });
  #thoughts = el("details", { class: "thoughts", hidden: true }, el("summary"), this.#thinking);
  #foot = el("footer");
  /** Length of the text that `#done` shows, and of the thoughts that are shown. */
  #drawn = 0;
  #thought = 0;
  #waits = false;
  /** When the next drawing may be. */
  #next = 0;

  /**
   * @param {Message} message
   * @param {() => void} drew Called when the element may have grown.
   */
  constructor(message, drew) {
    this.#message = message;
    this.#drew = drew;
    const name = message.role === "user" ? "You" : message.model;
    this.element = el(
      "article",
      { class: `message ${message.role}`, "aria-label": name },
      el("header", {}, name),
      this.#thoughts,
      this.#done,
      this.#tail,
      this.#foot,
    );
    if (message.role === "user") {
      this.#drawQuestion();
    } else if (message.outcome === "running") {
      this.#draw();
    } else {
      this.finish();
    }
  }

  /** Draw the message again, soon. */
  changed() {
    if (!this.#waits) {
      this.#waits = true;
      requestAnimationFrame((at) => this.#drawAt(at));
    }
  }

  /** Draw the whole message: it does not change any more. */
  finish() {
    this.#draw();
    this.#done.replaceChildren(proseOf(this.#message.text));
    this.#tail.replaceChildren();
    this.#drew();
  }

  /**
   * Offer actions, and show how the answer ended.
   *
   * @param {Actions} actions
   */
  offer({ regenerate, edit }) {
    const { role, outcome, figures, text } = this.#message;
    const note = outcomeText(this.#message);
    const row = el("div", { class: "actions" });
    if (text !== "" && outcome !== "running") {
      row.append(copyButton("Copy message", () => text));
    }
    if (edit) {
      row.append(iconButton("edit", "Edit message", edit));
    }
    if (regenerate) {
      row.append(iconButton("redo", "Regenerate", regenerate));
    }
    if (role === "assistant" && figures !== null && outcome !== "running") {
      row.append(el("span", { class: "figures" }, toText(figures)));
    }
    const told = note === "" ? [] : [el("p", { class: `note ${outcome}` }, note)];
    this.#foot.replaceChildren(...told, ...(row.childElementCount > 0 ? [row] : []));
    this.#drew();
  }

  /** @param {number} at */
  #drawAt(at) {
    if (at < this.#next) {
      requestAnimationFrame((later) => this.#drawAt(later));
      return;
    }
    this.#waits = false;
    if (this.#message.outcome === "running") {
      const start = performance.now();
      this.#draw();
      this.#drew();
      this.#next = at + SHARE * (performance.now() - start);
    }
  }

  #draw() {
    const { text, thoughts, outcome } = this.#message;
    const running = outcome === "running";
    this.#thoughts.hidden = thoughts.trim() === "";
    this.#thinking.append(thoughts.slice(this.#thought));
    this.#thought = thoughts.length;
    const summary = this.#thoughts.querySelector("summary");
    summary?.replaceChildren(running && text === "" ? "Thinking…" : "Thoughts");
    const stable = stableEnd(text, this.#drawn);
    if (stable > this.#drawn) {
      this.#done.append(proseOf(text.slice(this.#drawn, stable)));
      this.#drawn = stable;
    }
    this.#tail.replaceChildren(proseOf(text.slice(stable)));
    this.element.classList.toggle("running", running);
  }

  #drawQuestion() {
    const { text, images } = this.#message;
    const shown = images.map((url, place) => el("img", { src: url, alt: `Attached image ${place + 1}` }));
    this.#done.replaceChildren(...(images.length > 0 ? [el("div", { class: "images" }, ...shown)] : []));
    this.#tail.replaceChildren(text);
    this.#tail.className = "plain";
  }
}

/**
 * Return Markdown as elements, with a button on each block of code.
 *
 * @param {string} markdown
 */
function proseOf(markdown) {
  const fragment = render(markdown);
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const language = code?.className.replace("language-", "") ?? "";
    const figure = el("figure", { class: "code" });
    pre.replaceWith(figure);
    const copy = copyButton("Copy code", () => (pre.textContent ?? "").replace(/\n$/, ""));
    pre.tabIndex = 0; // a keyboard can scroll it
    figure.append(el("figcaption", {}, el("span", {}, language || "text"), copy), pre);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", { class: "table", tabindex: "0" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/**
 * @param {string} label
 * @param {() => string} text
 */
function copyButton(label, text) {
  const said = el("span", {}, "Copy");
  /**
   * @param {string} shown
   * @param {string} name What a screen reader says; it reports when the name of the button in focus changes.
   */
  const say = (shown, name) => {
    said.textContent = shown;
    button.setAttribute("aria-label", name);
  };
  const button = el(
    "button",
    {
      type: "button",
      class: "copy",
      "aria-label": label,
      click: async () => {
        const copied = await navigator.clipboard.writeText(text()).then(
          () => "Copied",
          () => "Not copied",
        );
        say(copied, copied);
        setTimeout(() => say("Copy", label), COPIED);
      },
    },
    icon("copy"),
    said,
  );
  return button;
}
