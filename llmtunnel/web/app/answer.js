/** Make the browser's response of what came through the tunnel: its head by `policy`, its body by `documents`. */

import { LOOKED_AT, beforeScript, charsetOf, insertionPoint, isWide, needsMore } from "./documents.js";
import { documentFields, isAttachment, otherFields, savedFields } from "./policy.js";

/** @typedef {import("./line.js").Answered} Answered */
/** @typedef {import("./policy.js").Field} Field */

/**
 * @typedef {object} Shim Code that runs before an app's own.
 * @property {string} code
 * @property {string} hash Its SHA-256 in base64.
 */

/** Responses that have no body. */
const NO_BODY = new Set([204, 205, 304]);
const ENCODINGS = new Map(/** @type {[string, string][]} */ ([
  ["gzip", "gzip"],
  ["x-gzip", "gzip"],
  ["deflate", "deflate"],
  ["br", "brotli"],
  ["zstd", "zstd"],
]));

/**
 * Return the browser's response.
 *
 * Throws `TypeError` if the app encoded its body in a way that the browser cannot decode here, or if what would be saved is
 * an error.
 *
 * @param {Answered} answered
 * @param {{method: string, mode: string, destination: string, save: {name: string, url: string} | null, shell: string, shim: Shim}} context
 *   `save`: the name under which the person saves it, and where it is; null if it is shown.
 * @returns {Promise<Response>}
 */
export async function respond(answered, { method, mode, destination, save, shell, shim }) {
  const empty = method === "HEAD" || NO_BODY.has(answered.status);
  const { body, headers } = empty ? { body: null, headers: answered.headers } : decoded(answered);
  const script = destination === "worker" || destination === "sharedworker";
  if (empty) {
    answered.body.cancel().catch(() => {}); // whatever comes is not a part of the response
  }
  if (save !== null) {
    if (answered.status >= 400) {
      throw new TypeError(`The app answered: ${answered.status} ${answered.reason}`);
    }
    return response(answered, body, savedFields(otherFields(headers), save));
  }
  // A browser saves an attachment as it is.
  if (!script && (mode !== "navigate" || isAttachment(headers))) {
    return response(answered, body, otherFields(headers));
  }
  if (body === null) {
    return response(answered, null, documentFields(headers, { shell }));
  }
  return script && answered.status < 300
    ? withCode(answered, body, { headers: documentFields(headers, { shell }), shim })
    : withScript(answered, body, { headers, shell, shim });
}

/**
 * Put our script into an HTML document.
 *
 * @param {Answered} answered
 * @param {ReadableStream<Uint8Array>} body
 * @param {{headers: Field[], shell: string, shim: Shim}} context
 */
async function withScript(answered, body, { headers, shell, shim }) {
  const type = valueOf(headers, "content-type");
  if (!/^\s*text\/html\s*(?:;|$)/i.test(type)) {
    return response(answered, body, documentFields(headers, { shell }));
  }
  const { start, rest } = await beginning(body, (seen) => needsMore(seen, { encoding: !/charset=/i.test(type) }));
  const text = latin(start);
  if (isWide(type, text)) {
    return response(answered, joined([start], rest), documentFields(headers, { shell }));
  }
  const at = insertionPoint(text);
  const script = new TextEncoder().encode(`<script>${shim.code}</script>`);
  const fields = documentFields(withCharset(headers, type, text), { shell, hash: shim.hash });
  return response(answered, joined([start.subarray(0, at), script, start.subarray(at)], rest), withoutLength(fields));
}

/**
 * Put our script before a worker's.
 *
 * @param {Answered} answered
 * @param {ReadableStream<Uint8Array>} body
 * @param {{headers: Field[], shim: Shim}} context
 */
async function withCode(answered, body, { headers, shim }) {
  const { start, rest } = await beginning(body, (text) => text.length < LOOKED_AT);
  const bom = latin(start).startsWith("\xef\xbb\xbf") ? 3 : 0;
  const code = new TextEncoder().encode(beforeScript(shim.code, latin(start.subarray(bom))));
  return response(answered, joined([code, start.subarray(bom)], rest), withoutLength(headers));
}

