/**
 * The WebSocket protocol (RFC 6455) as a client speaks it: the handshake, and frames from and to bytes. Pure.
 *
 * There are no extensions: the client offers none, and rejects a server that uses one.
 */

import { EMPTY, concat, encodeUtf8 } from "../../core/bytes.js";
import { TunnelError } from "../../core/errors.js";

/** @typedef {readonly (readonly [string, string])[]} Fields */

/**
 * A piece of a message. `data` is text if the message is text. `size` is the number of bytes that came. `first` and
 * `last` delimit the message.
 *
 * @typedef {{kind: "data", data: Uint8Array | string, size: number, first: boolean, last: boolean}} DataReceived
 */
/** @typedef {{kind: "ping", data: Uint8Array}} PingReceived */
/** @typedef {{kind: "close", code: number | null, reason: string}} CloseReceived Nothing follows. */
/** @typedef {DataReceived | PingReceived | CloseReceived} Event */

/** @enum {number} */
export const Opcode = Object.freeze({ CONTINUATION: 0, TEXT: 1, BINARY: 2, CLOSE: 8, PING: 9, PONG: 10 });

/** Close codes that this client sends by itself (section 7.4.1). */
export const Code = Object.freeze({
  GOING_AWAY: 1001,
  PROTOCOL_ERROR: 1002,
  NOT_UTF8: 1007,
  TOO_LARGE: 1009,
});

/** The longest piece of a message in an event. Longer ones are split. */
export const MAX_PIECE = 64 * 1024;

/** The longest payload of a control frame. */
export const MAX_CONTROL = 125;
const FINAL = 0x80;
const MASKED = 0x80;
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** The server broke the protocol. `code` is for the Close frame. */
export class Violation extends TunnelError {
  /**
   * @param {string} message
   * @param {number} [code]
   */
  constructor(message, code = Code.PROTOCOL_ERROR) {
    super(message);
    this.code = code;
  }
}

// -- the handshake

/** Return a new value of Sec-WebSocket-Key. */
export function newKey() {
  return base64(crypto.getRandomValues(new Uint8Array(16)));
}

/**
 * Return the fields that ask for a WebSocket, without Connection and Upgrade.
 *
 * @param {string} key
 * @param {readonly string[]} protocols
 * @returns {[string, string][]}
 */
export function requestFields(key, protocols) {
  /** @type {[string, string][]} */
  const offered = protocols.length > 0 ? [["Sec-WebSocket-Protocol", protocols.join(", ")]] : [];
  return [["Sec-WebSocket-Version", "13"], ["Sec-WebSocket-Key", key], ...offered];
}

/**
 * Return the subprotocol that the server has chosen, or "". Throws `Violation` if its answer opens no WebSocket.
 *
 * @param {{status: number, reason: string, headers: Fields}} response
 * @param {string} key
 * @param {readonly string[]} protocols
 */
export async function checkResponse({ status, reason, headers }, key, protocols) {
  if (status !== 101) {
    throw new Violation(`The server answered ${status}${reason && ` ${reason}`}, and no WebSocket.`);
  }
  if (valueOf(headers, "upgrade")?.toLowerCase() !== "websocket") {
    throw new Violation("The server's answer lacks the field Upgrade: websocket.");
  }
  const connection = valueOf(headers, "connection") ?? "";
  if (!connection.split(",").some((token) => token.trim().toLowerCase() === "upgrade")) {
    throw new Violation("The server's answer lacks the field Connection: Upgrade.");
  }
  if (valueOf(headers, "sec-websocket-accept") !== (await acceptOf(key))) {
    throw new Violation("The server's Sec-WebSocket-Accept is missing or wrong.");
  }
  if (valueOf(headers, "sec-websocket-extensions")) {
    throw new Violation("The server uses a WebSocket extension that was not offered.");
  }
  const chosen = valueOf(headers, "sec-websocket-protocol") ?? "";
  if (chosen === "" ? protocols.length > 0 : !protocols.includes(chosen)) {
    throw new Violation(
      chosen === ""
        ? `The server chose none of the subprotocols that were offered: ${protocols.join(", ")}.`
        : `The server chose the subprotocol ${chosen}, which was not offered.`,
    );
  }
  return chosen;
}

/**
 * Return the value of Sec-WebSocket-Accept for a key.
 *
 * @param {string} key
 */
export async function acceptOf(key) {
  return base64(new Uint8Array(await crypto.subtle.digest("SHA-1", encodeUtf8(key + GUID))));
}

/**
 * Return whether a text may be the name of a subprotocol.
 *
 * @param {string} text
 */
