/**
 * Ways to serve, tried side by side. Each opens a channel, or says why it cannot.
 *
 *     direct    WebRTC by offer and answer: directly, or through a TURN server
 *     relay     a sealed pipe through the signal server, for which the page asks
 *
 * link.js decides what is sent on a channel, and which channel carries the session. Mirrors
 * `llmtunnel/session/ways.py`.
 */

import { NOT_NEEDED } from "./attempt.js";
import { Flag } from "./flag.js";
import { RelayChannel } from "./relay.js";
import { TIMEOUTS } from "./timeouts.js";
import { WebRtcPeer } from "./webrtc.js";
import { ConnectFailed } from "../core/errors.js";
import * as messages from "../core/signaling/messages.js";

/** @typedef {import("../core/paths.js").Path} Path */
/** @typedef {import("../core/protocol/keys.js").Certificates} Certificates */
/** @typedef {import("./webrtc.js").WebRtcChannel} WebRtcChannel */

/** Seconds that a direct path gets before we ask for the relay. */
export const HEAD_START = 0.3;

/**
 * A channel that has opened.
 *
 * @typedef {object} Opened
 * @property {WebRtcChannel | RelayChannel} channel
 * @property {Path} path
 * @property {Certificates} certificates What authentication is bound to.
 * @property {Uint8Array} certificate SHA-256 of the certificate that serve has shown; empty if it shows none.
 */

/**
 * How to open a channel. Call `open` once, and `close` once in any case.
 *
 * @typedef {object} Way
 * @property {string} name
 * @property {boolean} onDemand Whether it opens only when it is needed.
 * @property {(signal: AbortSignal) => Promise<Opened>} open Throws `ConnectFailed`. `signal` gives up.
 * @property {() => Promise<void>} close
 */

/**
 * WebRTC.
 *
 * @implements {Way}
 */
export class DirectWay {
  name = "direct";
  onDemand = false;
  /** Set once serve knows of this link, or never will. It could not attribute an earlier message to it. */
  told = new Flag();
  #send;
  #to;
  #peer;
  #offer;
  #rtc;
  #answered = new Flag();
  /** Whether an answer may come: we make the offer, and none has come yet. */
  #expectsAnswer = false;

  /**
   * @param {object} options
   * @param {string | null} options.offer Serve's offer; null: we make one.
   * @param {string | null} options.to Serve's id, if the signal server knows roles.
   * @param {string} options.peer What people call the other side.
   * @param {(message: string) => void} options.send Sends a signalling message.
   * @param {readonly import("../core/session/ice.js").IceServer[]} options.servers
   * @param {RTCCertificate} options.certificate Ours.
   */
  constructor({ offer, to, peer, send, servers, certificate }) {
    this.#offer = offer;
    this.#to = to;
    this.#peer = peer;
    this.#send = send;
    this.#rtc = new WebRtcPeer({
      servers,
      certificate,
      onCandidate: (found) => send(messages.candidate(found, to)),
    });
  }

  /**
   * Process serve's answer; only the first one counts. Throws `ConnectFailed`.
   *
   * @param {string} sdp
   */
  async takeAnswer(sdp) {
    if (this.#expectsAnswer) {
      this.#expectsAnswer = false;
      await this.#rtc.accept(sdp);
      this.#answered.set();
    }
  }

  /** @param {string} candidate */
  takeCandidate(candidate) {
    this.#rtc.addCandidate(candidate);
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Opened>}
   */
  async open(signal) {
    try {
      if (this.#offer === null) {
        this.#expectsAnswer = true;
        this.#send(messages.offer(await this.#rtc.offer(), this.#to));
      } else {
        this.#send(messages.answer(await this.#rtc.answer(this.#offer), this.#to));
      }
    } finally {
      this.told.set();
    }
    this.#rtc.release();
    if (this.#offer === null && !(await this.#answered.wait({ seconds: TIMEOUTS.answer, signal }))) {
      throw new ConnectFailed(`${this.#peer} did not answer the offer to connect.`);
    }
    const channel = await this.#rtc.channel();
    const { certificate, ownCertificate } = this.#rtc;
    return {
      channel,
      path: await this.#rtc.path(),
      certificates: { proxy: ownCertificate, serve: certificate },
      certificate,
    };
  }

  close() {
    return this.#rtc.close();
  }
}

/**
 * The relay: asks for a pipe some time after serve knows of the link, and only while it is wanted.
 *
 * @implements {Way}
 */
export class RelayWay {
  name = "relay";
  onDemand = true;
  #url;
  #told;
  #headStart;
  #ask;
  #wanted;
  #looks = new Flag();
  #last = false;
  #answered = new Flag();
  #ticket = "";
  #refusal = "";
  /** @type {RelayChannel | null} */
  #channel = null;

  /**
   * @param {object} options
   * @param {string} options.url The signal server's.
   * @param {Flag} options.told See `DirectWay.told`.
   * @param {number} options.headStart Seconds from then until it asks.
   * @param {() => void} options.ask Asks for a pipe.
   * @param {() => boolean} options.wanted
   */
  constructor({ url, told, headStart, ask, wanted }) {
    this.#url = url;
    this.#told = told;
    this.#headStart = headStart;
    this.#ask = ask;
    this.#wanted = wanted;
  }

  /**
   * Check again whether the relay is wanted. `last`: no other way is left.
   *
   * @param {{last?: boolean}} [options]
   */
  look({ last = false } = {}) {
    this.#last ||= last;
    this.#looks.set();
  }

  /**
   * Accept a ticket. Only the first one counts.
   *
   * @param {string} ticket
   */
  takeTicket(ticket) {
    this.#ticket ||= ticket;
    this.#answered.set();
  }

  /**
   * Note that the signal server refuses a ticket.
   *
   * @param {string} reason
   */
  refuse(reason) {
    this.#refusal = reason;
    this.#answered.set();
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Opened>}
   */
  async open(signal) {
    await this.#told.wait({ signal });
    if (!this.#last) {
      await this.#looks.wait({ seconds: this.#headStart, signal });
    }
    signal.throwIfAborted();
    while (!this.#wanted()) {
      if (this.#last) {
        throw new ConnectFailed(NOT_NEEDED);
      }
      this.#looks.clear();
      await this.#looks.wait({ signal }); // for as long as another way is open or being tried: its end calls `look`
      signal.throwIfAborted();
    }
    this.#ask();
    if (!(await this.#answered.wait({ seconds: TIMEOUTS.answer, signal }))) {
      throw new ConnectFailed("The signal server did not answer the request for a pipe through its relay.");
    }
    if (this.#ticket === "") {
      throw new ConnectFailed(`The signal server refused a pipe through its relay: ${this.#refusal}.`);
    }
    const channel = await RelayChannel.open(this.#url, this.#ticket, signal);
    this.#channel = channel;
    if (signal.aborted) {
      await channel.close(); // `close` came when there was none yet
      signal.throwIfAborted();
    }
    const { binding } = channel;
    return { channel, path: "relay", certificates: { proxy: binding, serve: binding }, certificate: new Uint8Array() };
  }

  async close() {
    await this.#channel?.close();
  }
}
