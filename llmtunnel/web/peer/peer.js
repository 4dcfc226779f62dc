/**
 * A page as a peer of serve: from a code to a session that stays, and requests through it.
 *
 *     const peer = new Peer(parseInvite(code), { changed: () => show(peer.state) });
 *     const { status, body } = await peer.request({ target: "/v1/models" });
 *     await peer.close();
 *
 * Paths are direct ones, those through a TURN server, and the signal server's relay where UDP is blocked. They are tried
 * side by side, and a better one takes over.
 */

import { agentOf } from "./agent.js";
import { exchange } from "./exchange.js";
import { newIdentity } from "./identity.js";
import { Room } from "./room.js";
import { upgrade } from "./upgrade.js";
import { toHex } from "../core/bytes.js";
import { SettingError } from "../core/errors.js";

/** @typedef {import("../core/errors.js").TunnelError} TunnelError */
/** @typedef {import("../core/invite.js").Invite} Invite */
/** @typedef {import("../core/protocol/auth.js").Identity} Identity */
/** @typedef {import("./exchange.js").Request} Request */
/** @typedef {import("./exchange.js").Response} Response */
/** @typedef {import("./upgrade.js").UpgradeRequest} UpgradeRequest */
/** @typedef {import("./upgrade.js").UpgradeResponse} UpgradeResponse */

/**
 * What a page can show.
 *
 * - `signal`: connects to the signal server
 * - `waiting`: waits for serve to come to the room
 * - `connecting`: serve is there, and a connection to it is being made
 * - `connected`: requests pass
 * - `suspended`: serve is silent, or the path is lost; requests wait for another one
 * - `failed`: has given up, for the reason in `problem`
 * - `closed`
 *
 * @typedef {"signal" | "waiting" | "connecting" | "connected" | "suspended" | "failed" | "closed"} Phase
 */

/**
 * @typedef {object} State
 * @property {Phase} phase
 * @property {string} text What is waited for, for people; empty if nothing is.
 * @property {string | null} peer Serve's short name, as other peers of it see it; null before the first session, and as
 *   long as no channel has shown its certificate. What the signal server says of that is not shown.
 * @property {import("../core/paths.js").Path | null} path What carries the session; null if nothing does.
 * @property {number | null} rtt The last round trip in seconds.
 * @property {number} requests Requests under way.
 * @property {number} received Body bytes that have arrived in this session.
 * @property {number} sent Body bytes that were sent in this session.
 * @property {{name: string, message: string, hint: string} | null} problem The last failure; null while connected.
 */

/** Connects at once, and stays connected until `close`. */
export class Peer {
  #room;
  #signal;
  #closed = false;
  #events = new AbortController();

  /**
   * Throws `SettingError` where a browser cannot be a peer.
   *
   * @param {Pick<Invite, "room" | "secret" | "signal">} invite
   * @param {object} [options]
   * @param {() => void} [options.changed] Called when `state` has changed.
   * @param {Identity | Promise<Identity>} [options.identity] By which serve knows this page, see `loadIdentity` in
   *   identity.js. Without one, the page has a new identity each time.
   * @param {string | null} [options.access] Access token of a private signal server.
   * @param {readonly string[]} [options.stun] STUN servers to use if the signal server names none.
   */
  constructor({ room, secret, signal }, { changed = () => {}, identity, access = null, stun } = {}) {
    if (!isSecureContext) {
      throw new SettingError("This page was not loaded securely.", { hint: "Open it over https, or from localhost." });
    }
    if (typeof RTCPeerConnection === "undefined") {
      throw new SettingError("This browser has no WebRTC, or it is switched off.", { hint: "Use another browser." });
    }
    this.#signal = signal;
    this.#room = new Room({
      signal,
      room,
      secret,
      access,
      changed,
      identity: identity ?? newIdentity(),
      agent: agentOf(navigator.userAgent),
      ...(stun ? { stun } : {}),
    });
    this.#listen();
    this.#room.run();
  }

  /**
   * The state now.
   *
   * @type {State}
   */
  get state() {
    const { session, link, problem } = this.#room;
    const phase = this.#phase;
    const carried = phase === "connected";
    return {
      phase,
      text: this.#textOf(phase),
      peer: session === null ? null : nameOf(session.certificate),
      path: carried && link !== null ? link.path : null,
      rtt: session?.rtt ?? null,
      requests: session?.active ?? 0,
      received: session?.received ?? 0,
      sent: session?.sent ?? 0,
      problem: problem && { name: problem.name, message: problem.message, hint: problem.hint },
    };
  }

  /**
   * Send a request, and return the response once its head has arrived.
   *
   * Throws `PeerNotFound` if serve is not connected within some seconds, the failure of `state` if there is one, or
   * what `exchange` throws.
   *
   * @param {Request} request
   * @returns {Promise<Response>}
   */
  async request(request) {
    const { signal } = request;
    return exchange(await this.#room.working(signal ? { signal } : {}), request);
  }

  /**
   * Ask for another protocol, such as WebSocket, and return the response once its head has arrived.
   *
   * Throws as `request` does, and `SettingError` if serve carries no upgrades.
   *
   * @param {UpgradeRequest} request
   * @returns {Promise<UpgradeResponse>}
   */
  async upgrade(request) {
    const { signal } = request;
    return upgrade(await this.#room.working(signal ? { signal } : {}), request);
  }

  /** Connect again at once. The session and its requests move to the new connection. */
  reconnect() {
    this.#room.moved();
  }

  /** End the session and all requests, and tell serve. */
  async close() {
    this.#closed = true;
    this.#events.abort();
    await this.#room.close();
  }

  /** Hear what a browser says of the network, of being asleep, and of the end of the page. */
  #listen() {
    const { signal } = this.#events;
    window.addEventListener("online", () => this.#room.moved(), { signal });
    // Also where the browser keeps the page for "Back": it keeps no connection. The page connects again then.
    window.addEventListener("pagehide", () => this.#room.quit(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#room.woken(), { signal });
  }

  /** @returns {Phase} */
  get #phase() {
    const room = this.#room;
    if (this.#closed) {
      return "closed";
    }
    if (room.failure !== null) {
      return "failed";
    }
    if (room.session !== null) {
      return room.standing ? "connected" : "suspended";
    }
    if (!room.inRoom) {
      return "signal";
    }
    return room.alone && !room.connecting ? "waiting" : "connecting";
  }

  /** @param {Phase} phase */
  #textOf(phase) {
    switch (phase) {
      case "signal":
        return `Connecting to the signal server ${this.#signal}.`;
      case "waiting":
        return "Waiting for the other side. Is `llmtunnel serve` running there?";
      case "connecting":
        return "Connecting to the other side.";
      case "suspended":
        return "The connection was interrupted. Requests wait until it is back.";
      default:
        return "";
    }
  }
}

/**
 * Return the name by which people know a serve, or null if its certificate is not known.
 *
 * @param {Uint8Array} certificate
 */
function nameOf(certificate) {
  return certificate.length === 0 ? null : `serve-${toHex(certificate).slice(0, 8)}`;
}
