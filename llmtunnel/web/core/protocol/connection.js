/**
 * The protocol of one session, from the agreement on: messages and `now` in, events and messages out.
 *
 * This module handles streams. line.js gets their frames across whole, over one channel after the other.
 *
 *     1. greeting.js      HELLO, AGREE, AUTH                                     -> an agreement on both sides
 *     2. proxy -> serve   REQ_HEADERS n, REQ_BODY n …, REQ_END n
 *        serve -> proxy   RES_HEADERS n, RES_BODY n …, RES_END n                 the two halves run side by side
 *        either           RESET n (or ERROR n), CREDIT n, PING, PONG
 *     3. either           RESET 0 (or ERROR 0), and the channel closes           -> "over"
 *
 * A peer's mistake never throws. It ends the stream or the connection with the error that README.md specifies, and
 * causes an event. A caller's mistake is an assertion. Mirrors `llmtunnel/protocol/connection.py`.
 */

import { LIMITS, TIMEOUTS } from "../config.js";
import { ErrorCode, ProtocolError, TooManyStreams, assert } from "../errors.js";
import { decodeResponse, encodeRequest } from "./fields.js";
import {
  Feature,
  FrameType,
  MAX_BODY,
  MAX_STREAM,
  decodeCredit,
  decodeLength,
  decodeReset,
  decodeSessionError,
  decodeText,
  encode,
  encodeCredit,
  encodeError,
  encodeLength,
  encodeReset,
  expected,
  isBreach,
  isOfStream,
  standsOn,
} from "./frames.js";
import { isInterim } from "./heads.js";
import { Line, TAKEN } from "./line.js";
import { QUANTUM } from "./outbox.js";
import { StreamState } from "./stream.js";
import { Backlog, ReceiveWindow, SendWindow, Unmetered } from "./window.js";

/** @typedef {import("./events.js").ConnectionEnded} ConnectionEnded */
/** @typedef {import("./events.js").Event} Event */
/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./handshake.js").Agreement} Agreement */
/** @typedef {import("./heads.js").RequestHead} RequestHead */

/** Assumed round trip in seconds, before one is measured. */
const RTT = 0.05;
/**
 * A reset with one of these codes overtakes nothing of its stream.
 *
 * @type {ReadonlySet<number>}
 */
const AFTER_THE_REST = new Set([ErrorCode.NO_ERROR, ErrorCode.UPSTREAM]);

/** The proxy's protocol towards serve, from the agreement with it on. */
export class Connection {
  /**
   * Why the session has ended.
   *
   * @type {ConnectionEnded | null}
   */
  ended = null;
  /**
   * The open streams, by number.
   *
   * @type {Map<number, StreamState>}
   */
  streams = new Map();
  #agreement;
  #limits;
  #outbox;
  /** @type {Event[]} */
  #events = [];
  /** @type {Set<number>} */
  #credited = new Set();
  #lanes;
  /** The last stream of each lane. A lane without a stream has a number below its first one. */
  #last;
  /** When the last message arrived. */
  #now;
  /** The handler of each type of frame that may arrive. */
  #ofStreams;
  #ofSession;

  /**
   * @param {Agreement} agreement
   * @param {{now: number, limits?: import("../config.js").Limits, timeouts?: import("../config.js").Timeouts}} options
   */
  constructor(agreement, { now, limits = LIMITS, timeouts = TIMEOUTS }) {
    /** The features that both sides agreed on. */
    this.features = agreement.features;
    this.line = new Line(agreement, { limits, timeouts, now });
    this.#agreement = agreement;
    this.#limits = limits;
    this.#outbox = this.line.outbox;
    this.#lanes = this.line.lanes;
    this.#last = Array.from({ length: this.#lanes }, (_, lane) => (lane === 0 ? 0 : lane - this.#lanes));
    this.#now = now;
    const handlers = this.#makeHandlers();
    this.#ofStreams = new Map([...handlers].filter(([type]) => standsOn(type, 1)));
    this.#ofSession = new Map([...handlers].filter(([type]) => standsOn(type, 0)));
  }

