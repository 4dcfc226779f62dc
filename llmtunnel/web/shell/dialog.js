/** Dialogs that ask one question. */

import { el } from "./dom.js";

/**
 * Ask, and return the value of the chosen button; empty if the person has closed the dialog.
 *
 * @param {string} title
 * @param {string} text
 * @param {readonly {value: string, label: string, kind?: string}[]} choices
 * @returns {Promise<string>}
 */
export function ask(title, text, choices) {
  const buttons = choices.map(({ value, label, kind = "" }) =>
    el("button", { class: kind, value, type: "submit" }, label),
  );
  const dialog = el(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "dialog-title" }, title),
      el("p", {}, text),
      el("div", { class: "buttons" }, ...buttons),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}
