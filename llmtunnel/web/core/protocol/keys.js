/**
 * The cryptography of authentication: from a secret or a ticket to keys that both sides have (README.md section 9).
 *
 * Mirrors `llmtunnel/protocol/keys.py`. HMAC and SHA-256 are WebCrypto's, so everything here is asynchronous.
 */

import { concat, encodeUtf8, equal } from "../bytes.js";

const LABEL = encodeUtf8("llmtunnel auth 1");
const SIGNED = encodeUtf8("llmtunnel identity 1");
const NAMED = encodeUtf8("llmtunnel identity key 1");
const ONE = Uint8Array.of(1);
const TICKET_ID = 16;

/**
 * What serve and a proxy keep of a session, so that the proxy is not a stranger when it returns.
 *
 * @typedef {object} Ticket
 * @property {Uint8Array} id 16 bytes, sent unencrypted.
 * @property {Uint8Array} key 32 bytes, never sent.
 */

/**
 * SHA-256 of the certificate at each end of the channel, as this side sees them.
 *
 * @typedef {{proxy: Uint8Array, serve: Uint8Array}} Certificates
 */

/** The keys that both sides share after an exchange. None of them reveals another. */
export class Keys {
  #serve;

  /**
   * @param {Uint8Array} proxy
   * @param {Uint8Array} serve
   * @param {Ticket} ticket
   * @param {Uint8Array} transcript
   */
  constructor(proxy, serve, ticket, transcript) {
    /** The proxy's confirmation. */
    this.proxy = proxy;
    this.#serve = serve;
    /** The ticket that this session gives. */
    this.ticket = ticket;
    /** The hash of everything that both sides have said and seen, which the keys depend on. */
    this.transcript = transcript;
  }

  /**
   * Return whether this is serve's confirmation. Takes constant time.
   *
   * @param {Uint8Array} confirmation
   */
  confirms(confirmation) {
    return equal(this.#serve, confirmation);
  }
}

/**
 * Return the shared key of a proxy that returns. `share` and `nonce` are new each time.
 *
 * @param {Ticket} ticket
 * @param {Uint8Array} share
 * @param {Uint8Array} nonce
 */
export async function returning(ticket, share, nonce) {
  return hmac(ticket.key, concat([share, nonce]));
}

/**
 * Return the keys, which are the same on both sides only if all arguments are.
 *
 * @param {Uint8Array} shared The shared key.
 * @param {string} room
 * @param {Certificates} certificates
 * @param {Uint8Array} hello The payload of HELLO as sent.
 * @param {Uint8Array} agree The payload of AGREE as received.
 */
export async function derive(shared, room, certificates, hello, agree) {
  const parts = [LABEL, encodeUtf8(room), hello, agree, certificates.proxy, certificates.serve];
  const framed = concat(parts.flatMap((part) => [lengthOf(part), part]));
  const transcript = new Uint8Array(await crypto.subtle.digest("SHA-256", framed));
  const key = await hmac(transcript, shared); // HKDF-Extract, RFC 5869 section 2.2
  const [proxy, serve, session] = await Promise.all(
    /** @type {const} */ (["proxy", "serve", "session"]).map((label) => expand(key, label)),
  );
  const ticket = await ticketOf(session);
  return new Keys(/** @type {Uint8Array} */ (proxy), /** @type {Uint8Array} */ (serve), ticket, transcript);
}

/**
 * Return by what serve knows the owner of a public key, in place of a certificate's SHA-256.
 *
 * @param {Uint8Array} key
 */
export async function fingerprint(key) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat([NAMED, key])));
}

/**
 * Return what a proxy signs with its key.
 *
 * @param {Uint8Array} transcript
 */
export function signed(transcript) {
  return concat([SIGNED, transcript]);
}

/**
 * Return the ticket of a session.
 *
 * @param {Uint8Array | undefined} session The session key.
 * @returns {Promise<Ticket>}
 */
async function ticketOf(session) {
  const key = /** @type {Uint8Array} */ (session);
  return { id: (await expand(key, "ticket id")).slice(0, TICKET_ID), key: await expand(key, "ticket key") };
}

/**
 * HKDF-Expand of one block, RFC 5869 section 2.3.
 *
 * @param {Uint8Array} key
 * @param {string} label
 */
async function expand(key, label) {
  return hmac(key, concat([encodeUtf8(label), ONE]));
}

/**
 * @param {Uint8Array} key
 * @param {Uint8Array} data
 */
async function hmac(key, data) {
  const raw = new Uint8Array(key);
  const imported = await crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, new Uint8Array(data)));
}

/** @param {Uint8Array} part */
function lengthOf(part) {
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, part.length);
  return length;
}
