/**
 * Bytes: joining and comparing them, and the texts that stand for them.
 *
 * A *byte string* is a string in which code point U+00NN stands for byte NN. HTTP heads consist of byte strings here,
 * as in the `Headers` of browsers.
 */

export const EMPTY = new Uint8Array(0);

const ENCODER = new TextEncoder();
const LENIENT = new TextDecoder("utf-8", { ignoreBOM: true });
const STRICT = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
const JSON_TEXT = new TextDecoder("utf-8", { fatal: true });
const LONE_SURROGATE = /[\ud800-\udfff]/u;
const HIGHEST = 0xff;

/**
 * Join parts into one new array.
 *
 * @param {readonly Uint8Array[]} parts
 */
export function concat(parts) {
  const joined = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let position = 0;
  for (const part of parts) {
    joined.set(part, position);
    position += part.length;
  }
  return joined;
}

/**
 * Return whether two arrays have the same bytes. Takes a time that depends on the lengths alone.
 *
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 */
export function equal(one, other) {
  let difference = one.length ^ other.length;
  for (let index = 0; index < one.length; index += 1) {
    difference |= (one[index] ?? 0) ^ (other[index] ?? 0);
  }
  return difference === 0;
}

/** @param {Uint8Array} data */
export function toHex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Return the bytes of a text that consists of pairs of hexadecimal digits.
 *
 * @param {string} text
 */
export function fromHex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** @param {string} text */
export function encodeUtf8(text) {
  return ENCODER.encode(text);
}

/**
 * Return a text. What is not UTF-8 becomes U+FFFD.
 *
 * @param {Uint8Array} data
 */
export function decodeUtf8(data) {
  return LENIENT.decode(data);
}

/**
 * Return the value of a JSON text. Throws SyntaxError or TypeError if it is none.
 *
 * @param {Uint8Array} data
 * @returns {unknown}
 */
export function parseJson(data) {
  return JSON.parse(JSON_TEXT.decode(data));
}

/**
 * Return the byte string of some bytes.
 *
 * @param {Uint8Array} data
 */
export function toByteString(data) {
  let text = "";
  for (const byte of data) {
    text += String.fromCharCode(byte);
  }
  return text;
}

/**
 * Return whether a text is a byte string.
 *
 * @param {string} text
 */
export function isByteString(text) {
  for (let index = 0; index < text.length; index += 1) {
    if (text.charCodeAt(index) > HIGHEST) {
      return false;
    }
  }
  return true;
}

/**
 * Return the bytes of a byte string.
 *
 * @param {string} text
 */
export function fromByteString(text) {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

/**
 * Return the text that a byte string means: that of its UTF-8, or else the byte string itself (ISO-8859-1).
 *
 * @param {string} bytes
 */
export function guessText(bytes) {
  try {
    return STRICT.decode(fromByteString(bytes));
  } catch {
    return bytes;
  }
}

/**
 * Return the byte string of a text's UTF-8, or null if the text has none.
 *
 * @param {string} text
 */
export function utf8ByteString(text) {
  return LONE_SURROGATE.test(text) ? null : toByteString(encodeUtf8(text));
}
