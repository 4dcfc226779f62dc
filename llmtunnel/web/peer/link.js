/**
 * All connections to one member of the room: the ways to it, tried side by side, and the session on their channels.
 *
 * The first channel that opens carries the session. A later one takes over if it is better, and is closed if it is not.
 * Mirrors `llmtunnel/session/link.py` for a page, which has two ways (ways.js): it cannot dial TCP.
 */

import { Attempt, isFinal, verdict } from "./attempt.js";
import { now } from "./clock.js";
import { Flag } from "./flag.js";
import { DirectWay, RelayWay } from "./ways.js";
import { ConnectFailed, ErrorCode, HandshakeFailed, PeerError, PeerLost, TunnelError } from "../core/errors.js";
import { Carrier, FAREWELL } from "../core/session/carrier.js";
import * as messages from "../core/signaling/messages.js";

/** @typedef {import("../core/paths.js").Path} Path */
/** @typedef {import("../core/protocol/greeting.js").Greeting} Greeting */
/** @typedef {import("../core/protocol/handshake.js").Agreement} Agreement */
/** @typedef {import("../core/session/mux.js").Session} Session */
/** @typedef {import("../core/signaling/messages.js").Member} Member */
/** @typedef {import("./ways.js").Opened} Opened */
/** @typedef {import("./ways.js").Way} Way */

/** Seconds for which a channel stays open after its session has left it. So serve learns first that it continues. */
const OVERLAP = 2;
/** Seconds that a channel waits for the greeting on another one, before the link abandons that greeting. */
const TURN = 3;

/**
 * The owner of a link: decides what its channels are for, and learns of its end. None of these may throw.
 *
 * @typedef {object} LinkOwner
 * @property {(message: string) => void} sendSignal
 * @property {(link: Link, path: Path, certificate: Uint8Array) => boolean} isOfUse Whether to greet on a channel over
 *   this path. `certificate`: serve's; empty: unknown.
 * @property {(opened: Opened) => Promise<Greeting>} greeting
 * @property {(link: Link, carrier: Carrier, agreement: Agreement, at: number) => Session | null} linkAgreed Continue or
 *   begin the agreed session, and return it; null if the session to continue has ended.
 * @property {(link: Link, error: TunnelError) => void} linkAlarmed An attempt has ended for a reason that people should
 *   know at once. Others still run.
 * @property {(link: Link, error: TunnelError) => void} linkOver Every attempt has ended. This is the last call.
 * @property {() => void} timersChanged
 */

/** A link to a member. Call `run` once. */
export class Link {
  /**
   * The session that it carries or has carried.
   *
   * @type {Session | null}
   */
  session = null;
  /**
   * What carries the session, or would.
   *
   * @type {Path}
   */
  path = "direct";
  #owner;
  #direct;
  /** @type {RelayWay | null} */
  #relay;
  /** @type {Attempt[]} */
  #attempts;
  /** @type {(error: TunnelError) => void} */
  #tellOver = () => {};
  #closed = false;
  #quick = new Flag();

  /**
   * @param {Member} member
   * @param {object} options
   * @param {LinkOwner} options.owner
   * @param {string | null} options.offer The member's offer; null: we make one.
   * @param {boolean} options.addressed Whether the signal server knows roles.
   * @param {readonly import("../core/session/ice.js").IceServer[]} options.servers
   * @param {RTCCertificate} options.certificate Ours.
   * @param {{url: string, headStart: number} | null} options.relay Null: no relay may be used.
   * @param {boolean} [options.spare] Whether everything works without this link too.
   */
  constructor(member, { owner, offer, addressed, servers, certificate, relay, spare = false }) {
    this.member = member;
    this.spare = spare;
    this.#owner = owner;
    const direct = new DirectWay({
      offer,
      to: addressed ? member.peerId : null,
      peer: this.name,
      send: (message) => owner.sendSignal(message),
      servers,
      certificate,
    });
    this.#direct = direct;
    this.#relay = relay && new RelayWay({ ...relay, ...this.#relayOptions(direct.told) });
    this.#attempts = [direct, ...(this.#relay ? [this.#relay] : [])].map((way) => new Attempt(way));
  }

