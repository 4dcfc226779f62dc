/**
 * The frames of each direction, numbered, and kept until they are acknowledged. So a session outlives its channels.
 *
 * Mirrors `llmtunnel/protocol/journal.py`. `Journal` is the sender's side of one direction of a lane, `Receipts` the
 * receiver's (README.md section 11).
 */

import { KIB } from "../config.js";
import { ProtocolError } from "../errors.js";
import { Queue } from "../queue.js";
import { MAX_MESSAGE } from "./frames.js";

/** Received bytes that are acknowledged without a request. */
export const ACK_EVERY = 256 * KIB;
/** Bytes of memory that a kept frame costs in addition to its own. */
const OVERHEAD = 64;
/** Maximum bytes that one frame may cost. */
const LARGEST = MAX_MESSAGE + OVERHEAD;

/**
 * Bytes that several journals share, in addition to what each may hold by itself.
 *
 * @typedef {{limit: number, used: number}} Surplus
 */

/**
 * Frames of a lane that were sent and that the peer may not have: at most `limit` bytes, and what a surplus has left.
 */
export class Journal {
  /** The number of the last frame that was sent. */
  sent = 0;
  #limit;
  #surplus;
  /** @type {Queue<Uint8Array>} */
  #kept = new Queue();
  #size = 0;

  /**
   * @param {number} limit
   * @param {Surplus} [surplus]
   */
  constructor(limit, surplus = { limit: 0, used: 0 }) {
    this.#limit = limit;
    this.#surplus = surplus;
  }

  /** The number of bytes that it holds. */
  get size() {
    return this.#size;
  }

  /** Whether another frame might exceed the limit. Send nothing more until some frames are acknowledged. */
  get full() {
    if (this.#size + LARGEST <= this.#limit) {
      return false;
    }
    const more = this.#beyond(this.#size + LARGEST) - this.#beyond(this.#size);
    return this.#surplus.used + more > this.#surplus.limit;
  }

  /** The number of the last frame that the peer certainly has. */
  get acknowledged() {
    return this.sent - this.#kept.length;
  }

  /** The frames that the peer may not have, in order. */
  get kept() {
    return [...this.#kept];
  }

  /**
   * Keep a frame that is being sent.
   *
   * @param {Uint8Array} frame
   */
  add(frame) {
    this.sent += 1;
    this.#grow(frame.length + OVERHEAD);
    this.#kept.push(frame);
  }

  /**
   * Drop the first `count` frames, which the peer has. Throws `ProtocolError` if fewer were sent.
   *
   * @param {number} count
   */
  acknowledge(count) {
    if (count > this.sent) {
      throw new ProtocolError("The peer acknowledges what was not sent.");
    }
    for (let left = count - this.acknowledged; left > 0; left -= 1) {
      this.#grow(-(this.#kept.shift()?.length ?? 0) - OVERHEAD);
    }
  }

  /** @param {number} size */
  #grow(size) {
    const before = this.#size;
    this.#size += size;
    this.#surplus.used += this.#beyond(this.#size) - this.#beyond(before);
  }

  /** @param {number} size */
  #beyond(size) {
    return Math.max(0, size - this.#limit);
  }
}

/**
 * Return one journal for each lane. Together they hold at most `limit` bytes.
 *
 * A lane may have three quarters of that and its share of the rest: bulk that is not acknowledged leaves every other
 * lane something.
 *
 * @param {number} limit
 * @param {number} lanes
 */
export function journalsOf(limit, lanes) {
  if (lanes === 1) {
    return [new Journal(limit)];
  }
  const share = Math.max(0, Math.floor(Math.min(Math.floor(limit / 4), limit - LARGEST) / lanes));
  const surplus = { limit: limit - share * lanes, used: 0 };
  return Array.from({ length: lanes }, () => new Journal(share, surplus));
}

/** The frames that have arrived on a lane, and how many of them come again on the next channel. */
export class Receipts {
  /** The number of the last frame that has arrived. */
  count = 0;
  /** Bytes that have arrived since the last acknowledgement. */
  size = 0;
  #told = 0;
  /**
   * How many repeated frames are still to come; null until RESUME says so.
   *
   * @type {number | null}
   */
  #again = 0;

  /** Whether anything is unacknowledged. */
  get pending() {
    return this.count > this.#told;
  }

  /** Return the count to acknowledge. */
  tell() {
    this.#told = this.count;
    this.size = 0;
    return this.count;
  }

  /**
   * Note a frame, and return whether it is new. Throws `ProtocolError` if RESUME should have preceded it.
   *
   * @param {number} size
   */
  take(size) {
    if (this.#again === 0) {
      this.count += 1;
      this.size += size + OVERHEAD;
      return true;
    }
    if (this.#again === null) {
      throw new ProtocolError("A stream's frame came before RESUME.");
    }
    this.#again -= 1;
    return false;
  }

  /** Require RESUME first, since the channel is a new one. */
  expectResume() {
    this.#again = null;
  }

  /**
   * Process RESUME: the next frame has this number. Throws `ProtocolError` if frames would be missing.
   *
   * @param {number} first
   */
  resume(first) {
    if (this.#again !== null) {
      throw new ProtocolError("A RESUME came on a channel where none was due.");
    }
    if (first < 1 || first > this.count + 1) {
      throw new ProtocolError("The peer cannot go on where this side has got to.");
    }
    this.#again = this.count + 1 - first;
  }
}
