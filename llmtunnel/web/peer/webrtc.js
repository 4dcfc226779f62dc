/**
 * One attempt to reach serve over WebRTC: a connection, and a channel over it with a data channel for each lane.
 *
 * Mirrors `llmtunnel/transport/webrtc.py` and `datachannel.py` over a browser's RTCPeerConnection. The other end of the
 * connection holds the certificate whose fingerprint we gave the browser, which enforces it.
 */

import { TIMEOUTS } from "./timeouts.js";
import { equal } from "../core/bytes.js";
import { ConnectFailed, HandshakeFailed, assert } from "../core/errors.js";
import { MAX_CANDIDATES, MAX_MESSAGE, certificateOf, isUsable, parse, rebuild } from "../core/transport/sdp.js";

/** @typedef {import("../core/session/ice.js").IceServer} IceServer */
/** @typedef {import("../core/signaling/messages.js").IceCandidate} IceCandidate */
/** @typedef {import("../core/transport/sdp.js").Description} Description */

const LABEL = "tunnel";
/** Bytes in the send queues at which there is no more room. A lane always has room for its even share of them. */
const QUEUE = 128 * 1024;
/** Bytes kept for a receiver that is not attached yet. */
const EARLY = 128 * 1024;
/** Seconds that an orderly close waits for queued bytes and for the peer's answer. */
const DRAIN = 1;
/** Milliseconds for which our certificate is valid: longer than any page stays open. */
const LIFETIME = 365 * 86_400_000;
const GIVE_TURN =
  "If UDP cannot pass between the two networks, use a signal server that has a relay, or hands out a TURN server.";

const OTHER_SERVER = "If it happens again, somebody may be between the two of you: use another signal server.";

/**
 * What receives from a channel. None of these may throw.
 *
 * @typedef {object} Receiver
 * @property {(message: Uint8Array) => void} message
 * @property {() => void} room There may be room again after there was none.
 * @property {(reason: string) => void} closed The channel has ended. This is the last call, and happens once.
 */

/** Return a new certificate, which identifies this page for as long as it is open (ECDSA P-256). */
export function newCertificate() {
  return RTCPeerConnection.generateCertificate(
    /** @type {AlgorithmIdentifier} */ ({ name: "ECDSA", namedCurve: "P-256", expires: LIFETIME }),
  );
}

/** One connection to serve: `offer` and `accept`, or `answer`, then `channel`, then `close`. */
export class WebRtcPeer {
  #connection;
  #onCandidate;
  #hasTurn;
  /**
   * Candidates of ours that wait until the peer has our description.
   *
   * @type {IceCandidate[] | null}
   */
  #held = [];
  /**
   * The peer's candidates that wait until the browser has its description.
   *
   * @type {string[]}
   */
  #early = [];
  #accepted = 0;
  #mid = "0";
  #described = false;
  #offered = false;
  #channel = new WebRtcChannel();

