/**
 * One HTTP request through the tunnel, as `fetch` does it: both bodies are streams, and neither is ever held as a whole.
 *
 * The two directions do not wait for each other. An exchange that ends early resets its stream, so serve cancels the
 * request at the upstream.
 */

import { now } from "./clock.js";
import { encodeUtf8, isByteString } from "../core/bytes.js";
import { ErrorCode, PeerLost, SettingError, StreamReset } from "../core/errors.js";
import { check } from "../core/protocol/fields.js";
import { isInterim } from "../core/protocol/heads.js";

/** @typedef {import("../core/protocol/heads.js").ResponseHead} ResponseHead */
/** @typedef {import("../core/session/mux.js").Session} Session */
/** @typedef {import("../core/session/stream.js").Stream} Stream */
/** @typedef {Uint8Array | ArrayBuffer | Blob | string | ReadableStream<Uint8Array>} Body */

/**
 * @typedef {object} Request
 * @property {string} [method]
 * @property {string} target `/path?query`, as on the request line.
 * @property {Iterable<readonly [string, string]>} [headers] Byte strings, in order. `Headers` is one such iterable.
 * @property {Body | null} [body]
 * @property {AbortSignal} [signal] Cancels the request, also at the upstream.
 */

/**
 * @typedef {object} Response
 * @property {number} status
 * @property {string} reason
 * @property {readonly (readonly [string, string])[]} headers In order and in the sender's case, also repeated ones.
 * @property {ReadableStream<Uint8Array> | null} body Null where a response has none. Cancelling it cancels the request.
 */

/** Body bytes that are passed on at once. */
const PIECE = 256 * 1024;
const METHOD = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const TARGET = /^(?:\/[!-~]*|\*)$/;
/** Fields that concern one connection, and Host, which serve sets. */
const NOT_FORWARDED = new Set([
  ...["connection", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"],
  "expect",
]);
/** Methods whose request says that it has no body, as those of `fetch` do. */
const WITH_BODY = new Set(["POST", "PUT"]);
/** Reason of a stream that the page ends. */
export const CANCELLED = "The page has cancelled the request.";
const NO_BODY = new Set([101, 204, 304]);

/**
 * Send a request, and return the response once its head has arrived.
 *
 * Throws `SettingError` for a request that HTTP does not permit, `StreamReset` if it fails, `PeerLost` if the session
 * ends, `TooManyStreams`, or the reason of `signal`.
 *
 * @param {Session} session
 * @param {Request} request
 * @returns {Promise<Response>}
 */
export async function exchange(session, { method = "GET", target, headers = [], body = null, signal }) {
  signal?.throwIfAborted();
  const content = contentOf(body);
  const fields = fieldsOf(method, headers, content.size);
  checkLine(method, target);
  const head = { method, target, fields, last: true };
  const stream = await session.open(head, { now: now(), ended: content.size === 0, signal });
  const cancel = () => stream.reset(ErrorCode.CANCELLED, CANCELLED);
  signal?.addEventListener("abort", cancel);
  /** @type {unknown} */
  let broken = null;
  const end = () => {
    signal?.removeEventListener("abort", cancel);
    stream.reset(ErrorCode.CANCELLED, "The response is complete."); // a request that is still being sent ends too
  };
  const failure = (/** @type {unknown} */ error) => {
    end();
    return signal?.aborted ? signal.reason : (broken ?? error);
  };
  if (signal?.aborted) {
    cancel();
  }
  if (content.size !== 0) {
    send(stream, content.stream()).catch((error) => {
      broken = error;
      cancel();
    });
  }
  try {
    let answered = await stream.response();
    while (isInterim(answered)) {
      answered = await stream.response();
    }
    const { status, reason } = answered;
    const empty = method === "HEAD" || NO_BODY.has(status);
    const answer = readable(stream, { end, failure });
    if (empty) {
      answer.pipeTo(new WritableStream()).catch(() => {}); // whatever its end, the head is complete
    }
    return { status, reason, headers: answered.fields, body: empty ? null : answer };
  } catch (error) {
    throw failure(error);
  }
}

/**
 * Throw `SettingError` if the method or the target is not valid HTTP.
 *
 * @param {string} method
 * @param {string} target
 */
export function checkLine(method, target) {
  if (!METHOD.test(method) || !TARGET.test(target)) {
    throw new SettingError(`Not a request: ${method} ${target}.`, { hint: "Use a method, and a target like /path?query." });
  }
}

/**
 * Return a stream of the response's body. It reads when it is read, so serve sends no faster.
 *
 * @param {Stream} stream
 * @param {{end: () => void, failure: (error: unknown) => unknown}} options
 * @returns {ReadableStream<Uint8Array>}
 */
export function readable(stream, { end, failure }) {
  return new ReadableStream(
    {
      async pull(controller) {
        try {
          const data = await stream.receive();
          if (data === null) {
            end();
            controller.close();
          } else {
            controller.enqueue(data);
          }
        } catch (error) {
          controller.error(failure(error));
        }
      },
      cancel() {
        stream.reset(ErrorCode.CANCELLED, CANCELLED);
        end();
      },
    },
    { highWaterMark: 0 },
  );
}

/**
 * Send a body. Serve may have answered without reading all of it, which is no failure.
 *
 * @param {Stream} stream
 * @param {ReadableStream<Uint8Array>} body
 */
async function send(stream, body) {
  const reader = body.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      if (!(next.value instanceof Uint8Array)) {
        throw new TypeError("A request's body must be a stream of Uint8Array.");
      }
      for (let start = 0; start < next.value.length; start += PIECE) {
        await stream.send(next.value.subarray(start, start + PIECE));
      }
    }
    stream.sendEnd();
  } catch (error) {
    await reader.cancel(error).catch(() => {}); // its owner has failed already
    if (!(error instanceof StreamReset || error instanceof PeerLost)) {
      throw error; // otherwise the response says why
    }
  }
}

