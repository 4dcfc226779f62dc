/**
 * A session: many streams, over one channel after the other. It drives `../protocol/connection.js`, which has all the
 * rules. Mirrors `llmtunnel/session/mux.py`.
 *
 * If the channel falls silent or closes, streams wait for at most `resumeFor` seconds: until the channel speaks again,
 * or another one replaces it (`Session.resume`).
 */

import { RESUME_FOR, LIMITS, TIMEOUTS } from "../config.js";
import { ErrorCode, PeerLost, ProtocolError, StreamReset, TooManyStreams } from "../errors.js";
import { Connection } from "../protocol/connection.js";
import { OVERSLEPT } from "../protocol/liveness.js";
import { Budget } from "../protocol/window.js";
import { Queue } from "../queue.js";
import { FAREWELL, sessionError } from "./carrier.js";
import { Life } from "./life.js";
import { Stream } from "./stream.js";

/** @typedef {import("../errors.js").TunnelError} TunnelError */
/** @typedef {import("../protocol/events.js").Event} Event */
/** @typedef {import("../protocol/handshake.js").Agreement} Agreement */
/** @typedef {import("../protocol/heads.js").RequestHead} RequestHead */
/** @typedef {import("./carrier.js").Carrier} Carrier */
/** @typedef {import("./life.js").Change} Change */
/** @typedef {import("./stream.js").StreamOwner} StreamOwner */

/** Seconds that an orderly end waits for what is under way. */
const SETTLE = 1;

/**
 * The owner of a session, which learns what happens to it. Neither call may throw.
 *
 * @typedef {object} Owner
 * @property {(change: Change) => void} [changed] Streams wait from now on, or continue.
 * @property {(error: TunnelError) => void} [ended] The session has ended. This is the last call, and happens once.
 */

/**
 * A request that waits until serve accepts one more stream.
 *
 * @typedef {object} Turn
 * @property {RequestHead} head
 * @property {boolean} ended
 * @property {number} deadline
 * @property {(stream: Stream) => void} resolve
 * @property {(error: unknown) => void} reject
 */

/** What a page and serve share over their channels. Use `open`, then `close`. */
export class Session {
  /**
   * Why the session has ended, or null while it has not.
   *
   * @type {TunnelError | null}
   */
  error = null;
  /** Body bytes that have arrived, and those that were sent or wait in the outbox. */
  received = 0;
  sent = 0;
  #carrier;
  #owner;
  #resumes;
  #timeouts;
  #connection;
  #life;
  /** @type {Map<number, Stream>} */
  #streams = new Map();
  /** @type {Queue<Turn>} */
  #turns = new Queue();
  /**
   * An orderly end that waits until serve has what was sent.
   *
   * @type {{sent: readonly number[], deadline: number, code: number, message: string} | null}
   */
  #closing = null;
  /** @type {() => void} */
  #tellOver = () => {};

  /**
   * @param {Agreement} agreement
   * @param {Carrier} carrier
   * @param {object} options
   * @param {number} options.now
   * @param {import("../config.js").Limits} [options.limits]
   * @param {import("../config.js").Timeouts} [options.timeouts]
   * @param {number} [options.resumeFor] Seconds that streams wait for a channel; 0: they end with it.
   * @param {Owner} [options.owner]
   */
  constructor(agreement, carrier, { now, limits = LIMITS, timeouts = TIMEOUTS, resumeFor = RESUME_FOR, owner = {} }) {
    /** The ticket with which the page comes back, if it has proven itself. */
    this.ticket = agreement.ticket;
    /** Empty if the session cannot be resumed. */
    this.id = agreement.session;
    /** Limits what its streams may hold. */
    this.budget = new Budget(limits.held);
    this.#owner = owner;
    this.#resumes = resumeFor > 0;
    this.#timeouts = timeouts;
    this.#connection = new Connection(agreement, { now, limits, timeouts });
    this.#life = new Life(resumeFor);
    this.#carrier = carrier;
    /** @type {Promise<void>} */
    const over = new Promise((resolve) => {
      this.#tellOver = resolve;
    });
    /** Fulfilled once the session has ended. */
    this.over = over;
    this.#line.outbox.split(carrier.carry(this, this.#line.lanes));
    this.#line.measure(now);
    carrier.changed();
  }

  /** The features that both sides agreed on. */
  get features() {
    return this.#connection.features;
  }

