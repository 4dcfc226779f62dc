/**
 * A member of a room: stays in it, connects to serve, and repeats both after any failure.
 *
 * The signal server and the links fail independently. Links outlive the loss of the signal server. A page that wants
 * another link leaves the room and joins again as another member, so that serve makes a new offer. Its existing link
 * stays until the session has moved to the new one. Mirrors `llmtunnel/session/room.py`, `peers.py` and `access.py` for
 * a proxy, which has one session.
 */

import { now } from "./clock.js";
import { Flag } from "./flag.js";
import { Link } from "./link.js";
import { Links } from "./links.js";
import { SignalClient } from "./signal.js";
import { TIMEOUTS } from "./timeouts.js";
import { HEAD_START } from "./ways.js";
import { newCertificate } from "./webrtc.js";
import { equal, toHex } from "../core/bytes.js";
import {
  AccessDenied,
  AuthenticationFailed,
  PeerNotFound,
  SignalError,
  SignalRestarting,
  TunnelError,
  Unwelcome,
  VersionMismatch,
} from "../core/errors.js";
import { rank } from "../core/paths.js";
import { newGuesses } from "../core/protocol/auth.js";
import { Greeting } from "../core/protocol/greeting.js";
import { Session } from "../core/session/mux.js";
import { Retry } from "../core/session/retry.js";
import { IceBook } from "../core/session/ice.js";
import { askIce } from "../core/signaling/messages.js";
import { Negotiation } from "../core/signaling/negotiation.js";

/** @typedef {import("../core/paths.js").Path} Path */
/** @typedef {import("../core/protocol/handshake.js").Agreement} Agreement */
/** @typedef {import("../core/protocol/auth.js").Identity} Identity */
/** @typedef {import("../core/protocol/keys.js").Ticket} Ticket */
/** @typedef {import("../core/session/carrier.js").Carrier} Carrier */
/** @typedef {import("../core/session/life.js").Change} Change */
/** @typedef {import("../core/signaling/messages.js").IceOffer} IceOffer */
/** @typedef {import("../core/signaling/messages.js").Joined} Joined */
/** @typedef {import("../core/signaling/messages.js").Member} Member */
/** @typedef {import("../core/signaling/negotiation.js").Instruction} Instruction */
/** @typedef {import("./ways.js").Opened} Opened */

/** The signal server's error codes for a pipe that it does not open. */
const NO_PIPE = ["no-relay", "relay-limit"];
/** Failed proofs after which the person has to look at the code. */
const GUESSES = 3;
/** Seconds that `close` waits for what is under way. */
const CLOSE = 2;

/**
 * @typedef {object} RoomOptions
 * @property {string} signal URL of the signal server.
 * @property {string} room
 * @property {string} secret
 * @property {Identity | Promise<Identity>} identity By which serve knows this page.
 * @property {string} agent What this page says that it is.
 * @property {string | null} [access] Access token of a private signal server.
 * @property {readonly string[]} [stun] STUN servers to use if the signal server names none.
 * @property {() => void} changed Called when something that people may see has changed.
 */

/** A member of a room. Call `run` once, and `close` to leave. */
export class Room {
  /**
   * The session with serve; null before the first, and after its end.
   *
   * @type {Session | null}
   */
  session = null;
  /**
   * The link that carries the session, or the last one that did.
   *
   * @type {Link | null}
   */
  link = null;
  /**
   * The last failure; null once a session works.
   *
   * @type {TunnelError | null}
   */
  problem = null;
  /** Whether the signal server has let us in, and the connection to it stands. */
  inRoom = false;
  #options;
  #negotiation = new Negotiation("proxy");
  #ice;
  #retry = new Retry();
  #guesses = newGuesses();
  #failures = 0;
  /** @type {Ticket | null} */
  #ticket = null;
  #instance = newInstance();
  /** @type {string | null} */
  #token = null;
  #addressed = false;
  /** Whether the signal server has a relay. */
  #relay = false;
  #admitted = false;
  /** @type {RTCCertificate | null} */
  #certificate = null;
  /** @type {SignalClient | null} */
  #client = null;
  #links = new Links(this.#negotiation);
  /** Set when something ends a wait. The waiting task then checks what is due. */
  #changed = new Flag();
  /** Set while a session stands, or none will. */
  #up = new Flag();
  /** Whether `close` has been called. */
  #leaving = false;
  #closing = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #timerAt = Infinity;

