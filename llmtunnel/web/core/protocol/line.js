/**
 * Frames in order, over one channel after the other: messages, numbers, acknowledgements and pings.
 *
 * connection.js decides what the frames mean for streams. On each further channel, in both directions:
 *
 *     1. greeting.js      HELLO with the session and how many frames have arrived, AGREE with the other side's number
 *     2. RESUME           for each lane, the number of the frame that comes next
 *     3. frames           those that the last channel may have lost, then new ones; the receiver skips what it has
 *
 * Mirrors `llmtunnel/protocol/line.py`.
 */

import { equal } from "../bytes.js";
import { ProtocolError, assert } from "../errors.js";
import {
  Feature,
  FrameType,
  decode,
  decodeCount,
  encode,
  encodeCount,
  isKnown,
  isOfStream,
  unbundle,
} from "./frames.js";
import { ACK_EVERY, Receipts, journalsOf } from "./journal.js";
import { Liveness } from "./liveness.js";
import { Outbox } from "./outbox.js";

/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./handshake.js").Agreement} Agreement */
/** @typedef {import("./hello.js").ResumeOffer} ResumeOffer */

/**
 * Known types that never reach the connection.
 *
 * @type {ReadonlySet<number>}
 */
export const TAKEN = new Set([FrameType.BUNDLE, FrameType.PING, FrameType.PONG, FrameType.ACK, FrameType.RESUME]);

/** A session's frames to and from its peer. None is lost or repeated if `Feature.RESUME` is agreed on. */
export class Line {
  #agreement;
  #liveness;
  #journals;
  #receipts;
  #bundles;
  /** Whether an acknowledgement goes with the next message. */
  #owesAck = false;
  /** Whether a ping is under way, only to get the acknowledgement that comes with its answer. */
  #asked = false;
  /** The handler of each type of the line's own frames. */
  #handlers;

