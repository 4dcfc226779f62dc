/**
 * The proxy's side of a SPAKE2 exchange, compatible with the Python package `spake2` 0.9 (README.md section 9).
 *
 * The proxy is side A. The package's source is the specification: RFC 9382 describes the family, and differs in how the
 * password becomes a scalar and in the transcript. BigInt does not compute in constant time, and neither does the
 * package: README.md says what that means.
 *
 *     w  = HKDF(salt = "", password, "SPAKE2 pw", 48 bytes), big-endian, modulo the group's order
 *     X* = x·B + w·M      the proxy's share is "A" and X*
 *     K  = x·(Y* − w·N)   serve's share is "B" and Y*
 *     shared key = H(H(password) ‖ H(idA) ‖ H(idB) ‖ X* ‖ Y* ‖ K)     with SHA-256
 */

import { Point } from "../../vendor/noble-ed25519.js";
import { concat, encodeUtf8, equal, fromHex, toHex } from "../bytes.js";

/** @typedef {import("../../vendor/noble-ed25519.js").EdwardsPoint} EdwardsPoint */

const ID_A = encodeUtf8("llmtunnel proxy");
const ID_B = encodeUtf8("llmtunnel serve");
const SIDE_A = encodeUtf8("A");
const SIDE_B = encodeUtf8("B");
const ORDER = Point.Fn.ORDER;
const ELEMENT = 32;

/** The package derives these two from the seeds "M" and "N", so that nobody knows their discrete logarithms. */
export const M = "15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312";
export const N = "f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3";

/** The proxy's side of one exchange. Use it once: `start`, then `finish`. */
export class Spake2 {
  #password;
  #scalar;
  #random;

  /**
   * @param {Uint8Array} password
   * @param {bigint} scalar
   * @param {bigint} random
   */
  constructor(password, scalar, random) {
    this.#password = password;
    this.#scalar = scalar;
    this.#random = random;
    /** What serve gets. */
    this.share = concat([SIDE_A, Point.BASE.multiply(random).add(times(M, scalar)).toBytes()]);
  }

  /**
   * Begin an exchange. `entropy` returns random bytes.
   *
   * @param {string} secret
   * @param {{entropy?: (size: number) => Uint8Array}} [options]
   */
  static async start(secret, { entropy = randomBytes } = {}) {
    const password = encodeUtf8(secret);
    const scalar = toNumber(await expandPassword(password)) % ORDER;
    let random = 0n;
    while (random === 0n) {
      // 256 bits more than necessary make the bias negligible.
      random = toNumber(entropy(2 * ELEMENT)) % ORDER;
    }
    return new Spake2(password, scalar, random);
  }

  /**
   * Return the shared key, which is the same on both sides only if the secret is.
   *
   * Throws RangeError for an invalid share.
   *
   * @param {Uint8Array} share Serve's.
   */
  async finish(share) {
    const theirs = elementOf(share);
    const ours = this.share.subarray(SIDE_A.length);
    const message = share.subarray(SIDE_B.length);
    if (equal(message, ours)) {
      throw new RangeError("a share that is our own, sent back");
    }
    const unblinded = theirs.add(times(N, this.#scalar).negate());
    const key = unblinded.is0() ? unblinded : unblinded.multiply(this.#random);
    const hashes = await Promise.all([this.#password, ID_A, ID_B].map(sha256));
    return sha256(concat([...hashes, ours, message, key.toBytes()]));
  }
}

/**
 * Return the group's element in serve's share. Throws RangeError.
 *
 * @param {Uint8Array} share
 * @returns {EdwardsPoint}
 */
function elementOf(share) {
  if (share.length !== SIDE_B.length + ELEMENT || share[0] !== SIDE_B[0]) {
    throw new RangeError("not a share of the other side");
  }
  let element;
  try {
    element = Point.fromHex(toHex(share.subarray(SIDE_B.length)));
  } catch {
    throw new RangeError("a share that is not on the curve");
  }
  if (element.is0() || !element.isTorsionFree()) {
    throw new RangeError("a share that is not in the group");
  }
  return element;
}

/**
 * @param {string} point
 * @param {bigint} scalar
 */
function times(point, scalar) {
  return scalar === 0n ? Point.ZERO : Point.fromHex(point).multiply(scalar);
}

/** @param {Uint8Array} bytes */
function toNumber(bytes) {
  return BigInt(`0x${toHex(bytes)}`);
}

/** @param {number} size */
function randomBytes(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}

/** @param {Uint8Array} password */
async function expandPassword(password) {
  const key = await crypto.subtle.importKey("raw", new Uint8Array(password), "HKDF", false, ["deriveBits"]);
  const parameters = {
    name: "HKDF",
    hash: "SHA-256",
    salt: fromHex(""),
    info: encodeUtf8("SPAKE2 pw"),
  };
  return new Uint8Array(await crypto.subtle.deriveBits(parameters, key, 8 * (ELEMENT + 16)));
}

/** @param {Uint8Array} data */
async function sha256(data) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new Uint8Array(data)));
}