  /**
   * @param {object} options
   * @param {readonly IceServer[]} options.servers
   * @param {RTCCertificate} options.certificate Ours, see `newCertificate`.
   * @param {(candidate: IceCandidate) => void} options.onCandidate Called with each of our candidates after `release`,
   *   and at the end with an empty one.
   */
  constructor({ servers, certificate, onCandidate }) {
    this.#onCandidate = onCandidate;
    this.#hasTurn = servers.some(({ urls }) => urls.startsWith("turn"));
    const connection = new RTCPeerConnection({ iceServers: [...servers], certificates: [certificate] });
    this.#connection = connection;
    connection.addEventListener("icecandidate", ({ candidate }) => this.#tell(candidate));
    connection.addEventListener("connectionstatechange", () => {
      if (connection.connectionState === "failed") {
        this.#failed();
      }
    });
    connection.addEventListener("datachannel", ({ channel }) => {
      if (!this.#offered && channel.label === LABEL && this.#channel.isNew) {
        this.#channel.begin(connection, channel);
      } else {
        channel.close();
      }
    });
  }

  /** SHA-256 of serve's certificate, which the browser enforces. */
  certificate = new Uint8Array();
  /** SHA-256 of our certificate. */
  ownCertificate = new Uint8Array();

  /** Return the SDP to send to serve. Call `release` once it has been sent. */
  async offer() {
    this.#offered = true;
    this.#channel.begin(this.#connection, this.#connection.createDataChannel(LABEL));
    return this.#describe(await this.#connection.createOffer());
  }

  /**
   * Return the SDP that answers serve's offer. Call `release` once it has been sent. Throws `ConnectFailed`.
   *
   * @param {string} sdp
   */
  async answer(sdp) {
    await this.#setRemote("offer", parse(sdp));
    return this.#describe(await this.#connection.createAnswer());
  }

  /**
   * Accept the answer to our offer. Throws `ConnectFailed`.
   *
   * @param {string} sdp
   */
  async accept(sdp) {
    const remote = parse(sdp);
    if (remote.setup === "actpass") {
      throw new ConnectFailed("The peer sent an answer without an offer.");
    }
    await this.#setRemote("answer", remote);
  }

  /** Send our candidates from now on: serve has our description, or gets it before them. */
  release() {
    const held = this.#held ?? [];
    this.#held = null;
    held.forEach(this.#onCandidate);
  }

  /**
   * Accept a candidate of serve, at any time. An unusable one is ignored.
   *
   * @param {string} candidate
   */
  addCandidate(candidate) {
    if (!isUsable(candidate) || this.#accepted >= MAX_CANDIDATES) {
      return;
    }
    this.#accepted += 1;
    if (this.#described) {
      this.#add(candidate);
    } else {
      this.#early.push(candidate);
    }
  }

  /** Return the open channel. Throws `ConnectFailed` if it does not open within `TIMEOUTS.connect`. */
  async channel() {
    const timer = setTimeout(() => {
      const problem = `No network path to the peer came up within ${TIMEOUTS.connect} s.`;
      this.#channel.fail(new ConnectFailed(problem, { hint: this.#hint }));
    }, TIMEOUTS.connect * 1000);
    try {
      await this.#channel.opened;
    } finally {
      clearTimeout(timer);
    }
    return this.#channel;
  }

  /**
   * Return what carries the packets: "turn" if a TURN server relays them, else "direct".
   *
   * @returns {Promise<"direct" | "turn">}
   */
  async path() {
    /** @type {Map<string, any>} */
    const stats = new Map();
    (await this.#connection.getStats()).forEach((/** @type {any} */ each) => stats.set(each.id, each));
    const all = [...stats.values()];
    const selected = all.find((each) => each.type === "transport")?.selectedCandidatePairId;
    const pair =
      stats.get(selected) ?? all.find((each) => each.type === "candidate-pair" && each.nominated && each.state === "succeeded");
    const ends = [pair?.localCandidateId, pair?.remoteCandidateId].map((id) => stats.get(id)?.candidateType);
    return ends.includes("relay") ? "turn" : "direct";
  }

  /** Send what is queued, for a second at most, and close everything. Idempotent. */
  async close() {
    await this.#channel.close();
    this.#connection.close();
    this.#channel.lose("closed by us");
  }

  #failed() {
    if (this.#connection.iceConnectionState === "failed") {
      this.#channel.fail(new ConnectFailed("No network path to the peer works.", { hint: this.#hint }));
      this.#channel.lose("the connection to the peer was lost");
    } else {
      const reason = "the DTLS handshake failed, or the certificate is not the announced one";
      this.#channel.fail(new HandshakeFailed(`Cannot reach the peer: ${reason}.`, { hint: OTHER_SERVER }));
      this.#channel.lose(reason);
    }
  }

  /** What to do if no packets get through. */
  get #hint() {
    return this.#hasTurn ? "" : GIVE_TURN;
  }

  /** @param {RTCSessionDescriptionInit} description */
  async #describe(description) {
    await this.#connection.setLocalDescription(description);
    const sdp = this.#connection.localDescription?.sdp ?? "";
    const local = parse(sdp);
    this.#mid = local.mid;
    this.ownCertificate = certificateOf(local);
    return sdp;
  }