  /**
   * @param {Agreement} agreement
   * @param {{limits: import("../config.js").Limits, timeouts: import("../config.js").Timeouts, now: number}} options
   */
  constructor(agreement, { limits, timeouts, now }) {
    this.#agreement = agreement;
    this.#liveness = new Liveness(timeouts, now);
    /** SHA-256 of serve's certificate; empty as long as no channel has shown one. */
    this.certificate = agreement.certificate;
    /** The number of lanes. A stream uses the lane whose number is its own modulo this. */
    this.lanes = agreement.lanes;
    this.#journals = agreement.features.has(Feature.RESUME) ? journalsOf(limits.journal, this.lanes) : [];
    this.#receipts = Array.from({ length: this.lanes }, () => new Receipts());
    this.#bundles = agreement.features.has(Feature.BUNDLE);
    this.outbox = new Outbox({ bundles: this.#bundles, journals: this.#journals });
    /** @type {[number, (frame: Frame, now: number) => void][]} */
    const takes = [
      [FrameType.PING, () => this.#sendProbe(FrameType.PONG)],
      [FrameType.PONG, (_, at) => this.#receivePong(at)],
      [FrameType.ACK, (frame) => this.#receiveAck(frame)],
      [FrameType.RESUME, (frame) => this.#receiveResume(frame)],
    ];
    this.#handlers = new Map(takes.filter(([type]) => isKnown(type, agreement.features)));
  }

  /** The round trip of the last ping, in seconds, or null. */
  get rtt() {
    return this.#liveness.rtt;
  }

  /** When the last message arrived, as `now`. */
  get lastHeard() {
    return this.#liveness.lastHeard;
  }

  // -- on one channel

  /**
   * Yield the frames in a message that are for the connection. Throws `ProtocolError`.
   *
   * @param {Uint8Array} message
   * @param {number} now
   * @returns {Generator<Frame, void>}
   */
  *framesOf(message, now) {
    this.#liveness.heard(now);
    const frame = decode(message);
    if (frame === null) {
      return;
    }
    const inner = frame.type === FrameType.BUNDLE && this.#bundles ? unbundle(frame.payload) : [frame];
    for (const each of inner) {
      if (!this.#takes(each, now)) {
        yield each;
      }
    }
  }

  /**
   * Return the next message for a pipe of the channel, cut now, or null if nothing waits or may be sent.
   *
   * A message that has `size` bytes gets no further frame. Ask for the first pipe last: it carries what this side says
   * of the others.
   *
   * @param {number} [pipe]
   * @param {number} [size]
   */
  messageToSend(pipe = 0, size) {
    if (pipe > 0) {
      return this.outbox.nextMessage(pipe, size);
    }
    if (this.#owesAck || this.#receipts.reduce((sum, receipts) => sum + receipts.size, 0) >= ACK_EVERY) {
      this.#sendAck();
    }
    const message = this.outbox.nextMessage(0, size);
    if (message === null && !this.#asked && this.outbox.held) {
      this.#ask();
      return this.outbox.nextMessage();
    }
    return message;
  }

  /**
   * Queue a frame of the session itself.
   *
   * @param {number} type
   * @param {Uint8Array} [payload]
   */
  control(type, payload) {
    this.outbox.addControl(encode(type, 0, payload));
  }

  /**
   * Measure the round trip now. The next ping may be seconds away.
   *
   * @param {number} now
   */
  measure(now) {
    this.#liveness.measure(now);
    this.control(FrameType.PING);
  }

  /** Find out soon whether the peer has left, as reported. `nextTimer` changes. */
  suspect() {
    this.#liveness.suspect();
  }

  /**
   * Return when to call `isDead` next, or null if there is nothing to find out.
   *
   * @param {boolean} busy
   */
  nextTimer(busy) {
    return this.#liveness.deadline(busy);
  }

  /**
   * Return whether the channel has just been found dead. Send a ping if one is due.
   *
   * @param {number} now
   * @param {boolean} busy
   */
  isDead(now, busy) {
    const verdict = this.#liveness.check(now, busy);
    if (verdict === "ping") {
      this.#sendProbe(FrameType.PING);
    }
    return verdict === "dead";
  }

  // -- from one channel to the next

  /** Whether another channel may follow. */
  get resumable() {
    return this.#journals.length > 0;
  }

  /** How many frames of each lane have been sent. */
  get sent() {
    return this.#journals.map((journal) => journal.sent);
  }

  /** How many bytes of each lane are kept, since serve may not have them. */
  get journalSizes() {
    return this.#journals.map((journal) => journal.size);
  }

  /**
   * Return whether the peer has acknowledged this many frames of each lane. If not, send it a PING.
   *
   * @param {readonly number[]} sent
   */
  confirms(sent) {
    if (this.#journals.every((journal, lane) => journal.acknowledged >= (sent[lane] ?? 0))) {
      return true;
    }
    this.#ask();
    return false;
  }

  #ask() {
    if (!this.#asked) {
      this.#asked = true;
      this.control(FrameType.PING);
    }
  }

  /** Let nothing be due until `resume` or the next message: the channel has closed. */
  suspend() {
    this.#liveness.giveUp();
  }

  /**
   * Return the proxy's part of HELLO for a channel on which serve has shown this certificate, or null. Empty: none.
   *
   * @param {Uint8Array} certificate
   * @returns {ResumeOffer | null}
   */
  offer(certificate) {
    const known = this.certificate;
    const { ticket } = this.#agreement;
    // A sealed pipe shows no certificate. There, serve's proof that it has the session's ticket takes its place.
    const fits = known.length > 0 && certificate.length > 0 ? equal(certificate, known) : ticket !== null;
    if (!this.resumable || !fits) {
      return null;
    }
    return { session: this.#agreement.session, received: this.#receipts.map((receipts) => receipts.count) };
  }

  /**
   * Continue over another channel, as agreed. From now on, pass nothing from the last channel.
   *
   * `pipes`: how many the channel has. Throws `ProtocolError` if what the peer has agreed to is impossible.
   *
   * @param {Agreement} agreement
   * @param {number} now
   * @param {{pipes?: number}} [options]
   */
  resume(agreement, now, { pipes = 1 } = {}) {
    const { features, lanes, received } = agreement;
    assert(this.resumable && received !== null, "the session can be resumed");
    if (features.size !== this.#agreement.features.size || ![...features].every((each) => this.#has(each))) {
      throw new ProtocolError("A session goes on with other features.");
    }
    if (lanes !== this.lanes || received.length !== this.lanes) {
      throw new ProtocolError("A session goes on with another number of lanes.");
    }
    if (this.certificate.length === 0) {
      this.certificate = agreement.certificate;
    }
    for (const [lane, journal] of this.#journals.entries()) {
      journal.acknowledge(received[lane] ?? 0);
    }
    for (const receipts of this.#receipts) {
      receipts.expectResume();
    }
    this.#liveness.renew(now);
    this.#asked = false;
    this.#owesAck = false;
    const firsts = this.#journals.map((journal, lane) =>
      encode(FrameType.RESUME, lane, encodeCount(journal.acknowledged + 1)),
    );
    this.outbox.beginAgain(firsts, pipes);
  }

  /** @param {string} feature */
  #has(feature) {
    return this.#agreement.features.has(feature);
  }

  // -- the line's own frames

  /**
   * Return whether a frame is not for the connection: the line's own, or one that has arrived before.
   *
   * @param {Frame} frame
   * @param {number} now
   */
  #takes(frame, now) {
    if (isOfStream(frame)) {
      return this.resumable && !this.#receiptsOf(frame.stream % this.lanes).take(frame.payload.length);
    }
    const handler = this.#handlers.get(frame.type);
    handler?.(frame, now);
    return handler !== undefined;
  }

  /** @param {number} now */
  #receivePong(now) {
    this.#liveness.pong(now);
    this.#asked = false; // the ping may have overtaken frames in other pipes, so another one may be needed
  }

  /** @param {Frame} frame */
  #receiveAck(frame) {
    this.#journals[this.#laneOf(frame)]?.acknowledge(decodeCount(frame.payload));
    this.#asked = false;
  }

  /** @param {Frame} frame */
  #receiveResume(frame) {
    this.#receiptsOf(this.#laneOf(frame)).resume(decodeCount(frame.payload));
  }

  /**
   * Return the lane of a RESUME or ACK. Throws `ProtocolError`.
   *
   * @param {Frame} frame
   */
  #laneOf(frame) {
    if (this.lanes === 1) {
      return 0; // the receiver ignores the stream
    }
    if (frame.stream >= this.lanes) {
      throw new ProtocolError("A RESUME or ACK is of a lane that there is none of.");
    }
    return frame.stream;
  }

  /** @param {number} lane */
  #receiptsOf(lane) {
    const receipts = this.#receipts[lane];
    assert(receipts, "the lane exists");
    return receipts;
  }

  /**
   * Send PING or PONG, and acknowledge with it what has arrived.
   *
   * @param {number} type
   */
  #sendProbe(type) {
    this.control(type);
    this.#owesAck = this.resumable && this.#receipts.some((receipts) => receipts.pending);
  }

  #sendAck() {
    this.#owesAck = false;
    for (const [lane, receipts] of this.#receipts.entries()) {
      if (receipts.pending) {
        this.outbox.addControl(encode(FrameType.ACK, lane, encodeCount(receipts.tell())));
      }
    }
  }
}
