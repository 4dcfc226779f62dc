/**
 * The links of a room: being made, carrying, or left behind, and how many there may be.
 *
 * Mirrors `llmtunnel/session/links.py` for a page.
 */

import { now } from "./clock.js";
import { Bucket } from "../core/bucket.js";
import { PeerError } from "../core/errors.js";

/** @typedef {import("../core/signaling/negotiation.js").Negotiation} Negotiation */
/** @typedef {import("./link.js").Link} Link */

/** Links that may be made at once, and how often the signal server may begin one more. It may be hostile. */
const MOST = 4;
const ARRIVALS = 20;
const ARRIVAL_EVERY = 0.5;
const ANOTHER = "Another connection is being made.";

/** Every link that has not ended. */
export class Links {
  /**
   * By the member's id: being made, or carrying the session.
   *
   * @type {Map<string, Link>}
   */
  #byId = new Map();
  /**
   * Links from before the member, or we, rejoined. They carry for as long as they can.
   *
   * @type {Set<Link>}
   */
  #left = new Set();
  /** @type {Set<Promise<void>>} */
  #running = new Set();
  #arrivals = new Bucket(ARRIVALS, { every: ARRIVAL_EVERY });
  #negotiation;

  /** @param {Negotiation} negotiation */
  constructor(negotiation) {
    this.#negotiation = negotiation;
  }

  /** Those by which members are reached: being made, or carrying the session. */
  get reaching() {
    return [...this.#byId.values()];
  }

  /** Those that are in use. Others are being closed. */
  get held() {
    return [...this.#byId.values(), ...this.#left];
  }

  /** Those that are being made, and are needed. */
  get making() {
    return this.reaching.filter((link) => link.session === null && !link.spare);
  }

  /** Fulfilled once every link has closed. */
  get closed() {
    return Promise.all(this.#running);
  }

  /**
   * Return the link by which a member is reached.
   *
   * @param {string} peerId
   */
  get(peerId) {
    return this.#byId.get(peerId);
  }

  /**
   * Return whether its member is reached by this link.
   *
   * @param {Link} link
   */
  reaches(link) {
    return this.#byId.get(link.member.peerId) === link;
  }

  /**
   * Return whether a link to a member may be made. Leave the earlier one to it, and the oldest if too many are made.
   *
   * @param {string} peerId
   */
  makePlace(peerId) {
    const old = this.#byId.get(peerId);
    if (old) {
      this.leave(old);
    }
    const { making } = this;
    if (this.#running.size >= 2 * MOST || !this.#arrivals.take(now())) {
      return false;
    }
    if (making.length >= MOST && making[0]) {
      this.leave(making[0]);
    }
    return true;
  }

  /**
   * Add a link, and run it.
   *
   * @param {Link} link
   */
  add(link) {
    this.#byId.set(link.member.peerId, link);
    this.#negotiation.linked(link.member);
    const running = link.run();
    this.#running.add(running);
    running.finally(() => this.#running.delete(running));
  }

  /**
   * Stop reaching the member through this link. It continues to carry its session, or ends if it has none.
   *
   * @param {Link} link
   */
  leave(link) {
    this.#forgetId(link);
    if (link.carries) {
      link.settle();
      this.#left.add(link);
    } else {
      link.abandon(new PeerError(ANOTHER));
    }
  }

  /**
   * @param {string} old
   * @param {string} id
   */
  rename(old, id) {
    const link = this.#byId.get(old);
    const stray = this.#byId.get(id);
    if (link === undefined) {
      return;
    }
    this.#byId.delete(old);
    if (stray !== undefined && stray !== link) {
      this.#byId.delete(id);
      stray.abandon(new PeerError(ANOTHER));
    }
    link.member = { ...link.member, peerId: id };
    this.#byId.set(id, link);
    link.session?.reassure();
  }

  /**
   * Remove a link that has ended. Return whether its member was reached by it. An earlier link that still carries the
   * session may take its place.
   *
   * @param {Link} link
   */
  forget(link) {
    if (this.#left.delete(link) || !this.reaches(link)) {
      return false;
    }
    const { peerId } = link.member;
    this.#forgetId(link);
    const earlier = [...this.#left].find(({ member, carries }) => member.peerId === peerId && carries);
    if (earlier !== undefined) {
      this.#left.delete(earlier);
      this.#byId.set(peerId, earlier);
      this.#negotiation.linked(earlier.member);
      this.#negotiation.established(peerId);
    }
    return true;
  }

  /** @param {Link} link */
  #forgetId({ member: { peerId } }) {
    this.#byId.delete(peerId);
    this.#negotiation.unlinked(peerId);
  }
}