/**
 * Name the encoding in the head if the document does, since our script moves the place where it does.
 *
 * @param {Field[]} headers
 * @param {string} type
 * @param {string} start
 * @returns {Field[]}
 */
function withCharset(headers, type, start) {
  const charset = charsetOf(start);
  if (/charset=/i.test(type) || charset === null) {
    return headers;
  }
  const others = headers.filter(([name]) => name.toLowerCase() !== "content-type");
  return [...others, ["Content-Type", `${type}; charset=${/^utf-?16/i.test(charset) ? "utf-8" : charset}`]];
}

/**
 * Return the body as the app means it. It was asked for without any encoding, which an app may ignore.
 *
 * @param {Answered} answered
 * @returns {{body: ReadableStream<Uint8Array>, headers: Field[]}}
 */
function decoded({ body, headers }) {
  const codings = valueOf(headers, "content-encoding").toLowerCase().split(",").map((each) => each.trim());
  const used = codings.filter((each) => each !== "" && each !== "identity");
  if (used.length === 0) {
    return { body, headers };
  }
  let plain = body;
  for (const coding of used.reverse()) {
    plain = plain.pipeThrough(decoder(coding));
  }
  return { body: plain, headers: withoutLength(headers.filter(([name]) => name.toLowerCase() !== "content-encoding")) };
}

/**
 * @param {string} coding
 * @returns {ReadableWritablePair<Uint8Array, Uint8Array>}
 */
function decoder(coding) {
  try {
    const format = /** @type {CompressionFormat} */ (ENCODINGS.get(coding) ?? coding);
    return /** @type {any} */ (new DecompressionStream(format));
  } catch {
    throw new TypeError(`The app sends its answer in the encoding '${coding}', which this browser cannot decode here.`);
  }
}

/**
 * Read a body's beginning.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {(text: string) => boolean} more Whether more is needed.
 */
async function beginning(body, more) {
  const reader = body.getReader();
  let start = new Uint8Array(0);
  while (more(latin(start))) {
    const { done, value } = await reader.read();
    if (done) {
      break;
    }
    const longer = new Uint8Array(start.length + value.length);
    longer.set(start);
    longer.set(value, start.length);
    start = longer;
  }
  return { start, rest: reader };
}

/**
 * Return these pieces and what the reader gives as one stream.
 *
 * @param {Uint8Array[]} pieces
 * @param {ReadableStreamDefaultReader<Uint8Array>} rest
 * @returns {ReadableStream<Uint8Array>}
 */
function joined(pieces, rest) {
  const queue = pieces.filter(({ length }) => length > 0);
  return new ReadableStream(
    {
      async pull(controller) {
        const piece = queue.shift();
        if (piece !== undefined) {
          controller.enqueue(piece);
          return;
        }
        const { done, value } = await rest.read();
        if (done) {
          controller.close();
        } else {
          controller.enqueue(value);
        }
      },
      cancel: (reason) => rest.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}

/**
 * @param {Answered} answered
 * @param {ReadableStream<Uint8Array> | null} body
 * @param {Field[]} fields
 */
function response({ status, reason }, body, fields) {
  const headers = new Headers();
  for (const [name, value] of fields) {
    headers.append(name, value);
  }
  const statusText = /^[\t -~\x80-\xff]*$/.test(reason) ? reason : "";
  return new Response(body, { status, statusText, headers });
}

/**
 * @param {readonly Field[]} headers
 * @param {string} name
 */
function valueOf(headers, name) {
  return headers
    .filter(([each]) => each.toLowerCase() === name)
    .map(([, value]) => value)
    .join(", ");
}

/**
 * @param {Field[]} headers
 * @returns {Field[]}
 */
function withoutLength(headers) {
  const ours = new Set(["content-length", "etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges"]);
  return headers.filter(([name]) => !ours.has(name.toLowerCase()));
}

/** @param {Uint8Array} bytes */
function latin(bytes) {
  // The decoder named "latin1" is windows-1252, which maps bytes of 0x80 to 0x9f elsewhere.
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) {
    text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  }
  return text;
}