  /** @param {RoomOptions} options */
  constructor(options) {
    this.#options = options;
    this.#ice = new IceBook(options.stun);
  }

  /** Why the room has given up, or null. */
  get failure() {
    return this.#retry.failure;
  }

  /** Whether a link is being made. */
  get connecting() {
    return this.#links.making.length > 0;
  }

  /** Whether the signal server knows of no serve in the room. Meaningless before it has let us in. */
  get alone() {
    return this.#negotiation.alone;
  }

  /** Whether the session has a working channel. */
  get standing() {
    return this.session !== null && this.session.error === null && !this.session.suspended;
  }

  /** Stay in the room until `close`, or until a failure that no retry can fix (see `failure`). */
  async run() {
    const { signal } = this.#closing;
    while (this.#retry.failure === null && !signal.aborted) {
      try {
        this.#certificate ??= await newCertificate();
        await this.#visit();
      } catch (error) {
        await this.#failed(error);
      }
      this.#options.changed();
    }
    this.#up.set();
  }

  /**
   * Return the working session. Throws `PeerNotFound` if none stands within `seconds`, or what `run` has failed with.
   *
   * @param {{seconds?: number, signal?: AbortSignal}} [options]
   */
  async working({ seconds = TIMEOUTS.waitForPeer, signal } = {}) {
    if (!this.standing) {
      await this.#up.wait({ seconds, ...(signal ? { signal } : {}) });
      signal?.throwIfAborted();
    }
    if (this.#retry.failure !== null) {
      throw this.#retry.failure;
    }
    if (this.session === null || !this.standing || this.#leaving) {
      throw new PeerNotFound("The other side is not connected.", {
        hint: "Is `llmtunnel serve` running on the other machine?",
      });
    }
    return this.session;
  }

  /** Find out now whether serve still answers. */
  suspect() {
    this.session?.suspect(now());
  }

  /** The page may have slept: find out what still works. Without a session, nothing would tell that from the room. */
  woken() {
    if (this.session === null) {
      this.moved();
    } else {
      this.suspect();
    }
  }

  /** Find out now whether the path still works, and ask for another link: the network has changed, or we slept. */
  moved() {
    this.suspect();
    this.#retry.hurry();
    this.#wantLink();
  }

  /** Tell serve that the page is being closed. There is no time for more, and serve cancels its requests. */
  quit() {
    this.session?.close(now(), undefined, undefined, 0);
  }

