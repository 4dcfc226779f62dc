/**
 * How the proxy proves to serve that both hold a secret, and checks that serve does (README.md section 9).
 *
 *     1. proxy -> serve   HELLO   the share of a SPAKE2 exchange, and the id of its ticket if it has one
 *     2. serve -> proxy   AGREE   its own share, or a nonce if it knows the ticket
 *     3. proxy -> serve   AUTH    the proxy's confirmation
 *     4. serve -> proxy   AUTH    serve's confirmation
 *
 * With an identity, HELLO names its public key too, and its signature follows the proxy's confirmation if serve agrees on
 * the feature. Serve knows the page by that key then, since a page has another certificate each time, or none.
 *
 * Mirrors `ProxyAuth` of `llmtunnel/protocol/auth.py`, which says what the confirmations bind.
 */

import { Bucket } from "../bucket.js";
import { concat } from "../bytes.js";
import { ErrorCode, ProtocolError, assert } from "../errors.js";
import { derive, returning, signed } from "./keys.js";
import { Spake2 } from "./spake2.js";

/** @typedef {import("./hello.js").AuthAnswer} AuthAnswer */
/** @typedef {import("./hello.js").AuthOffer} AuthOffer */
/** @typedef {import("./keys.js").Certificates} Certificates */
/** @typedef {import("./keys.js").Keys} Keys */
/** @typedef {import("./keys.js").Ticket} Ticket */

const GUESSES = 3;
const GUESS_EVERY = 600;
export const NOT_THE_SAME = "Serve and proxy do not hold the same secret, or somebody is in between.";
export const NONE_GIVEN = "Serve lets in who has its invite or secret, and this proxy has none.";
export const NOT_ITS_KEY = "The proxy has not proven that the key in its hello is its own.";
export const NO_KEY = "A proxy needs a key on this kind of channel.";
export const TOO_MANY = "Too many have answered as serve who do not prove that they hold the secret.";

/**
 * A key pair by which serve recognises a page: ECDSA over P-256.
 *
 * @typedef {object} Identity
 * @property {Uint8Array} publicKey The point, uncompressed: 65 bytes.
 * @property {(data: Uint8Array) => Promise<Uint8Array>} sign Return the signature over SHA-256 of some data: 64 bytes.
 */

/**
 * What a proxy needs to prove itself.
 *
 * @typedef {object} Credentials
 * @property {string} room
 * @property {Certificates} certificates
 * @property {string} secret
 * @property {Ticket | null} [ticket]
 * @property {Identity | null} [identity]
 * @property {Bucket} guesses Shared by all channels of a proxy. See `newGuesses`.
 */

/**
 * Return a full bucket of guesses: proofs that a proxy gives without receiving one, before it asks its user. Each gives
 * a peer that impersonates serve one guess.
 */
export function newGuesses() {
  return new Bucket(GUESSES, { every: GUESS_EVERY });
}

/** The proxy's side of one authentication: `begin`, then `prove`, then `check`. */
export class ProxyAuth {
  #credentials;
  #exchange;
  /** @type {Keys | null} */
  #keys = null;
  #ticket;
  #guessed = false;

  /**
   * @param {Credentials} credentials
   * @param {Spake2} exchange
   */
  constructor(credentials, exchange) {
    this.#credentials = credentials;
    this.#exchange = exchange;
    this.#ticket = credentials.ticket ?? null;
  }

  /** @param {Credentials} credentials */
  static async begin(credentials) {
    return new ProxyAuth(credentials, await Spake2.start(credentials.secret));
  }

  /**
   * The proxy's part of HELLO.
   *
   * @returns {AuthOffer}
   */
  get offer() {
    return { share: this.#exchange.share, ticket: this.#ticket?.id };
  }

  /**
   * Return the confirmation for serve's part of AGREE, followed by a signature if the two agree on that. Throws
   * `ProtocolError` UNAUTHENTICATED.
   *
   * @param {AuthAnswer | null} answer
   * @param {number} now
   * @param {{hello: Uint8Array, agree: Uint8Array, identifies: boolean}} what HELLO as sent, AGREE as received, and
   *   whether the two agree on the feature `identity`.
   */
  async prove(answer, now, { hello, agree, identifies }) {
    if (answer === null) {
      throw unproven("Serve asks for no secret, and this proxy was given one.");
    }
    const { room, certificates, identity } = this.#credentials;
    this.#keys = await derive(await this.#shared(answer, now), room, certificates, hello, agree);
    if (answer.nonce === undefined) {
      this.#ticket = this.#keys.ticket;
    }
    const { proxy, transcript } = this.#keys;
    return identifies && identity ? concat([proxy, await identity.sign(signed(transcript))]) : proxy;
  }

  /**
   * Check serve's confirmation, and return the ticket for the next time. Throws `ProtocolError` UNAUTHENTICATED.
   *
   * @param {Uint8Array} confirmation
   * @returns {Ticket}
   */
  check(confirmation) {
    if (!this.#keys?.confirms(confirmation)) {
      throw unproven(NOT_THE_SAME);
    }
    if (this.#guessed) {
      this.#credentials.guesses.give();
    }
    assert(this.#ticket, "a proof has given a ticket");
    return this.#ticket;
  }

  /**
   * @param {AuthAnswer} answer
   * @param {number} now
   */
  async #shared(answer, now) {
    if (answer.share !== undefined) {
      // Take the guess before anything is sent. So no way of abandoning the handshake returns it.
      this.#guessed = this.#credentials.guesses.take(now);
      if (!this.#guessed) {
        throw unproven(TOO_MANY);
      }
      return finish(this.#exchange, answer.share);
    }
    if (this.#ticket === null || answer.nonce === undefined) {
      throw unproven("Serve takes this proxy for one that comes back.");
    }
    return returning(this.#ticket, this.#exchange.share, answer.nonce);
  }
}

/** @param {string} message */
function unproven(message) {
  return new ProtocolError(message, ErrorCode.UNAUTHENTICATED);
}

/**
 * @param {Spake2} exchange
 * @param {Uint8Array} share
 */
async function finish(exchange, share) {
  try {
    return await exchange.finish(share);
  } catch (error) {
    if (error instanceof RangeError) {
      throw unproven("The other side's share of the key exchange is none.");
    }
    throw error;
  }
}
