/**
 * Noise_NN_25519_AESGCM_SHA256 (Noise Protocol Framework, revision 34), the initiator's side: an ephemeral key exchange.
 *
 *     -> e        our ephemeral key
 *     <- e, ee    serve's, and everything from here on is encrypted
 *
 * Mirrors `llmtunnel/transport/noise.py`, which says what the handshake hash is for. WebCrypto is asynchronous, so await
 * each call before the next one.
 */

import { EMPTY, concat, encodeUtf8 } from "../bytes.js";
import { ProtocolError, assert } from "../errors.js";

const NAME = "Noise_NN_25519_AESGCM_SHA256";
const HASH = 32;
/** Bytes of a public key. */
export const KEY = 32;
/** Bytes that encryption adds. */
export const TAG = 16;
const ALTERED = "the data was altered on the way";
const NO_KEY = "the other end's key is none";
const LAST_NONCE = 2n ** 64n - 1n;

/** One direction: a key, and the number of the next message. `of` makes one. */
export class CipherState {
  #key;
  #nonce = 0;
  #rekeyEvery;

  /**
   * @param {CryptoKey} key
   * @param {number} rekeyEvery
   */
  constructor(key, rekeyEvery) {
    this.#key = key;
    this.#rekeyEvery = rekeyEvery;
  }

  /**
   * @param {Uint8Array} key
   * @param {number} [rekeyEvery] Messages after which the key is replaced, on both sides alike.
   */
  static async of(key, rekeyEvery = Infinity) {
    return new CipherState(await importKey(key), rekeyEvery);
  }