  /** Short name for people, which the signal server has chosen. */
  get name() {
    return `${this.member.role ?? "peer"}-${this.member.peerId.slice(0, 6)}`;
  }

  /** Whether the link has a session that has not ended. */
  get carries() {
    return this.session !== null && this.session.error === null;
  }

  /** Whether the link may still get a direct path. */
  get triesDirect() {
    return this.#attempts.some(({ way, carrier, running }) => way === this.#direct && carrier === null && running);
  }

  /** Connect, stay until every channel has ended, close everything, and tell the owner why. */
  async run() {
    /** @type {Promise<TunnelError>} */
    const over = new Promise((resolve) => {
      this.#tellOver = resolve;
    });
    const running = this.#attempts.map((attempt) => this.#try(attempt));
    this.#owner.linkOver(this, await over);
    await Promise.all(running);
    this.#closed = true;
  }

  /**
   * Process the member's answer. Only the first one counts.
   *
   * @param {string} sdp
   */
  async takeAnswer(sdp) {
    try {
      await this.#direct.takeAnswer(sdp);
    } catch (error) {
      this.#attempts[0]?.abandon.abort(asTunnelError(error));
    }
  }

  /** @param {string} candidate */
  takeCandidate(candidate) {
    this.#direct.takeCandidate(candidate);
  }

  /**
   * Process a ticket for a pipe to the member, for which we have asked.
   *
   * @param {string} ticket
   */
  takeTicket(ticket) {
    this.#relay?.takeTicket(ticket);
  }

  /**
   * Note that the signal server refuses a pipe.
   *
   * @param {string} reason
   */
  refuseRelay(reason) {
    this.#relay?.refuse(reason);
  }

  /** Check again whether the relay is needed, since the path that carried the session has failed. */
  look() {
    this.#relay?.look();
  }

  /**
   * Find out soon whether the member has left, as reported. Abandon the link if it has no session yet.
   *
   * @param {{gone?: boolean}} [options]
   */
  suspect({ gone = false } = {}) {
    if (this.session === null) {
      this.abandon(new PeerLost(`${this.name} left before a connection came up.`));
    } else {
      this.session.suspect(now(), { gone });
    }
  }

  /**
   * Give up a link that has no session.
   *
   * @param {TunnelError} reason
   */
  abandon(reason) {
    this.#attempts.forEach((attempt) => attempt.abandon.abort(reason));
  }

  /** Open no further channels. */
  settle() {
    const reason = new PeerError("Another connection is being made.");
    this.#attempts.filter(({ carrier }) => carrier === null).forEach((attempt) => attempt.abandon.abort(reason));
  }

  /** Close without the usual delay: the page leaves. */
  hurry() {
    this.#quick.set();
    this.abandon(new PeerError("The connection was abandoned."));
  }

  /** When to call `handleTimer`, or null. */
  nextTimer() {
    const due = this.#carriers.flatMap((carrier) => carrier.nextTimer() ?? []);
    return this.#closed || due.length === 0 ? null : Math.min(...due);
  }

  /** @param {number} at */
  handleTimer(at) {
    for (const carrier of this.#carriers) {
      if (at >= (carrier.nextTimer() ?? Infinity)) {
        carrier.handleTimer(at);
      }
    }
  }