  /**
   * @param {"offer" | "answer"} type
   * @param {Description} remote
   */
  async #setRemote(type, remote) {
    const certificate = certificateOf(remote);
    assert(this.certificate.length === 0 || equal(certificate, this.certificate), "a peer is described once");
    this.certificate = certificate;
    this.#mid = remote.mid;
    try {
      await this.#connection.setRemoteDescription({ type, sdp: rebuild(remote) });
    } catch (error) {
      throw new ConnectFailed(`The browser does not accept the peer's session description: ${error}.`);
    }
    this.#described = true;
    for (const candidate of remote.candidates) {
      this.addCandidate(candidate);
    }
    this.#early.splice(0).forEach((candidate) => this.#add(candidate));
  }

  /** @param {string} candidate */
  #add(candidate) {
    const text = candidate.startsWith("candidate:") ? candidate : `candidate:${candidate}`;
    // A browser may refuse one candidate, such as one of another address family. The others still count.
    this.#connection.addIceCandidate({ candidate: text, sdpMid: this.#mid }).catch(() => {});
  }

  /** @param {RTCIceCandidate | null} found */
  #tell(found) {
    const candidate = {
      candidate: found?.candidate ?? "",
      sdpMid: found?.sdpMid ?? this.#mid,
      sdpMLineIndex: found?.sdpMLineIndex ?? 0,
      usernameFragment: found?.usernameFragment ?? null,
    };
    if (this.#held === null) {
      this.#onCandidate(candidate);
    } else {
      this.#held.push(candidate);
    }
  }
}

/** The channel of a `WebRtcPeer`: a pipe, or one for each lane after `split`. All of them end together. */
export class WebRtcChannel {
  /** @type {RTCPeerConnection | null} */
  #connection = null;
  /** @type {RTCDataChannel[]} */
  #lanes = [];
  /** @type {Receiver | null} */
  #receiver = null;
  /**
   * What has arrived before there was a receiver.
   *
   * @type {Uint8Array[]}
   */
  #early = [];
  #earlySize = 0;
  /**
   * Why the channel has ended.
   *
   * @type {string | null}
   */
  #reason = null;
  #open = () => {};
  /** @type {(error: ConnectFailed) => void} */
  #fail = () => {};
  #gone = () => {};

  constructor() {
    /**
     * Fulfilled when the channel is open, and rejected with `ConnectFailed` if it will not be.
     *
     * @type {Promise<void>}
     */
    this.opened = new Promise((resolve, reject) => {
      this.#open = resolve;
      this.#fail = reject;
    });
    this.opened.catch(() => {}); // nobody may wait for it
    /** @type {Promise<void>} */
    this.gone = new Promise((resolve) => {
      this.#gone = resolve;
    });
  }

  /** Whether it has no data channel yet. */
  get isNew() {
    return this.#lanes.length === 0;
  }

  /**
   * Deliver to a receiver from now on, beginning with what has already arrived.
   *
   * @param {Receiver} receiver
   */
  attach(receiver) {
    this.#receiver = receiver;
    this.#early.splice(0).forEach((message) => receiver.message(message));
    if (this.#reason !== null) {
      this.#tellClosed(this.#reason);
    }
  }