  // -- receiving messages

  /**
   * Process one message from the channel, and return its events in order.
   *
   * @param {Uint8Array} message
   * @param {number} now
   */
  receiveMessage(message, now) {
    this.#now = now;
    if (this.ended === null) {
      try {
        for (const frame of this.line.framesOf(message, now)) {
          if (!this.#isOver) {
            this.#receiveFrame(frame);
          }
        }
        this.#checkControl();
      } catch (error) {
        this.#fail(asProtocolError(error));
      }
    }
    return this.#takeEvents();
  }

  /** Return when to call `handleTimer`, or null. This may change with each message. */
  nextTimer() {
    return this.#isOver ? null : this.line.nextTimer(this.streams.size > 0);
  }

  /**
   * Act at the time of `nextTimer`, or shortly before it.
   *
   * @param {number} now
   */
  handleTimer(now) {
    if (!this.#isOver && this.line.isDead(now, this.streams.size > 0)) {
      if (this.line.resumable) {
        this.#events.push({ kind: "silent" });
      } else {
        this.#end(ErrorCode.INTERNAL, "The peer is silent.", true);
      }
    }
    return this.#takeEvents();
  }

  // -- sending

  /**
   * See `Line.messageToSend`.
   *
   * @param {number} [pipe]
   * @param {number} [size]
   */
  messageToSend(pipe, size) {
    return this.line.messageToSend(pipe, size);
  }

