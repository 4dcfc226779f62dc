/**
 * The shell's end of the passage for WebSockets: it opens them for the documents and workers of the app's origin.
 *
 * The messages are those of `../../app/socket.js`, which come from the app's origin, through `../../app/passage.js`. The
 * app may send anything instead. So every field is checked, and whoever breaks a rule loses the WebSocket:
 *
 *     realm -> shell   open {id, target, protocols}, data {id, data, text, last}, close {id, code, reason},
 *                      taken {id, size, pieces}, gone {}
 *     shell -> realm   open {id, protocol}, data {id, data, size, last}, taken {id, size, pieces}, closing {id},
 *                      close {id, code, reason, clean, problem}
 *
 * A realm is a document or a worker. Each direction of a WebSocket has a window: its sender stops when the pieces that
 * the other side has not taken cost that much.
 */

import { languagesOf } from "./fields.js";
import { Code, MAX_PIECE, isProtocol } from "./rfc6455.js";
import { WebSocketClient } from "./websocket.js";
import { KIB, MIB } from "../../core/config.js";
import { encodeUtf8, isByteString } from "../../core/bytes.js";

/** @typedef {import("./rfc6455.js").DataReceived} DataReceived */
/** @typedef {import("./websocket.js").Ending} Ending */
/** @typedef {import("../../peer/peer.js").Peer} Peer */
/** @typedef {Record<string, unknown>} Message */

/** What a direction's pieces may cost before the other side has taken them. `app/socket.js` has the same numbers. */
const WINDOW = MIB;
/** What a piece costs in addition to its bytes. */
const PIECE_COST = 64;
/** WebSockets at once. Serve takes 512 streams of a peer. */
const MAX_SOCKETS = 256;
const MAX_PROTOCOLS = 64;
/** The longest text in a message, in characters. */
const MAX_TEXT = 16 * KIB;
/** The longest reason in a Close frame, in bytes. */
const MAX_REASON = 123;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** Milliseconds that `close` waits for Close frames to go. */
const SETTLE = 1000;

/**
 * @typedef {object} Options
 * @property {Pick<Peer, "upgrade">} peer
 * @property {string} origin The app's origin, such as `https://app.example.org`.
 * @property {(url: string) => string} cookiesFor Returns the value of Cookie for a URL, or "".
 * @property {(url: string, value: string) => void} setCookie Called for each Set-Cookie of an answer.
 */

/** All WebSockets of an app's origin, over one port to its keeper. */
export class Sockets {
  #port;
  #options;
  /** @type {Map<string, Map<number, Socket>>} */
  #realms = new Map();
  #count = 0;
  #closed = false;

  /**
   * @param {MessagePort} port
   * @param {Options} options
   */
  constructor(port, options) {
    this.#port = port;
    this.#options = options;
    port.onmessage = ({ data }) => this.#receive(data);
  }

  /** The number of WebSockets. */
  get count() {
    return this.#count;
  }

  /** End all WebSockets, and accept no more. */
  async close() {
    this.#closed = true;
    this.#port.close();
    const sockets = [...this.#realms.values()].flatMap((realm) => [...realm.values()]);
    sockets.forEach((socket) => socket.abandon());
    /** @type {Promise<void>} */
    const late = new Promise((resolve) => {
      setTimeout(resolve, SETTLE);
    });
    await Promise.race([Promise.all(sockets.map((socket) => socket.over)), late]);
  }

  /** @param {unknown} data */
  #receive(data) {
    if (this.#closed || !isObject(data) || typeof data["realm"] !== "string" || !UUID.test(data["realm"])) {
      return;
    }
    const { realm, message } = data;
    if (!isObject(message)) {
      return;
    }
    if (message["kind"] === "gone") {
      this.#realms.get(realm)?.forEach((socket) => socket.abandon());
      return;
    }
    const id = message["id"];
    if (typeof id !== "number" || !Number.isSafeInteger(id)) {
      return;
    }
    const socket = this.#realms.get(realm)?.get(id);
    if (socket !== undefined) {
      socket.receive(message);
    } else if (message["kind"] === "open") {
      this.#open(realm, id, message);
    }
  }

  /**
   * @param {string} realm
   * @param {number} id
   * @param {Message} message
   */
  #open(realm, id, message) {
    const problem = openProblem(message) || (this.#count >= MAX_SOCKETS ? `${MAX_SOCKETS} of them are open already.` : "");
    const post = (/** @type {Message} */ answer, /** @type {Transferable[]} */ transfer = []) =>
      this.#closed || this.#port.postMessage({ realm, message: { id, ...answer } }, transfer);
    if (problem) {
      post({ kind: "close", code: 1006, reason: "", clean: false, problem });
      return;
    }
    const target = /** @type {string} */ (message["target"]);
    const protocols = /** @type {string[]} */ (message["protocols"]);
    const socket = new Socket({ ...this.#options, target, protocols, post });
    const sockets = this.#realms.get(realm) ?? new Map();
    this.#realms.set(realm, sockets.set(id, socket));
    this.#count += 1;
    socket.over.then(() => {
      this.#count -= 1;
      sockets.delete(id);
      if (sockets.size === 0) {
        this.#realms.delete(realm);
      }
    });
  }
}

/** One WebSocket: a client towards the server, and messages to and from the realm. */
class Socket {
  #client;
  #post;
  /** What may still be sent to the realm. */
  #room = WINDOW;
  /** What the realm may still send. */
  #due = WINDOW;
  /** Whether the realm has died, or broken a rule. */
  #abandoned = false;
  /** @type {() => void} */
  #wake = () => {};

  /**
   * @param {Options & {target: string, protocols: string[], post: (message: Message, transfer?: Transferable[]) =>
   *   void}} options
   */
  constructor({ peer, origin, cookiesFor, setCookie, target, protocols, post }) {
    this.#post = post;
    const url = `${origin}${target}`;
    this.#client = new WebSocketClient(peer, {
      target,
      protocols,
      headers: headersFor(origin, cookiesFor(url)),
      owner: {
        answered: (headers) =>
          headers.filter(([name]) => name.toLowerCase() === "set-cookie").forEach(([, value]) => setCookie(url, value)),
        opened: (protocol) => post({ kind: "open", protocol }),
        received: (piece) => this.#pass(piece),
        closing: () => post({ kind: "closing" }),
      },
    });
    /** Fulfilled once the WebSocket has ended. */
    this.over = this.#run();
  }

