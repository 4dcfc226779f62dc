/**
 * The greeting on every channel: messages and `now` in, messages out, and an `Agreement` at the end.
 *
 *     1. channel opens
 *     2. proxy -> serve   HELLO   version range, features, window
 *     3. serve -> proxy   AGREE   version, common features, window, streams
 *        both             AUTH    if there is a secret (auth.js)                  -> an agreement on both sides
 *
 * Mirrors `llmtunnel/protocol/greeting.py`, with one difference: WebCrypto is asynchronous, so receiving a message is.
 */

import { EMPTY } from "../bytes.js";
import { LIMITS, TIMEOUTS } from "../config.js";
import { ErrorCode, ProtocolError } from "../errors.js";
import {
  ALL_FEATURES,
  Feature,
  FrameType,
  decode,
  decodeSessionError,
  encode,
  encodeError,
  encodeReset,
} from "./frames.js";
import { ProxyHandshake } from "./handshake.js";
import { Queue } from "../queue.js";

/** @typedef {import("./auth.js").Credentials} Credentials */
/** @typedef {import("./events.js").ConnectionEnded} ConnectionEnded */
/** @typedef {import("./frames.js").Features} Features */
/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./hello.js").ResumeOffer} ResumeOffer */

/**
 * @typedef {object} GreetingOptions
 * @property {number} now
 * @property {import("../config.js").Limits} [limits]
 * @property {import("../config.js").Timeouts} [timeouts]
 * @property {Features} [features]
 * @property {string} [agent]
 * @property {Credentials | null} [credentials]
 * @property {Uint8Array} [certificate] See `Offer.certificate` of handshake.js.
 * @property {ResumeOffer | null} [resume] The session that the proxy wants to resume.
 * @property {boolean} [continues] Whether the proxy accepts nothing but that session.
 */

/** The proxy's side of the greeting on one channel. `begin` makes one. */
export class Greeting {
  /**
   * Why there will be no agreement.
   *
   * @type {ConnectionEnded | null}
   */
  ended = null;
  #control;
  #deadline;
  #resumes;
  #handshake;
  /** @type {Queue<Uint8Array>} */
  #outgoing = new Queue();

  /**
   * @param {ProxyHandshake} handshake
   * @param {{control: number, deadline: number, resumes: boolean}} options
   */
  constructor(handshake, { control, deadline, resumes }) {
    this.#handshake = handshake;
    this.#control = control;
    this.#deadline = deadline;
    this.#resumes = resumes;
    this.#say([handshake.hello]);
  }

  /** @param {GreetingOptions} options */
  static async begin({
    now,
    limits = LIMITS,
    timeouts = TIMEOUTS,
    features = ALL_FEATURES,
    agent = "",
    credentials = null,
    certificate = EMPTY,
    resume = null,
    continues = false,
  }) {
    const offer = { limits, features, agent, certificate, resume, continues };
    return new Greeting(await ProxyHandshake.begin(offer, credentials), {
      control: limits.control,
      deadline: now + timeouts.handshake,
      resumes: resume !== null,
    });
  }

  /** What has been agreed on so far. */
  get features() {
    return this.#handshake.features;
  }

  /** What both sides have agreed on, once the greeting is complete. */
  get agreement() {
    return this.#handshake.agreement;
  }

  /** Whether the peer could test a guess of the secret, and has not proven itself. */
  get wasGuessed() {
    return this.#handshake.proved && this.agreement === null;
  }

  /**
   * Process one message from the channel. Ignore it after the agreement or the end.
   *
   * Await each call before the next one. What arrives meanwhile may belong to the session already.
   *
   * @param {Uint8Array} message
   * @param {number} now
   */
  async receiveMessage(message, now) {
    if (this.#isOver) {
      return;
    }
    try {
      const frame = decode(message);
      if (frame !== null) {
        await this.#receiveFrame(frame, now);
      }
      if (this.#outgoing.length > this.#control) {
        throw new ProtocolError("The peer asks for more answers than it takes.");
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      if (this.ended === null) {
        this.close(error.code, error.message);
      }
    }
  }

  /** Return when to call `handleTimer`, or null. This may change with each message. */
  nextTimer() {
    return this.#isOver ? null : this.#deadline;
  }

  /**
   * Act at the time of `nextTimer`. Do nothing before it.
   *
   * @param {number} now
   */
  handleTimer(now) {
    if (!this.#isOver && now >= this.#deadline) {
      this.breakOff(ErrorCode.PROTOCOL, "The peer did not say hello in time.");
    }
  }

  /** Return the next message for the channel, or null if nothing waits. */
  messageToSend() {
    return this.#outgoing.shift() ?? null;
  }

  /**
   * End the greeting. One last message remains to be sent.
   *
   * @param {number} code
   * @param {string} message
   */
  close(code, message) {
    const last = this.#handshake.features.has(Feature.RESET)
      ? encode(FrameType.RESET, 0, encodeReset(code, message))
      : encode(FrameType.ERROR, 0, encodeError(message));
    this.#outgoing.push(last);
    this.ended = { kind: "over", code, message, remote: false };
  }

  /**
   * End the greeting although the peer has made no mistake.
   *
   * A proxy that has asked to resume a session sends nothing. Serve may have moved the session to this channel, and a
   * last message would end it. The end of the channel only suspends it.
   *
   * @param {number} code
   * @param {string} message
   */
  breakOff(code, message) {
    if (this.#resumes) {
      this.ended = { kind: "over", code, message, remote: false };
    } else {
      this.close(code, message);
    }
  }

  get #isOver() {
    return this.agreement !== null || this.ended !== null;
  }

  /**
   * @param {Frame} frame
   * @param {number} now
   */
  async #receiveFrame(frame, now) {
    if (frame.type === FrameType.PING) {
      this.#outgoing.push(encode(FrameType.PONG, 0));
    } else if (this.#isRefusal(frame)) {
      const [code, message] = decodeSessionError(frame);
      this.ended = { kind: "over", code, message, remote: true };
    } else if (frame.type !== FrameType.PONG) {
      const answer = await this.#handshake.receive(frame, now);
      if (this.ended === null) {
        this.#say(answer); // unless the greeting was closed meanwhile
      }
    }
  }

  /**
   * Serve may reject a proxy before it has agreed on anything. It uses RESET if HELLO lists that.
   *
   * @param {Frame} frame
   */
  #isRefusal(frame) {
    const reset = frame.type === FrameType.RESET && frame.stream === 0 && this.#handshake.offered.has(Feature.RESET);
    return frame.type === FrameType.ERROR || reset;
  }

  /** @param {Frame[]} said */
  #say(said) {
    for (const { type, stream, payload } of said) {
      this.#outgoing.push(encode(type, stream, payload));
    }
  }
}