  /** Return the streams whose `sendData` took less than it was given, and which take more now. */
  takeWritable() {
    const candidates = new Set([...this.#credited, ...this.#outbox.takeCut()]);
    this.#credited.clear();
    return [...candidates].filter((stream) => this.#unblock(stream));
  }

  /**
   * Return whether a stream is open: not finished on both sides, and not reset.
   *
   * @param {number} stream
   */
  isOpen(stream) {
    return this.streams.has(stream);
  }

  /**
   * Begin an exchange, and return its stream. `ended`: the request has no body.
   *
   * Throws `TooManyStreams`, or `ProtocolError` of code TOO_LARGE if the head does not fit a frame.
   *
   * @param {RequestHead} head
   * @param {{ended?: boolean}} [options]
   */
  openStream(head, { ended = false } = {}) {
    assert(!this.#isOver, "the session has not ended");
    const lane = head.client ? head.client % this.#lanes : this.#chooseLane();
    const stream = this.#lastOf(lane) + this.#lanes;
    if (this.streams.size >= this.#agreement.streams || stream > MAX_STREAM) {
      throw new TooManyStreams("The other side takes no more requests at once.");
    }
    const payload = encodeRequest(stream, head, this.features);
    this.#last[lane] = stream;
    const state = this.#addStream(stream);
    state.tx.step("head");
    this.#outbox.addFrame(stream, encode(FrameType.REQ_HEADERS, stream, payload));
    if (ended) {
      this.sendEnd(stream);
    }
    return stream;
  }

  /** Return the lane with the least under way. Among equals, return the one that was chosen least recently. */
  #chooseLane() {
    const loads = new Array(this.#lanes).fill(0);
    for (const [stream, state] of this.streams) {
      loads[stream % this.#lanes] += QUANTUM + state.rx.length + state.tx.length;
    }
    let best = 0;
    for (let lane = 1; lane < this.#lanes; lane += 1) {
      const difference = loads[lane] - loads[best] || this.#lastOf(lane) - this.#lastOf(best);
      best = difference < 0 ? lane : best;
    }
    return best;
  }

  /**
   * Send body bytes, and return how many were taken, as credit and the outbox permit. They are copied.
   *
   * If not all were taken, `takeWritable` reports the stream once it takes more.
   *
   * @param {number} stream
   * @param {Uint8Array} data
   */
  sendData(stream, data) {
    const state = this.streams.get(stream);
    if (state === undefined) {
      return data.length;
    }
    const size = Math.min(data.length, state.txWindow.available, this.#outbox.room(stream));
    if (size > 0) {
      state.tx.step("body", size);
      state.txWindow.spend(size);
      // Not `slice`: that of a Buffer of Node.js does not copy.
      this.#outbox.addBody(stream, FrameType.REQ_BODY, new Uint8Array(data.subarray(0, size)));
    }
    state.blocked = size < data.length;
    return size;
  }

  /**
   * End our half of a stream: it is complete.
   *
   * @param {number} stream
   */
  sendEnd(stream) {
    const state = this.streams.get(stream);
    if (state === undefined) {
      return;
    }
    state.tx.step("end");
    const length = this.features.has(Feature.LENGTH) ? encodeLength(state.tx.length) : undefined;
    this.#outbox.addFrame(stream, encode(FrameType.REQ_END, stream, length));
    this.#retire(stream, state);
  }

  /**
   * Abandon a stream.
   *
   * @param {number} stream
   * @param {number} code
   * @param {string} message
   */
  reset(stream, code, message) {
    if (!this.streams.delete(stream)) {
      return;
    }
    if (!AFTER_THE_REST.has(code) && this.#outbox.drop(stream)) {
      return; // not even resets may pile up if requests come and go while nothing can be sent
    }
    this.#sendReset(stream, code, message);
  }

  /**
   * Note that the application has consumed body bytes of a "data" event.
   *
   * @param {number} stream
   * @param {number} size
   */
  consumed(stream, size) {
    const state = this.streams.get(stream);
    if (state === undefined) {
      return;
    }
    const grant = state.rxWindow.consume(size);
    if (grant > 0 && state.rx.state === "open") {
      const amount = grant + this.#grow(state.rxWindow);
      this.#outbox.addUrgent(encode(FrameType.CREDIT, stream, encodeCredit(amount)));
    }
  }

  /**
   * Return what to grant in addition to the consumed bytes, if the window limits its sender.
   *
   * @param {ReceiveWindow} window
   */
  #grow(window) {
    const more = window.size;
    if (!window.isShort(this.#now, this.line.rtt || RTT) || more * 2 > this.#limits.windowMost) {
      return 0;
    }
    let grown = 0;
    for (const state of this.streams.values()) {
      grown += state.rxWindow.grown;
    }
    if (grown + more > Math.floor(this.#limits.held / 8)) {
      return 0;
    }
    window.grow(more);
    return more;
  }

  /**
   * Report that a client's connection has closed. `client` is the id of the first stream that it used.
   *
   * @param {number} client
   */
  closeClient(client) {
    if (this.features.has(Feature.CLIENT) && !this.#isOver) {
      this.#outbox.addFrame(client, encode(FrameType.CLIENT_CLOSED, client));
    }
  }

  /**
   * End the session in order. One last message remains to be sent.
   *
   * @param {number} code
   * @param {string} message
   */
  close(code, message) {
    if (!this.#isOver) {
      this.#sendSessionError(code, message);
      this.#end(code, message, false);
      this.#events = [];
    }
  }

  // -- receiving

  #makeHandlers() {
    /** @type {[number, (frame: Frame) => void][]} */
    const takes = [
      [FrameType.RES_HEADERS, (frame) => this.#receiveResponse(frame)],
      [FrameType.RES_BODY, (frame) => this.#receiveBody(frame)],
      [FrameType.RES_END, (frame) => this.#receiveEnd(frame)],
      [FrameType.RESET, (frame) => this.#receiveReset(frame)],
      [FrameType.CREDIT, (frame) => this.#receiveCredit(frame)],
      [FrameType.ERROR, (frame) => this.#receiveError(frame)],
    ];
    const handlers = new Map(takes);
    /** @type {Map<number, (frame: Frame) => void>} */
    const known = new Map();
    for (const type of expected(this.features)) {
      const handler = handlers.get(type);
      if (!TAKEN.has(type) && handler !== undefined) {
        known.set(type, handler);
      }
    }
    return known;
  }

  /** @param {Frame} frame */
  #receiveFrame(frame) {
    const onStream = isOfStream(frame);
    const handler = (onStream ? this.#ofStreams : this.#ofSession).get(frame.type);
    if (handler !== undefined) {
      this.#handle(handler, frame, onStream);
      return;
    }
    if (this.#ofStreams.has(frame.type) || this.#ofSession.has(frame.type)) {
      throw new ProtocolError(`A frame of type ${frame.type} came ${frame.stream ? "on" : "without"} a stream.`);
    }
    if (isBreach(frame.type, this.features)) {
      throw new ProtocolError(`A frame of type ${frame.type} came from the wrong side, or late.`);
    }
  }

  /**
   * @param {(frame: Frame) => void} handler
   * @param {Frame} frame
   * @param {boolean} onStream Whether a breach ends only the stream.
   */
  #handle(handler, frame, onStream) {
    try {
      handler(frame);
    } catch (error) {
      if (!onStream) {
        throw error;
      }
      this.#failStream(frame.stream, asProtocolError(error));
    }
  }

  /** @param {Frame} frame */
  #receiveResponse(frame) {
    const state = this.#find(frame.stream);
    if (state === null) {
      return;
    }
    const head = decodeResponse(frame.payload, this.features);
    if (isInterim(head) && !this.features.has(Feature.INTERIM)) {
      throw new ProtocolError("An interim response came, which was not agreed on.");
    }
    state.rx.step(isInterim(head) ? "interim head" : "head");
    this.#events.push({ kind: "response", stream: frame.stream, head });
  }

  /** @param {Frame} frame */
  #receiveBody(frame) {
    const state = this.#find(frame.stream);
    const size = frame.payload.length;
    if (state === null || size === 0) {
      return;
    }
    if (size > MAX_BODY) {
      throw new ProtocolError("A body frame is too long.");
    }
    state.rx.step("body", size);
    state.rxWindow.receive(size);
    this.#events.push({ kind: "data", stream: frame.stream, data: frame.payload });
  }

  /** @param {Frame} frame */
  #receiveEnd(frame) {
    const state = this.#find(frame.stream);
    if (state === null) {
      return;
    }
    state.rx.step("end");
    if (this.features.has(Feature.LENGTH)) {
      state.rx.checkLength(decodeLength(frame.payload));
    }
    this.#events.push({ kind: "end", stream: frame.stream });
    this.#retire(frame.stream, state);
  }

  /** @param {Frame} frame */
  #receiveReset(frame) {
    if (frame.stream === 0) {
      this.#receiveSessionError(frame);
    } else {
      const [code, message] = decodeReset(frame.payload);
      this.#receiveStreamEnded(frame.stream, code, message);
    }
  }

  /** @param {Frame} frame */
  #receiveError(frame) {
    if (frame.stream === 0) {
      this.#receiveSessionError(frame);
    } else {
      this.#receiveStreamEnded(frame.stream, ErrorCode.INTERNAL, decodeText(frame.payload));
    }
  }

  /**
   * @param {number} stream
   * @param {number} code
   * @param {string} message
   */
  #receiveStreamEnded(stream, code, message) {
    const state = this.streams.get(stream);
    if (state === undefined) {
      return;
    }
    this.streams.delete(stream);
    this.#outbox.drop(stream);
    if (code === ErrorCode.NO_ERROR && state.rx.state === "ended") {
      this.#events.push({ kind: "rest-unwanted", stream });
    } else {
      this.#events.push({ kind: "ended", stream, code, message, remote: true });
    }
  }

  /** @param {Frame} frame */
  #receiveCredit(frame) {
    const state = this.#find(frame.stream);
    if (state === null) {
      return;
    }
    state.txWindow.add(decodeCredit(frame.payload));
    this.#credited.add(frame.stream);
  }

  /** @param {Frame} frame */
  #receiveSessionError(frame) {
    const [code, message] = decodeSessionError(frame);
    this.#end(code, message, true);
  }

  // -- streams

  /** @param {number} lane */
  #lastOf(lane) {
    const last = this.#last[lane];
    assert(last !== undefined, "the lane exists");
    return last;
  }

  /**
   * Return the stream's state, or null if it is gone. Throws `ProtocolError` if it never existed.
   *
   * @param {number} stream
   */
  #find(stream) {
    const state = this.streams.get(stream);
    if (state === undefined && stream > this.#lastOf(stream % this.#lanes)) {
      throw new ProtocolError("A frame came for a stream that nobody opened.");
    }
    return state ?? null;
  }

  /** @param {number} stream */
  #addStream(stream) {
    const credit = this.features.has(Feature.CREDIT);
    const rxWindow = credit ? new ReceiveWindow(this.#limits.window) : new Backlog(this.#limits.v1Backlog);
    const txWindow = credit ? new SendWindow(this.#agreement.window) : new Unmetered();
    const state = new StreamState(rxWindow, txWindow);
    this.streams.set(stream, state);
    return state;
  }

  /**
   * @param {number} stream
   * @param {StreamState} state
   */
  #retire(stream, state) {
    if (state.finished) {
      this.streams.delete(stream);
    }
  }

  /** @param {number} stream */
  #unblock(stream) {
    const state = this.streams.get(stream);
    if (state === undefined || !state.blocked) {
      return false;
    }
    state.blocked = !(state.txWindow.available > 0 && this.#outbox.room(stream) > 0);
    return !state.blocked;
  }

  /**
   * Reset one stream after a peer's mistake, tell the application, and continue.
   *
   * @param {number} stream
   * @param {ProtocolError} error
   */
  #failStream(stream, { code, message }) {
    const known = this.streams.delete(stream);
    this.#outbox.drop(stream);
    this.#sendReset(stream, code, message);
    if (known) {
      this.#events.push({ kind: "ended", stream, code, message, remote: false });
    }
  }

