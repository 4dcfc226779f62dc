/**
 * The class WebSocket of documents and workers whose origin comes through the tunnel (WHATWG WebSockets Standard).
 *
 * A classic script, whose text runs before any other in each document and worker. A WebSocket to the origin's own host
 * goes to the keeper over a BroadcastChannel (`passage.js`), and from there to the shell (`../shell/app/sockets.js`,
 * which describes the messages). Any other is the browser's own.
 */

(() => {
  "use strict";

  /** @typedef {Record<string, any>} Message */
  /** @typedef {{data: Uint8Array | Blob, text: boolean, sent: number}} Outgoing A message, and how much of it has gone. */

  const Native = globalThis.WebSocket;
  const host = hostOf(globalThis.origin);
  if (Native === undefined || host === null) {
    return; // an opaque origin, which shares nothing with the keeper
  }

  const SHARED = "~llmtunnel.sockets";
  /** The numbers of `../shell/app/sockets.js`. */
  const WINDOW = 1024 * 1024;
  const PIECE_COST = 64;
  const MAX_PIECE = 64 * 1024;
  /** Bytes that the page has received before it reports them to the shell. */
  const REPORT = WINDOW / 8;
  const MAX_REASON = 123;
  const ABNORMAL = 1006;
  const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const STATES = Object.freeze({ CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 });
  const EVENTS = ["open", "error", "close", "message"];
  const encoder = new TextEncoder();

  /** This realm's connection to the keeper, made with the first WebSocket. */
  class Line {
    #name = crypto.randomUUID();
    #shared = new BroadcastChannel(SHARED);
    #channel = new BroadcastChannel(`~llmtunnel.socket.${this.#name}`);
    /** What waits for the keeper's welcome. @type {Message[] | null} */
    #waiting = [];
    #last = 0;
    /** @type {Map<number, Socket>} */
    #sockets = new Map();

    constructor() {
      this.#channel.onmessage = ({ data }) => this.#receive(data);
      // The browser releases the lock when this realm dies, however it dies.
      navigator.locks.request(`~llmtunnel.socket.${this.#name}`, () => {
        this.#shared.onmessage = () => this.#announce();
        this.#announce();
        return new Promise(() => {});
      });
      if ("document" in globalThis) {
        globalThis.addEventListener("pagehide", () => this.#leave());
      }
    }

    /** @param {Socket} socket */
    add(socket) {
      this.#last += 1;
      this.#sockets.set(this.#last, socket);
      return this.#last;
    }

    /** @param {number} id */
    remove(id) {
      this.#sockets.delete(id);
    }

    /** @param {Message} message */
    post(message) {
      if (this.#waiting === null) {
        this.#channel.postMessage(message);
      } else {
        this.#waiting.push(message);
      }
    }

    #announce() {
      if (this.#waiting !== null) {
        this.#shared.postMessage({ realm: this.#name });
      }
    }

    /** @param {Message} message */
    #receive(message) {
      if (message["kind"] !== "welcome") {
        this.#sockets.get(message["id"])?.receive(message);
        return;
      }
      const waiting = this.#waiting ?? [];
      this.#waiting = null;
      waiting.forEach((each) => this.#channel.postMessage(each));
    }

    /** The document is left. Perhaps it comes back, from the browser's cache: its WebSockets have closed then. */
    #leave() {
      this.post({ kind: "gone" });
      const sockets = [...this.#sockets.values()];
      this.#sockets.clear();
      setTimeout(() => sockets.forEach((each) => each.end({ code: ABNORMAL, reason: "", clean: false, problem: "" })));
    }
  }

  /** @type {Line | null} */
  let line = null;

  /** What a WebSocket of the tunnel is, apart from its face. */
  class Socket {
    /** @type {number} */
    readyState = STATES.CONNECTING;
    protocol = "";
    extensions = "";
    bufferedAmount = 0;
    /** @type {BinaryType} */
    binaryType = "blob";
    #target;
    #line;
    #id;
    /** @type {Outgoing[]} */
    #queue = [];
    #room = WINDOW;
    /** Whether a piece of a Blob is being read. */
    #reading = false;
    /** What the page has said in `close`. @type {{code: number | null, reason: string} | null} */
    #closing = null;
    /** The pieces of the message that arrives. @type {(string | Uint8Array<ArrayBuffer>)[]} */
    #pieces = [];
    /** The bytes and pieces received that have not been reported yet. */
    #taken = { size: 0, pieces: 0 };

    /**
     * @param {EventTarget} target The face.
     * @param {URL} url
     * @param {string[]} protocols
     */
    constructor(target, url, protocols) {
      this.#target = target;
      this.url = url.href;
      this.origin = url.origin;
      this.#line = line ??= new Line();
      this.#id = this.#line.add(this);
      this.#line.post({ kind: "open", id: this.#id, target: url.pathname + url.search, protocols });
    }

    // -- from the page

    /** @param {unknown} given */
    send(given) {
      const [data, text] = contentOf(given);
      if (this.readyState === STATES.CONNECTING) {
        throw new DOMException("Failed to execute 'send' on 'WebSocket': Still in CONNECTING state.", "InvalidStateError");
      }
      this.bufferedAmount += sizeOf(data);
      if (this.readyState === STATES.OPEN) {
        this.#queue.push({ data, text, sent: 0 });
        this.#pump();
      }
    }

    /**
     * @param {number | null} code
     * @param {string} reason
     */
    close(code, reason) {
      if (this.readyState === STATES.CONNECTING || this.readyState === STATES.OPEN) {
        this.readyState = STATES.CLOSING;
        this.#closing = { code: code === null && reason ? 1000 : code, reason };
        this.#pump();
      }
    }

    /** Send as much as the shell takes, and what the page has said in `close` after it. */
    #pump() {
      while (this.#queue.length > 0 && this.#room > 0 && !this.#reading) {
        const message = /** @type {Outgoing} */ (this.#queue[0]);
        const piece = message.data.slice(message.sent, message.sent + MAX_PIECE);
        if (piece instanceof Uint8Array) {
          this.#sendPiece(piece);
        } else {
          this.#read(piece);
        }
      }
      if (this.#queue.length === 0 && this.#closing !== null) {
        this.#line.post({ kind: "close", id: this.#id, ...this.#closing });
        this.#closing = null;
      }
    }

    /** @param {Uint8Array} data The next piece of the first message. */
    #sendPiece(data) {
      const message = /** @type {Outgoing} */ (this.#queue[0]);
      message.sent += data.length;
      const last = message.sent === sizeOf(message.data);
      if (last) {
        this.#queue.shift();
      }
      this.#room -= data.length + PIECE_COST;
      this.#line.post({ kind: "data", id: this.#id, data, text: message.text, last });
    }

    /** @param {Blob} piece */
    async #read(piece) {
      this.#reading = true;
      try {
        const data = new Uint8Array(await piece.arrayBuffer());
        this.#reading = false;
        this.#sendPiece(data);
      } catch (error) {
        this.#reading = false;
        this.#queue = [];
        console.error(`WebSocket ${this.url}: the browser cannot read a Blob that was sent.`, error);
        this.close(null, "");
      }
      this.#pump();
    }

    // -- from the shell

    /** @param {Message} message */
    receive(message) {
      switch (message["kind"]) {
        case "open":
          this.#opened(message["protocol"]);
          break;
        case "data":
          this.#received(message["data"], message["size"], message["last"]);
          break;
        case "taken":
          this.bufferedAmount -= message["size"];
          this.#room += message["size"] + message["pieces"] * PIECE_COST;
          this.#pump();
          break;
        case "closing":
          this.readyState = STATES.CLOSING;
          break;
        case "close":
          this.end(/** @type {any} */ (message));
          break;
      }
    }

    /** @param {string} protocol */
    #opened(protocol) {
      if (this.readyState === STATES.CONNECTING) {
        this.readyState = STATES.OPEN;
        this.protocol = protocol;
        this.#target.dispatchEvent(new Event("open"));
      }
    }

    /**
     * @param {string | Uint8Array<ArrayBuffer>} data
     * @param {number} size
     * @param {boolean} last
     */
    #received(data, size, last) {
      this.#pieces.push(data);
      if (last) {
        const pieces = this.#pieces;
        this.#pieces = [];
        if (this.readyState === STATES.OPEN) {
          const message = { data: this.#joined(pieces), origin: this.origin };
          this.#target.dispatchEvent(new MessageEvent("message", message));
        }
      }
      this.#taken.size += size;
      this.#taken.pieces += 1;
      if (this.#taken.size + this.#taken.pieces * PIECE_COST >= REPORT) {
        this.#line.post({ kind: "taken", id: this.#id, ...this.#taken });
        this.#taken = { size: 0, pieces: 0 };
      }
    }

    /** @param {(string | Uint8Array<ArrayBuffer>)[]} pieces */
    #joined(pieces) {
      if (typeof pieces[0] === "string") {
        return pieces.join("");
      }
      const parts = /** @type {Uint8Array<ArrayBuffer>[]} */ (pieces);
      if (this.binaryType === "blob") {
        return new Blob(parts);
      }
      const joined = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
      let position = 0;
      for (const part of parts) {
        joined.set(part, position);
        position += part.length;
      }
      return joined.buffer;
    }

    /** @param {{code: number, reason: string, clean: boolean, problem: string}} ending */
    end({ code, reason, clean, problem }) {
      if (this.readyState === STATES.CLOSED) {
        return;
      }
      this.#line.remove(this.#id);
      this.#queue = [];
      this.#pieces = [];
      this.readyState = STATES.CLOSED;
      if (problem) {
        console.error(`WebSocket connection to '${this.url}' failed: ${problem}`);
        this.#target.dispatchEvent(new Event("error"));
      }
      this.#target.dispatchEvent(new CloseEvent("close", { wasClean: clean, code, reason }));
    }
  }

  // -- the face

  /** Those of the tunnel. @type {WeakMap<object, Socket>} */
  const sockets = new WeakMap();
  /** The functions in `on…`. @type {WeakMap<object, Map<string, {value: object, listener: (event: Event) => void}>>} */
  const handlers = new WeakMap();

  class WebSocket extends EventTarget {
    /**
     * @param {unknown} url
     * @param {unknown} [protocols]
     */
    constructor(url, protocols = []) {
      if (arguments.length === 0) {
        throw new TypeError("Failed to construct 'WebSocket': 1 argument required, but only 0 present.");
      }
      const address = `${url}`;
      const where = parsed(address);
      if (where === null || where.host !== host) {
        return Reflect.construct(Native, [where?.href ?? address, protocols], new.target);
      }
      const names = protocolsOf(protocols);
      const problem = where.href.includes("#") ? `The URL contains a fragment identifier ('${where.hash}').` : "";
      if (problem || !areProtocols(names)) {
        const why = problem || `The subprotocols '${names.join(", ")}' are invalid, or not unique.`;
        throw new DOMException(`Failed to construct 'WebSocket': ${why}`, "SyntaxError");
      }
      super();
      sockets.set(this, new Socket(this, where, names));
    }

    /** @param {unknown} data */
    send(data) {
      const socket = sockets.get(this);
      if (socket === undefined) {
        Reflect.apply(Native.prototype.send, this, arguments);
      } else if (arguments.length === 0) {
        throw new TypeError("Failed to execute 'send' on 'WebSocket': 1 argument required, but only 0 present.");
      } else {
        socket.send(data);
      }
    }

    /**
     * @param {unknown} [code]
     * @param {unknown} [reason]
     */
    close(code = undefined, reason = undefined) {
      const socket = sockets.get(this);
      if (socket === undefined) {
        Reflect.apply(Native.prototype.close, this, arguments);
        return;
      }
      const number = code === undefined ? null : clamped(code);
      if (number !== null && number !== 1000 && !(number >= 3000 && number <= 4999)) {
        const why = `The close code must be either 1000, or between 3000 and 4999. ${number} is neither.`;
        throw new DOMException(`Failed to execute 'close' on 'WebSocket': ${why}`, "InvalidAccessError");
      }
      const text = reason === undefined ? new Uint8Array(0) : encoder.encode(`${reason}`);
      if (text.length > MAX_REASON) {
        const why = `The close reason must not be greater than ${MAX_REASON} UTF-8 bytes.`;
        throw new DOMException(`Failed to execute 'close' on 'WebSocket': ${why}`, "SyntaxError");
      }
      socket.close(number, new TextDecoder("utf-8", { ignoreBOM: true }).decode(text));
    }
  }

  /**
   * Define an attribute: ours for a WebSocket of the tunnel, or else the browser's.
   *
   * @param {string} name
   * @param {(face: object, socket: Socket) => unknown} get
   * @param {(face: EventTarget, socket: Socket, value: unknown) => void} [set]
   */
  function define(name, get, set) {
    const native = Object.getOwnPropertyDescriptor(Native.prototype, name);
    /** @this {EventTarget} @param {unknown} value */
    function assign(value) {
      const socket = sockets.get(this);
      if (socket === undefined) {
        native?.set?.call(this, value);
      } else {
        set?.(this, socket, value);
      }
    }
    Object.defineProperty(WebSocket.prototype, name, {
      /** @this {EventTarget} */
      get() {
        const socket = sockets.get(this);
        return socket === undefined ? native?.get?.call(this) : get(this, socket);
      },
      set: set && assign,
      enumerable: true,
      configurable: true,
    });
  }

  for (const name of /** @type {const} */ (["url", "readyState", "bufferedAmount", "extensions", "protocol"])) {
    define(name, (_, socket) => socket[name]);
  }
  define(
    "binaryType",
    (_, socket) => socket.binaryType,
    (_, socket, value) => {
      const type = `${value}`;
      if (type === "blob" || type === "arraybuffer") {
        socket.binaryType = type;
      }
    },
  );
  for (const type of EVENTS) {
    define(
      `on${type}`,
      (face) => handlers.get(face)?.get(type)?.value ?? null,
      (face, _, value) => setHandler(face, type, value),
    );
  }
  for (const name of ["send", "close"]) {
    Object.defineProperty(WebSocket.prototype, name, { enumerable: true });
  }
  for (const [name, value] of Object.entries(STATES)) {
    Object.defineProperty(WebSocket, name, { value, enumerable: true });
    Object.defineProperty(WebSocket.prototype, name, { value, enumerable: true });
  }
  Object.defineProperty(WebSocket.prototype, Symbol.toStringTag, { value: "WebSocket", configurable: true });
  Object.defineProperty(WebSocket, "length", { value: 1, configurable: true });
  Object.defineProperty(globalThis, "WebSocket", {
    value: WebSocket,
    writable: true,
    enumerable: false,
    configurable: true,
  });
  Reflect.deleteProperty(globalThis, "WebSocketStream"); // it would go to the page's server instead of the tunnel

  /**
   * Set an event handler. Its place among the listeners is that of its first value, as browsers have it.
   *
   * @param {EventTarget} face
   * @param {string} type
   * @param {unknown} value
   */
  function setHandler(face, type, value) {
    const known = handlers.get(face) ?? new Map();
    handlers.set(face, known);
    const handler = known.get(type);
    if ((typeof value !== "object" && typeof value !== "function") || value === null) {
      face.removeEventListener(type, handler?.listener ?? null);
      known.delete(type);
    } else if (handler !== undefined) {
      handler.value = value;
    } else {
      const added = {
        value,
        listener: (/** @type {Event} */ event) => {
          if (typeof added.value === "function") {
            added.value.call(face, event);
          }
        },
      };
      known.set(type, added);
      face.addEventListener(type, added.listener);
    }
  }

  // -- what a page passes

  /**
   * Return the URL with a scheme of WebSockets, or null if the browser shall reject it.
   *
   * @param {string} address
   */
  function parsed(address) {
    let url;
    try {
      url = new URL(address, globalThis.document?.baseURI ?? globalThis.location.href);
    } catch {
      return null;
    }
    const scheme = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" }[url.protocol];
    if (scheme === undefined) {
      return null;
    }
    url.protocol = scheme;
    return url;
  }

  /** @param {string} origin */
  function hostOf(origin) {
    try {
      return new URL(origin).host || null;
    } catch {
      return null;
    }
  }

  /** @param {unknown} given */
  function protocolsOf(given) {
    const many = typeof given === "object" && given !== null && Symbol.iterator in given;
    return many ? Array.from(/** @type {Iterable<unknown>} */ (given), (each) => `${each}`) : [`${given}`];
  }

  /** @param {string[]} names */
  function areProtocols(names) {
    return new Set(names).size === names.length && names.every((name) => TOKEN.test(name));
  }

  /**
   * Return what a value means as a message, as it is now, and whether it is text.
   *
   * @param {unknown} given
   * @returns {[Uint8Array | Blob, boolean]}
   */
  function contentOf(given) {
    const kind = Object.prototype.toString.call(given); // it may come from another realm
    if (kind === "[object Blob]" || kind === "[object File]") {
      return [/** @type {Blob} */ (given), false];
    }
    if (ArrayBuffer.isView(given)) {
      return [new Uint8Array(given.buffer, given.byteOffset, given.byteLength).slice(), false];
    }
    if (kind === "[object ArrayBuffer]") {
      return [new Uint8Array(/** @type {ArrayBuffer} */ (given)).slice(), false];
    }
    return [encoder.encode(`${given}`), true];
  }

  /** @param {Uint8Array | Blob} data */
  function sizeOf(data) {
    return data instanceof Uint8Array ? data.length : data.size;
  }

  /**
   * Return an unsigned short, as Web IDL's [Clamp] has it: the nearest one, the even one of two.
   *
   * @param {unknown} value
   */
  function clamped(value) {
    const number = Math.min(Math.max(Number(value), 0), 65_535);
    if (Number.isNaN(number)) {
      return 0;
    }
    const below = Math.floor(number);
    const even = below + (below % 2);
    return number - below === 0.5 ? even : Math.round(number);
  }
})();
