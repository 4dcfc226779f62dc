/**
 * The states of a stream: one table for both halves (README.md section 5). Mirrors `llmtunnel/protocol/stream.py`.
 *
 * Everything that decides whether a frame is legal on a stream is here.
 */

import { ErrorCode, ProtocolError } from "../errors.js";

/** @typedef {import("./window.js").ReceiveWindow} ReceiveWindow */
/** @typedef {import("./window.js").SendWindow} SendWindow */

/** @typedef {"waiting" | "open" | "ended"} State How far one half (the request or the response) has progressed. */
/** @typedef {"interim head" | "head" | "body" | "end"} Step What may happen to a half. */

/**
 * Every transition that is not listed is an error.
 *
 * @type {Readonly<Record<State, Partial<Record<Step, State>>>>}
 */
export const TRANSITIONS = Object.freeze({
  waiting: { "interim head": "waiting", head: "open" },
  open: { body: "open", end: "ended" },
  ended: {},
});

/** One direction: its state, and how many body bytes it has carried. */
class Half {
  /** @type {State} */
  state = "waiting";
  length = 0;

  /**
   * Make a transition. Throws `ProtocolError` if the table does not have it.
   *
   * @param {Step} step
   * @param {number} [size]
   */
  step(step, size = 0) {
    const state = TRANSITIONS[this.state][step];
    if (state === undefined) {
      throw new ProtocolError(`A ${step} came while the half was ${this.state}.`);
    }
    this.state = state;
    this.length += size;
  }

  /**
   * Check the length in the END. Throws `ProtocolError` of code TRUNCATED if it differs from what was carried.
   *
   * @param {number} told
   */
  checkLength(told) {
    if (told !== this.length) {
      throw new ProtocolError(`A body of ${told} bytes ended after ${this.length}.`, ErrorCode.TRUNCATED);
    }
  }
}

/** What the connection knows of one stream. */
export class StreamState {
  rx = new Half();
  tx = new Half();
  /** Whether the application has more to send than was taken, and waits until it can. */
  blocked = false;

  /**
   * @param {ReceiveWindow} rxWindow
   * @param {SendWindow} txWindow
   */
  constructor(rxWindow, txWindow) {
    this.rxWindow = rxWindow;
    this.txWindow = txWindow;
  }

  /** Whether both halves have ended. */
  get finished() {
    return this.rx.state === "ended" && this.tx.state === "ended";
  }
}
