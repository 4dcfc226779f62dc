/**
 * HELLO and AGREE: version, features and the members that features need (README.md section 3).
 *
 * Mirrors `llmtunnel/protocol/hello.py`.
 */

import { encodeUtf8, fromHex, parseJson, toHex } from "../bytes.js";
import { ProtocolError } from "../errors.js";
import { Feature, isPrintable } from "./frames.js";

/** @typedef {import("./frames.js").Features} Features */
/** @typedef {Record<string, unknown>} Values */

const PROTO = "httptunnel";
export const VERSION = 1;
export const UNLIMITED = 2 ** 31 - 1;
const MIN_WINDOW = 1024;
/** Maximum number of lanes that two peers may agree on. */
export const MAX_LANES = 16;
const TCP = "tcp";
/** Bytes for authentication and resuming, in hexadecimal: 64 at most. A share of SPAKE2 has 33. */
const HEX = /^(?:[0-9a-f]{2}){1,64}$/;
const LONGEST_AGENT = 100;

/**
 * The proxy's authentication in HELLO. `ticket` is the id of its ticket, if it has one.
 *
 * @typedef {{share: Uint8Array, ticket?: Uint8Array | undefined}} AuthOffer
 */

/**
 * Serve's authentication in AGREE: a share, or a nonce if serve knows the ticket.
 *
 * @typedef {{share?: Uint8Array | undefined, nonce?: Uint8Array | undefined}} AuthAnswer
 */

/**
 * The proxy's request to resume a session. `received`: how many of serve's frames have arrived, for each lane.
 *
 * @typedef {{session: Uint8Array, received: readonly number[]}} ResumeOffer
 */

/**
 * The proxy's first message.
 *
 * @typedef {object} Hello
 * @property {Features} features
 * @property {number} window
 * @property {string} agent
 * @property {AuthOffer} [auth]
 * @property {ResumeOffer | null} [resume]
 * @property {number} lanes Maximum number of lanes that the proxy accepts.
 * @property {Uint8Array} [identity] The public key by which the proxy identifies itself: 65 bytes.
 */

/**
 * Serve's answer to HELLO.
 *
 * @typedef {object} Agree
 * @property {number} version
 * @property {Features} features
 * @property {number} window
 * @property {number} streams
 * @property {string} agent
 * @property {AuthAnswer | null} auth
 * @property {Uint8Array | null} session The id of the session that continues or begins.
 * @property {readonly number[] | null} received How many of the proxy's frames have arrived, by lane; null if the
 *   session that it asked for does not continue.
 * @property {boolean} tcpOnly Whether only local TCP may carry streams.
 * @property {boolean} once Whether the secret admits one proxy only.
 * @property {number} lanes The number of lanes of the session.
 */

/**
 * Return the payload of HELLO.
 *
 * @param {Hello} hello
 */
export function encodeHello({ features, window, agent, auth, resume, lanes, identity }) {
  const values = {
    proto: PROTO,
    min_version: VERSION,
    max_version: VERSION,
    features: [...features].sort(),
    window,
    agent,
    auth: auth && { share: toHex(auth.share), ticket: auth.ticket && toHex(auth.ticket) },
    resume: resume
      ? {
          session: toHex(resume.session),
          // An integer where there is one lane, as before there were more.
          received: resume.received.length === 1 ? resume.received[0] : resume.received,
        }
      : undefined,
    lanes: lanes > 1 ? lanes : undefined,
    identity: identity && toHex(identity),
  };
  return encodeUtf8(JSON.stringify(values));
}

/**
 * Return the AGREE in a payload. Throws `ProtocolError`.
 *
 * @param {Uint8Array} payload
 * @returns {Agree}
 */
export function decodeAgree(payload) {
  const values = load(payload);
  return {
    version: integer(values, "version"),
    features: featuresOf(values),
    window: integer(values, "window", { absent: UNLIMITED, least: MIN_WINDOW }),
    streams: integer(values, "streams", { absent: UNLIMITED, least: 1 }),
    agent: agentOf(values),
    auth: answerOf(values),
    session: bytesOf(values, "session") ?? null,
    received: receivedOf(values),
    tcpOnly: values["path"] === TCP,
    once: values["once"] === true,
    lanes: integer(values, "lanes", { absent: 1, least: 1 }),
  };
}

/**
 * @param {Uint8Array} payload
 * @returns {Values}
 */
function load(payload) {
  let values;
  try {
    values = parseJson(payload);
  } catch {
    throw new ProtocolError("A hello is not JSON.");
  }
  if (!isObject(values)) {
    throw new ProtocolError("A hello is not a JSON object.");
  }
  return values;
}

/**
 * @param {unknown} value
 * @returns {value is Values}
 */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * @param {Values} values
 * @param {string} name
 * @param {{absent?: number, least?: number, most?: number}} [range]
 * @returns {number}
 */
function integer(values, name, { absent, least = 0, most = UNLIMITED } = {}) {
  const value = values[name] === undefined ? absent : values[name];
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most) {
    throw new ProtocolError(`A hello's ${name} is not a fitting integer.`);
  }
  return value;
}

/**
 * @param {Values} values
 * @returns {Features}
 */
function featuresOf(values) {
  const names = values["features"] === undefined ? [] : values["features"];
  if (!Array.isArray(names)) {
    throw new ProtocolError("A hello's features are not a list.");
  }
  return new Set(Object.values(Feature).filter((feature) => names.includes(feature)));
}

/**
 * @param {Values} values
 * @returns {AuthAnswer | null}
 */
function answerOf(values) {
  const auth = objectOf(values, "auth");
  if (auth === null) {
    return null;
  }
  const answer = { share: bytesOf(auth, "share"), nonce: bytesOf(auth, "nonce") };
  if ((answer.share === undefined) === (answer.nonce === undefined)) {
    throw new ProtocolError("A hello's auth has not one of share and nonce.");
  }
  return answer;
}

/**
 * @param {Values} values
 * @returns {readonly number[] | null}
 */
function receivedOf(values) {
  const resume = objectOf(values, "resume");
  if (resume === null) {
    return null;
  }
  const counts = Array.isArray(resume["received"]) ? resume["received"] : [resume["received"]];
  if (counts.length < 1 || counts.length > MAX_LANES) {
    throw new ProtocolError("A hello's received has not one count for each lane.");
  }
  return counts.map((count) => integer({ received: count }, "received", { most: Number.MAX_SAFE_INTEGER }));
}

/**
 * Return the JSON object in this member, or null if the member is absent.
 *
 * @param {Values} values
 * @param {string} name
 * @returns {Values | null}
 */
function objectOf(values, name) {
  const value = values[name] ?? null;
  if (value !== null && !isObject(value)) {
    throw new ProtocolError(`A hello's ${name} is not an object.`);
  }
  return value;
}

/**
 * Return the bytes that this member has in hexadecimal, or undefined if the member is absent.
 *
 * @param {Values} values
 * @param {string} name
 */
function bytesOf(values, name) {
  const text = values[name] ?? undefined;
  if (text === undefined) {
    return undefined;
  }
  if (typeof text !== "string" || !HEX.test(text)) {
    throw new ProtocolError(`A hello's ${name} is not hexadecimal, or too long.`);
  }
  return fromHex(text);
}

/** @param {Values} values */
function agentOf(values) {
  const agent = values["agent"];
  return typeof agent === "string" && isPrintable(agent) ? [...agent].slice(0, LONGEST_AGENT).join("") : "";
}
