/**
 * From an open channel to an agreement: HELLO, AGREE and, with a secret, AUTH (README.md sections 3 and 9).
 *
 * Mirrors `ProxyHandshake` of `llmtunnel/protocol/handshake.py`. A mistake in serve's frame throws `ProtocolError`,
 * which ends the session.
 */

import { EMPTY, equal } from "../bytes.js";
import { ErrorCode, ProtocolError } from "../errors.js";
import { ProxyAuth } from "./auth.js";
import { Feature, FrameType, isBreach } from "./frames.js";
import { VERSION, decodeAgree, encodeHello } from "./hello.js";

/** @typedef {import("../config.js").Limits} Limits */
/** @typedef {import("./auth.js").Credentials} Credentials */
/** @typedef {import("./frames.js").Features} Features */
/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./hello.js").Agree} Agree */
/** @typedef {import("./hello.js").ResumeOffer} ResumeOffer */
/** @typedef {import("./keys.js").Ticket} Ticket */

/**
 * The proxy's part of a handshake.
 *
 * @typedef {object} Offer
 * @property {Limits} limits
 * @property {Features} features
 * @property {string} agent
 * @property {Uint8Array} certificate SHA-256 of the certificate that serve has shown on this channel; empty if the
 *   channel has none.
 * @property {ResumeOffer | null} resume The session that the proxy wants to resume.
 * @property {boolean} [continues] Whether the proxy accepts nothing but that session.
 */

/**
 * What the two sides have agreed on and proven.
 *
 * @typedef {object} Agreement
 * @property {Features} features
 * @property {number} window Bytes of credit towards serve, for each stream.
 * @property {number} streams Maximum number of streams that the proxy may have open at once.
 * @property {Ticket | null} ticket For the proxy's next connection; null if nothing was proven.
 * @property {Uint8Array} certificate Serve's certificate, as in `Offer`.
 * @property {Uint8Array} session The session's id; empty if the session cannot be resumed.
 * @property {readonly number[] | null} received How many of our frames serve has of the session that continues, by
 *   lane; null if the session is new.
 * @property {number} lanes The number of lanes. A stream uses the lane whose number is its own modulo this.
 * @property {boolean} tcpOnly Whether serve lets only local TCP carry streams.
 * @property {string} agent What serve says that it is.
 */

/** The side that sends HELLO. */
export class ProxyHandshake {
  /**
   * The result, once the handshake is complete.
   *
   * @type {Agreement | null}
   */
  agreement = null;
  /**
   * What has been agreed on so far. This decides how a refusal is sent.
   *
   * @type {Features}
   */
  features = new Set();
  /** Whether our confirmation has been sent. A peer that impersonates serve has had its one guess then. */
  proved = false;
  #offer;
  #auth;
  #hello;
  /** @type {Agree | null} */
  #agree = null;
  #lanes = 1;

