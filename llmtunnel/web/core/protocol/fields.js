/**
 * Heads and their JSON payloads, validated when received (README.md section 4). Mirrors `llmtunnel/protocol/fields.py`.
 */

import { encodeUtf8, guessText, isByteString, parseJson, utf8ByteString } from "../bytes.js";
import { ErrorCode, ProtocolError, assert } from "../errors.js";
import { Feature, MAX_PAYLOAD } from "./frames.js";
import { getAll } from "./heads.js";

/** @typedef {import("./frames.js").Features} Features */
/** @typedef {import("./heads.js").Fields} Fields */
/** @typedef {import("./heads.js").RequestHead} RequestHead */
/** @typedef {import("./heads.js").ResponseHead} ResponseHead */
/** @typedef {Record<string, unknown>} Values */

// RFC 9110 section 5.6.2; and the bytes that end a field line, or that no HTTP message may contain.
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const UNSAFE = /[\r\n\0]/;
const NUMBER = /^[0-9]+$/;

/** Maximum number of header fields in one head. */
export const MAX_FIELDS = 1024;

/**
 * Return the payload of REQ_HEADERS. Throws `ProtocolError`, of code TOO_LARGE if it does not fit a frame.
 *
 * @param {number} stream
 * @param {RequestHead} head All its texts are byte strings.
 * @param {Features} features
 */
export function encodeRequest(stream, head, features) {
  const fields = head.fields ?? [];
  assert([head.method, head.target, ...fields.flat()].every(isByteString), "a head consists of byte strings");
  const text = features.has(Feature.FIELDS) ? (/** @type {string} */ bytes) => bytes : guessText;
  /** @type {Values} */
  const values = { stream_id: stream, method: text(head.method), path: text(head.target) };
  if (features.has(Feature.CLIENT)) {
    Object.assign(values, head.client ? { client: head.client } : {}, head.last ? { last: true } : {});
  }
  if (head.bench) {
    if (!features.has(Feature.BENCH)) {
      // Without the feature, serve would forward the request to its upstream.
      throw new ProtocolError("This serve answers no measurement.", ErrorCode.REFUSED);
    }
    values["bench"] = true;
  }
  checkCount(fields.length);
  if (features.has(Feature.FIELDS)) {
    values["fields"] = fields;
  } else {
    values["headers"] = asMap(fields);
  }
  const payload = encodeUtf8(JSON.stringify(values));
  if (payload.length > MAX_PAYLOAD) {
    throw new ProtocolError("A head is too large for the tunnel.", ErrorCode.TOO_LARGE);
  }
  return payload;
}

/**
 * Return the head in a payload of RES_HEADERS. Throws `ProtocolError`.
 *
 * @param {Uint8Array} payload
 * @param {Features} features
 * @returns {ResponseHead}
 */
export function decodeResponse(payload, features) {
  const values = load(payload);
  const status = values["status"];
  if (typeof status !== "number" || !Number.isInteger(status) || status < 100 || status > 999) {
    throw new ProtocolError("A status is not a number from 100 to 999.");
  }
  const reason = raw(values["reason"] === undefined ? "" : values["reason"], features);
  if (UNSAFE.test(reason)) {
    throw new ProtocolError("A reason phrase holds a line break.");
  }
  return { status, reason, fields: decodeFields(values, features) };
}

/**
 * Reject fields that would change the meaning of a message on an HTTP connection. Throws `ProtocolError`.
 *
 * @param {Fields} fields
 */
export function check(fields) {
  for (const [name, value] of fields) {
    if (!TOKEN.test(name)) {
      throw new ProtocolError("A field name is not a token.");
    }
    if (UNSAFE.test(value)) {
      throw new ProtocolError("A field value holds CR, LF or NUL.");
    }
  }
  const lengths = new Set(getAll(fields, "content-length").map(strip));
  if (lengths.size > 1 || ![...lengths].every((length) => NUMBER.test(length))) {
    throw new ProtocolError("Content-Length is not one number.");
  }
  if (lengths.size > 0 && getAll(fields, "transfer-encoding").length > 0) {
    throw new ProtocolError("A head has both Content-Length and Transfer-Encoding.");
  }
}

/** @param {string} bytes */
function strip(bytes) {
  return bytes.replace(/^[ \t\r\n\v\f]+|[ \t\r\n\v\f]+$/g, "");
}

/**
 * Return the fields as v1 has them, one value per name: joined (RFC 9110 section 5.3), or the last Set-Cookie.
 *
 * @param {Fields} fields
 */
function asMap(fields) {
  /** @type {Map<string, [string, string]>} */
  const joined = new Map();
  for (const [name, value] of fields) {
    const key = name.toLowerCase();
    const before = joined.get(key);
    const text = guessText(value);
    if (before === undefined || key === "set-cookie") {
      joined.set(key, [before?.[0] ?? name, text]);
    } else {
      joined.set(key, [before[0], `${before[1]}${key === "cookie" ? "; " : ", "}${text}`]);
    }
  }
  return Object.fromEntries(joined.values());
}

/**
 * @param {Values} values
 * @param {Features} features
 * @returns {Fields}
 */
function decodeFields(values, features) {
  const pairs = features.has(Feature.FIELDS) ? pairsOf(values["fields"]) : itemsOf(values["headers"]);
  const fields = pairs.map(
    ([name, value]) => /** @type {const} */ ([raw(name, features), raw(value, features)]),
  );
  check(fields);
  return fields;
}

/**
 * @param {unknown} fields
 * @returns {unknown[][]}
 */
function pairsOf(fields) {
  if (!Array.isArray(fields)) {
    throw new ProtocolError("A head has no fields.");
  }
  checkCount(fields.length);
  if (!fields.every((pair) => Array.isArray(pair) && pair.length === 2)) {
    throw new ProtocolError("A field is not a pair of texts.");
  }
  return fields;
}

/**
 * @param {unknown} headers
 * @returns {unknown[][]}
 */
function itemsOf(headers) {
  if (!isObject(headers)) {
    throw new ProtocolError("A head has no headers.");
  }
  const items = Object.entries(headers);
  checkCount(items.length);
  return items;
}

/** @param {number} count */
function checkCount(count) {
  if (count > MAX_FIELDS) {
    throw new ProtocolError(`A head has ${count} fields, more than ${MAX_FIELDS}.`, ErrorCode.TOO_LARGE);
  }
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
    throw new ProtocolError("A head is not JSON.");
  }
  if (!isObject(values)) {
    throw new ProtocolError("A head is not a JSON object.");
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
 * Return the byte string that a text of the wire means, by the agreed encoding.
 *
 * @param {unknown} text
 * @param {Features} features
 */
function raw(text, features) {
  if (typeof text !== "string") {
    throw new ProtocolError("A head lacks a text.");
  }
  const bytes = features.has(Feature.FIELDS) ? (isByteString(text) ? text : null) : utf8ByteString(text);
  if (bytes === null) {
    throw new ProtocolError("A head's text is not bytes.");
  }
  return bytes;
}
