/**
 * Credit of one direction of one stream (README.md section 6): what may be sent, and what may still arrive.
 *
 * Mirrors `llmtunnel/protocol/window.py`. `Budget` limits all streams together, whatever the credit of each.
 */

import { ErrorCode, ProtocolError, assert } from "../errors.js";
import { UNLIMITED } from "./hello.js";

/** What serve permits us to send. */
export class SendWindow {
  /** @param {number} window */
  constructor(window) {
    this.available = window;
  }

  /**
   * Account for body bytes that were queued, at most `available`.
   *
   * @param {number} size
   */
  spend(size) {
    assert(size <= this.available, "the sender asks first");
    this.available -= size;
  }

  /**
   * Add the amount of a CREDIT. Throws `ProtocolError` above 2^31-1.
   *
   * @param {number} amount
   */
  add(amount) {
    if (this.available + amount > UNLIMITED) {
      throw new ProtocolError("Credit grew past 2^31-1.");
    }
    this.available += amount;
  }
}

/** The window towards a peer that gives no credit. Any number of bytes may be sent, in portions. */
export class Unmetered extends SendWindow {
  constructor() {
    super(UNLIMITED);
  }

  /** Use up nothing. */
  spend() {}
}

/**
 * What we permit serve to send.
 *
 * Serve may have at most `size` bytes under way or unread. Consumed bytes are collected until they are half of the
 * window, and then granted again at once.
 *
 * A window that is consumed within a round trip or so limits its sender, and may `grow`. It returns to its first size
 * if the application falls behind.
 */
export class ReceiveWindow {
  /** Bytes received and not granted again: unread by the application, or read and collected. */
  unread = 0;
  #consumed = 0;
  #first;
  #grantedAt = 0;

  /** @param {number} size */
  constructor(size) {
    this.size = size;
    this.#first = size;
  }

  /**
   * Account for received body bytes. Throws `ProtocolError` of code FLOW_CONTROL beyond the window.
   *
   * @param {number} size
   */
  receive(size) {
    this.unread += size;
    if (this.unread > this.size) {
      throw new ProtocolError("The peer sent past its credit.", ErrorCode.FLOW_CONTROL);
    }
  }

  /**
   * Note consumed bytes, and return how many to grant now: 0 if that is not worth a frame yet.
   *
   * @param {number} size
   */
  consume(size) {
    this.#consumed += size;
    if (this.#consumed * 2 < this.size) {
      return 0;
    }
    let grant = this.#consumed;
    this.#consumed = 0;
    this.unread -= grant;
    if (this.#isBehind) {
      const takenBack = Math.min(grant, this.grown);
      this.size -= takenBack;
      grant -= takenBack;
    }
    return grant;
  }

  /** Bytes by which the window has grown. */
  get grown() {
    return this.size - this.#first;
  }

  /**
   * Return, after a grant, whether half the window took less than two round trips and the reader keeps up.
   *
   * @param {number} now
   * @param {number} rtt
   */
  isShort(now, rtt) {
    const took = now - this.#grantedAt;
    this.#grantedAt = now;
    return took < 2 * rtt && !this.#isBehind;
  }

  /**
   * Grant this many bytes more.
   *
   * @param {number} size
   */
  grow(size) {
    this.size += size;
  }

  /** Whether a quarter of the window is still unread, after a grant. */
  get #isBehind() {
    return this.unread * 4 > this.size;
  }
}

/** The limit for a v1 stream, which has no credit: unread bytes, released as the application consumes them. */
export class Backlog extends ReceiveWindow {
  /**
   * Account for received body bytes. Throws `ProtocolError` of code FLOW_CONTROL beyond the limit.
   *
   * @param {number} size
   */
  receive(size) {
    this.unread += size;
    if (this.unread > this.size) {
      throw new ProtocolError("The reader lags too far behind.", ErrorCode.FLOW_CONTROL);
    }
  }

  /**
   * Release consumed bytes. Nothing is granted.
   *
   * @param {number} size
   */
  consume(size) {
    this.unread -= size;
    return 0;
  }
}

/** How many bytes serve may make this side hold: what has arrived unread, and what waits to be sent. */
export class Budget {
  /** Bytes that are held. */
  used = 0;
  #limit;

  /** @param {number} limit */
  constructor(limit) {
    this.#limit = limit;
  }

  /**
   * Hold this many more bytes, if they fit. Returns whether they do.
   *
   * @param {number} size
   */
  take(size) {
    if (this.used + size > this.#limit) {
      return false;
    }
    this.used += size;
    return true;
  }

  /**
   * Release this many bytes.
   *
   * @param {number} size
   */
  give(size) {
    assert(size <= this.used, "what is given back was taken");
    this.used -= size;
  }
}
