/**
 * The shell's end of the port to the worker of an app's origin: its requests go through the tunnel.
 *
 * `app/line.js` is the other end, and shows the messages. Whatever comes here may come from the app's scripts, since the
 * origin is theirs: they can send any request to their own upstream, and get no cookie that scripts must not see.
 */

import { requestFields, responseFields } from "./fields.js";

/** @typedef {import("../../app/cookies.js").CookieJar} CookieJar */
/** @typedef {import("../../peer/peer.js").Peer} Peer */
/** @typedef {import("../../peer/exchange.js").Response} Response */

/**
 * @typedef {object} Way
 * @property {string} origin The app's.
 * @property {CookieJar} jar
 * @property {string} agent The browser's name, as in User-Agent.
 * @property {readonly string[]} languages
 * @property {Peer["request"]} request
 * @property {() => void} cookiesChanged
 */

/** @typedef {{kind: string, id: number, [name: string]: any}} Message */

/** Bytes of a piece that is passed on at once. */
const PIECE = 256 * 1024;
/** Requests of one app at once, above what browsers have in practice. */
const MAX_REQUESTS = 1024;
const MAX_BODY = 1024 * 1024;

/** One request of the app. */
class Exchange {
  #abort = new AbortController();
  #post;
  /** @type {ReadableStreamDefaultReader<Uint8Array> | null} */
  #reader = null;
  /** @type {Uint8Array | null} */
  #rest = null;
  #reading = false;
  /** @type {ReadableStreamDefaultController<Uint8Array> | null} */
  #upload = null;
  /** @type {(() => void) | null} */
  #uploaded = null;

  /**
   * @param {(kind: string, fields?: object, transfer?: Transferable[]) => void} post
   * @param {() => void} ended
   */
  constructor(post, ended) {
    this.#post = post;
    this.ended = ended;
  }

  /**
   * @param {Message} message
   * @param {Way} way
   */
  async run(message, { origin, jar, agent, languages, request, cookiesChanged }) {
    try {
      const { method, target, headers, body } = asked(message);
      const path = target.split("?")[0] ?? "/";
      const withCookies = message["credentials"] !== "omit";
      const cookie = withCookies ? jar.header(path, Date.now()) : "";
      const context = { origin, cookie, agent, languages };
      const answer = await request({
        method,
        target,
        headers: requestFields({ method, headers, ...partsOf(message) }, context),
        body: body === "stream" ? this.#uploading() : body,
        signal: this.#abort.signal,
      });
      this.#abort.signal.throwIfAborted(); // the jar may be cleared already
      const { fields, cookies } = responseFields(answer.headers);
      if (withCookies && cookies.map((each) => jar.set(each, { path, now: Date.now() })).some(Boolean)) {
        cookiesChanged();
      }
      this.#head(answer, fields);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** @param {Message} message */
  receive(message) {
    switch (message.kind) {
      case "pull":
        void this.#pull();
        break;
      case "body":
        if (message["data"] instanceof ArrayBuffer && message["data"].byteLength <= PIECE && this.#uploaded !== null) {
          this.#upload?.enqueue(new Uint8Array(message["data"]));
          this.#next();
        }
        break;
      case "body-end":
        this.#upload?.close();
        this.#upload = null;
        this.#next();
        break;
      case "body-failed":
        this.#upload?.error(new Error("The app has not sent all of its request."));
        this.#upload = null;
        this.#next();
        break;
      case "cancel":
        this.cancel();
        break;
    }
  }

  /** End it here and at the upstream. */
  cancel() {
    this.#abort.abort(new Error("The app has cancelled the request."));
    void this.#reader?.cancel().catch(() => {}); // it has failed by itself
    this.#next();
    this.ended();
  }

  /**
   * @param {Response} answer
   * @param {[string, string][]} headers
   */
  #head({ status, reason, body }, headers) {
    this.#post("head", { status, reason, headers, empty: body === null });
    if (body === null) {
      this.ended();
    } else {
      this.#reader = body.getReader();
    }
  }

  async #pull() {
    if (this.#reader === null || this.#reading) {
      return;
    }
    this.#reading = true;
    try {
      if (this.#rest === null) {
        const { done, value } = await this.#reader.read();
        if (done) {
          this.#post("end");
          this.ended();
          return;
        }
        this.#rest = value;
      }
      const piece = new Uint8Array(this.#rest.subarray(0, PIECE)); // a copy, which can be transferred
      this.#rest = this.#rest.length > PIECE ? this.#rest.subarray(PIECE) : null;
      this.#reading = false;
      this.#post("data", { data: piece.buffer }, [piece.buffer]);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** @returns {ReadableStream<Uint8Array>} */
  #uploading() {
    return new ReadableStream(
      {
        start: (controller) => {
          this.#upload = controller;
        },
        pull: () => {
          this.#post("more");
          return new Promise((resolve) => {
            this.#uploaded = () => resolve(undefined);
          });
        },
        cancel: () => {
          this.#upload = null;
        },
      },
      { highWaterMark: 1 },
    );
  }

  #next() {
    this.#uploaded?.();
    this.#uploaded = null;
  }

  /** @param {unknown} error */
  #fail(error) {
    if (!this.#abort.signal.aborted) {
      const { message = `${error}`, hint = "" } = /** @type {{message?: string, hint?: string}} */ (error);
      this.#post("error", { message: [message, hint].filter(Boolean).join(" ") });
    }
    this.ended();
  }
}

