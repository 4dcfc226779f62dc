/**
 * One HTTP exchange on a session, as the page sees it. Mirrors `llmtunnel/session/stream.py`.
 *
 * Everything that waits here throws `StreamReset` if the stream ends before it is complete, and `PeerLost` if the
 * session is lost. What arrived before the end is delivered first. One caller may read and one may write at a time.
 */

import { concat } from "../bytes.js";
import { ErrorCode, StreamReset } from "../errors.js";
import { MAX_INTERIM, cost, isInterim } from "../protocol/heads.js";
import { Queue } from "../queue.js";

/** @typedef {import("../errors.js").TunnelError} TunnelError */
/** @typedef {import("../protocol/heads.js").RequestHead} RequestHead */
/** @typedef {import("../protocol/heads.js").ResponseHead} ResponseHead */
/** @typedef {import("../protocol/window.js").Budget} Budget */

/** Interim heads that may wait for the reader. They cost no credit. */
const MAX_HEADS = 16;
const UNREAD = "Too much of what the peer sent waits to be read.";
/**
 * Unread chunks shorter than this are joined. Many tiny chunks would take far more memory than their bytes of credit.
 */
const SMALL = 1024;

/**
 * What a stream needs from its session. No call blocks.
 *
 * @typedef {object} StreamOwner
 * @property {Budget} budget
 * @property {(stream: number, data: Uint8Array) => number} sendData Send body bytes, and return how many were taken.
 *   The stream's writer is woken when more can be sent.
 * @property {(stream: number) => void} sendEnd
 * @property {(stream: number, size: number) => void} consumed
 * @property {(stream: number, code: number, message: string) => void} reset
 * @property {(client: number) => void} closeClient
 */

/** Somebody who waits until `wake` is called. */
class Waiter {
  /** @type {(() => void) | null} */
  #wake = null;

  /** @returns {Promise<void>} */
  wait() {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  wake() {
    this.#wake?.();
    this.#wake = null;
  }
}

/** An open stream of a session, made by `Session.open`. */
export class Stream {
  #session;
  /** @type {Queue<ResponseHead>} */
  #heads = new Queue();
  /** Interim heads that have arrived. */
  #interim = 0;
  /** @type {Queue<Uint8Array>} */
  #chunks = new Queue();
  #ended = false;
  /** @type {TunnelError | null} */
  #error = null;
  /** Bytes that this stream takes of the budget. */
  #held = 0;
  #reader = new Waiter();
  #writer = new Waiter();

  /**
   * @param {StreamOwner} session
   * @param {number} id
   * @param {RequestHead} request
   */
  constructor(session, id, request) {
    this.#session = session;
    this.id = id;
    /** The request's head as sent. */
    this.request = request;
  }

  /** The session that the stream belongs to. */
  get session() {
    return this.#session;
  }

  /** The id of the first stream that the same client connection used on this session. */
  get clientId() {
    return this.request.client || this.id;
  }

  /** Return the response's head. Call this again after an interim one. */
  async response() {
    for (;;) {
      const head = this.#heads.shift();
      if (head !== undefined) {
        this.#letGo(cost(head));
        return head;
      }
      this.#check();
      await this.#reader.wait();
    }
  }

  /**
   * Send body bytes. Return when credit and outbox have taken them all. Do not change them before that.
   *
   * Pass large bodies in pieces: what waits here counts against `Limits.held`, and ends the stream beyond it.
   *
   * Throws `StreamReset` of code NO_ERROR if serve has answered in full and does not need the rest.
   *
   * @param {Uint8Array} data
   */
  async send(data) {
    let rest = data;
    let held = 0;
    try {
      while (rest.length > 0) {
        this.#check();
        rest = rest.subarray(this.#session.sendData(this.id, rest));
        if (rest.length > 0) {
          if (held === 0 && this.#hold(data.length, "The peer takes too little of what waits for it.")) {
            held = data.length;
          }
          this.#check();
          await this.#writer.wait();
        }
      }
    } finally {
      this.#letGo(held);
    }
  }

  /** End the request: it is complete, and nothing more will be sent. */
  sendEnd() {
    this.#check();
    this.#session.sendEnd(this.id);
  }

  /**
   * Return the body bytes that have arrived, at least one, or null at a complete end. Serve may send as many again.
   *
   * @returns {Promise<Uint8Array | null>}
   */
  async receive() {
    while (this.#chunks.length === 0) {
      if (this.#ended) {
        return null;
      }
      this.#check();
      await this.#reader.wait();
    }
    const chunks = [...this.#chunks];
    this.#chunks.clear();
    const data = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : concat(chunks);
    this.#letGo(data.length);
    this.#session.consumed(this.id, data.length);
    return data;
  }

  /**
   * Abandon the stream. Idempotent; a stream that has finished ignores it.
   *
   * @param {number} [code]
   * @param {string} [message]
   */
  reset(code = ErrorCode.CANCELLED, message = "The client disconnected.") {
    this.#session.reset(this.id, code, message);
    this.rxEnded(new StreamReset(code, message, { remote: false }));
    this.#letGo(this.#held);
  }

  /** Note that the client connection that sent this request has closed. */
  closeClient() {
    this.#session.closeClient(this.clientId);
  }

  // -- called by the session

  /**
   * Accept a response's head.
   *
   * @param {ResponseHead} head
   */
  rxHead(head) {
    this.#interim += isInterim(head) ? 1 : 0;
    if (this.#heads.length === MAX_HEADS) {
      this.reset(ErrorCode.FLOW_CONTROL, "The peer sends interim responses faster than they are read.");
    } else if (this.#interim > MAX_INTERIM) {
      this.reset(ErrorCode.FLOW_CONTROL, `The response has more than ${MAX_INTERIM} interim heads.`);
    } else if (this.#hold(cost(head), UNREAD)) {
      this.#heads.push(head);
      this.#reader.wake();
    }
  }

  /**
   * Accept body bytes.
   *
   * @param {Uint8Array} data A view of a message.
   */
  rxData(data) {
    if (!this.#hold(data.length, UNREAD)) {
      return;
    }
    const last = this.#chunks.last;
    if (last !== undefined && last.length < SMALL) {
      this.#chunks.replaceLast(concat([last, data]));
    } else {
      // A small view must not keep all of its message in memory.
      this.#chunks.push(data.length * 2 < data.buffer.byteLength ? new Uint8Array(data) : data);
    }
    this.#reader.wake();
  }

  /** Note the complete end of the response. */
  rxEnd() {
    this.#ended = true;
    this.#reader.wake();
  }

  /**
   * End the stream. A response that has arrived completely stays readable.
   *
   * @param {TunnelError} error
   */
  rxEnded(error) {
    this.#error ??= error;
    this.#reader.wake();
    this.#writer.wake();
  }

  /** Wake the writer: there is credit and room, or an error to throw. */
  wakeWriter() {
    this.#writer.wake();
  }

  // -- the budget

  /**
   * Count bytes as held. End the stream if they exceed the budget.
   *
   * @param {number} size
   * @param {string} problem
   */
  #hold(size, problem) {
    if (!this.#session.budget.take(size)) {
      this.reset(ErrorCode.FLOW_CONTROL, problem);
      return false;
    }
    this.#held += size;
    return true;
  }

  /** @param {number} size */
  #letGo(size) {
    const given = Math.min(size, this.#held); // after `reset`, what is still read no longer counts
    this.#held -= given;
    this.#session.budget.give(given);
  }

  #check() {
    if (this.#error !== null) {
      throw this.#error;
    }
  }
}
