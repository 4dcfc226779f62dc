/**
 * The class EventSource of documents and workers whose origin comes through the tunnel (WHATWG HTML section 9.2).
 *
 * Chromium keeps the field Last-Event-ID of its own class from a service worker, so an upstream could not continue a
 * stream that broke off. This one sends it by `fetch`. A URL of another origin gets the browser's own class.
 *
 * A classic script, whose text runs before any other in each document and worker.
 */

(() => {
  "use strict";

  const { EventSource: Native, fetch, origin: own } = globalThis;
  if (Native === undefined) {
    return;
  }

  const STATES = Object.freeze({ CONNECTING: 0, OPEN: 1, CLOSED: 2 });
  /** Milliseconds before another connection, unless the server says it. */
  const RETRY = 3000;
  /** The longest time that a timer takes. */
  const MAX_RETRY = 2 ** 31 - 1;
  const TYPE = "text/event-stream";

  /** @typedef {{type: string, data: string}} Told */

  /** Reads event streams (section 9.2.6), one after the other. */
  class Parser {
    retry = RETRY;
    lastEventId = "";
    #decoder = new TextDecoder();
    /** The line that has not ended yet. */
    #line = "";
    /** Whether a CR was the last character, to which a LF would belong. */
    #afterReturn = false;
    #id = "";
    #type = "";
    #data = "";

    /** A new stream begins. */
    begin() {
      this.#decoder = new TextDecoder();
      this.#line = "";
      this.#afterReturn = false;
      this.#id = this.lastEventId;
      this.#type = "";
      this.#data = "";
    }

    /**
     * Return the events in these bytes, in order.
     *
     * @param {Uint8Array} bytes
     * @returns {Generator<Told, void>}
     */
    *receive(bytes) {
      const text = this.#decoder.decode(bytes, { stream: true });
      if (text === "") {
        return; // no character is complete
      }
      const parts = text.slice(this.#afterReturn && text.startsWith("\n") ? 1 : 0).split(/\r\n|\r|\n/);
      this.#afterReturn = text.endsWith("\r");
      for (const [index, part] of parts.entries()) {
        this.#line += part;
        if (index < parts.length - 1) {
          const line = this.#line;
          this.#line = "";
          const told = line === "" ? this.#told() : this.#field(line);
          if (told !== null) {
            yield told;
          }
        }
      }
    }

    /**
     * @param {string} line
     * @returns {null}
     */
    #field(line) {
      const [, name = "", value = ""] = /^([^:]*)(?:: ?([^]*))?$/.exec(line) ?? [];
      if (name === "event") {
        this.#type = value;
      } else if (name === "data") {
        this.#data += `${value}\n`;
      } else if (name === "id" && !value.includes("\0")) {
        this.#id = value;
      } else if (name === "retry" && /^[0-9]+$/.test(value)) {
        this.retry = Math.min(Number(value), MAX_RETRY);
      }
      return null;
    }

    /**
     * Return the event that an empty line ends; null if it has no data.
     *
     * @returns {Told | null}
     */
    #told() {
      const [type, data] = [this.#type || "message", this.#data];
      this.lastEventId = this.#id;
      this.#type = "";
      this.#data = "";
      return data === "" ? null : { type, data: data.slice(0, -1) };
    }
  }

  class EventSource extends EventTarget {
    #url = "";
    #withCredentials = false;
    /** @type {number} */
    #state = STATES.CONNECTING;
    #parser = new Parser();
    #closing = new AbortController();

    /**
     * @param {unknown} url
     * @param {{withCredentials?: unknown} | null} [init]
     */
    constructor(url, init) {
      const where = arguments.length === 0 ? null : parsed(`${url}`);
      if (where === null || where.origin !== own) {
        return Reflect.construct(Native, arguments);
      }
      super();
      this.#url = where.href;
      this.#withCredentials = Boolean(init?.withCredentials);
      void this.#run();
    }

    get url() {
      return this.#url;
    }

    get withCredentials() {
      return this.#withCredentials;
    }

    get readyState() {
      return this.#state;
    }

    close() {
      this.#state = STATES.CLOSED;
      this.#closing.abort();
    }

    /** Objects of the browser's own class are of this one too. @param {unknown} value */
    static [Symbol.hasInstance](value) {
      return Reflect.apply(Function.prototype[Symbol.hasInstance], this, [value]) || (this === EventSource && value instanceof Native);
    }

    /** Connect again and again, until it is closed. */
    async #run() {
      while (await this.#connect()) {
        this.#state = STATES.CONNECTING;
        this.dispatchEvent(new Event("error"));
        await new Promise((resolve) => setTimeout(resolve, this.#parser.retry));
      }
    }

    /** Receive until the stream ends. Return whether to connect again. */
    async #connect() {
      if (this.#state === STATES.CLOSED) {
        return false;
      }
      try {
        const response = await this.#request();
        this.#closing.signal.throwIfAborted();
        const type = response.headers.get("content-type") ?? "";
        if (response.status === 200 && /^\s*text\/event-stream\s*(?:;|$)/i.test(type)) {
          await this.#receive(response);
        } else {
          console.error(`EventSource ${this.#url}: the answer is ${response.status} ${type}, and no event stream.`);
          this.close();
          this.dispatchEvent(new Event("error"));
        }
      } catch {
        // The connection failed, or `close` was called.
      }
      return this.#state !== STATES.CLOSED;
    }

    #request() {
      const { lastEventId } = this.#parser;
      return fetch(this.#url, {
        headers: { Accept: TYPE, ...(lastEventId && { "Last-Event-ID": bytesOf(lastEventId) }) },
        credentials: this.#withCredentials ? "include" : "same-origin",
        cache: "no-store",
        signal: this.#closing.signal,
      });
    }

    /** @param {Response} response */
    async #receive({ body, url }) {
      this.#state = STATES.OPEN;
      this.dispatchEvent(new Event("open"));
      const { origin } = new URL(url);
      const reader = /** @type {ReadableStream<Uint8Array>} */ (body).getReader();
      this.#parser.begin();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        for (const { type, data } of this.#parser.receive(next.value)) {
          if (this.#state === STATES.CLOSED) {
            return;
          }
          this.dispatchEvent(new MessageEvent(type, { data, origin, lastEventId: this.#parser.lastEventId }));
          await turn();
        }
      }
    }
  }

  /** The functions in `on…`. @type {WeakMap<object, Map<string, unknown>>} */
  const handlers = new WeakMap();

  for (const type of ["open", "message", "error"]) {
    Object.defineProperty(EventSource.prototype, `on${type}`, {
      /** @this {EventSource} */
      get() {
        return handlers.get(this)?.get(type) ?? null;
      },
      /** @this {EventSource} @param {unknown} value */
      set(value) {
        const known = handlers.get(this) ?? new Map();
        handlers.set(this, known);
        if (!known.has(type)) {
          this.addEventListener(type, (event) => known.get(type)?.call(this, event));
        }
        known.set(type, typeof value === "function" ? value : null);
      },
      enumerable: true,
      configurable: true,
    });
  }
  for (const [name, value] of Object.entries(STATES)) {
    Object.defineProperty(EventSource, name, { value, enumerable: true });
    Object.defineProperty(EventSource.prototype, name, { value, enumerable: true });
  }
  for (const name of ["url", "withCredentials", "readyState", "close"]) {
    Object.defineProperty(EventSource.prototype, name, { enumerable: true });
  }
  Object.defineProperty(EventSource.prototype, Symbol.toStringTag, { value: "EventSource", configurable: true });
  Object.defineProperty(EventSource, "length", { value: 1, configurable: true });
  Object.defineProperty(globalThis, "EventSource", {
    value: EventSource,
    writable: true,
    enumerable: false,
    configurable: true,
  });

  /** Return in another turn of the event loop, since what an event causes runs before the next event. */
  function turn() {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve(undefined);
      };
      port2.postMessage(null);
    });
  }

  /**
   * Return a URL, or null if the browser shall reject it.
   *
   * @param {string} address
   */
  function parsed(address) {
    try {
      return new URL(address, globalThis.document?.baseURI ?? globalThis.location.href);
    } catch {
      return null;
    }
  }

  /**
   * Return the UTF-8 of a text, one character for each byte, as `fetch` takes a field's value.
   *
   * @param {string} text
   */
  function bytesOf(text) {
    return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
  }
})();