  /**
   * Return the next message.
   *
   * @param {Uint8Array} plaintext
   * @param {Uint8Array} [ad]
   */
  async encrypt(plaintext, ad = EMPTY) {
    const sealed = await crypto.subtle.encrypt(algorithm(BigInt(this.#nonce), ad), this.#key, buffer(plaintext));
    await this.#step();
    return new Uint8Array(sealed);
  }

  /**
   * Return the plaintext of the next message. Throws `ProtocolError` if it is another one, or was changed.
   *
   * @param {Uint8Array} message
   * @param {Uint8Array} [ad]
   */
  async decrypt(message, ad = EMPTY) {
    let plaintext;
    try {
      plaintext = await crypto.subtle.decrypt(algorithm(BigInt(this.#nonce), ad), this.#key, buffer(message));
    } catch {
      throw new ProtocolError(ALTERED);
    }
    await this.#step();
    return new Uint8Array(plaintext);
  }

  async #step() {
    this.#nonce += 1;
    assert(this.#nonce < Number.MAX_SAFE_INTEGER, "a key ends before its numbers do");
    if (this.#nonce % this.#rekeyEvery === 0) {
      const next = await crypto.subtle.encrypt(algorithm(LAST_NONCE, EMPTY), this.#key, new Uint8Array(KEY));
      this.#key = await importKey(new Uint8Array(next, 0, KEY));
    }
  }
}

/**
 * What a handshake ends with. `hash` is the same on both sides only if nothing between them was changed.
 *
 * @typedef {{sends: CipherState, receives: CipherState, hash: Uint8Array}} Keys
 */

/** Our side of the handshake: `begin`, `write`, `read`, `split`. */
export class Handshake {
  #pair;
  #public;
  /** @type {Uint8Array} */
  #chainingKey = concat([encodeUtf8(NAME), new Uint8Array(HASH - NAME.length)]);
  /** @type {Uint8Array} */
  #hash = this.#chainingKey;
  /** @type {CipherState | null} */
  #cipher = null;

  /**
   * @param {CryptoKeyPair} pair
   * @param {Uint8Array} publicKey
   */
  constructor(pair, publicKey) {
    this.#pair = pair;
    this.#public = publicKey;
  }

  /**
   * Throws `NotSupportedError` where a browser has no X25519.
   *
   * @param {string} prologue
   * @param {CryptoKeyPair} [pair] The ephemeral key, for tests.
   */
  static async begin(prologue, pair) {
    const ours = pair ?? (await newPair());
    const handshake = new Handshake(ours, new Uint8Array(await crypto.subtle.exportKey("raw", ours.publicKey)));
    await handshake.#mixHash(encodeUtf8(prologue));
    return handshake;
  }

  /**
   * Return our message.
   *
   * @param {Uint8Array} [payload] It is not encrypted.
   */
  async write(payload = EMPTY) {
    await this.#mixHash(this.#public);
    await this.#mixHash(payload);
    return concat([this.#public, payload]);
  }

  /**
   * Process the other side's message, and return its payload. Throws `ProtocolError`.
   *
   * @param {Uint8Array} message
   */
  async read(message) {
    const theirs = message.subarray(0, KEY);
    const sealed = message.subarray(KEY);
    await this.#mixHash(theirs);
    const [chainingKey, key] = await hkdf(this.#chainingKey, await this.#agree(theirs));
    this.#chainingKey = chainingKey;
    this.#cipher = await CipherState.of(key);
    const payload = await this.#cipher.decrypt(sealed, this.#hash);
    await this.#mixHash(sealed);
    return payload;
  }

  /**
   * Return the keys, when both messages have passed.
   *
   * @param {number} [rekeyEvery]
   * @returns {Promise<Keys>}
   */
  async split(rekeyEvery) {
    assert(this.#cipher !== null, "both messages have passed");
    const [sends, receives] = await hkdf(this.#chainingKey, EMPTY);
    return {
      sends: await CipherState.of(sends, rekeyEvery),
      receives: await CipherState.of(receives, rekeyEvery),
      hash: this.#hash,
    };
  }

  /** @param {Uint8Array} data */
  async #mixHash(data) {
    this.#hash = new Uint8Array(await crypto.subtle.digest("SHA-256", concat([this.#hash, data])));
  }

  /**
   * Return the shared secret.
   *
   * @param {Uint8Array} theirs
   */
  async #agree(theirs) {
    let shared;
    try {
      const key = await crypto.subtle.importKey("raw", buffer(theirs), { name: "X25519" }, false, []);
      shared = await crypto.subtle.deriveBits({ name: "X25519", public: key }, this.#pair.privateKey, 8 * KEY);
    } catch {
      throw new ProtocolError(NO_KEY);
    }
    // A point of small order would make the secret known to all. Browsers refuse it too.
    if (new Uint8Array(shared).every((byte) => byte === 0)) {
      throw new ProtocolError(NO_KEY);
    }
    return new Uint8Array(shared);
  }
}

/** @returns {Promise<CryptoKeyPair>} */
async function newPair() {
  const pair = await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]);
  return /** @type {CryptoKeyPair} */ (pair);
}

/** @param {Uint8Array} key */
function importKey(key) {
  return crypto.subtle.importKey("raw", buffer(key), "AES-GCM", false, ["encrypt", "decrypt"]);
}

/**
 * @param {bigint} number
 * @param {Uint8Array} ad
 * @returns {AesGcmParams}
 */
function algorithm(number, ad) {
  const iv = new Uint8Array(12);
  new DataView(iv.buffer).setBigUint64(4, number);
  return { name: "AES-GCM", iv, additionalData: buffer(ad) };
}

/**
 * @param {Uint8Array} chainingKey
 * @param {Uint8Array} material
 * @returns {Promise<[Uint8Array, Uint8Array]>}
 */
async function hkdf(chainingKey, material) {
  const key = await hmac(chainingKey, material);
  const first = await hmac(key, Uint8Array.of(1));
  return [first, await hmac(key, concat([first, Uint8Array.of(2)]))];
}

/**
 * @param {Uint8Array} key
 * @param {Uint8Array} data
 */
async function hmac(key, data) {
  const imported = await crypto.subtle.importKey("raw", buffer(key), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, buffer(data)));
}

/**
 * Return bytes as WebCrypto's types have them. Nothing is copied.
 *
 * @param {Uint8Array} bytes
 */
function buffer(bytes) {
  return /** @type {Uint8Array<ArrayBuffer>} */ (bytes);
}