  get #carriers() {
    return this.#attempts.flatMap(({ carrier }) => carrier ?? []);
  }

  /** @param {Flag} told */
  #relayOptions(told) {
    return {
      told,
      ask: () => this.#owner.sendSignal(messages.pipe(this.member.peerId)),
      wanted: () => this.#owner.isOfUse(this, "relay", new Uint8Array()),
    };
  }

  // -- the attempts

  /** @param {Attempt} attempt */
  async #try(attempt) {
    attempt.failure = await this.#use(attempt);
    attempt.settled.set();
    this.#attemptOver(attempt.failure);
    if (this.carries) {
      await this.#quick.wait({ seconds: OVERLAP });
    }
    await attempt.way.close();
  }

  /**
   * Connect, stay until the channel has ended, and return why it has.
   *
   * @param {Attempt} attempt
   * @returns {Promise<TunnelError>}
   */
  async #use(attempt) {
    const { signal } = attempt.abandon;
    /** @type {Promise<never>} */
    const abandoned = new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    abandoned.catch(() => {});
    try {
      const carrier = await Promise.race([this.#connect(attempt), abandoned]);
      // A carrier that reports its own end does so for the best of reasons: somebody may have guessed at the code.
      return await Promise.race([carrier.over, abandoned.catch((reason) => this.#leave(carrier, reason))]);
    } catch (error) {
      return asTunnelError(error);
    }
  }

  /**
   * Connect, and begin to greet. Throws `ConnectFailed`.
   *
   * @param {Attempt} attempt
   */
  async #connect(attempt) {
    const { signal } = attempt.abandon;
    signal.throwIfAborted();
    const opened = await attempt.way.open(signal);
    await this.#takeTurn();
    signal.throwIfAborted();
    if (!this.#owner.isOfUse(this, opened.path, opened.certificate)) {
      throw new ConnectFailed("A better path already carries the session.");
    }
    attempt.begun = true;
    const greeting = await this.#owner.greeting(opened);
    signal.throwIfAborted();
    attempt.opened = opened;
    return this.#greet(attempt, opened, greeting);
  }

  /** Wait until no other channel is being greeted on. Each greeting would begin a session. */
  async #takeTurn() {
    for (let other = this.#greeting; other !== undefined; other = this.#greeting) {
      if (!(await other.settled.wait({ seconds: TURN }))) {
        const late = "Another path became available meanwhile.";
        other.carrier?.leave(late);
        other.abandon.abort(new PeerError(late));
        await other.settled.wait();
      }
    }
  }

  get #greeting() {
    return this.#attempts.find((each) => each.greets);
  }

  /**
   * @param {Attempt} attempt
   * @param {Opened} opened
   * @param {Greeting} greeting
   */
  #greet(attempt, { channel, path }, greeting) {
    const flush = () => attempt.flush(() => this.#owner.timersChanged());
    const carrier = new Carrier(greeting, {
      agreed: (_, agreement, at) => this.#agreed(attempt, carrier, path, greeting, agreement, at),
      changed: flush,
      split: (lanes) => channel.split(lanes),
    });
    attempt.carrier = carrier;
    channel.attach({
      message: (message) => carrier.receive(message, now()),
      room: flush,
      closed: (reason) => carrier.closed(reason, now()),
    });
    flush();
    return carrier;
  }

  /**
   * @param {Attempt} attempt
   * @param {Carrier} carrier
   * @param {Path} path
   * @param {Greeting} greeting
   * @param {Agreement} agreement
   * @param {number} at
   */
  #agreed(attempt, carrier, path, greeting, agreement, at) {
    const before = this.path;
    this.path = path;
    const session = this.#owner.linkAgreed(this, carrier, agreement, at);
    attempt.settled.set();
    if (session !== null) {
      this.session = session;
      return;
    }
    this.path = before;
    if (carrier.error === null) {
      // Serve has moved to this channel a session that has ended here. It hears of that nowhere else.
      greeting.close(ErrorCode.NO_ERROR, FAREWELL);
      carrier.leave(FAREWELL);
    }
  }

  /**
   * @param {Carrier} carrier
   * @param {TunnelError} reason
   */
  #leave(carrier, reason) {
    carrier.giveUp({ stopping: this.session !== null && !this.carries });
    return carrier.error ?? reason;
  }

  /**
   * Act on the end of an attempt.
   *
   * @param {TunnelError} failure
   */
  #attemptOver(failure) {
    const running = this.#attempts.filter((each) => each.running);
    if (running.length === 0) {
      this.#tellOver(verdict(this.#attempts));
      return;
    }
    if (failure instanceof HandshakeFailed) {
      this.#owner.linkAlarmed(this, failure);
    }
    const pointless = this.session === null ? isFinal(failure) && !this.#greeting : !this.carries;
    if (pointless) {
      running.forEach((each) => each.abandon.abort(failure));
    } else if (running.every(({ way }) => way.onDemand)) {
      this.#relay?.look({ last: true });
    }
  }
}

/**
 * Return an error of the tunnel. Any other one is a defect, which ends a link and must not pass in silence.
 *
 * @param {unknown} error
 */
function asTunnelError(error) {
  if (error instanceof TunnelError) {
    return error;
  }
  return new PeerError(`An internal error ended the connection: ${error}.`, { hint: "Please report this." });
}
