/**
 * The connection to one member of the room: WebRTC by offer and answer, the greeting on it, and the session it carries.
 *
 * Mirrors `llmtunnel/session/link.py` with one way, WebRTC: directly or through a TURN server. A page cannot dial TCP,
 * and it cannot use the signal server's relay before serve has a form of it that a browser can speak. So a network that
 * blocks UDP needs a TURN server over TCP or TLS.
 */

import { now } from "./clock.js";
import { Flag } from "./flag.js";
import { TIMEOUTS } from "./timeouts.js";
import { WebRtcPeer } from "./webrtc.js";
import { toHex } from "../core/bytes.js";
import { ConnectFailed, ErrorCode, PeerError, PeerLost, TunnelError } from "../core/errors.js";
import { Carrier, FAREWELL } from "../core/session/carrier.js";
import * as messages from "../core/signaling/messages.js";
import { MAX_MESSAGE } from "../core/transport/sdp.js";

/** @typedef {import("../core/protocol/greeting.js").Greeting} Greeting */
/** @typedef {import("../core/protocol/handshake.js").Agreement} Agreement */
/** @typedef {import("../core/session/mux.js").Session} Session */
/** @typedef {import("../core/signaling/messages.js").Member} Member */
/** @typedef {import("./webrtc.js").WebRtcChannel} WebRtcChannel */

/** Seconds for which a channel stays open after its session has left it. So serve learns first that it continues. */
const OVERLAP = 2;

