/** A card in the middle of the page: what is waited for, or what has failed, and what can be done. */

import { el } from "./dom.js";

/** @typedef {import("./texts.js").Action} Action */
/** @typedef {import("./texts.js").Notice} Notice */

/** @type {Record<Action, string>} */
const LABELS = { retry: "Try again", code: "Enter another code", token: "Enter an access token" };

/**
 * Return buttons for a notice's actions.
 *
 * @param {readonly Action[]} actions
 * @param {(action: Action) => void} act
 */
export function buttonsOf(actions, act) {
  return actions.map((action, place) =>
    el("button", { type: "button", class: place === 0 ? "primary" : "", click: () => act(action) }, LABELS[action]),
  );
}

/**
 * Return texts with commands, which are written between backquotes.
 *
 * @param {string} text
 */
export function withCommands(text) {
  return text.split("`").map((part, place) => (place % 2 === 1 ? el("code", {}, part) : part));
}

/**
 * @param {Notice} notice
 * @param {(action: Action) => void} act
 * @param {...Node} more Further buttons.
 */
export function cardOf({ tone, title, text, hint, actions }, act, ...more) {
  return el(
    "section",
    { class: `card ${tone}`, role: tone === "error" ? "alert" : "status" },
    el("div", { class: "sign", "aria-hidden": "true" }),
    el("h1", {}, title),
    ...(text === "" ? [] : [el("p", {}, ...withCommands(text))]),
    ...(hint === "" ? [] : [el("p", { class: "help" }, ...withCommands(hint))]),
    el("div", { class: "buttons" }, ...buttonsOf(actions, act), ...more),
  );
}
