/**
 * One channel to serve, from its first message to its end: the greeting on it, then the session that it carries.
 *
 * A session may move to another channel. A channel has one carrier. Once the session has left the carrier, the carrier
 * ignores everything that arrives. Mirrors `llmtunnel/session/carrier.py`. The owner of the channel calls it:
 *
 *     receive(message, now)         for each message that arrives, in order
 *     closed(reason, now)           once, when the channel has closed
 *     handleTimer(now)              at the time of `nextTimer`
 *     ready, messageToSend(pipe)    when the channel has room, for each pipe that is ready, in this order
 *
 * and is told by `changed` that there may be something to send, or another `nextTimer`. While no channel carries a
 * session, the owner of the session asks that for `nextTimer`, and calls its `handleTimer`.
 */

import {
  AuthenticationFailed,
  ErrorCode,
  PeerError,
  PeerLost,
  Unwelcome,
  VersionMismatch,
} from "../errors.js";
import { NONE_GIVEN, NOT_ITS_KEY, NOT_THE_SAME, NO_KEY, TOO_MANY } from "../protocol/auth.js";
import { Queue } from "../queue.js";

/** @typedef {import("../errors.js").TunnelError} TunnelError */
/** @typedef {import("../protocol/greeting.js").Greeting} Greeting */
/** @typedef {import("../protocol/handshake.js").Agreement} Agreement */
/** @typedef {import("./mux.js").Session} Session */

/** Messages that may wait while the greeting computes. A peer that is not yet accepted has nothing more to say. */
const MOST_WAITING = 256;
export const FAREWELL = "The peer stops.";
const NOT_PROVEN = "If it is the same, somebody may be between the two of you: use another signal server.";
const COMPARE = `Compare the code with the one that serve shows. ${NOT_PROVEN}`;

/**
 * What users read instead of a text from the wire, whichever side has sent it.
 *
 * @type {ReadonlyMap<string, string>}
 */
export const FOR_USERS = new Map([
  [NOT_THE_SAME, "Wrong code: it does not match the one that serve shows."],
  [TOO_MANY, "No serve in this room has proven that it knows the code. This proxy stops before somebody can guess it."],
  [
    "Serve asks for no secret, and this proxy was given one.",
    "This proxy has a code or a secret, and serve has none.",
  ],
  ["Serve takes this proxy for one that comes back.", "Serve mistakes this proxy for another one."],
  ["The other side's share of the key exchange is none.", "The other side has sent an invalid key."],
  [NONE_GIVEN, "Serve asks for a code or a secret, and this proxy has none."],
  [NOT_ITS_KEY, "Serve does not accept this page's key."],
  [NO_KEY, "This page has shown no key to serve."],
  ["Serve has put this proxy out.", "Serve has removed and blocked this proxy."],
  [
    "The invite was for one proxy, and one has come in.",
    "The code is for one proxy only, and one has used it.",
  ],
  ["The invite or secret has been changed.", "Serve has a new code."],
  ["The invite has expired.", "The code has expired."],
  [FAREWELL, "The other side has stopped."],
]);

/**
 * What to do if comparing the codes does not help.
 *
 * @type {ReadonlyMap<string, string>}
 */
const HINTS = new Map([
  [NOT_THE_SAME, NOT_PROVEN],
  [NONE_GIVEN, "The proxy needs the code that serve shows."],
]);

/**
 * @typedef {object} CarrierOptions
 * @property {(carrier: Carrier, agreement: Agreement, now: number) => void} agreed Makes a session, or continues one.
 *   It calls `carry`.
 * @property {() => void} changed Called when there may be something to send, or another time of `nextTimer`.
 * @property {(lanes: number) => number} [split] Give each lane a pipe of its own if the channel can, and return how
 *   many pipes it has then.
 */

/** The greeting on a channel, and then its part in a session. */
export class Carrier {
  /**
   * Why nothing more will arrive, or null while something may.
   *
   * @type {TunnelError | null}
   */
  error = null;
  #greeting;
  #agreed;
  #changed;
  #split;
  /** @type {Session | null} */
  #session = null;
  /**
   * What has arrived and waits for the greeting.
   *
   * @type {Queue<[Uint8Array, number]>}
   */
  #inbox = new Queue();
  #busy = false;
  /** @type {Queue<Uint8Array>} */
  #last = new Queue();
  /** @type {(error: TunnelError) => void} */
  #tellOver = () => {};

  /**
   * @param {Greeting} greeting
   * @param {CarrierOptions} options
   */
  constructor(greeting, { agreed, changed, split = () => 1 }) {
    this.#greeting = greeting;
    this.#agreed = agreed;
    this.#changed = changed;
    this.#split = split;
    /**
     * Fulfilled with `error` once nothing more can arrive.
     *
     * @type {Promise<TunnelError>}
     */
    this.over = new Promise((resolve) => {
      this.#tellOver = resolve;
    });
  }

  // -- called by the owner of the channel

  /**
   * Accept a message. Those that arrive while the greeting computes wait.
   *
   * @param {Uint8Array} message
   * @param {number} now
   */
  receive(message, now) {
    if (this.#session !== null) {
      this.#session.receiveMessage(message, now);
    } else if (this.error === null) {
      this.#inbox.push([message, now]);
      if (this.#inbox.length > MOST_WAITING) {
        this.#greeting.close(ErrorCode.PROTOCOL, "The peer sends too much before the session begins.");
        this.#settle(now);
      } else if (!this.#busy) {
        // A defect in it must not pass in silence: it ends the carrier.
        this.#greet().catch((error) => this.#end(new PeerError(`An internal error ended the connection: ${error}`)));
      }
    }
  }

