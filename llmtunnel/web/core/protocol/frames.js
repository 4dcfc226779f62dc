/**
 * Frames and messages as bytes on the channel, and the table of all frame types (README.md section 2).
 *
 * Mirrors `llmtunnel/protocol/frames.py`. `KINDS` is the only table of types. It determines what a proxy knows, what
 * may come from serve, and what is skipped. The code that handles a frame decodes its payload.
 */

import { EMPTY, concat, decodeUtf8, encodeUtf8 } from "../bytes.js";
import { ErrorCode, ProtocolError, errorCode } from "../errors.js";

/** Maximum number of bytes in one channel message. */
export const MAX_MESSAGE = 65_536;
/** Bytes of a frame's type and stream. */
export const HEADER = 5;
export const MAX_PAYLOAD = MAX_MESSAGE - HEADER;
/** Maximum number of bytes in one REQ_BODY or RES_BODY, as in v1. */
export const MAX_BODY = 65_408;
export const MAX_STREAM = 2 ** 31 - 1;
const LENGTH = 2;
/** Maximum bytes of a frame, with its own header, that fits a bundle. A length in a bundle has 16 bits. */
export const MAX_BUNDLED_FRAME = 65_535 - HEADER - LENGTH;

/** The first byte of a frame. */
export const FrameType = Object.freeze({
  HELLO: 1,
  AGREE: 2,
  PING: 3,
  PONG: 4,
  BUNDLE: 5,
  AUTH: 6,
  RESUME: 7,
  ACK: 8,
  PATH: 9,
  REQ_HEADERS: 10,
  REQ_BODY: 11,
  REQ_END: 12,
  CLIENT_CLOSED: 13,
  RES_HEADERS: 20,
  RES_BODY: 21,
  RES_END: 22,
  RESET: 30,
  CREDIT: 31,
  ERROR: 99,
});

/** What two peers may agree on beyond v1. */
export const Feature = Object.freeze({
  SSE: "sse",
  FIELDS: "fields",
  RESET: "reset",
  CREDIT: "credit",
  LENGTH: "length",
  INTERIM: "interim",
  UPGRADE: "upgrade",
  BUNDLE: "bundle",
  AUTH: "auth",
  RESUME: "resume",
  PATH: "path",
  CLIENT: "client",
  BENCH: "bench",
  LANES: "lanes",
  IDENTITY: "identity",
});

/** @typedef {ReadonlySet<string>} Features */

/**
 * Features that a proxy adds only if it has what they need, or that it lacks.
 *
 * @type {Features}
 */
const NOT_ALWAYS = new Set([Feature.AUTH, Feature.PATH, Feature.IDENTITY]);

/**
 * What this proxy supports. AUTH needs a secret, and IDENTITY a key too. PATH is for peers that can dial TCP, which a
 * page cannot.
 *
 * @type {Features}
 */
export const ALL_FEATURES = new Set(Object.values(Feature).filter((each) => !NOT_ALWAYS.has(each)));

/** @typedef {"greeting" | "session" | "stream" | "either"} Of */
/** @typedef {"proxy" | "serve"} Role */

/**
 * One type of frame: a row of the table.
 *
 * @typedef {object} Kind
 * @property {Of} of What it belongs to. "either": a stream, or the session on stream 0.
 * @property {Role} [sender] Absent: both sides send it.
 * @property {string} [needs] If this feature is not agreed on, the type is unknown and skipped.
 */

/** @type {ReadonlyMap<number, Kind>} */
export const KINDS = new Map(
  /** @type {[number, Kind][]} */ ([
    [FrameType.HELLO, { of: "greeting", sender: "proxy" }],
    [FrameType.AGREE, { of: "greeting", sender: "serve" }],
    [FrameType.PING, { of: "session" }],
    [FrameType.PONG, { of: "session" }],
    [FrameType.BUNDLE, { of: "session", needs: Feature.BUNDLE }],
    [FrameType.AUTH, { of: "greeting", needs: Feature.AUTH }],
    [FrameType.RESUME, { of: "session", needs: Feature.RESUME }],
    [FrameType.ACK, { of: "session", needs: Feature.RESUME }],
    [FrameType.PATH, { of: "session", sender: "serve", needs: Feature.PATH }],
    [FrameType.REQ_HEADERS, { of: "stream", sender: "proxy" }],
    [FrameType.REQ_BODY, { of: "stream", sender: "proxy" }],
    [FrameType.REQ_END, { of: "stream", sender: "proxy" }],
    [FrameType.CLIENT_CLOSED, { of: "stream", sender: "proxy", needs: Feature.CLIENT }],
    [FrameType.RES_HEADERS, { of: "stream", sender: "serve" }],
    [FrameType.RES_BODY, { of: "stream", sender: "serve" }],
    [FrameType.RES_END, { of: "stream", sender: "serve" }],
    [FrameType.RESET, { of: "either", needs: Feature.RESET }],
    [FrameType.CREDIT, { of: "stream", needs: Feature.CREDIT }],
    [FrameType.ERROR, { of: "either" }],
  ]),
);

