/**
 * The service worker of an app's origin: answers the requests of the app's frame through the tunnel, and no others.
 *
 * It keeps nothing. A browser may end it at any time while no response is under way, and starts it again with the next
 * request. It then asks the keeper for a port to the shell.
 *
 * - `admission` decides which requests it answers.
 * - `line` sends them over the port.
 * - `answer` makes the browser's responses.
 */

import { admit } from "./admission.js";
import { respond } from "./answer.js";
import { Line } from "./line.js";
import { line, page } from "./pages.js";

/** @typedef {import("./answer.js").Shim} Shim */
/** @typedef {import("./line.js").Answered} Answered */
/** @typedef {import("./pages.js").Reason} Reason */
/** @typedef {{line: Line, shell: string, shim: Shim}} Way */
/** @typedef {Event & {waitUntil(promise: Promise<unknown>): void}} Extendable */
/** @typedef {Extendable & {request: Request, respondWith(response: Promise<Response>): void}} FetchEvent */
/** @typedef {{url: string, postMessage(message: unknown): void}} Client */

const worker = /** @type {any} */ (self);
const OWN = location.origin;
const KEEPER = "/~llmtunnel/keeper.html";
/** Milliseconds that a request waits for the keeper's port. */
const PATIENCE = 15_000;
/** Milliseconds that the worker stays after a message of the keeper while streams are open. The next one comes sooner. */
const STAY = 25_000;
/** Bytes of an upload that are collected to tell its length, and the milliseconds that this may take. */
const SMALL = 256 * 1024;
const SOON = 50;
/** The largest upload in browsers that cannot stream it from here. */
const LARGEST = 256 * 1024 * 1024;

/** @type {Way | null} */
let way = null;
/** @type {((way: Way) => void)[]} */
let waiting = [];