  /**
   * Note that the channel has closed.
   *
   * @param {string} reason For people.
   * @param {number} now
   */
  closed(reason, now) {
    const session = this.#session;
    this.#end(new PeerLost(`The connection to the peer closed: ${reason}`));
    session?.channelClosed(reason, now);
  }

  /** Return when to call `handleTimer`, or null. */
  nextTimer() {
    if (this.#session !== null) {
      return this.#session.nextTimer();
    }
    return this.error === null ? this.#greeting.nextTimer() : null;
  }

  /** @param {number} now */
  handleTimer(now) {
    if (this.#session !== null) {
      this.#session.handleTimer(now);
    } else if (this.error === null) {
      this.#greeting.handleTimer(now);
      this.#settle(now);
    }
  }

  /** The pipes of the channel to ask for messages, in this order. */
  get ready() {
    return this.#session?.ready ?? [0];
  }

  /**
   * Return the next message for a pipe of the channel, or null if nothing waits or may be sent.
   *
   * @param {number} [pipe]
   * @param {number} [size] A message that has so many bytes gets no further frame.
   */
  messageToSend(pipe = 0, size) {
    const first = pipe === 0 ? (this.#greeting.messageToSend() ?? this.#last.shift() ?? null) : null;
    return first ?? this.#session?.messageToSend(pipe, size) ?? null;
  }

  /**
   * Abandon the greeting, if it is not complete, and leave. The last message remains to be sent.
   *
   * @param {{stopping?: boolean}} [options] `stopping`: the session that the greeting asks to resume has ended. Serve
   *   may have moved it to this channel.
   */
  giveUp({ stopping = false } = {}) {
    if (this.#session === null && this.#greeting.nextTimer() !== null) {
      if (stopping) {
        this.#greeting.close(ErrorCode.NO_ERROR, FAREWELL);
      } else {
        this.#greeting.breakOff(ErrorCode.NO_ERROR, FAREWELL);
      }
    }
    this.leave(FAREWELL);
  }

  // -- called by the session

  /**
   * Let this session send and receive on the channel from now on. Return how many pipes the channel has.
   *
   * @param {Session} session
   * @param {number} lanes
   */
  carry(session, lanes) {
    this.#session = session;
    return lanes === 1 ? 1 : this.#split(lanes);
  }

  /** Tell the owner of the channel that there may be something to send, or another time of `nextTimer`. */
  changed() {
    this.#changed();
  }

  /**
   * Ignore everything that arrives from now on, and report the channel's end to nobody. Idempotent.
   *
   * @param {string} reason
   * @param {Iterable<Uint8Array>} [last] Messages that remain to be sent.
   */
  leave(reason, last = []) {
    for (const message of last) {
      this.#last.push(message);
    }
    this.#end(new PeerLost(reason));
  }

  // -- the greeting

  async #greet() {
    this.#busy = true;
    for (let next = this.#inbox.shift(); next !== undefined; next = this.#inbox.shift()) {
      const [message, now] = next;
      if (this.#session !== null) {
        this.#session.receiveMessage(message, now);
      } else if (this.error === null) {
        await this.#greeting.receiveMessage(message, now);
        this.#settle(now);
      }
    }
    this.#busy = false;
  }

  /**
   * Act on the result of the greeting, if it has one.
   *
   * @param {number} now
   */
  #settle(now) {
    const { ended, agreement } = this.#greeting;
    if (ended !== null) {
      this.#end(sessionError(ended.code, ended.message, ended.remote));
    } else if (agreement?.tcpOnly) {
      this.#greeting.close(ErrorCode.NO_ERROR, FAREWELL);
      this.#end(
        new Unwelcome("Serve lets only local TCP carry requests, which a page cannot use.", {
          hint: "Start serve without --path tcp.",
        }),
      );
    } else if (agreement !== null && this.error === null) {
      this.#agreed(this, agreement, now);
    }
    this.#changed();
  }

  /**
   * End the carrier. The first reason counts.
   *
   * @param {TunnelError} error
   */
  #end(error) {
    this.#session = null;
    if (this.error !== null) {
      return;
    }
    this.error = error;
    if (this.#greeting.wasGuessed && error instanceof PeerLost) {
      const message = `The other side has not proven that it knows the code. ${error.message}`;
      this.error = new AuthenticationFailed(message, { hint: COMPARE });
    }
    this.#tellOver(this.error);
    this.#changed();
  }
}

/**
 * Return what the last message of the peer, or ours to it, means to the user.
 *
 * @param {number} code
 * @param {string} message
 * @param {boolean} remote Whether it is the peer's.
 */
export function sessionError(code, message, remote) {
  const known = FOR_USERS.get(message);
  // The peer may write anything here, whoever it is. Users must not take its text for ours.
  const told = known ?? (remote ? `The other side says: ${message}` : message);
  switch (code) {
    case ErrorCode.VERSION:
      return new VersionMismatch(told, { hint: "Install the same version of llmtunnel on both sides." });
    case ErrorCode.UNAUTHENTICATED:
      return new AuthenticationFailed(told, { hint: HINTS.get(message) ?? COMPARE });
    case ErrorCode.UNWELCOME:
      return new Unwelcome(told, { hint: "Ask the person who runs serve for a new code." });
    default:
      return new PeerLost(known ?? `The session ended: ${message}`);
  }
}