  /** SHA-256 of the certificate that serve has shown; empty as long as no channel has shown one. */
  get certificate() {
    return this.#line.certificate;
  }

  /** The round trip of the last ping, in seconds, or null. */
  get rtt() {
    return this.#line.rtt;
  }

  /** The number of open streams. */
  get active() {
    return this.#streams.size;
  }

  /** Whether the session has no working channel and waits for one. */
  get suspended() {
    return this.#life.waits;
  }

  /** Whether another channel may follow. */
  get resumable() {
    return this.#resumes && this.#line.resumable;
  }

  /**
   * Return the part of HELLO that asks to continue on a channel where serve has shown this certificate, or null.
   *
   * @param {Uint8Array} certificate
   */
  offer(certificate) {
    return this.error === null && this.#resumes ? this.#line.offer(certificate) : null;
  }

  /**
   * Continue over another channel, as agreed. The session ignores the old channel, and its owner closes that.
   *
   * @param {Agreement} agreement
   * @param {Carrier} carrier
   * @param {number} now
   */
  resume(agreement, carrier, now) {
    const last = this.#carrier;
    this.#carrier = carrier;
    last.leave("The session continues over another connection.");
    const pipes = carrier.carry(this, this.#line.lanes);
    const change = this.#life.moved(now, this.#line.lastHeard);
    try {
      this.#line.resume(agreement, now, { pipes });
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      this.#abandon(error.code, error.message);
      return;
    }
    this.#line.measure(now);
    this.#tell(change);
    carrier.changed();
  }

  /**
   * Begin an exchange, once serve accepts it.
   *
   * Throws `PeerLost`, `TooManyStreams` if serve accepts none in time, `ProtocolError` of code TOO_LARGE, or the reason of
   * `signal`.
   *
   * @param {RequestHead} head
   * @param {object} options
   * @param {number} options.now
   * @param {boolean} [options.ended] Whether the request has no body.
   * @param {Stream | null} [options.after] The stream of the previous request on the same client connection, on whatever
   *   session.
   * @param {AbortSignal | undefined} [options.signal] Gives up while the request waits: it is never sent.
   * @returns {Promise<Stream>}
   */
  async open(head, { now, ended = false, after = null, signal }) {
    this.#check();
    if (this.#closing !== null) {
      throw new PeerLost(this.#closing.message);
    }
    const request = after !== null && after.session === this ? { ...head, client: after.clientId } : head;
    let giveUp = () => {};
    /** @type {Promise<Stream>} */
    const opened = new Promise((resolve, reject) => {
      const turn = { head: request, ended, deadline: now + this.#timeouts.stream, resolve, reject };
      this.#turns.push(turn);
      giveUp = () => {
        this.#turns.remove(turn);
        reject(signal?.reason);
      };
    });
    signal?.addEventListener("abort", giveUp);
    this.#takeTurns();
    this.#carrier.changed();
    try {
      return await opened;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
  }

  /**
   * Ask for the round trip now: `rtt` is another one once the answer has come.
   *
   * @param {number} now
   */
  measure(now) {
    this.#line.measure(now);
    this.#carrier.changed();
  }

  /**
   * Find out within about a second whether serve has left, as reported. `gone`: its process has ended.
   *
   * @param {number} now
   * @param {{gone?: boolean}} [options]
   */
  suspect(now, { gone = false } = {}) {
    if (gone) {
      this.#life.saidGone(now);
    }
    this.#line.suspect();
    this.#carrier.changed();
  }

  /** Note a report that serve's process is running. */
  reassure() {
    this.#life.saidThere();
  }

  /**
   * End all streams with an error on both sides, and send the reason. Await `over`, and send what the carrier has left.
   *
   * With a pipe for each lane, the last message could overtake frames. So it waits until serve has these (1 s at most).
   *
   * @param {number} now
   * @param {number} [code]
   * @param {string} [message]
   * @param {number} [wait] Maximum seconds to wait for that.
   */
  close(now, code = ErrorCode.NO_ERROR, message = FAREWELL, wait = SETTLE) {
    if (this.error === null && this.#closing === null) {
      this.#closing = { sent: this.#line.sent, deadline: now + wait, code, message };
      this.#settle(now);
      this.#carrier.changed();
    }
  }

  // -- for streams

  /**
   * See `StreamOwner`.
   *
   * @param {number} stream
   * @param {Uint8Array} data
   */
  sendData(stream, data) {
    const taken = this.#connection.sendData(stream, data);
    this.sent += taken;
    this.#carrier.changed();
    return taken;
  }

  /**
   * See `Stream.sendEnd`.
   *
   * @param {number} stream
   */
  sendEnd(stream) {
    this.#connection.sendEnd(stream);
    this.#forgetIfFinished(stream);
    this.#carrier.changed();
  }

  /**
   * See `Stream.reset`.
   *
   * @param {number} stream
   * @param {number} code
   * @param {string} message
   */
  reset(stream, code, message) {
    this.#connection.reset(stream, code, message);
    this.#forgetIfFinished(stream);
    this.#carrier.changed();
  }

  /**
   * See `StreamOwner`.
   *
   * @param {number} stream
   * @param {number} size
   */
  consumed(stream, size) {
    this.#connection.consumed(stream, size);
    this.#carrier.changed();
  }

  /**
   * See `Stream.closeClient`.
   *
   * @param {number} client
   */
  closeClient(client) {
    this.#connection.closeClient(client);
    this.#carrier.changed();
  }

  // -- called by the carrier

  /**
   * @param {Uint8Array} message
   * @param {number} now
   */
  receiveMessage(message, now) {
    const { lastHeard } = this.#line;
    const slept = this.#hasSlept(now);
    let change = this.#life.heard(now, lastHeard);
    if (change === null && slept && this.#life.state === "standing") {
      change = { kind: "resumed", gap: this.#life.silence(now, lastHeard) };
    }
    this.#tell(change);
    this.#dispatch(this.#connection.receiveMessage(message, now), now);
    this.#settle(now);
    this.#wakeWriters();
    this.#carrier.changed();
  }

  /**
   * @param {string} reason
   * @param {number} now
   */
  channelClosed(reason, now) {
    const told = `The connection to the peer closed: ${reason}`;
    if (this.resumable && this.#closing === null) {
      this.#line.suspend();
      this.#lose(told, now);
    } else {
      this.#end(new PeerLost(this.#closing?.message ?? told));
    }
  }

  /** Return when to call `handleTimer`, or null. The carrier does both, but not while no channel carries the session. */
  nextTimer() {
    const due = [
      this.#connection.nextTimer(),
      this.#life.deadline,
      this.#turns.first?.deadline ?? null,
      this.#closing?.deadline ?? null,
    ].flatMap((each) => each ?? []);
    return this.error === null && due.length > 0 ? Math.min(...due) : null;
  }

  /** @param {number} now */
  handleTimer(now) {
    if (this.error !== null) {
      return;
    }
    const why = this.#life.endOfWait(now);
    if (why !== null) {
      this.#abandon(ErrorCode.INTERNAL, why);
      return;
    }
    this.#giveUpTurns(now);
    this.#dispatch(this.#connection.handleTimer(now), now);
    this.#settle(now);
    this.#carrier.changed();
  }

  /** See `Carrier.ready`. */
  get ready() {
    return this.#line.outbox.ready;
  }

  /**
   * See `Carrier.messageToSend`.
   *
   * @param {number} pipe
   * @param {number} [size]
   */
  messageToSend(pipe, size) {
    const message = this.#connection.messageToSend(pipe, size);
    this.#wakeWriters();
    return message;
  }

  // -- events

  /**
   * @param {Event[]} events
   * @param {number} now
   */
  #dispatch(events, now) {
    for (const event of events) {
      this.#take(event, now);
    }
    // Only after the last event: a reset that follows the end in one message is for a stream that we still know.
    for (const event of events) {
      if (event.kind === "end") {
        this.#forgetIfFinished(event.stream);
      }
    }
  }

  /**
   * @param {Event} event
   * @param {number} now
   */
  #take(event, now) {
    switch (event.kind) {
      case "data":
        this.received += event.data.length;
        this.#streams.get(event.stream)?.rxData(event.data);
        break;
      case "end":
        this.#streams.get(event.stream)?.rxEnd();
        break;
      case "response":
        this.#streams.get(event.stream)?.rxHead(event.head);
        break;
      case "ended":
        this.#streamEnded(event.stream, new StreamReset(event.code, event.message, { remote: event.remote }));
        break;
      case "rest-unwanted":
        this.#streamEnded(event.stream, new StreamReset(ErrorCode.NO_ERROR, "The request's rest is not needed."));
        break;
      case "silent":
        this.#lose("The peer is silent.", now);
        break;
      case "over":
        this.#end(sessionError(event.code, event.message, event.remote));
        break;
    }
  }

  /**
   * @param {number} id
   * @param {StreamReset} error
   */
  #streamEnded(id, error) {
    this.#streams.get(id)?.rxEnded(error);
    this.#streams.delete(id);
    this.#takeTurns();
  }

  /** @param {number} id */
  #forgetIfFinished(id) {
    if (!this.#connection.isOpen(id) && this.#streams.delete(id)) {
      this.#takeTurns();
    }
  }

  #wakeWriters() {
    for (const id of this.#connection.takeWritable()) {
      this.#streams.get(id)?.wakeWriter();
    }
  }

