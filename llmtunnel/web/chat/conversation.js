/**
 * The data of a conversation, in a form that IndexedDB can store, and the part of it that a model receives.
 */

/** @typedef {import("./api.js").Turn} Turn */
/** @typedef {import("./pace.js").Figures} Figures */

/**
 * How an answer ended.
 *
 * - `running`: it has not
 * - `complete`
 * - `stopped`: by the person
 * - `cut`: the server reached its limit of tokens
 * - `incomplete`: the stream broke off, or an error ended it; `problem` says more
 *
 * @typedef {"running" | "complete" | "stopped" | "cut" | "incomplete"} Outcome
 */

/**
 * @typedef {object} Message
 * @property {"user" | "assistant"} role
 * @property {string} text
 * @property {string[]} images Data URLs.
 * @property {string} thoughts What a reasoning model thought before its answer.
 * @property {string} model The model that answered; empty for the person's own messages.
 * @property {Outcome} outcome
 * @property {string} problem
 * @property {Figures | null} figures
 */

/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {number} changed When it has changed last, in milliseconds since 1970.
 * @property {string} model
 * @property {string} system System prompt; empty: none.
 * @property {number | null} temperature Null: the server's own.
 * @property {Message[]} messages
 */

const LONGEST_TITLE = 60;

/**
 * @param {{model?: string, system?: string, temperature?: number | null}} [settings]
 * @returns {Conversation}
 */
export function newConversation({ model = "", system = "", temperature = null } = {}) {
  return { id: newId(), changed: 0, model, system, temperature, messages: [] };
}

/**
 * @param {string} text
 * @param {string[]} images
 * @returns {Message}
 */
export function questionOf(text, images) {
  return { role: "user", text, images, thoughts: "", model: "", outcome: "complete", problem: "", figures: null };
}

/**
 * @param {string} model
 * @returns {Message}
 */
export function newAnswer(model) {
  return {
    role: "assistant",
    text: "",
    images: [],
    thoughts: "",
    model,
    outcome: "running",
    problem: "",
    figures: null,
  };
}

/**
 * Return what a model is sent: the system prompt, and all messages before the one that it is to write. Answers of which
 * nothing came are left out, with the question that they belong to, since many models require turns to alternate.
 *
 * @param {Conversation} conversation
 * @param {Message} [until]
 * @returns {Turn[]}
 */
export function turnsOf({ system, messages }, until) {
  const end = until === undefined ? messages.length : messages.indexOf(until);
  const before = messages.slice(0, end < 0 ? messages.length : end);
  const told = before.filter((each, place) => !isVoid(each) && !isVoid(before[place + 1]));
  const first = system.trim() === "" ? [] : [{ role: /** @type {const} */ ("system"), text: system, images: [] }];
  return [...first, ...told.map(({ role, text, images }) => ({ role, text, images }))];
}

/** @param {Message | undefined} message */
function isVoid(message) {
  return message !== undefined && message.role === "assistant" && message.text === "";
}

/**
 * Return a conversation's title: the beginning of its first question.
 *
 * @param {Conversation} conversation
 */
export function titleOf({ messages }) {
  const [first] = messages;
  if (first === undefined) {
    return "New chat";
  }
  const text = first.text.replace(/\s+/g, " ").trim();
  const letters = [...text];
  if (letters.length === 0) {
    return "An image";
  }
  return letters.length > LONGEST_TITLE ? `${letters.slice(0, LONGEST_TITLE).join("").trimEnd()}…` : text;
}

/**
 * Return what an answer's end means for a person; empty if it is complete.
 *
 * @param {Message} message
 */
export function outcomeText({ outcome, problem }) {
  switch (outcome) {
    case "stopped":
      return "You stopped this answer.";
    case "cut":
      return "This answer reached the server's limit of tokens.";
    case "incomplete":
      return problem || "This answer is incomplete: the stream ended early.";
    default:
      return "";
  }
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
