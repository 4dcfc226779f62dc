/**
 * Which STUN and TURN servers a new connection uses. Pure. Mirrors `llmtunnel/session/ice.py`.
 *
 *     event                                   servers
 *     --------------------------------------  ------------------------------------------------------------------
 *     we join the room, or get new ones       what the signal server tells, from now on; the default if it tells none
 *     half of their time has passed           ask for new credentials
 *     their time has passed                   its TURN servers are no longer used
 *     the connection to it is lost            as before: they are not the connection's
 *
 * The signal server is not trusted to choose whom a page contacts: it may name servers that are as public as itself.
 * The Python core looks names up and checks their addresses. A page cannot do that, so it checks addresses alone: a
 * name counts as public, except `localhost`. What a name resolves to is up to the browser, as for any page's requests.
 */

/** @typedef {import("../signaling/messages.js").IceOffer} IceOffer */

/** Asks for our own address, where the signal server names no STUN server. */
export const DEFAULT_STUN = "stun:stun.l.google.com:19302";
/** Minimum seconds until we ask for new credentials. The server chooses how long they are valid. */
const SOONEST = 1;

/**
 * A server as WebRTC has it (RTCIceServer).
 *
 * @typedef {{urls: string, username?: string, credential?: string}} IceServer
 */

/** Where an address can be reached from. A server may name only servers with the same reach as its own, or less. */
export const Reach = Object.freeze({ PUBLIC: 0, PRIVATE: 1, LOOPBACK: 2 });

/** First octets, or the first two or three, of IPv4 networks that are not public (IANA's registry). */
const PRIVATE = /^(?:10|172\.(?:1[6-9]|2\d|3[01])|192\.168|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])|198\.1[89])\./;
/** Nobody may name these: this network, link-local (a cloud's metadata), multicast and reserved addresses. */
const FORBIDDEN = /^(?:0|169\.254|192\.0\.[02]|198\.51\.100|203\.0\.113|22[4-9]|2[345]\d)\./;
const IPV4 = /^\d{1,3}(?:\.\d{1,3}){3}$/;
const LOCAL_NAME = /(?:^|\.)localhost\.?$/i;

/** The servers to use, as far as they are known. */
export class IceBook {
  /** @type {IceServer[]} */
  #told = [];
  #own;
  /** @type {number | null} */
  #until = null;
  /**
   * When to ask for new credentials; null: never.
   *
   * @type {number | null}
   */
  renewal = null;

  /** @param {readonly string[]} stun STUN servers to use if the signal server names none. */
  constructor(stun = [DEFAULT_STUN]) {
    this.#own = stun.map((urls) => ({ urls }));
  }

  /**
   * Note what the signal server hands out. `signal`: its URL, which says which addresses it may name.
   *
   * @param {IceOffer | null} offer
   * @param {{signal: string, now: number}} options
   */
  told(offer, { signal, now }) {
    this.#told = (offer?.servers ?? []).flatMap(eachOf).filter(({ urls }) => isPermitted(urls, signal));
    this.#until = null;
    this.renewal = null;
    if (offer?.ttl && this.#told.some(isTurn)) {
      this.#until = now + offer.ttl;
      this.#askLater(now);
    }
  }

  /**
   * Return whether to ask for new credentials now. If so, the next time follows, should no answer come.
   *
   * @param {number} now
   */
  takeRenewal(now) {
    if (this.renewal === null || now < this.renewal) {
      return false;
    }
    this.#askLater(now);
    return true;
  }

  /**
   * Return the servers for a connection that begins now.
   *
   * @param {number} now
   */
  servers(now) {
    const stun = this.#told.filter((each) => !isTurn(each));
    const valid = this.#until === null || now < this.#until;
    return [...(stun.length > 0 ? stun : this.#own), ...(valid ? this.#told.filter(isTurn) : [])];
  }

  /** @param {number} now */
  #askLater(now) {
    const left = (this.#until ?? now) - now;
    this.renewal = left > 0 ? now + Math.max(SOONEST, left / 2) : null;
  }
}

/**
 * Return from where a host of a URL can be reached, or null if nobody may name it.
 *
 * @param {string} host
 */
export function reachOf(host) {
  const bare = canonical(host);
  if (LOCAL_NAME.test(bare) || bare === "[::1]") {
    return Reach.LOOPBACK;
  }
  if (bare.startsWith("[")) {
    return /^\[f[cd]/.test(bare) ? Reach.PRIVATE : Reach.PUBLIC;
  }
  if (!IPV4.test(bare)) {
    return Reach.PUBLIC;
  }
  if (FORBIDDEN.test(bare)) {
    return null;
  }
  if (bare.startsWith("127.")) {
    return Reach.LOOPBACK;
  }
  return PRIVATE.test(bare) ? Reach.PRIVATE : Reach.PUBLIC;
}

/**
 * Return a host in the one form of URLs. An IPv4 address has other ones that browsers accept, such as `0x7f.1`.
 *
 * @param {string} host
 */
function canonical(host) {
  try {
    return new URL(`http://${host}`).hostname;
  } catch {
    return "0.0.0.0"; // browsers cannot contact it, and nobody may name it
  }
}

/**
 * @param {string} url Of a STUN or TURN server, without an IPv6 literal.
 * @param {string} signal
 */
function isPermitted(url, signal) {
  const host = /^[a-z]+:([^:?]+)/.exec(url)?.[1] ?? "";
  const reach = reachOf(host);
  return reach !== null && reach <= (reachOf(new URL(signal).host) ?? Reach.PUBLIC);
}

/**
 * @param {import("../signaling/messages.js").IceServers} servers
 * @returns {IceServer[]}
 */
function eachOf({ stun, turn, user, password }) {
  return [
    ...stun.map((urls) => ({ urls })),
    ...turn.map((urls) => ({ urls, username: user ?? "", credential: password ?? "" })),
  ];
}

/** @param {IceServer} server */
function isTurn({ urls }) {
  return urls.startsWith("turn");
}