/**
 * Return a body's size in bytes, or null if it is not known, and the body as a stream.
 *
 * @param {Body | null} body
 * @returns {{size: number | null, stream: () => ReadableStream<Uint8Array>}}
 */
function contentOf(body) {
  if (body instanceof ReadableStream) {
    return { size: null, stream: () => body };
  }
  if (body instanceof Blob) {
    return { size: body.size, stream: () => body.stream() };
  }
  const bytes = bytesOf(body ?? "");
  return {
    size: bytes.length,
    stream: () =>
      new ReadableStream({
        start(controller) {
          controller.enqueue(bytes);
          controller.close();
        },
      }),
  };
}

/** @param {Uint8Array | ArrayBuffer | string} body */
function bytesOf(body) {
  if (typeof body === "string") {
    return encodeUtf8(body);
  }
  return body instanceof Uint8Array ? body : new Uint8Array(body);
}

/**
 * Return the fields for serve. Those that delimit the body are ours, unless a stream comes with its length.
 *
 * @param {string} method
 * @param {Iterable<readonly [string, string]>} headers
 * @param {number | null} size
 * @returns {[string, string][]}
 */
export function fieldsOf(method, headers, size) {
  /** @type {[string, string][]} */
  const fields = [];
  for (const [name, value] of headers) {
    const key = name.toLowerCase();
    if (!NOT_FORWARDED.has(key) && !(key === "content-length" && size !== null)) {
      fields.push([name, value]);
    }
  }
  const sized = fields.some(([name]) => name.toLowerCase() === "content-length");
  if (size === null && !sized) {
    fields.push(["Transfer-Encoding", "chunked"]); // indicates a body: README.md section 4
  } else if (size !== null && (size > 0 || WITH_BODY.has(method))) {
    fields.push(["Content-Length", String(size)]);
  }
  if (!fields.flat().every(isByteString)) {
    throw new SettingError("A header field has a character outside ISO-8859-1.", { hint: "Encode its value." });
  }
  try {
    check(fields);
  } catch (error) {
    throw new SettingError(`Not a request. ${/** @type {Error} */ (error).message}`);
  }
  return fields;
}