worker.addEventListener("install", (/** @type {any} */ event) => {
  // Without this, a browser may send a request to the network while it starts the worker.
  event.addRoutes?.([{ condition: { urlPattern: new URLPattern({}) }, source: "fetch-event" }])?.catch?.(() => {});
  worker.skipWaiting();
});
worker.addEventListener("activate", (/** @type {Extendable} */ event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener("message", (/** @type {Extendable & MessageEvent} */ event) => {
  const { data, ports, source } = event;
  if (data?.kind === "port" && ports[0] !== undefined) {
    begin(ports[0], data);
    source?.postMessage({ kind: "ready" });
  } else if (data?.kind === "stay" && way !== null && way.line.active > 0) {
    event.waitUntil(new Promise((resolve) => setTimeout(resolve, STAY)));
  }
});

worker.addEventListener("fetch", (/** @type {FetchEvent} */ event) => {
  const { request } = event;
  const { url, method, mode, destination, referrer } = request;
  const facts = { url, method, mode, destination, referrer, origin: request.headers.get("origin") };
  const verdict = admit(facts, { own: OWN, shell: way?.shell ?? null });
  if (verdict === "tunnel" || verdict === "save") {
    event.respondWith(answer(request, verdict === "save"));
  } else if (verdict === "refuse") {
    event.respondWith(Promise.resolve(Response.error()));
  } else if (verdict === "unsure") {
    event.respondWith(question(request));
  } else if (verdict !== "network") {
    event.respondWith(Promise.resolve(explained(request, verdict)));
  }
});

/**
 * Use a new port from now on.
 *
 * @param {MessagePort} port
 * @param {{shell: string, shim: Shim}} options
 */
function begin(port, { shell, shim }) {
  way?.line.close();
  way = { line: new Line(port), shell, shim };
  for (const resolve of waiting) {
    resolve(way);
  }
  waiting = [];
}

/**
 * Return the way to the shell; null if there is no keeper, so the tunnel is disconnected.
 *
 * @returns {Promise<Way | null>}
 */
async function wayToShell() {
  if (way !== null) {
    return way;
  }
  /** @type {Client[]} */
  const clients = await worker.clients.matchAll({ type: "window", includeUncontrolled: true });
  const keepers = clients.filter(({ url }) => new URL(url).pathname === KEEPER);
  if (keepers.length === 0 || way !== null) {
    return way;
  }
  if (waiting.length === 0) {
    keepers.forEach((each) => each.postMessage({ kind: "port" }));
  }
  return new Promise((resolve) => {
    waiting.push(resolve);
    setTimeout(() => {
      waiting = waiting.filter((each) => each !== resolve); // so that the next request asks again
      resolve(null);
    }, PATIENCE);
  });
}

/**
 * Answer a request through the tunnel.
 *
 * @param {Request} request
 * @param {boolean} saves
 * @returns {Promise<Response>}
 */
async function answer(request, saves) {
  const { method, mode, destination, referrer, credentials, cache, signal } = request;
  const { searchParams: told } = new URL(request.url);
  const target = targetOf(saves ? (told.get("target") ?? "/") : request.url);
  const given = await wayToShell();
  if (given === null) {
    return failed(request, "gone");
  }
  /** @type {Answered | null} */
  let answered = null;
  try {
    const body = await bodyOf(request);
    if (body === "large") {
      return explained(request, "large");
    }
    const asked = {
      method,
      target,
      headers: [...request.headers],
      ...{ mode, destination, referrer, credentials, cache },
    };
    answered = await given.line.send(asked, { body, signal });
    const save = saves ? { name: told.get("name") ?? "", url: OWN + target } : null;
    return await respond(answered, { method, mode, destination, save, shell: given.shell, shim: given.shim });
  } catch (error) {
    answered?.cancel(); // the browser has not taken it
    if (signal.aborted) {
      return Response.error();
    }
    return failed(request, "failed", { detail: error instanceof Error ? error.message : `${error}` });
  }
}

/**
 * Ask the person about a navigation whose origin is not known. No other site may show the page with the question.
 *
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function question(request) {
  const given = await wayToShell();
  const { pathname, search } = new URL(request.url);
  return given === null
    ? explained(request, "gone")
    : explained(request, "unsure", { again: pathname + search, ancestors: `'self' ${given.shell}` });
}

/**
 * Return the response to a request that the tunnel could not answer. An EventSource gives up at a status, and connects
 * again after an error.
 *
 * @param {Request} request
 * @param {Reason} reason
 * @param {{detail?: string}} [options]
 */
function failed(request, reason, options = {}) {
  return request.headers.get("accept") === "text/event-stream" ? Response.error() : explained(request, reason, options);
}

/**
 * Return a path and query of the app's own origin, as on the request line.
 *
 * @param {string} text
 */
function targetOf(text) {
  const { origin, href } = new URL(text, OWN);
  // `search` has no "?" where nothing follows it.
  const end = href.includes("#") ? href.indexOf("#") : href.length;
  return origin === OWN ? href.slice(OWN.length, end) : "/";
}

/**
 * Return a request's body: bytes if it is small and ready, a stream otherwise, or `large` if it can be neither.
 *
 * @param {Request} request
 * @returns {Promise<Uint8Array | ReadableStream<Uint8Array> | null | "large">}
 */
async function bodyOf(request) {
  if (request.method === "GET" || request.method === "HEAD" || request.body === null) {
    return null;
  }
  if (request.body !== undefined) {
    return smallOrStream(request.body);
  }
  const blob = await request.blob(); // Firefox has no stream here
  if (blob.size > LARGEST) {
    return "large";
  }
  return blob.size <= SMALL ? new Uint8Array(await blob.arrayBuffer()) : blob.stream();
}

/**
 * Return a body as bytes if all of it comes soon: servers of few abilities want to be told the length.
 *
 * @param {ReadableStream<Uint8Array>} body
 */
async function smallOrStream(body) {
  const reader = body.getReader();
  /** @type {Uint8Array[]} */
  const pieces = [];
  let size = 0;
  const late = new Promise((resolve) => setTimeout(() => resolve(null), SOON));
  /** @type {Promise<ReadableStreamReadResult<Uint8Array>> | null} */
  let reading = null;
  while (size <= SMALL) {
    reading ??= reader.read();
    const next = /** @type {ReadableStreamReadResult<Uint8Array> | null} */ (await Promise.race([reading, late]));
    if (next === null) {
      break;
    }
    reading = null;
    if (next.done) {
      return new Uint8Array(await new Blob(/** @type {BlobPart[]} */ (pieces)).arrayBuffer());
    }
    pieces.push(next.value);
    size += next.value.length;
  }
  return rest(pieces, reading, reader);
}

/**
 * Return the pieces, what is being read, and what comes after as one stream.
 *
 * @param {Uint8Array[]} pieces
 * @param {Promise<ReadableStreamReadResult<Uint8Array>> | null} reading
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @returns {ReadableStream<Uint8Array>}
 */
function rest(pieces, reading, reader) {
  let next = reading;
  return new ReadableStream(
    {
      async pull(controller) {
        const piece = pieces.shift();
        if (piece !== undefined) {
          controller.enqueue(piece);
          return;
        }
        const { done, value } = await (next ?? reader.read());
        next = null;
        if (done) {
          controller.close();
        } else {
          controller.enqueue(value);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}

/**
 * Return a page that says why there is no answer, or a line where no page is shown.
 *
 * @param {Request} request
 * @param {Reason} reason
 * @param {{detail?: string, again?: string | null, ancestors?: string}} [options] `ancestors`: who may show the page.
 */
function explained(request, reason, options = {}) {
  const { ancestors = "*" } = options;
  const headers = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": `default-src 'none'; style-src 'unsafe-inline'; frame-ancestors ${ancestors}`,
    "Referrer-Policy": "same-origin",
  };
  if (request.mode === "navigate") {
    const { status, html } = page(reason, options);
    return new Response(html, { status, headers: { ...headers, "Content-Type": "text/html; charset=utf-8" } });
  }
  const { status, text } = line(reason, options.detail);
  return new Response(text, { status, headers: { ...headers, "Content-Type": "text/plain; charset=utf-8" } });
}