/**
 * The owner of a link: decides what its channel is for, and learns of its end. None of these may throw.
 *
 * @typedef {object} LinkOwner
 * @property {(message: string) => void} sendSignal
 * @property {(link: Link) => boolean} isOfUse Whether to greet on the link's channel, now that it is open.
 * @property {(link: Link) => Promise<Greeting>} greeting
 * @property {(link: Link, carrier: Carrier, agreement: Agreement, at: number) => Session | null} linkAgreed Continue or
 *   begin the agreed session, and return it; null if the session to continue has ended.
 * @property {(link: Link, error: TunnelError) => void} linkOver
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
  /** @type {Carrier | null} */
  carrier = null;
  /**
   * What carries the packets.
   *
   * @type {"direct" | "turn"}
   */
  path = "direct";
  #owner;
  #to;
  #rtc;
  #answered = new Flag();
  /** Whether an answer may come: we make the offer, and none has come yet. */
  #expectsAnswer = false;
  /** @type {WebRtcChannel | null} */
  #channel = null;
  #flushing = false;
  #abandon = new AbortController();
  #closed = false;
  #quick = new Flag();

  /**
   * @param {Member} member
   * @param {object} options
   * @param {LinkOwner} options.owner
   * @param {boolean} options.addressed Whether the signal server knows roles.
   * @param {readonly import("../core/session/ice.js").IceServer[]} options.servers
   * @param {RTCCertificate} options.certificate Ours.
   */
  constructor(member, { owner, addressed, servers, certificate }) {
    this.member = member;
    this.#owner = owner;
    this.#to = addressed ? member.peerId : null;
    this.#rtc = new WebRtcPeer({
      servers,
      certificate,
      onCandidate: (found) => owner.sendSignal(messages.candidate(found, this.#to)),
    });
  }

  /** SHA-256 of the member's certificate; empty until it is known. */
  get certificate() {
    return this.#rtc.certificate;
  }

  /** SHA-256 of our certificate. */
  get ownCertificate() {
    return this.#rtc.ownCertificate;
  }

  /** Short name for people. */
  get name() {
    const hex = toHex(this.certificate).slice(0, 8);
    return `${this.member.role ?? "peer"}-${hex || this.member.peerId.slice(0, 6)}`;
  }

  /** Whether the link has a session that has not ended. */
  get carries() {
    return this.session !== null && this.session.error === null;
  }

  /**
   * Connect, stay until the channel has ended, close everything, and tell the owner why.
   *
   * @param {string | null} offer The member's offer; null: we make one.
   */
  async run(offer) {
    const error = await this.#use(offer);
    this.#owner.linkOver(this, error);
    if (this.carries) {
      await this.#quick.wait({ seconds: OVERLAP });
    }
    this.#closed = true;
    await this.#rtc.close();
  }

  /**
   * Process the member's answer. Only the first one counts.
   *
   * @param {string} sdp
   */
  async takeAnswer(sdp) {
    if (!this.#expectsAnswer) {
      return;
    }
    this.#expectsAnswer = false;
    try {
      await this.#rtc.accept(sdp);
      this.#answered.set();
    } catch (error) {
      this.abandon(asTunnelError(error));
    }
  }

  /** @param {string} candidate */
  takeCandidate(candidate) {
    this.#rtc.addCandidate(candidate);
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
    this.#abandon.abort(reason);
  }

  /** Close without the usual delay: the page leaves. */
  hurry() {
    this.#quick.set();
    this.abandon(new PeerError("The connection was abandoned."));
  }

  /** When to call `handleTimer`, or null. */
  nextTimer() {
    return this.#closed ? null : (this.carrier?.nextTimer() ?? null);
  }

  /** @param {number} at */
  handleTimer(at) {
    this.carrier?.handleTimer(at);
  }

  /**
   * @param {string | null} offer
   * @returns {Promise<TunnelError>}
   */
  async #use(offer) {
    const { signal } = this.#abandon;
    /** @type {Promise<never>} */
    const abandoned = new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    abandoned.catch(() => {});
    try {
      const carrier = await Promise.race([this.#connect(offer), abandoned]);
      // A carrier that reports its own end does so for the best of reasons: somebody may have guessed at the code.
      return await Promise.race([carrier.over, abandoned.catch((reason) => this.#leave(carrier, reason))]);
    } catch (error) {
      return asTunnelError(error);
    }
  }

  /**
   * Connect, and begin to greet. Throws `ConnectFailed`.
   *
   * @param {string | null} offer
   */
  async #connect(offer) {
    if (offer === null) {
      this.#expectsAnswer = true;
      this.#owner.sendSignal(messages.offer(await this.#rtc.offer(), this.#to));
    } else {
      this.#owner.sendSignal(messages.answer(await this.#rtc.answer(offer), this.#to));
    }
    this.#rtc.release();
    if (offer === null && !(await this.#answered.wait({ seconds: TIMEOUTS.answer, signal: this.#abandon.signal }))) {
      throw new ConnectFailed(`${this.name} did not answer the offer to connect.`);
    }
    const channel = await this.#rtc.channel();
    this.path = await this.#rtc.path();
    if (!this.#owner.isOfUse(this)) {
      throw new ConnectFailed("A better path already carries the session.");
    }
    const greeting = await this.#owner.greeting(this);
    this.#abandon.signal.throwIfAborted();
    return this.#greet(channel, greeting);
  }

  /**
   * @param {WebRtcChannel} channel
   * @param {Greeting} greeting
   */
  #greet(channel, greeting) {
    const carrier = new Carrier(greeting, {
      agreed: (_, agreement, at) => this.#agreed(carrier, greeting, agreement, at),
      changed: () => this.#flush(),
      split: (lanes) => channel.split(lanes),
    });
    this.carrier = carrier;
    this.#channel = channel;
    channel.attach({
      message: (message) => carrier.receive(message, now()),
      room: () => this.#flush(),
      closed: (reason) => carrier.closed(reason, now()),
    });
    this.#flush();
    return carrier;
  }

  /**
   * @param {Carrier} carrier
   * @param {Greeting} greeting
   * @param {Agreement} agreement
   * @param {number} at
   */
  #agreed(carrier, greeting, agreement, at) {
    this.session = this.#owner.linkAgreed(this, carrier, agreement, at);
    if (this.session === null && carrier.error === null) {
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

  /** Send what there is at the end of this turn: what is written in one turn shares a message. */
  #flush() {
    if (this.#flushing) {
      return;
    }
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.#send();
      this.#owner.timersChanged();
    });
  }

  #send() {
    const { carrier } = this;
    const channel = this.#channel;
    if (carrier === null || channel === null) {
      return;
    }
    for (const pipe of carrier.ready) {
      while (channel.takes(pipe)) {
        const message = carrier.messageToSend(pipe, MAX_MESSAGE);
        if (message === null) {
          break;
        }
        channel.send(message, pipe);
      }
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
