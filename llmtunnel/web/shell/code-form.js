/** The start of the page: asks for the code, as the command line does, and completes its words. */

import { TunnelError } from "../core/errors.js";
import { completions, parseInvite } from "../core/invite.js";
import { el } from "./dom.js";

/** @typedef {import("../core/invite.js").Invite} Invite */

/** Words that are offered at once. */
const MOST = 4;

/**
 * @typedef {object} Entered
 * @property {Invite} invite
 * @property {string} code The text that it was read from.
 * @property {string | null} access Access token of a private signal server.
 */

/**
 * Return the form.
 *
 * @param {object} options
 * @param {string} [options.code] What the text box holds at first.
 * @param {boolean} [options.token] Whether to ask for an access token.
 * @param {string} [options.problem] What is wrong with the code so far.
 * @param {(entered: Entered) => void} options.entered
 */
export function codeForm({ code = "", token = false, problem = "", entered }) {
  const words = el("div", { class: "words", "aria-live": "polite" });
  const told = el("p", { class: "problem", role: "alert", id: "code-problem" }, problem);
  const input = el("input", {
    ...{ id: "code", name: "code", type: "text", autocomplete: "off", autocapitalize: "none", autocorrect: "off" },
    ...{ spellcheck: "false", enterkeyhint: "go", placeholder: "4821309-tulip-mango-…", "aria-describedby": "code-problem" },
    ...{ input: () => offer(), keydown: (/** @type {KeyboardEvent} */ event) => complete(event) },
  });
  input.value = code;
  if (problem !== "") {
    input.setAttribute("aria-invalid", "true");
  }
  const access = el("input", { id: "access", type: "password", autocomplete: "off" });

  /** @param {string} word */
  function accept(word) {
    const typed = input.value.replace(/\p{L}+$/u, word);
    input.value = typed.split(/[^\p{L}]+/u).filter(Boolean).length < 5 ? `${typed}-` : typed;
    input.focus();
    offer();
  }

  function offer() {
    input.removeAttribute("aria-invalid"); // it is another code now
    const found = unfinished(input.value).slice(0, MOST);
    words.replaceChildren(
      ...found.map((word) => el("button", { type: "button", class: "word", click: () => accept(word) }, word)),
    );
  }

  /** @param {KeyboardEvent} event */
  function complete(event) {
    const [word, other] = unfinished(input.value);
    if (event.key === "Tab" && !event.shiftKey && word !== undefined && other === undefined) {
      event.preventDefault();
      accept(word);
    }
  }

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    try {
      const invite = parseInvite(input.value);
      entered({ invite, code: input.value, access: access.value.trim() || null });
    } catch (error) {
      if (!(error instanceof TunnelError)) {
        throw error;
      }
      told.textContent = `${error.message} ${error.hint}`.trim();
      input.setAttribute("aria-invalid", "true");
      input.focus();
    }
  }

  return el(
    "form",
    { class: "code", submit, novalidate: true },
    el("label", { for: "code" }, "Code"),
    input,
    words,
    ...(token ? [el("label", { for: "access" }, "Access token of the signal server"), access] : []),
    told,
    el("button", { type: "submit", class: "primary big" }, "Connect"),
  );
}

/**
 * Return the words that may complete what is typed; none if it ends with a whole word.
 *
 * @param {string} text
 */
function unfinished(text) {
  const found = completions(text);
  return found.length === 1 && text.toLowerCase().endsWith(found[0] ?? "") ? [] : found;
}
