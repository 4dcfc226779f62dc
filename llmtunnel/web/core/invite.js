/**
 * Invites: a room to meet in and a shared secret, as one code that a person can say or type.
 *
 *     4821309-tulip-mango-onion-cedar-fruit                       at the default signal server
 *     4821309-tulip-mango-onion-cedar-fruit@signal.example        at wss://signal.example
 *     4821309-tulip-mango-onion-cedar-fruit@ws://10.0.0.2:8787    at any other address
 *
 * `parseInvite` accepts typing mistakes if the meaning is clear. Errors never repeat the code. If a single word is
 * wrong, the error repeats that word, and the hint names the one or two nearest ones. Mirrors `llmtunnel/invite.py`.
 */

import { closeMatches } from "./close_matches.js";
import { SettingError } from "./errors.js";
import { WORDS } from "./words.js";

export const DEFAULT_SIGNAL = "wss://signal-server.fly.dev";
const EXAMPLE = "4821309-tulip-mango-onion-cedar-fruit";
const DIGITS = 7;
/** Prefix of the name of an invite's room, before its number. */
const ROOM = "invite-";
/** Words in a code. */
const COUNT = 5;
/** Maximum length of a text that is read as a code, in characters. */
const LONGEST = 4096;
/** Maximum length of a wrong word that an error repeats. A pasted password may be longer. */
const LONGEST_WORD = 16;
const START = 3;