  /**
   * @param {Offer} offer
   * @param {ProxyAuth | null} auth
   * @param {Uint8Array} [key] Its public key, if it identifies itself by one.
   */
  constructor(offer, auth, key) {
    this.#offer = offer;
    this.#auth = auth;
    /**
     * What this side supports.
     *
     * @type {Features}
     */
    this.offered = auth
      ? new Set([...offer.features, Feature.AUTH, ...(key ? [Feature.IDENTITY] : [])])
      : offer.features;
    this.#hello = encodeHello({
      features: this.offered,
      window: offer.limits.window,
      agent: offer.agent,
      ...(auth ? { auth: auth.offer } : {}),
      resume: offer.resume,
      lanes: offer.limits.lanes,
      ...(key ? { identity: key } : {}),
    });
  }

  /**
   * @param {Offer} offer
   * @param {Credentials | null} credentials Null: nothing is required and nothing is proven.
   */
  static async begin(offer, credentials) {
    return new ProxyHandshake(
      offer,
      credentials && (await ProxyAuth.begin(credentials)),
      credentials?.identity?.publicKey,
    );
  }

  /**
   * HELLO, which is sent before anything has arrived.
   *
   * @type {Frame}
   */
  get hello() {
    return { type: FrameType.HELLO, stream: 0, payload: this.#hello };
  }

  /**
   * Process a frame, and return what to send in response. An unknown frame is skipped. Throws `ProtocolError`.
   *
   * @param {Frame} frame
   * @param {number} now
   * @returns {Promise<Frame[]>}
   */
  async receive(frame, now) {
    if (frame.type === FrameType.AGREE && this.#agree === null) {
      return this.#receiveAgree(frame.payload, now);
    }
    if (frame.type === FrameType.AUTH && this.#auth && this.#agree) {
      this.#finish(this.#agree, this.#auth.check(frame.payload));
      return [];
    }
    if (isBreach(frame.type, this.offered)) {
      throw new ProtocolError(`A frame of type ${frame.type} came from the wrong side, or before the hello.`);
    }
    return [];
  }

  /**
   * @param {Uint8Array} payload
   * @param {number} now
   * @returns {Promise<Frame[]>}
   */
  async #receiveAgree(payload, now) {
    const agree = decodeAgree(payload);
    this.#agree = agree;
    if (agree.version !== VERSION) {
      throw new ProtocolError(
        `version: The serve chose version ${agree.version}, this proxy speaks ${VERSION}.`,
        ErrorCode.VERSION,
      );
    }
    this.features = new Set([...agree.features].filter((each) => this.offered.has(each)));
    this.#checkSession(agree);
    if (this.#auth === null) {
      this.#finish(agree, null);
      return [];
    }
    const identifies = this.features.has(Feature.IDENTITY);
    const confirmation = await this.#auth.prove(agree.auth, now, { hello: this.#hello, agree: payload, identifies });
    this.proved = agree.auth?.share !== undefined;
    return [{ type: FrameType.AUTH, stream: 0, payload: confirmation }];
  }

  /**
   * @param {Agree} agree
   * @param {Ticket | null} ticket
   */
  #finish(agree, ticket) {
    this.agreement = {
      features: this.features,
      window: agree.window,
      streams: agree.streams,
      ticket,
      certificate: this.#offer.certificate,
      session: agree.session && this.features.has(Feature.RESUME) ? agree.session : EMPTY,
      received: agree.received,
      lanes: this.#lanes,
      tcpOnly: agree.tcpOnly,
      agent: agree.agent,
    };
  }

  /** @param {Agree} agree */
  #checkSession(agree) {
    if (this.features.has(Feature.RESUME) && agree.session === null) {
      throw new ProtocolError("An AGREE names no session.");
    }
    const asked = this.#offer.resume?.session;
    if (agree.received !== null && !(asked && agree.session && equal(asked, agree.session))) {
      throw new ProtocolError("Serve goes on with a session that this proxy did not ask for.");
    }
    if (agree.received !== null && this.#auth !== null && agree.auth?.nonce === undefined) {
      // Other invited peers know the secret, but only the serve of this session knows its ticket.
      throw new ProtocolError("Serve goes on with a session without its ticket.");
    }
    if (this.#offer.continues && agree.received === null) {
      throw new ProtocolError("Serve does not know the session that is open.", ErrorCode.REFUSED);
    }
    this.#checkLanes(agree);
  }

  /** @param {Agree} agree */
  #checkLanes(agree) {
    // What lanes carry is counted by lane only where it is counted at all.
    if (this.features.has(Feature.LANES) && this.features.has(Feature.RESUME)) {
      this.#lanes = agree.lanes;
    }
    const resume = this.#offer.resume;
    const fits =
      agree.received !== null && resume !== null
        ? this.#lanes === agree.received.length && this.#lanes === resume.received.length
        : this.#lanes <= this.#offer.limits.lanes;
    if (!fits) {
      throw new ProtocolError("Serve agrees on a number of lanes that does not fit.");
    }
  }
}
