/**
 * The heads of requests and responses between HTTP and the wire. Mirrors `llmtunnel/protocol/heads.py`.
 *
 * Every text in a head is a byte string (`../bytes.js`), with order and case preserved.
 */

/**
 * Header fields in order: the name in the sender's case, the value without surrounding white space.
 *
 * @typedef {readonly (readonly [string, string])[]} Fields
 */

/** Bytes of memory that a field takes in addition to its name and value. */
const FIELD = 160;

/** Maximum number of interim heads in a response. */
export const MAX_INTERIM = 1_000;

/**
 * An HTTP request without its body.
 *
 * @typedef {object} RequestHead
 * @property {string} method
 * @property {string} target The request target byte for byte: `/path?query` or `*`.
 * @property {Fields} [fields]
 * @property {number} [client] The id of the first stream that the same client connection used on this session; absent:
 *   this stream is the first.
 * @property {boolean} [last] Whether the client closes its connection after the response.
 * @property {boolean} [bench] Whether it measures the tunnel. Serve answers it itself.
 */

/**
 * An HTTP response without its body. See `isInterim`.
 *
 * @typedef {object} ResponseHead
 * @property {number} status
 * @property {string} reason
 * @property {Fields} fields
 */

/**
 * Return whether another head follows on the same stream.
 *
 * @param {ResponseHead} head
 */
export function isInterim(head) {
  return head.status < 200 && head.status !== 101;
}

/**
 * Return about how many bytes a response's head takes in memory.
 *
 * @param {ResponseHead} head
 */
export function cost(head) {
  return head.fields.reduce(
    (size, [name, value]) => size + FIELD + name.length + value.length,
    FIELD + head.reason.length,
  );
}

/**
 * Return the values of every field with this name (in lower case), in order.
 *
 * @param {Fields} fields
 * @param {string} name
 */
export function getAll(fields, name) {
  return fields.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value);
}