export function isProtocol(text) {
  return TOKEN.test(text);
}

/**
 * Return the values of a field, joined, or null if there is none.
 *
 * @param {Fields} fields
 * @param {string} name
 */
function valueOf(fields, name) {
  const values = fields.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value.trim());
  return values.length > 0 ? values.join(", ") : null;
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

// -- frames to the server

/**
 * Return a masked frame. `final`: it is the last one of its message.
 *
 * @param {number} opcode
 * @param {Uint8Array} [payload]
 * @param {{final?: boolean}} [options]
 */
export function encodeFrame(opcode, payload = EMPTY, { final = true } = {}) {
  const size = payload.length;
  const extended = size < 126 ? 0 : size < 0x10000 ? 2 : 8;
  const start = 2 + extended + 4;
  const unused = -start & 3; // so that the payload starts at a multiple of four
  const bytes = new Uint8Array(unused + start + size);
  const view = new DataView(bytes.buffer, unused);
  view.setUint8(0, (final ? FINAL : 0) | opcode);
  view.setUint8(1, MASKED | (extended === 0 ? size : extended === 2 ? 126 : 127));
  if (extended === 2) {
    view.setUint16(2, size);
  } else if (extended === 8) {
    view.setBigUint64(2, BigInt(size));
  }
  const key = bytes.subarray(unused + start - 4, unused + start);
  crypto.getRandomValues(key);
  bytes.set(payload, unused + start);
  mask(bytes.subarray(unused + start), key);
  return bytes.subarray(unused);
}

/**
 * Return a Close frame.
 *
 * @param {number | null} code Null: the frame says nothing.
 * @param {string} [reason] At most 123 bytes.
 */
export function encodeClose(code, reason = "") {
  if (code === null) {
    return encodeFrame(Opcode.CLOSE);
  }
  return encodeFrame(Opcode.CLOSE, concat([Uint8Array.of(code >> 8, code & 0xff), encodeUtf8(reason)]));
}

/**
 * XOR bytes with a key of four bytes, in place.
 *
 * @param {Uint8Array} bytes Starts at a multiple of four of its buffer.
 * @param {Uint8Array} key
 */
function mask(bytes, key) {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
  const word = new Uint32Array(Uint8Array.from(key).buffer)[0] ?? 0; // in this machine's byte order, as the words
  for (let index = 0; index < words.length; index += 1) {
    words[index] = (words[index] ?? 0) ^ word;
  }
  for (let index = words.length * 4; index < bytes.length; index += 1) {
    bytes[index] = (bytes[index] ?? 0) ^ (key[index & 3] ?? 0);
  }
}

// -- frames from the server

/** Reads what a server sends, in whatever pieces it arrives. It holds no more than a header or a control frame. */
export class Decoder {
  #header = new Uint8Array(10);
  /** Bytes of the header that have arrived. */
  #known = 0;
  /** @type {{opcode: number, final: boolean, left: number} | null} */
  #frame = null;
  /** Whether a message has begun, and its decoder if it is text. */
  #inside = false;
  /** @type {TextDecoder | null} */
  #text = null;
  /** Whether the message has an event yet. */
  #told = false;
  #control = EMPTY;
  #closed = false;

