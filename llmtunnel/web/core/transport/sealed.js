/**
 * The sealed form of the relay's pipe, a page's side (protocol/README.md section 15).
 *
 *     page                                                 serve
 *     ── 0x01, Noise's first message ─────────────────────→
 *     ←─ Noise's second message ───────────────────────────
 *     ←─ records: length (u16), Noise's transport message ─→  their plaintexts are messages after their lengths
 *     ←─ an empty record ─→                                   what ends without it was cut
 *
 * Mirrors `Sealed` of `llmtunnel/transport/sealed.py`. Everything is asynchronous. Receiving and sending may overlap,
 * but await each call of one direction before the next one.
 */

import { EMPTY, concat } from "../bytes.js";
import { ProtocolError, assert } from "../errors.js";
import { Handshake, KEY, TAG } from "./noise.js";
import { MAX_MESSAGE } from "./sdp.js";

const FORM = Uint8Array.of(1);
const PROLOGUE = "llmtunnel sealed 1";
const REKEY_EVERY = 2 ** 20;
const LENGTH = 2;
/** Maximum bytes of plaintext that we put into a record. It fits one message of the relay then. */
const RECORD = MAX_MESSAGE - LENGTH - TAG;

/** One end of a sealed pipe. `begin` makes one. */
export class Sealed {
  /**
   * The handshake hash, which authentication is bound to; null until the handshake is complete.
   *
   * @type {Uint8Array | null}
   */
  binding = null;
  /** Whether the other end has closed in order, so that nothing more arrives. */
  ended = false;
  #handshake;
  #rekeyEvery;
  /** @type {import("./noise.js").Keys | null} */
  #keys = null;
  /** @type {Uint8Array} */
  #unread = EMPTY;
  /**
   * A message that has begun, after its length.
   *
   * @type {Uint8Array}
   */
  #partial = EMPTY;

  /**
   * @param {Handshake} handshake
   * @param {Uint8Array} first
   * @param {number} rekeyEvery
   */
  constructor(handshake, first, rekeyEvery) {
    /** The first bytes to send. */
    this.first = first;
    this.#handshake = handshake;
    this.#rekeyEvery = rekeyEvery;
  }

  /**
   * Throws where a browser has no X25519.
   *
   * @param {{rekeyEvery?: number}} [options]
   */
  static async begin({ rekeyEvery = REKEY_EVERY } = {}) {
    const handshake = await Handshake.begin(PROLOGUE);
    // Before anything can arrive: a relay that sends at once must not reach a handshake that is still being written.
    const first = concat([FORM, await handshake.write()]);
    return new Sealed(handshake, first, rekeyEvery);
  }

  /**
   * Process received bytes, and return the messages that they complete. Throws `ProtocolError` with a text for people;
   * nothing more is accepted then.
   *
   * @param {Uint8Array} data
   */
  async receive(data) {
    /** @type {Uint8Array[]} */
    const messages = [];
    if (this.ended) {
      return messages;
    }
    this.#unread = this.#unread.length > 0 ? concat([this.#unread, data]) : data;
    if (this.#keys === null && !(await this.#shakeHands())) {
      return messages;
    }
    while (!this.ended) {
      const record = this.#nextRecord();
      if (record === null) {
        break;
      }
      messages.push(...(await this.#open(record)));
    }
    return messages;
  }

  /**
   * Return the records of a message of 1 to `MAX_MESSAGE` bytes.
   *
   * @param {Uint8Array} message
   */
  async seal(message) {
    const data = concat([lengthOf(message.length - 1), message]);
    const records = [];
    for (let start = 0; start < data.length; start += RECORD) {
      records.push(await this.#seal(data.subarray(start, start + RECORD)));
    }
    return records;
  }

  /** Return the record that ends our direction. */
  close() {
    return this.#seal(EMPTY);
  }

  async #shakeHands() {
    const size = KEY + TAG;
    if (this.#unread.length < size) {
      return false;
    }
    const message = this.#unread.subarray(0, size);
    this.#unread = this.#unread.subarray(size);
    await this.#handshake.read(message);
    this.#keys = await this.#handshake.split(this.#rekeyEvery);
    this.binding = this.#keys.hash;
    return true;
  }

  /** Remove and return the next whole record, or return null. */
  #nextRecord() {
    const size = numberAt(this.#unread);
    if (size === null) {
      return null;
    }
    if (size < TAG) {
      throw new ProtocolError("the other end sent a record that is too short");
    }
    const end = LENGTH + size;
    if (this.#unread.length < end) {
      return null;
    }
    const record = this.#unread.subarray(LENGTH, end);
    this.#unread = this.#unread.subarray(end);
    return record;
  }

  /** @param {Uint8Array} record */
  async #open(record) {
    assert(this.#keys, "the handshake is complete");
    const plaintext = await this.#keys.receives.decrypt(record);
    if (plaintext.length === 0) {
      this.ended = true;
      if (this.#partial.length > 0) {
        throw new ProtocolError("the other end closed in the middle of a message");
      }
      return [];
    }
    return this.#deframe(plaintext);
  }

  /**
   * Return the messages that some bytes complete.
   *
   * @param {Uint8Array} data
   */
  #deframe(data) {
    const messages = [];
    let rest = this.#partial.length > 0 ? concat([this.#partial, data]) : data;
    for (let size = numberAt(rest); size !== null && rest.length > LENGTH + size; size = numberAt(rest)) {
      const end = LENGTH + size + 1;
      messages.push(rest.slice(LENGTH, end));
      rest = rest.subarray(end);
    }
    this.#partial = rest.slice();
    return messages;
  }

  /** @param {Uint8Array} plaintext */
  async #seal(plaintext) {
    assert(this.#keys, "the handshake is complete");
    const record = await this.#keys.sends.encrypt(plaintext);
    return concat([lengthOf(record.length), record]);
  }
}

/** @param {number} number */
function lengthOf(number) {
  return Uint8Array.of(number >> 8, number & 0xff);
}

/**
 * Return the number that some bytes begin with, or null if they are too few.
 *
 * @param {Uint8Array} data
 */
function numberAt(data) {
  const high = data[0];
  const low = data[1];
  return high === undefined || low === undefined ? null : (high << 8) | low;
}