  /** Leave: end the session, close everything. */
  async close() {
    if (this.#leaving) {
      return;
    }
    this.#leaving = true;
    this.session?.close(now());
    await Promise.race([this.session?.over, pause(CLOSE)]);
    this.#closing.abort(new SignalError("The page has left."));
    this.#client?.close();
    this.#changed.set();
    this.#up.set();
    this.#links.held.forEach((link) => link.hurry());
    await Promise.race([this.#links.closed, pause(CLOSE)]);
    clearTimeout(this.#timer);
  }

  // -- the signal server

  /** Hold one connection to the signal server, until it is lost or another one is wanted. */
  async #visit() {
    const { signal: url, room, access = null } = this.#options;
    this.#changed.clear(); // this visit satisfies every earlier request
    if (this.#retry.linkWanted) {
      this.#instance = newInstance();
      this.#links.reaching.forEach((link) => this.#links.leave(link));
    }
    const over = new AbortController();
    const client = await SignalClient.connect(url);
    try {
      this.#client = client;
      this.#closing.signal.throwIfAborted();
      const joined = await client.join(room, { role: "proxy", instance: this.#instance, token: this.#token, access });
      this.#enter(joined);
      const rejoin = this.#untilRejoin(AbortSignal.any([over.signal, this.#closing.signal]));
      await Promise.race([this.#receive(client), rejoin]);
    } finally {
      over.abort();
      this.inRoom = false;
      this.#client = null;
      client.close();
    }
  }

  /** @param {Joined} joined */
  #enter(joined) {
    this.#retry.joined();
    this.#admitted = true;
    this.inRoom = true;
    this.#token = joined.token ?? this.#token;
    this.#addressed = joined.role !== null;
    this.#relay = joined.role !== null && joined.relay !== null;
    this.#takeIce(joined.role === null ? null : joined.ice);
    this.#negotiation.joined(joined).forEach((each) => this.#act(each));
    this.#options.changed();
  }

  /** @param {SignalClient} client */
  async #receive(client) {
    for (;;) {
      const message = await client.receive();
      if (message.kind === "ice") {
        this.#takeIce(message.ice);
      } else if (message.kind === "error" && NO_PIPE.includes(message.code ?? "")) {
        this.#links.reaching.forEach((link) => link.refuseRelay(message.message));
      }
      this.#negotiation.receive(message).forEach((each) => this.#act(each));
      this.#options.changed();
    }
  }

  /** @param {IceOffer | null} offer */
  #takeIce(offer) {
    this.#ice.told(offer, { signal: this.#options.signal, now: now() });
    this.timersChanged();
  }

  /**
   * Wait until we want to rejoin: we have lost the link, or serve is in the room and makes no offer.
   *
   * @param {AbortSignal} signal
   */
  async #untilRejoin(signal) {
    const expected = !this.#negotiation.alone;
    if (expected && (await this.#untilDue(AbortSignal.any([signal, AbortSignal.timeout(TIMEOUTS.offer * 1000)])))) {
      return;
    }
    if (!expected || this.connecting || !this.#retry.linkWanted || this.#negotiation.alone) {
      await this.#untilDue(signal);
    }
  }

  /**
   * Wait until another link is wanted and due while none is being made, or until there is a final failure. Return
   * whether that is so; `signal` ends the wait.
   *
   * @param {AbortSignal} signal
   */
  async #untilDue(signal) {
    while (await this.#changed.wait({ signal })) {
      this.#changed.clear();
      for (let delay = this.#retry.linkDelay(now()); delay > 0; delay = this.#retry.linkDelay(now())) {
        await this.#changed.wait({ seconds: delay, signal });
        this.#changed.clear();
        if (signal.aborted) {
          return false;
        }
      }
      if (this.#retry.failure !== null || (this.#retry.linkWanted && !this.connecting)) {
        return true;
      }
    }
    return false;
  }

  /**
   * Wait before the next try of the signal server, or give up.
   *
   * @param {unknown} error
   */
  async #failed(error) {
    if (!(error instanceof SignalError)) {
      this.#giveUp(new TunnelError(`An internal error ended the tunnel: ${error}.`, { hint: "Please report this." }));
      return;
    }
    const denied = error instanceof AccessDenied;
    if (denied && !this.#admitted) {
      this.#giveUp(error);
      return;
    }
    this.#note(error);
    if (error instanceof SignalRestarting && this.standing && this.link?.path === "relay") {
      this.#retry.wantLink(); // it will close the pipe. The pause before the next try stays.
    }
    const soon = this.session !== null && this.session.suspended && this.session.active > 0;
    await this.#changed.wait({
      seconds: this.#retry.signalDelay({ soon, denied }),
      signal: this.#closing.signal,
    });
  }

  // -- links

  /** @param {Instruction} instruction */
  #act(instruction) {
    switch (instruction.do) {
      case "make-offer":
        this.#connect(instruction.member, null);
        break;
      case "make-answer":
        this.#connect(instruction.member, instruction.sdp);
        break;
      case "take-answer":
        this.#links.get(instruction.peerId)?.takeAnswer(instruction.sdp);
        break;
      case "take-candidate":
        this.#links.get(instruction.peerId)?.takeCandidate(instruction.candidate.candidate);
        break;
      case "take-ticket":
        this.#links.get(instruction.peerId)?.takeTicket(instruction.ticket);
        break;
      case "suspect":
        this.#links.get(instruction.peerId)?.suspect({ gone: instruction.gone });
        break;
      case "rename":
        this.#links.rename(instruction.old, instruction.new);
        break;
    }
  }

  /**
   * @param {Member} member
   * @param {string | null} offer
   * @param {{spare?: boolean}} [options] `spare`: only to find a better path than the one that carries.
   */
  #connect(member, offer, { spare = false } = {}) {
    if (this.#certificate === null || !this.#links.makePlace(member.peerId)) {
      return;
    }
    const link = new Link(member, {
      owner: this,
      offer,
      addressed: this.#addressed,
      servers: this.#ice.servers(now()),
      certificate: this.#certificate,
      relay: this.#relay && member.role !== null && !spare ? this.#relayOf() : null,
      spare,
    });
    this.#links.add(link);
  }

  /** Return where the relay is, and how long other paths are tried before it. */
  #relayOf() {
    const waits = this.session !== null && this.session.suspended && this.link?.path === "relay";
    return { url: this.#options.signal, headStart: waits ? 0 : HEAD_START };
  }

  /** When due, try for a better path next to the one that carries. */
  #seekBetter() {
    const { link } = this;
    if (!this.#retry.takeBetter(now())) {
      return;
    }
    if (link === null || !this.standing || !this.#addressed || !this.inRoom || this.#retry.linkWanted || link.triesDirect) {
      return;
    }
    if (!this.session?.resumable) {
      return; // a session on the better path would be another one, and end the requests of this one
    }
    const member = this.#negotiation.present(link.member);
    if (member !== null) {
      this.#connect(member, null, { spare: true });
    }
  }

  // -- see `LinkOwner`

  /** @param {string} message */
  sendSignal(message) {
    this.#client?.send(message);
  }

  /**
   * @param {Link} link
   * @param {Path} path
   * @param {Uint8Array} certificate
   */
  isOfUse(link, path, certificate) {
    const { session } = this;
    if (this.#leaving) {
      return false;
    }
    if (session === null || session.error !== null || session.suspended) {
      return !link.spare;
    }
    const current = this.link?.path ?? "relay";
    const another = certificate.length > 0 && session.certificate.length > 0 && !equal(certificate, session.certificate);
    if (link.spare) {
      return !another && rank(path) < rank(current);
    }
    return another || this.#retry.linkWanted || rank(path) <= rank(current);
  }

  /** @param {Opened} opened */
  async greeting({ certificate, certificates }) {
    const { room, secret, agent } = this.#options;
    const identity = await this.#options.identity;
    const { session } = this;
    const sure = session !== null && session.certificate.length > 0 && certificate.length > 0;
    return Greeting.begin({
      now: now(),
      agent,
      certificate,
      credentials: {
        room,
        secret,
        certificates,
        ticket: this.#ticket,
        guesses: this.#guesses,
        identity,
      },
      resume: session?.offer(certificate) ?? null,
      // Others know the secret too. Where no certificate tells them from serve, none of them takes a working session's
      // place. One that cannot continue anywhere is replaced if another link is wanted.
      continues: this.standing && !sure && (session?.resumable === true || !this.#retry.linkWanted),
    });
  }

  /**
   * @param {Link} link
   * @param {Carrier} carrier
   * @param {Agreement} agreement
   * @param {number} at
   */
  linkAgreed(link, carrier, agreement, at) {
    const held = this.#links.held.includes(link);
    if (!held && agreement.received !== null) {
      carrier.leave("The connection was abandoned."); // the session lives, and continues over another link
    }
    if (this.#leaving || !held) {
      return null;
    }
    if (this.#links.reaches(link)) {
      this.#negotiation.established(link.member.peerId);
    }
    const { session } = this;
    if (agreement.received === null) {
      this.link = link;
      return this.#begin(carrier, agreement, at);
    }
    if (session === null || session.error !== null || !equal(session.id, agreement.session)) {
      return null;
    }
    this.link = link;
    session.resume(agreement, carrier, at);
    return session;
  }

  /**
   * @param {Link} link
   * @param {TunnelError} reason
   */
  linkAlarmed(link, reason) {
    if (this.#links.reaches(link) && !link.spare && !this.standing) {
      this.#note(reason);
    }
  }

  /**
   * @param {Link} link
   * @param {TunnelError} reason
   */
  linkOver(link, reason) {
    if (!this.#links.forget(link)) {
      return;
    }
    if (link.session !== null || link.spare) {
      return; // the session tells what happens to it
    }
    if (this.#isFinal(reason, false) && !this.connecting && !this.standing) {
      this.#giveUp(reason);
      return;
    }
    if (!this.standing) {
      this.#note(reason);
    }
    if (this.#retry.linkWanted && !this.connecting) {
      this.#retry.linkFailed(now());
    }
    this.#changed.set();
  }

  /** Set the timer for whatever is due next. */
  timersChanged() {
    const others = [this.#ice.renewal, this.#retry.betterDue].map((each) => each ?? Infinity);
    const at = Math.min(...this.#timed.map((each) => each.nextTimer() ?? Infinity), ...others);
    if (this.#closing.signal.aborted || at >= this.#timerAt) {
      return; // one that is too early looks again
    }
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(() => this.#tick(), Math.max(0, (at - now()) * 1000));
  }

  #tick() {
    this.#timerAt = Infinity;
    const at = now();
    for (const each of this.#timed) {
      if (at >= (each.nextTimer() ?? Infinity)) {
        each.handleTimer(at);
      }
    }
    if (this.#ice.takeRenewal(at)) {
      this.sendSignal(askIce());
    }
    this.#seekBetter();
    this.timersChanged();
  }

  get #timed() {
    return [...this.#links.held, ...(this.session === null ? [] : [this.session])];
  }

  // -- the session

  /**
   * @param {Carrier} carrier
   * @param {Agreement} agreement
   * @param {number} at
   */
  #begin(carrier, agreement, at) {
    const old = this.session;
    this.session = null;
    old?.close(at); // another serve took its place
    /** @type {Session} */
    const session = new Session(agreement, carrier, {
      now: at,
      owner: {
        changed: (change) => this.#sessionChanged(session, change),
        ended: (error) => this.#sessionEnded(session, error),
      },
    });
    this.session = session;
    this.#ticket = session.ticket;
    this.#failures = 0;
    this.#reached();
    return session;
  }

  /**
   * @param {Session} session
   * @param {Change} change
   */
  #sessionChanged(session, change) {
    if (session !== this.session) {
      return;
    }
    if (change.kind === "resumed") {
      this.#reached();
    } else {
      this.#up.clear();
      this.#retry.disturbed();
      this.#links.reaching.forEach((link) => link.look());
      this.#wantLink();
      this.#options.changed();
    }
  }

  /**
   * @param {Session} session
   * @param {TunnelError} error
   */
  #sessionEnded(session, error) {
    if (session !== this.session || this.#leaving) {
      return;
    }
    this.session = null;
    this.#up.clear();
    this.#retry.disturbed();
    if (this.#isFinal(error, true)) {
      this.#giveUp(error);
      return;
    }
    this.#note(error);
    this.#retry.linkFailed(now());
    this.#changed.set();
  }

  #reached() {
    this.#retry.reached(now());
    if (this.link !== null) {
      this.#retry.carries(this.link.path, now());
    }
    this.problem = null;
    this.#up.set();
    this.timersChanged();
    this.#options.changed();
  }

  #wantLink() {
    this.#retry.wantLink();
    this.#changed.set();
  }

  /**
   * Return whether a retry is pointless after a link or session has ended for this reason.
   *
   * @param {TunnelError} reason
   * @param {boolean} stood Whether a session stood before. An unauthenticated peer cannot end this with one message.
   */
  #isFinal(reason, stood) {
    if (reason instanceof Unwelcome && stood) {
      return true;
    }
    if ([AuthenticationFailed, Unwelcome, VersionMismatch].some((kind) => reason instanceof kind)) {
      this.#failures += 1;
      return this.#failures >= GUESSES || this.#guesses.count(now()) < 1;
    }
    return false;
  }

  /** @param {TunnelError} failure */
  #giveUp(failure) {
    this.#retry.failure = failure;
    this.#note(failure);
    this.#changed.set();
    this.#up.set();
  }

  /** @param {TunnelError} problem */
  #note(problem) {
    this.problem = problem;
    this.#options.changed();
  }
}

function newInstance() {
  return toHex(crypto.getRandomValues(new Uint8Array(8)));
}

/** @param {number} seconds */
function pause(seconds) {
  return new Promise((resolve) => {
    setTimeout(resolve, seconds * 1000);
  });
}