  /**
   * Return the events in these bytes, in order. Throws `Violation` where the server breaks the protocol.
   *
   * @param {Uint8Array} bytes
   * @returns {Generator<Event, void>}
   */
  *receive(bytes) {
    let rest = bytes;
    while (rest.length > 0 && !this.#closed) {
      if (this.#frame === null) {
        rest = this.#readHeader(rest);
      }
      const frame = /** @type {{opcode: number, final: boolean, left: number} | null} */ (this.#frame);
      if (frame === null) {
        return;
      }
      const payload = rest.subarray(0, Math.min(frame.left, MAX_PIECE));
      rest = rest.subarray(payload.length);
      frame.left -= payload.length;
      if (frame.left === 0) {
        this.#frame = null;
      }
      const event = this.#eventOf(frame, payload);
      if (event !== null) {
        yield event;
      }
    }
  }

  /**
   * Read a header as far as it is there, and return what follows.
   *
   * @param {Uint8Array} bytes
   */
  #readHeader(bytes) {
    const header = this.#header;
    let position = 0;
    while (position < bytes.length && this.#known < this.#headerSize) {
      header[this.#known] = bytes[position] ?? 0;
      this.#known += 1;
      position += 1;
      if (this.#known === 2) {
        this.#checkHeader(header[0] ?? 0, header[1] ?? 0);
      }
    }
    if (this.#known === this.#headerSize) {
      const first = header[0] ?? 0;
      this.#frame = { opcode: first & 0x0f, final: (first & FINAL) !== 0, left: this.#payloadSize() };
      this.#known = 0;
    }
    return bytes.subarray(position);
  }

  get #headerSize() {
    if (this.#known < 2) {
      return 2;
    }
    const short = (this.#header[1] ?? 0) & 0x7f;
    return short === 126 ? 4 : short === 127 ? 10 : 2;
  }

  #payloadSize() {
    const view = new DataView(this.#header.buffer);
    const short = view.getUint8(1) & 0x7f;
    if (short < 126) {
      return short;
    }
    const size = short === 126 ? view.getUint16(2) : Number(view.getBigUint64(2));
    if (size > Number.MAX_SAFE_INTEGER) {
      throw new Violation("The server's frame has an impossible length.");
    }
    if (size < (short === 126 ? 126 : 0x10000)) {
      throw new Violation("The server encodes a frame's length in more bytes than needed.");
    }
    return size;
  }

  /**
   * @param {number} first
   * @param {number} second
   */
  #checkHeader(first, second) {
    const opcode = first & 0x0f;
    if (first & 0x70) {
      throw new Violation("The server's frame has a reserved bit set.");
    }
    if (second & MASKED) {
      throw new Violation("The server's frame is masked.");
    }
    if (opcode >= Opcode.CLOSE) {
      if (opcode > Opcode.PONG) {
        throw new Violation(`The server's frame has the unknown opcode ${opcode}.`);
      }
      if (!(first & FINAL) || (second & 0x7f) > MAX_CONTROL) {
        throw new Violation("The server's control frame is fragmented, or longer than 125 bytes.");
      }
      return;
    }
    if (opcode > Opcode.BINARY) {
      throw new Violation(`The server's frame has the unknown opcode ${opcode}.`);
    }
    if (this.#inside !== (opcode === Opcode.CONTINUATION)) {
      throw new Violation(
        this.#inside
          ? "The server began a message before the last one was complete."
          : "The server continued a message that it had not begun.",
      );
    }
  }

  /**
   * @param {{opcode: number, final: boolean, left: number}} frame
   * @param {Uint8Array} payload
   * @returns {Event | null}
   */
  #eventOf(frame, payload) {
    if (frame.opcode >= Opcode.CLOSE) {
      this.#control = concat([this.#control, payload]);
      return frame.left === 0 ? this.#endControl(frame.opcode) : null;
    }
    if (!this.#inside) {
      this.#inside = true;
      this.#told = false;
      this.#text = frame.opcode === Opcode.TEXT ? new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }) : null;
    }
    const last = frame.final && frame.left === 0;
    if (payload.length === 0 && !last) {
      return null;
    }
    const data = this.#decoded(payload, last);
    const first = !this.#told;
    this.#told = true;
    this.#inside = !last;
    return { kind: "data", data, size: payload.length, first, last };
  }

  /**
   * @param {Uint8Array} payload
   * @param {boolean} last
   */
  #decoded(payload, last) {
    if (this.#text === null) {
      return payload;
    }
    try {
      return this.#text.decode(payload, { stream: !last });
    } catch {
      throw new Violation("The server's text message is not UTF-8.", Code.NOT_UTF8);
    }
  }

  /**
   * @param {number} opcode
   * @returns {Event | null}
   */
  #endControl(opcode) {
    const data = this.#control;
    this.#control = EMPTY;
    if (opcode === Opcode.CLOSE) {
      this.#closed = true;
      return closeOf(data);
    }
    return opcode === Opcode.PING ? { kind: "ping", data } : null;
  }
}

/**
 * @param {Uint8Array} data
 * @returns {CloseReceived}
 */
function closeOf(data) {
  if (data.length === 0) {
    return { kind: "close", code: null, reason: "" };
  }
  const code = data.length === 1 ? 0 : new DataView(data.buffer, data.byteOffset).getUint16(0);
  if (!mayBeSent(code)) {
    throw new Violation("The server's Close frame has no valid code.");
  }
  try {
    const reason = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data.subarray(2));
    return { kind: "close", code, reason };
  } catch {
    throw new Violation("The reason in the server's Close frame is not UTF-8.", Code.NOT_UTF8);
  }
}

/**
 * Return whether a Close frame may carry this code (RFC 6455 section 7.4, and the registry of IANA).
 *
 * @param {number} code
 */
function mayBeSent(code) {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999);
}