  async #run() {
    const { code, reason, clean, problem } = await this.#client.run();
    this.#post({ kind: "close", code, reason, clean, problem });
  }

  /**
   * Accept a message of the realm.
   *
   * @param {Message} message
   */
  receive(message) {
    if (this.#abandoned) {
      return;
    }
    const { kind, data, text, last, code, reason, size, pieces } = message;
    if (kind === "data" && isPiece(data) && typeof text === "boolean" && typeof last === "boolean") {
      this.#send(data, text, last);
    } else if (kind === "close" && isCode(code) && isReason(reason)) {
      this.#client.close(code, reason);
    } else if (kind === "taken" && isCount(size) && isCount(pieces)) {
      this.#room = Math.min(WINDOW, this.#room + size + pieces * PIECE_COST);
      this.#wake();
    } else {
      this.abandon();
    }
  }

  /** End the WebSocket without its realm. */
  abandon() {
    this.#abandoned = true;
    this.#wake();
    this.#client.close(Code.GOING_AWAY);
  }

  /**
   * @param {Uint8Array} data
   * @param {boolean} text
   * @param {boolean} last
   */
  async #send(data, text, last) {
    const cost = data.length + PIECE_COST;
    this.#due -= cost;
    if (this.#due < -MAX_PIECE - PIECE_COST) {
      this.abandon();
      return;
    }
    try {
      await this.#client.send(data, { text, last });
    } catch {
      return; // the client's `run` reports it
    }
    this.#due += cost;
    this.#post({ kind: "taken", size: data.length, pieces: 1 });
  }

  /**
   * Pass a piece to the realm, and wait until there is room for the next one.
   *
   * @param {DataReceived} piece
   */
  async #pass({ data, size, last }) {
    if (this.#abandoned) {
      return;
    }
    this.#room -= size + PIECE_COST;
    if (typeof data === "string") {
      this.#post({ kind: "data", data, size, last });
    } else {
      const copy = new Uint8Array(data); // without the rest of its buffer
      this.#post({ kind: "data", data: copy, size, last }, [copy.buffer]);
    }
    while (this.#room <= 0 && !this.#abandoned) {
      /** @type {Promise<void>} */
      const woken = new Promise((resolve) => {
        this.#wake = resolve;
      });
      await woken;
    }
  }
}

/**
 * Return the fields of a handshake that are not the protocol's, as a browser sends them.
 *
 * @param {string} origin
 * @param {string} cookies
 * @returns {[string, string][]}
 */
function headersFor(origin, cookies) {
  const { host, protocol } = new URL(origin);
  /** @type {[string, string][]} */
  const fields = [
    ["Origin", origin],
    ["Pragma", "no-cache"],
    ["Cache-Control", "no-cache"],
    ["User-Agent", navigator.userAgent],
    ["Accept-Language", languagesOf(navigator.languages)],
    ["X-Forwarded-Host", host], // so serve knows Origin as the page's own: protocol/README.md section 4
  ];
  if (protocol === "https:") {
    fields.push(["X-Forwarded-Proto", "https"]);
  }
  if (cookies) {
    fields.push(["Cookie", cookies]);
  }
  return fields;
}

/**
 * Return what is wrong with a request for a WebSocket, or "".
 *
 * @param {Message} message
 */
function openProblem({ target, protocols }) {
  if (typeof target !== "string" || target.length > MAX_TEXT || !isByteString(target)) {
    return "Its URL is too long.";
  }
  const ok =
    Array.isArray(protocols) &&
    protocols.length <= MAX_PROTOCOLS &&
    protocols.every((each) => typeof each === "string" && each.length <= MAX_TEXT && isProtocol(each));
  return ok ? "" : "It has too many subprotocols.";
}

/**
 * @param {unknown} value
 * @returns {value is Message}
 */
function isObject(value) {
  return typeof value === "object" && value !== null;
}

/**
 * @param {unknown} value
 * @returns {value is Uint8Array}
 */
function isPiece(value) {
  return value instanceof Uint8Array && value.length <= MAX_PIECE && value.buffer.byteLength === value.length;
}

/**
 * @param {unknown} value
 * @returns {value is number | null}
 */
function isCode(value) {
  const custom = typeof value === "number" && Number.isInteger(value) && value >= 3000 && value <= 4999;
  return value === null || value === 1000 || custom;
}

/**
 * @param {unknown} value
 * @returns {value is string}
 */
function isReason(value) {
  return typeof value === "string" && value.length <= MAX_REASON && encodeUtf8(value).length <= MAX_REASON;
}

/**
 * @param {unknown} value
 * @returns {value is number}
 */
function isCount(value) {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= WINDOW;
}