  /**
   * Return whether `send` may be called for a lane. If not, `Receiver.room` follows unless the channel ends.
   *
   * @param {number} lane
   */
  takes(lane) {
    const channel = this.#lanes[lane];
    if (this.#reason !== null || channel?.readyState !== "open") {
      return false;
    }
    const queued = this.#lanes.map((each) => each.bufferedAmount);
    const active = queued.filter((each) => each > 0).length;
    const total = queued.reduce((sum, each) => sum + each, 0);
    if (total < QUEUE || channel.bufferedAmount * active < QUEUE) {
      return true;
    }
    // This lane has more queued than its share. Half of that share is below, so the event is sure to come.
    channel.bufferedAmountLowThreshold = Math.floor(QUEUE / active / 2);
    return false;
  }

  /**
   * Send a message of 1 to `MAX_MESSAGE` bytes. `takes` must be true.
   *
   * @param {Uint8Array} message
   * @param {number} lane
   */
  send(message, lane) {
    assert(message.length > 0 && message.length <= MAX_MESSAGE, "a message has 1 to 65,536 bytes");
    this.#lanes[lane]?.send(/** @type {Uint8Array<ArrayBuffer>} */ (message));
  }

  /**
   * Use a data channel for each lane. The proxy opens the missing ones. Return how many there are.
   *
   * @param {number} lanes
   */
  split(lanes) {
    for (let lane = this.#lanes.length; lane < lanes && this.#reason === null; lane += 1) {
      const channel = this.#connection?.createDataChannel(`${LABEL}/${lane}`);
      assert(channel, "a channel that is open has a connection");
      this.#adopt(channel);
    }
    return lanes;
  }

  // -- called by the peer

  /**
   * Use this data channel as the first one.
   *
   * @param {RTCPeerConnection} connection
   * @param {RTCDataChannel} channel
   */
  begin(connection, channel) {
    this.#connection = connection;
    channel.addEventListener("open", () => this.#open());
    this.#adopt(channel);
    if (channel.readyState === "open") {
      this.#open();
    }
  }

  /** Close the data channels once what is queued has been sent, and wait a second at most for the peer's answer. */
  async close() {
    if (this.#reason === null && this.#lanes[0]?.readyState === "open") {
      this.#lanes.forEach((each) => each.close());
      await Promise.race([this.gone, new Promise((resolve) => setTimeout(resolve, DRAIN * 1000))]);
    }
  }

  /**
   * End the channel. The first reason counts.
   *
   * @param {string} reason
   */
  lose(reason) {
    if (this.#reason !== null) {
      return;
    }
    this.#reason = reason;
    this.#fail(new ConnectFailed(`Cannot reach the peer: ${reason}.`));
    this.#gone();
    this.#tellClosed(reason);
  }

  /**
   * Note that the channel does not open.
   *
   * @param {ConnectFailed} error
   */
  fail(error) {
    this.#fail(error);
  }

  /** @param {RTCDataChannel} channel */
  #adopt(channel) {
    this.#lanes.push(channel);
    channel.binaryType = "arraybuffer";
    channel.addEventListener("message", ({ data }) => this.#take(data));
    channel.addEventListener("open", () => this.#receiver?.room());
    channel.addEventListener("bufferedamountlow", () => this.#receiver?.room());
    channel.addEventListener("close", () => this.lose("closed by the peer"));
  }

  /**
   * Accept a message. Chromium may deliver some before `readyState` is "open".
   *
   * @param {unknown} data
   */
  #take(data) {
    if (this.#reason !== null) {
      return;
    }
    const message = data instanceof ArrayBuffer ? new Uint8Array(data) : new TextEncoder().encode(String(data));
    if (message.length > MAX_MESSAGE) {
      this.lose("the peer sent more data than is allowed");
    } else if (this.#receiver !== null) {
      this.#receiver.message(message);
    } else {
      this.#earlySize += message.length;
      this.#early.push(message);
      if (this.#earlySize > EARLY) {
        this.lose("the peer sent more data than is allowed");
      }
    }
  }

  /** @param {string} reason */
  #tellClosed(reason) {
    const receiver = this.#receiver;
    this.#receiver = null;
    receiver?.closed(reason);
  }
}