const LIKE = `A code looks like ${EXAMPLE}.`;
const CUT_OFF = "The code was cut off";
const WHOLE = "Copy all of it: it may continue in the next line, and end with @ and an address.";
/** Digits, with the separators that people and locales put between them. */
const NUMBER = /[0-9](?:[\s.,'’_-]?[0-9])*/g;
const WORD = /[\p{L}\p{N}]+/gu;
/** Addresses of signal servers. They contain no user and password, since a code is passed on between people. */
const ADDRESS = new RegExp(
  "^(?:(wss?)://)?((?:[a-z0-9._-]{1,253}|(\\[[0-9a-f:.]{2,45}\\]))(?::([0-9]{1,5}))?)" +
    "((?:/[a-z0-9._~%=&?+/-]{0,256})?)$",
  "i",
);
/** The beginning of an address that cannot be a complete one. */
const CUT_ADDRESS = new RegExp(
  "^(?:wss?(?::/{0,2})?" +
    "|(?:wss?://)?(?:[a-z0-9._-]+:|\\[[0-9a-f:.]*(?:\\]:)?" +
    "|(?:[0-9]{1,3}\\.){0,2}[0-9]{1,3}\\.?|(?:[0-9]{1,3}\\.){3})?)$",
  "i",
);
/** Characters that a sentence or a shell puts around an address. */
const AROUND = " \t\r\n'\"`.,;)>/";
const BY_START = new Map(WORDS.map((word) => [word.slice(0, START), word]));
const KNOWN = new Set(WORDS);

/** The place where two sides meet, and their secret. Turned into JSON or a text, it does not show the secret. */
export class Invite {
  #secret;

  /**
   * @param {string} number
   * @param {string} secret The words, separated by hyphens.
   * @param {string} signal URL of the signal server.
   */
  constructor(number, secret, signal) {
    /** Name of the room. */
    this.room = `${ROOM}${number}`;
    this.signal = signal;
    this.#secret = secret;
  }

  /** The words, separated by hyphens. */
  get secret() {
    return this.#secret;
  }

  /** The code, which one side shows and the other side types. It is a secret. */
  get code() {
    const at = this.signal === DEFAULT_SIGNAL ? "" : `@${this.signal.replace(/^wss:\/\//, "")}`;
    return `${this.room.slice(ROOM.length)}-${this.#secret}${at}`;
  }
}

/**
 * Read a code as a person types or pastes it. Throws `SettingError`.
 *
 * It accepts any case and any separators, even within the number. It accepts words without separators, and text before
 * the number. A word may have one letter extra, missing, wrong or swapped with the next, or be shortened to three
 * letters or more, if only one code word matches. But a code that ends within a word counts as truncated.
 *
 * @param {string} text The code, or a line that contains it.
 */
export function parseInvite(text) {
  if ([...text].length > LONGEST) {
    throw new SettingError("The text is too long for a code.", { hint: LIKE });
  }
  const [number, rest] = splitNumber(text.normalize("NFKC"));
  const at = rest.indexOf("@");
  const words = at < 0 ? rest : rest.slice(0, at);
  const secret = readWords(words.toLowerCase().replaceAll("ß", "ss"), at < 0).join("-");
  return new Invite(number, secret, at < 0 ? DEFAULT_SIGNAL : readAddress(strip(rest.slice(at + 1))));
}

/**
 * Return the words that may complete the text of a code that is being typed: those that begin with its last letters.
 *
 * @param {string} text
 */
export function completions(text) {
  const words = text.includes("@") ? null : /[0-9][^\p{L}]*(?:\p{L}+[^\p{L}]+)*(\p{L}+)$/u.exec(text.toLowerCase());
  const typed = words?.[1];
  return typed === undefined ? [] : WORDS.filter((word) => word.startsWith(typed));
}

/**
 * Return the number and the rest. Of several runs of digits (`python3`), use the one of the right length.
 *
 * @param {string} text
 * @returns {[string, string]}
 */
function splitNumber(text) {
  const found = [...text.matchAll(NUMBER)].map((match) => ({
    digits: match[0].replace(/[^0-9]/g, ""),
    end: match.index + match[0].length,
  }));
  const right = found.find(({ digits }) => digits.length === DIGITS);
  if (right !== undefined) {
    return [right.digits, text.slice(right.end)];
  }
  const first = found[0];
  if (first === undefined) {
    throw new SettingError("The code of an invite begins with a number, and this has none.", { hint: LIKE });
  }
  if (found.length === 1 && first.digits.length < DIGITS && text.slice(first.end).trim() === "") {
    throw new SettingError(`${CUT_OFF} in the middle of its number.`, { hint: WHOLE });
  }
  const longest = Math.max(...found.map(({ digits }) => digits.length));
  throw new SettingError(`The number of a code has ${DIGITS} digits, not ${longest}.`, { hint: LIKE });
}

/**
 * Return the words.
 *
 * @param {string} text
 * @param {boolean} last Whether nothing follows them, so that they may be truncated.
 * @returns {string[]}
 */
function readWords(text, last) {
  const typed = text.match(WORD) ?? [];
  const [exact, rest] = runTogether(typed.join(""));
  if (exact.length === COUNT && rest === "") {
    return exact;
  }
  if (last && exact.length < COUNT && WORDS.some((word) => word.startsWith(rest))) {
    const where = rest ? " in the middle of a word" : `: it has ${exact.length || "none"} of its ${COUNT} words`;
    throw new SettingError(`${CUT_OFF}${where}.`, { hint: WHOLE });
  }
  if (typed.length !== COUNT) {
    throw new SettingError(`A code has ${COUNT} words after its number, not ${typed.length}.`, { hint: LIKE });
  }
  const meant = typed.map(wordsMeant);
  if (meant.some((words) => words.length !== 1)) {
    throw wrongWords(typed, meant);
  }
  return meant.flat();
}

/**
 * Return the words at the start of the letters, at most `COUNT`, and the remaining letters.
 *
 * No word is a prefix of another, so the result is unambiguous.
 *
 * @param {string} letters
 * @returns {[string[], string]}
 */
function runTogether(letters) {
  const words = [];
  let rest = letters;
  while (rest && words.length < COUNT) {
    const word = BY_START.get(rest.slice(0, START));
    if (word === undefined || !rest.startsWith(word)) {
      break;
    }
    words.push(word);
    rest = rest.slice(word.length);
  }
  return [words, rest];
}

/**
 * Return the words that may be meant, each equally likely; exactly one if the meaning is clear.
 *
 * @param {string} typed
 */
function wordsMeant(typed) {
  if (KNOWN.has(typed)) {
    return [typed];
  }
  const started = BY_START.get(typed.slice(0, START));
  return WORDS.filter((word) => isNear(typed, word) || (word === started && word.startsWith(typed)));
}

/**
 * Return whether the words differ by one letter (wrong, missing or extra) or by two swapped letters.
 *
 * @param {string} typed
 * @param {string} word
 */
function isNear(typed, word) {
  if (Math.abs(typed.length - word.length) > 1) {
    return false;
  }
  let at = 0;
  while (at < Math.min(typed.length, word.length) && typed[at] === word[at]) {
    at += 1;
  }
  const rest = typed.slice(at);
  const other = word.slice(at);
  const swapped = rest.slice(0, 2) === reversed(other.slice(0, 2)) && rest.slice(2) === other.slice(2);
  return swapped || rest.slice(1) === other.slice(1) || rest.slice(1) === other || rest === other.slice(1);
}

/** @param {string} text */
function reversed(text) {
  return [...text].reverse().join("");
}

/**
 * Say which words are wrong. For a single one, repeat it and suggest corrections.
 *
 * @param {string[]} typed
 * @param {string[][]} meant
 */
function wrongWords(typed, meant) {
  const places = meant.flatMap((words, place) => (words.length === 1 ? [] : [place]));
  const [place = 0] = places;
  if (places.length > 1) {
    const numbers = places.map((each) => each + 1);
    const named = `${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}`;
    return new SettingError(`Words ${named} of the code are not code words.`, { hint: "Check them." });
  }
  const word = [...(typed[place] ?? "")].slice(0, LONGEST_WORD).join("");
  const slips = (meant[place] ?? []).slice(0, 2);
  const near = slips.length > 0 ? slips : closeMatches(word, WORDS, 2);
  const ask = near.length > 0 ? `Did you mean ${near.join(" or ")}?` : "Check it.";
  return new SettingError(`'${word}' (word ${place + 1}) is not a code word.`, { hint: ask });
}

/**
 * Return a signal server's address in the one form that invites use. Throws `SettingError`, which does not repeat it.
 *
 * @param {string} text
 */
function readAddress(text) {
  if (CUT_ADDRESS.test(text)) {
    throw new SettingError(`${CUT_OFF}: it ends within the signal server's address.`, { hint: WHOLE });
  }
  const match = ADDRESS.exec(text);
  const [, scheme = "wss", host = "", literal, port = "1", path = ""] = match ?? [];
  if (match === null || Number(port) < 1 || Number(port) > 65_535 || !isIpv6(literal)) {
    throw new SettingError("The signal server's address in the code is not valid.", {
      hint:
        "Use ws://host:port or wss://host; @host in a code means wss://host." +
        " For any other address, pass --room, --secret and --signal on both sides.",
    });
  }
  return `${scheme}://${host}`.toLowerCase() + path;
}

/** @param {string | undefined} literal An IPv6 address in brackets; undefined is none that could be wrong. */
function isIpv6(literal) {
  try {
    return literal === undefined || Boolean(new URL(`http://${literal}`));
  } catch {
    return false;
  }
}

/** @param {string} text */
function strip(text) {
  let [start, end] = [0, text.length];
  while (start < end && AROUND.includes(text.charAt(start))) {
    start += 1;
  }
  while (start < end && AROUND.includes(text.charAt(end - 1))) {
    end -= 1;
  }
  return text.slice(start, end);
}