/** The last type whose stream number the receiver ignores. Frames up to this type belong to the session. */
const LAST_WITHOUT_STREAM = 9;

/**
 * Return whether a peer with these agreed features knows the type.
 *
 * @param {number} type
 * @param {Features} features
 */
export function isKnown(type, features) {
  const kind = KINDS.get(type);
  return kind !== undefined && (kind.needs === undefined || features.has(kind.needs));
}

/**
 * Return whether such a frame may have this stream number; 0: the session.
 *
 * @param {number} type
 * @param {number} stream
 */
export function standsOn(type, stream) {
  const of = KINDS.get(type)?.of;
  return of === "either" || type <= LAST_WITHOUT_STREAM || (of === "stream") === stream > 0;
}

/**
 * Return the types that a proxy handles within a session, if these features are agreed on.
 *
 * @param {Features} features
 */
export function expected(features) {
  return [...KINDS]
    .filter(([type, kind]) => kind.of !== "greeting" && kind.sender !== "proxy" && isKnown(type, features))
    .map(([type]) => type);
}

/**
 * Return whether a frame that is not `expected` breaks the protocol. If not, it is skipped like an unknown one.
 *
 * It breaks the protocol if it comes late or from the wrong side. A feature's frame from the wrong side is skipped.
 *
 * @param {number} type
 * @param {Features} features
 */
export function isBreach(type, features) {
  const kind = KINDS.get(type);
  return kind !== undefined && isKnown(type, features) && (kind.needs === undefined || kind.of === "greeting");
}

/**
 * One frame. A peer may send a type that we do not know. The payload is a view of the message.
 *
 * @typedef {object} Frame
 * @property {number} type
 * @property {number} stream
 * @property {Uint8Array} payload
 */

/**
 * Return whether a frame is a stream's, and so has a number (README.md section 11). This includes unknown types.
 *
 * @param {Frame} frame
 */
export function isOfStream(frame) {
  return frame.type > LAST_WITHOUT_STREAM && frame.stream > 0;
}

/**
 * Return the bytes of one frame.
 *
 * @param {number} type
 * @param {number} stream
 * @param {Uint8Array} [payload]
 */
export function encode(type, stream, payload = EMPTY) {
  const frame = new Uint8Array(HEADER + payload.length);
  frame[0] = type;
  viewOf(frame).setUint32(1, stream);
  frame.set(payload, HEADER);
  return frame;
}

/**
 * Return the stream number of an encoded frame.
 *
 * @param {Uint8Array} frame
 */
export function streamOf(frame) {
  return viewOf(frame).getUint32(1);
}

/**
 * Return one message of several encoded frames. A single frame stays as it is.
 *
 * @param {readonly Uint8Array[]} frames Each has at most 65,535 bytes.
 * @returns {Uint8Array}
 */
export function bundle(frames) {
  if (frames.length === 1 && frames[0] !== undefined) {
    return frames[0];
  }
  /** @type {Uint8Array[]} */
  const parts = [encode(FrameType.BUNDLE, 0)];
  for (const frame of frames) {
    parts.push(encodeU16(frame.length), frame);
  }
  return concat(parts);
}

/**
 * Return how many bytes a frame adds to a bundle.
 *
 * @param {Uint8Array} frame
 */
export function bundledSize(frame) {
  return LENGTH + frame.length;
}

/**
 * Return the frame in a message, without opening a bundle, or null if the message is too short.
 *
 * Throws `ProtocolError` if the message is too long.
 *
 * @param {Uint8Array} message
 * @returns {Frame | null}
 */
export function decode(message) {
  if (message.length > MAX_MESSAGE) {
    throw new ProtocolError("A message is too long.");
  }
  const type = message[0];
  if (type === undefined || message.length < HEADER) {
    return null;
  }
  return { type, stream: streamOf(message), payload: message.subarray(HEADER) };
}

/**
 * Yield the frames in a bundle. Throws `ProtocolError` if its lengths do not add up, or it contains a bundle.
 *
 * @param {Uint8Array} payload
 * @returns {Generator<Frame, void>}
 */