  // -- requests that wait for a stream

  /** Open as many streams as serve accepts now. Requests proceed in the order of their arrival. */
  #takeTurns() {
    for (let turn = this.#turns.first; turn !== undefined && this.error === null; turn = this.#turns.first) {
      try {
        const id = this.#connection.openStream(turn.head, { ended: turn.ended });
        const stream = new Stream(this, id, turn.head);
        this.#streams.set(id, stream);
        turn.resolve(stream);
      } catch (error) {
        if (error instanceof TooManyStreams) {
          return;
        }
        turn.reject(error);
      }
      this.#turns.shift();
    }
  }

  /** @param {number} now */
  #giveUpTurns(now) {
    for (let turn = this.#turns.first; turn !== undefined && now >= turn.deadline; turn = this.#turns.first) {
      this.#turns.shift();
      turn.reject(
        new TooManyStreams(
          `The other side already works on ${this.active} requests of this proxy, its limit. None of them ended` +
            ` within ${this.#timeouts.stream} s.`,
          { hint: "Send fewer requests at once, or send this one again later." },
        ),
      );
    }
  }

  // -- the end

  #check() {
    if (this.error !== null) {
      throw this.error;
    }
  }

  /** @param {number} now */
  #settle(now) {
    const closing = this.#closing;
    if (closing === null || this.error !== null) {
      return;
    }
    const waits = this.#life.state === "standing" && this.#line.outbox.pipes > 1 && now < closing.deadline;
    if (!waits || this.#line.confirms(closing.sent)) {
      this.#abandon(closing.code, closing.message, new PeerLost(closing.message));
    }
  }

  /**
   * End the session, and tell serve why if possible.
   *
   * @param {number} code
   * @param {string} message
   * @param {TunnelError} [error] What it means for us, if not the usual.
   */
  #abandon(code, message, error = sessionError(code, message, false)) {
    this.#connection.close(code, message);
    this.#end(error);
  }

  /**
   * End the session. The first reason counts.
   *
   * @param {TunnelError} error
   */
  #end(error) {
    if (this.error !== null) {
      return;
    }
    this.error = error;
    this.#carrier.leave(error.message, this.#lastMessages());
    for (const stream of this.#streams.values()) {
      stream.rxEnded(error);
    }
    this.#streams.clear();
    for (let turn = this.#turns.shift(); turn !== undefined; turn = this.#turns.shift()) {
      turn.reject(error);
    }
    this.#life.end();
    this.#owner.ended?.(error);
    this.#tellOver();
  }

  #lastMessages() {
    /** @type {Uint8Array[]} */
    const messages = [];
    if (this.#connection.ended !== null) {
      for (let next = this.#connection.messageToSend(); next !== null; next = this.#connection.messageToSend()) {
        messages.push(next);
      }
    }
    return messages;
  }

  // -- without a channel

  /**
   * Suspend the session, since its channel does not work, as far as we know.
   *
   * @param {string} reason
   * @param {number} now
   */
  #lose(reason, now) {
    if (this.#resumes) {
      this.#tell(this.#life.lost(now, reason, this.#line.lastHeard));
    } else {
      this.#abandon(ErrorCode.INTERNAL, reason);
    }
  }

  /** @param {Change | null} change */
  #tell(change) {
    if (change !== null) {
      this.#owner.changed?.(change);
    }
  }

  /**
   * Return whether this page was stopped and serve was silent for long. The timer could not report that.
   *
   * @param {number} now
   */
  #hasSlept(now) {
    const due = this.nextTimer();
    return due !== null && now - due > OVERSLEPT && now - this.#line.lastHeard > this.#timeouts.deadBusy;
  }

  get #line() {
    return this.#connection.line;
  }
}
