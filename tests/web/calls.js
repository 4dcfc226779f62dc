/**
 * Calls of the core by another process: a JSON text a line on standard input, and its answer on standard output.
 *
 *     {"call": "frames.encodeReset", "args": […]}      a function that a module of the core exports
 *     {"new": "connection.Connection", "args": […]}    an object
 *     {"on": 7, "call": "line.offer", "args": […]}     a method of object 7, or of something that it has
 *     {"on": 7, "get": "line.lanes"}                   a property of it
 *     {"result": …}, or {"error": {"name": …, "message": …, "code": …}}
 *
 * Values are JSON. Besides, {"$bytes": BASE64} is a Uint8Array, {"$set": […]} a Set, {"$handle": n} an object, and
 * {"$returns": value} a function.
 */

import { stdin, stdout } from "node:process";
import { createInterface } from "node:readline";

import * as bucket from "../../llmtunnel/web/core/bucket.js";
import * as bytes from "../../llmtunnel/web/core/bytes.js";
import * as config from "../../llmtunnel/web/core/config.js";
import * as errors from "../../llmtunnel/web/core/errors.js";
import * as invite from "../../llmtunnel/web/core/invite.js";
import * as auth from "../../llmtunnel/web/core/protocol/auth.js";
import * as connection from "../../llmtunnel/web/core/protocol/connection.js";
import * as fields from "../../llmtunnel/web/core/protocol/fields.js";
import * as frames from "../../llmtunnel/web/core/protocol/frames.js";
import * as greeting from "../../llmtunnel/web/core/protocol/greeting.js";
import * as heads from "../../llmtunnel/web/core/protocol/heads.js";
import * as hello from "../../llmtunnel/web/core/protocol/hello.js";
import * as journal from "../../llmtunnel/web/core/protocol/journal.js";
import * as keys from "../../llmtunnel/web/core/protocol/keys.js";
import * as liveness from "../../llmtunnel/web/core/protocol/liveness.js";
import * as outbox from "../../llmtunnel/web/core/protocol/outbox.js";
import * as spake2 from "../../llmtunnel/web/core/protocol/spake2.js";
import * as stream from "../../llmtunnel/web/core/protocol/stream.js";
import * as carrier from "../../llmtunnel/web/core/session/carrier.js";
import * as life from "../../llmtunnel/web/core/session/life.js";
import * as messages from "../../llmtunnel/web/core/signaling/messages.js";
import * as negotiation from "../../llmtunnel/web/core/signaling/negotiation.js";
import * as noise from "../../llmtunnel/web/core/transport/noise.js";
import * as sdp from "../../llmtunnel/web/core/transport/sdp.js";
import * as sealed from "../../llmtunnel/web/core/transport/sealed.js";
import * as words from "../../llmtunnel/web/core/words.js";
import * as agent from "../../llmtunnel/web/peer/agent.js";
import * as identity from "../../llmtunnel/web/peer/identity.js";
import * as relay from "../../llmtunnel/web/peer/relay.js";

/**
 * Return a handshake whose ephemeral key is known.
 *
 * @param {string} prologue
 * @param {JsonWebKey} jwk
 */
async function noiseOf(prologue, jwk) {
  const open = { ...jwk };
  delete open.d;
  const algorithm = { name: "X25519" };
  const [privateKey, publicKey] = await Promise.all([
    crypto.subtle.importKey("jwk", jwk, algorithm, false, ["deriveBits"]),
    crypto.subtle.importKey("jwk", open, algorithm, true, []),
  ]);
  return noise.Handshake.begin(prologue, { privateKey, publicKey });
}

/** @type {any} */
const MODULES = {
  agent,
  auth,
  bucket,
  bytes,
  carrier,
  config,
  connection,
  errors,
  fields,
  frames,
  greeting,
  heads,
  hello,
  identity,
  invite,
  journal,
  keys,
  life,
  liveness,
  messages,
  negotiation,
  noise,
  noiseOf,
  outbox,
  relay,
  sdp,
  sealed,
  spake2,
  stream,
  words,
};

/** @type {any[]} */
const handles = [];

/**
 * @param {any} value
 * @returns {any}
 */
function pack(value) {
  if (value instanceof Uint8Array) {
    return { $bytes: Buffer.from(value).toString("base64") };
  }
  if (value instanceof Set) {
    return { $set: [...value].map(pack) };
  }
  if (value instanceof Map) {
    return [...value].map(([key, item]) => [key, pack(item)]);
  }
  if (Array.isArray(value) || typeof value?.next === "function") {
    return [...value].map(pack);
  }
  if (typeof value !== "object" || value === null) {
    return value ?? null;
  }
  const plain = Object.getPrototypeOf(value) === Object.prototype;
  if (plain && !Object.values(value).some((each) => typeof each === "function")) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, pack(item)]));
  }
  return { $handle: handles.push(value) - 1 };
}

/**
 * @param {string} _key
 * @param {any} value
 */
function unpack(_key, value) {
  if (value?.$bytes !== undefined) {
    return new Uint8Array(Buffer.from(value.$bytes, "base64"));
  }
  if (value?.$set !== undefined) {
    return new Set(value.$set);
  }
  if (value?.$returns !== undefined) {
    return () => value.$returns;
  }
  return value?.$handle !== undefined ? handles[value.$handle] : value;
}

/**
 * Return what a path names, and what it is a property of.
 *
 * @param {any} root
 * @param {string} path
 */
function find(root, path) {
  const names = path.split(".");
  const last = /** @type {string} */ (names.pop());
  const owner = names.reduce((each, name) => each[name], root);
  return [owner[last], owner];
}

/** @param {any} asked */
async function answer(asked) {
  const root = asked.on === undefined ? MODULES : handles[asked.on];
  const [found, owner] = find(root, asked.new ?? asked.call ?? asked.get);
  if (asked.get !== undefined) {
    return found;
  }
  return asked.new === undefined ? found.apply(owner, asked.args) : new found(...asked.args);
}

for await (const line of createInterface({ input: stdin, crlfDelay: Infinity })) {
  let said;
  try {
    said = { result: pack(await answer(JSON.parse(line, unpack))) };
  } catch (error) {
    const { name, message, code, hint } = /** @type {any} */ (error);
    said = { error: { name, message, code: code ?? null, hint: hint ?? "" } };
  }
  stdout.write(`${JSON.stringify(said)}\n`);
}