export function* unbundle(payload) {
  const view = viewOf(payload);
  let position = 0;
  while (position < payload.length) {
    const start = position + LENGTH;
    if (start > payload.length) {
      throw new ProtocolError("A bundle ends within a length.");
    }
    position = start + view.getUint16(start - LENGTH);
    if (position > payload.length) {
      throw new ProtocolError("A bundle ends within a frame.");
    }
    const frame = decode(payload.subarray(start, position));
    if (frame === null) {
      continue;
    }
    if (frame.type === FrameType.BUNDLE) {
      throw new ProtocolError("A bundle is inside a bundle.");
    }
    yield frame;
  }
}

/**
 * Return the payload of RESET.
 *
 * @param {number} code
 * @param {string} message
 */
export function encodeReset(code, message) {
  return concat([encodeU16(code), encodeText(message)]);
}

/**
 * Return the code and text of RESET. An unknown code is read as INTERNAL. Throws `ProtocolError`.
 *
 * @param {Uint8Array} payload
 * @returns {[number, string]}
 */
export function decodeReset(payload) {
  if (payload.length < LENGTH) {
    throw new ProtocolError("A RESET is too short.");
  }
  return [errorCode(viewOf(payload).getUint16(0)), decodeText(payload.subarray(LENGTH))];
}

/**
 * Return the payload of ERROR.
 *
 * @param {string} message
 */
export function encodeError(message) {
  return encodeText(message);
}

/**
 * Return the code and text of RESET or ERROR on stream 0. Throws `ProtocolError`.
 *
 * @param {Frame} frame
 * @returns {[number, string]}
 */
export function decodeSessionError(frame) {
  if (frame.type === FrameType.RESET) {
    return decodeReset(frame.payload);
  }
  const message = decodeText(frame.payload);
  return [message.startsWith("version:") ? ErrorCode.VERSION : ErrorCode.INTERNAL, message];
}

/** Maximum length of a text for people in bytes, sent or shown. It is an error message, not a document. */
const TEXT_LIMIT = 500;
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}\p{Zs}]/gu;

/**
 * Return whether a text has only characters that a line of text may show.
 *
 * @param {string} text
 */
export function isPrintable(text) {
  return !text.replaceAll(" ", "").match(UNPRINTABLE);
}

/**
 * Return a peer's text for people: at most `TEXT_LIMIT` bytes of it, and no control characters.
 *
 * @param {Uint8Array} payload
 */
export function decodeText(payload) {
  const text = decodeUtf8(payload.subarray(0, TEXT_LIMIT));
  return text.replace(UNPRINTABLE, (char) => (char === " " ? char : "\ufffd"));
}

/** @param {string} message */
function encodeText(message) {
  return encodeUtf8(message).subarray(0, TEXT_LIMIT);
}

/**
 * Return the payload of CREDIT.
 *
 * @param {number} amount
 */
export function encodeCredit(amount) {
  const payload = new Uint8Array(4);
  viewOf(payload).setUint32(0, amount);
  return payload;
}

/**
 * Return the number of bytes that a CREDIT grants, more than 0. Throws `ProtocolError`.
 *
 * @param {Uint8Array} payload
 */
export function decodeCredit(payload) {
  if (payload.length !== 4) {
    throw new ProtocolError("A CREDIT has not 4 bytes.");
  }
  const amount = viewOf(payload).getUint32(0);
  if (amount === 0) {
    throw new ProtocolError("A CREDIT grants nothing.");
  }
  return amount;
}

/**
 * Return the payload of RESUME or ACK.
 *
 * @param {number} count
 */
export function encodeCount(count) {
  return encodeU64(count);
}

/**
 * Return the number in a RESUME or ACK. Throws `ProtocolError`.
 *
 * @param {Uint8Array} payload
 */
export function decodeCount(payload) {
  if (payload.length !== 8) {
    throw new ProtocolError("A RESUME or ACK has not 8 bytes.");
  }
  return decodeU64(payload);
}

/**
 * Return the payload of REQ_END if `length` is agreed on.
 *
 * @param {number} length
 */
export function encodeLength(length) {
  return encodeU64(length);
}

/**
 * Return the number of body bytes in an END. Throws `ProtocolError`.
 *
 * @param {Uint8Array} payload
 */
export function decodeLength(payload) {
  if (payload.length !== 8) {
    throw new ProtocolError("An END has not 8 bytes of length.");
  }
  return decodeU64(payload);
}

/** @param {Uint8Array} data */
function viewOf(data) {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

/** @param {number} value */
function encodeU16(value) {
  return Uint8Array.of(value >> 8, value & 0xff);
}

/** @param {number} value */
function encodeU64(value) {
  const payload = new Uint8Array(8);
  viewOf(payload).setBigUint64(0, BigInt(value));
  return payload;
}

/**
 * Above 2^53 the number is rounded. No count of ours gets there, so it still differs from each of them.
 *
 * @param {Uint8Array} payload
 */
function decodeU64(payload) {
  return Number(viewOf(payload).getBigUint64(0));
}
