/**
 * The worker's end of the port to the shell: requests go out, and responses come back as streams.
 *
 *     worker                                        shell (shell/app/bridge.js)
 *     open {id, method, target, headers, …}   ->
 *     body {id, data} | body-end | body-failed ->   answers each `more` {id}
 *                                             <-    head {id, status, reason, headers, empty}
 *     pull {id}                               ->
 *                                             <-    data {id, data} | end {id}: answers each `pull`
 *                                             <-    error {id, message}: at any time
 *     cancel {id}                             ->
 *
 * Each side sends a piece only when the other has asked for it, so neither fills the other's memory.
 */

/** Pieces that are asked for ahead of the reader. */
const AHEAD = 2;
const PIECE = 256 * 1024;

/**
 * @typedef {object} Asked
 * @property {string} method
 * @property {string} target
 * @property {readonly (readonly [string, string])[]} headers
 * @property {string} mode
 * @property {string} destination
 * @property {string} referrer
 * @property {string} credentials
 * @property {string} cache
 */

/**
 * @typedef {object} Answered
 * @property {number} status
 * @property {string} reason
 * @property {[string, string][]} headers
 * @property {ReadableStream<Uint8Array>} body
 * @property {() => void} cancel Ends it here and at the upstream.
 */

/** @typedef {{id: number, kind: string, data?: ArrayBuffer, message?: string, empty?: boolean, status?: number, reason?: string, headers?: [string, string][]}} Message */

/** One request and its response. */
class Exchange {
  /** @type {((answer: Answered) => void) | null} */
  #resolve = null;
  /** @type {((error: Error) => void) | null} */
  #reject = null;
  /** @type {ReadableStreamDefaultController<Uint8Array> | null} */
  #controller = null;
  /** @type {(() => void) | null} */
  #pulled = null;
  #upload;
  #send;

  /**
   * @param {(kind: string, fields?: object, transfer?: Transferable[]) => void} send
   * @param {ReadableStreamDefaultReader<Uint8Array> | null} upload
   * @param {() => void} ended
   */
  constructor(send, upload, ended) {
    this.#send = send;
    this.#upload = upload;
    this.ended = ended;
    /** @type {Uint8Array | null} */
    this.rest = null;
    /** @type {Promise<Answered>} */
    this.answered = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** @param {Message} message */
  receive(message) {
    switch (message.kind) {
      case "more":
        void this.#sendMore();
        break;
      case "head":
        this.#resolve?.({
          status: message.status ?? 502,
          reason: message.reason ?? "",
          headers: message.headers ?? [],
          body: message.empty ? new ReadableStream({ start: (controller) => controller.close() }) : this.#body(),
          cancel: () => this.cancel(),
        });
        if (message.empty) {
          this.#over();
        }
        break;
      case "data":
        this.#controller?.enqueue(new Uint8Array(message.data ?? new ArrayBuffer(0)));
        this.#next();
        break;
      case "end":
        this.#controller?.close();
        this.#over();
        break;
      case "error":
        this.fail(new TypeError(message.message ?? "The tunnel has ended."));
        break;
    }
  }

  /** @param {Error} error */
  fail(error) {
    this.#reject?.(error);
    this.#controller?.error(error);
    this.#over();
  }

  /** End it here and at the upstream. */
  cancel() {
    this.#send("cancel");
    this.fail(new DOMException("The request was cancelled.", "AbortError"));
  }

  #body() {
    return new ReadableStream(
      {
        start: (controller) => {
          this.#controller = controller;
        },
        pull: () => {
          this.#send("pull");
          return new Promise((resolve) => {
            this.#pulled = () => resolve(undefined);
          });
        },
        cancel: () => {
          this.#controller = null;
          this.cancel();
        },
      },
      { highWaterMark: AHEAD },
    );
  }

  #next() {
    this.#pulled?.();
    this.#pulled = null;
  }

  #over() {
    this.#next();
    this.#controller = null;
    this.#upload?.cancel().catch(() => {}); // the page may have ended it
    this.#upload = null;
    this.ended();
  }

  async #sendMore() {
    try {
      if (this.rest === null) {
        const next = await this.#upload?.read();
        if (next === undefined || next.done) {
          this.#upload = null;
          this.#send("body-end");
          return;
        }
        this.rest = next.value;
      }
      const piece = new Uint8Array(this.rest.subarray(0, PIECE)); // a copy, which can be transferred
      this.rest = this.rest.length > PIECE ? this.rest.subarray(PIECE) : null;
      this.#send("body", { data: piece.buffer }, [piece.buffer]);
    } catch {
      this.#send("body-failed");
    }
  }
}

/** All requests over one port. */
export class Line {
  /** @type {Map<number, Exchange>} */
  #exchanges = new Map();
  #last = 0;
  #port;

  /** @param {MessagePort} port */
  constructor(port) {
    this.#port = port;
    port.onmessage = ({ data }) => this.#exchanges.get(data.id)?.receive(data);
  }

  /**
   * Send a request, and return its response once its head has arrived.
   *
   * @param {Asked} asked
   * @param {{body: ReadableStream<Uint8Array> | Uint8Array | null, signal: AbortSignal}} options
   * @returns {Promise<Answered>}
   */
  async send(asked, { body, signal }) {
    const id = (this.#last += 1);
    const streamed = body instanceof ReadableStream;
    const exchange = new Exchange(
      (kind, fields = {}, transfer = []) => this.#port.postMessage({ kind, id, ...fields }, transfer),
      streamed ? body.getReader() : null,
      () => this.#exchanges.delete(id),
    );
    this.#exchanges.set(id, exchange);
    this.#port.postMessage({ kind: "open", id, ...asked, body: streamed ? "stream" : body });
    const cancel = () => exchange.cancel();
    signal.addEventListener("abort", cancel);
    if (signal.aborted) {
      cancel();
    }
    const end = exchange.ended;
    exchange.ended = () => {
      signal.removeEventListener("abort", cancel);
      end();
    };
    return exchange.answered;
  }

  /** How many requests have not ended. */
  get active() {
    return this.#exchanges.size;
  }

  /** End all of them. */
  close() {
    this.#port.close();
    for (const exchange of [...this.#exchanges.values()]) {
      exchange.fail(new TypeError("The tunnel has ended."));
    }
  }
}