  /**
   * @param {number} stream
   * @param {number} code
   * @param {string} message
   */
  #sendReset(stream, code, message) {
    if (this.features.has(Feature.RESET)) {
      this.#outbox.addFrame(stream, encode(FrameType.RESET, stream, encodeReset(code, message)));
    } else if (code !== ErrorCode.NO_ERROR) {
      this.#outbox.addFrame(stream, encode(FrameType.ERROR, stream, encodeError(message)));
    }
  }

  // -- the session

  /** A method of its own, since a call may end the session where TypeScript expects no change. */
  get #isOver() {
    return this.ended !== null;
  }

  #checkControl() {
    if (this.#outbox.waiting > this.#limits.control) {
      throw new ProtocolError("The peer asks for more answers than it takes.");
    }
  }

  /**
   * End the session after a peer's mistake that affects more than a stream.
   *
   * @param {ProtocolError} error
   */
  #fail({ code, message }) {
    this.#sendSessionError(code, message);
    this.#end(code, message, false);
  }

  /**
   * @param {number} code
   * @param {string} message
   */
  #sendSessionError(code, message) {
    if (this.features.has(Feature.RESET)) {
      this.line.control(FrameType.RESET, encodeReset(code, message));
    } else {
      this.line.control(FrameType.ERROR, encodeError(message));
    }
  }

  /**
   * @param {number} code
   * @param {string} message
   * @param {boolean} remote
   */
  #end(code, message, remote) {
    this.ended = { kind: "over", code, message, remote };
    this.streams.clear();
    this.#outbox.dropStreams();
    this.#events.push(this.ended);
  }

  #takeEvents() {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

/**
 * Return the error, or throw it if it is not a peer's mistake.
 *
 * @param {unknown} error
 */
function asProtocolError(error) {
  if (error instanceof ProtocolError) {
    return error;
  }
  throw error;
}