/** All requests of one app. */
export class Bridge {
  #way;
  /** @type {MessagePort | null} */
  #port = null;
  /** @type {Map<number, Exchange>} */
  #exchanges = new Map();

  /** @param {Way} way */
  constructor(way) {
    this.#way = way;
  }

  /**
   * Serve a worker's port. The worker of an earlier port has ended, and so have its requests.
   *
   * @param {MessagePort} port
   */
  attach(port) {
    this.close();
    this.#port = port;
    port.onmessage = ({ data }) => this.#receive(port, data);
    port.addEventListener("close", () => port === this.#port && this.close()); // a browser has ended the worker
  }

  /** End all requests. */
  close() {
    this.#port?.close();
    this.#port = null;
    for (const exchange of [...this.#exchanges.values()]) {
      exchange.cancel();
    }
    this.#exchanges.clear();
  }

  /**
   * @param {MessagePort} port
   * @param {Message} message
   */
  #receive(port, message) {
    const { kind, id } = message;
    if (kind !== "open") {
      this.#exchanges.get(id)?.receive(message);
      return;
    }
    if (this.#exchanges.has(id)) {
      return;
    }
    const post = (/** @type {string} */ named, fields = {}, /** @type {Transferable[]} */ transfer = []) =>
      port.postMessage({ kind: named, id, ...fields }, transfer);
    if (this.#exchanges.size >= MAX_REQUESTS) {
      post("error", { message: "The app sends too many requests at once." });
      return;
    }
    const exchange = new Exchange(post, () => this.#exchanges.delete(id));
    this.#exchanges.set(id, exchange);
    void exchange.run(message, this.#way);
  }
}

/**
 * Return the request in a message. `peer/exchange.js` rejects one that is not valid HTTP.
 *
 * @param {Message} message
 * @returns {{method: string, target: string, headers: [string, string][], body: Uint8Array | "stream" | null}}
 */
function asked({ method, target, headers, body }) {
  const known = body === null || body === "stream" || (body instanceof Uint8Array && body.length <= MAX_BODY);
  const paired =
    Array.isArray(headers) && headers.every((each) => Array.isArray(each) && each.length === 2 && each.every(isText));
  if (!known || !paired || !isText(method) || !isText(target)) {
    throw new TypeError("That is not a request.");
  }
  return { method, target, headers, body };
}

/** @param {unknown} value */
function isText(value) {
  return typeof value === "string";
}

/**
 * Return what a browser says of a request beside its fields.
 *
 * @param {Message} message
 */
function partsOf({ mode, destination, referrer, cache }) {
  const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value : "");
  return { mode: text(mode), destination: text(destination), referrer: text(referrer), cache: text(cache) };
}
