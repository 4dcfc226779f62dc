/**
 * A channel through the signal server's relay: a WebSocket to it, and the sealed form inside, to serve.
 *
 * Mirrors `llmtunnel/transport/relay.py` and `pipe.py`. A WebSocket in a browser cannot be asked to wait, so what has
 * arrived and is not decrypted yet has a limit. That limit is above what serve sends before we acknowledge it.
 */

import { TIMEOUTS } from "./timeouts.js";
import { ConnectFailed, ProtocolError, assert } from "../core/errors.js";
import { isPrintable } from "../core/protocol/frames.js";
import { Queue } from "../core/queue.js";
import { MAX_MESSAGE } from "../core/transport/sdp.js";
import { Sealed } from "../core/transport/sealed.js";

/** @typedef {import("./webrtc.js").Receiver} Receiver */

const PROTOCOL = "llmtunnel-relay";
/** The beginning of a ticket that names an instance of the signal server. */
const INSTANCE = /^([A-Za-z0-9_-]{1,63})\./;
/** Bytes on their way to the socket, and in its queue, at which there is no more room. */
const QUEUE = 256 * 1024;
/** Milliseconds after which we look again whether the socket's queue is shorter. Nothing reports that. */
const LOOK = 5;
/** Bytes that may wait to be decrypted, or for a receiver. Serve keeps 4 MiB unacknowledged at most. */
const UNREAD = 8 * 1024 * 1024;
/** Seconds that an orderly close waits for what is queued. */
const DRAIN = 1;

/** One end of a pipe. `open` makes one. */
export class RelayChannel {
  /**
   * What ties an authentication to this channel: the hash of the handshake.
   *
   * @type {Uint8Array}
   */
  binding = new Uint8Array();
  #socket;
  #sealed;
  /** @type {Queue<Uint8Array>} */
  #arrived = new Queue();
  #unread = 0;
  #reading = false;
  /** @type {Queue<Uint8Array>} */
  #leaving = new Queue();
  #unsent = 0;
  #writing = false;
  /** @type {Receiver | null} */
  #receiver = null;
  /** @type {Uint8Array[]} */
  #early = [];
  /**
   * Why the channel has ended.
   *
   * @type {string | null}
   */
  #reason = null;
  /**
   * Why the socket has closed. What it has delivered is read first.
   *
   * @type {string | null}
   */
  #gone = null;
  #closing = false;
  /** Whether `takes` has said no since there was room. */
  #full = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #stand = () => {};
  /** @type {(error: ConnectFailed) => void} */
  #fail = () => {};

  /**
   * @param {WebSocket} socket
   * @param {Sealed} sealed
   */
  constructor(socket, sealed) {
    this.#socket = socket;
    this.#sealed = sealed;
    socket.binaryType = "arraybuffer";
    /** @type {Promise<void>} */
    this.stood = new Promise((resolve, reject) => {
      this.#stand = resolve;
      this.#fail = reject;
    });
    this.stood.catch(() => {}); // nobody may wait for it
    socket.addEventListener("open", () => this.#begin());
    socket.addEventListener("message", ({ data }) => this.#take(data));
    socket.addEventListener("close", ({ reason }) => {
      this.#gone = told(reason);
      this.#read();
    });
  }

  /**
   * Open and return a channel to the member that has the other ticket. Throws `ConnectFailed`.
   *
   * @param {string} url The signal server's.
   * @param {string} ticket
   * @param {AbortSignal} signal Gives up.
   */
  static async open(url, ticket, signal) {
    const sealed = await begin();
    signal.throwIfAborted();
    const channel = new RelayChannel(openSocket(atInstance(url, ticket), ticket), sealed);
    const giveUp = () => channel.#lose("cancelled on this side");
    signal.addEventListener("abort", giveUp);
    const late = `the other end did not finish the handshake within ${TIMEOUTS.connect} s`;
    const timer = setTimeout(() => channel.#lose(late), TIMEOUTS.connect * 1000);
    try {
      await channel.stood;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
    }
    return channel;
  }

  // -- as `WebRtcChannel`

  /**
   * Deliver to a receiver from now on, beginning with what has already arrived.
   *
   * @param {Receiver} receiver
   */
  attach(receiver) {
    this.#receiver = receiver;
    this.#early.splice(0).forEach((message) => receiver.message(message));
    if (this.#reason !== null) {
      this.#tellClosed(this.#reason);
    }
  }

  /** Return whether `send` may be called. If not, `Receiver.room` follows unless the channel ends. */
  takes() {
    const room = this.#reason === null && !this.#closing && this.#unsent + this.#socket.bufferedAmount < QUEUE;
    if (!room && this.#reason === null) {
      this.#full = true;
      this.#timer ??= setTimeout(() => this.#look(), LOOK);
    }
    return room;
  }

  /**
   * Send a message of 1 to `MAX_MESSAGE` bytes. `takes` must be true.
   *
   * @param {Uint8Array} message
   */
  send(message) {
    assert(message.length > 0 && message.length <= MAX_MESSAGE, "a message has 1 to 65,536 bytes");
    this.#unsent += message.length;
    this.#leaving.push(message);
    this.#write();
  }

  /** All lanes share the one pipe. */
  split() {
    return 1;
  }

  /** Close once what is queued has been sent, which may take a second at most. Idempotent. */
  async close() {
    if (this.#reason === null && !this.#closing) {
      this.#closing = true;
      this.#write();
      const deadline = performance.now() + DRAIN * 1000;
      while (this.#reason === null && performance.now() < deadline && (this.#writing || this.#socket.bufferedAmount > 0)) {
        await new Promise((resolve) => setTimeout(resolve, LOOK));
      }
    }
    this.#lose("closed by us");
  }

  // -- the socket

  #begin() {
    if (this.#reason === null && this.#socket.protocol !== PROTOCOL) {
      this.#lose("the server is not a relay");
    } else if (this.#reason === null) {
      this.#put(this.#sealed.first);
    }
  }

  /** @param {unknown} data */
  #take(data) {
    if (this.#reason !== null) {
      return;
    }
    if (!(data instanceof ArrayBuffer)) {
      this.#lose("the relay sent text");
      return;
    }
    this.#unread += data.byteLength;
    if (this.#unread > UNREAD) {
      this.#lose("the peer sent more data than is allowed");
      return;
    }
    this.#arrived.push(new Uint8Array(data));
    this.#read();
    this.#look();
  }

  /** Decrypt what has arrived, in order. */
  async #read() {
    if (this.#reading) {
      return;
    }
    this.#reading = true;
    try {
      for (let data = this.#arrived.shift(); data !== undefined && this.#reason === null; data = this.#arrived.shift()) {
        const messages = await this.#sealed.receive(data);
        this.#unread -= this.#receiver === null ? 0 : data.length;
        this.#tellStanding();
        messages.forEach((message) => this.#deliver(message));
        if (this.#sealed.ended) {
          this.#lose("closed by the peer");
        }
      }
    } catch (error) {
      this.#lose(error instanceof ProtocolError ? error.message : `an internal error: ${error}`);
    }
    this.#reading = false;
    if (this.#gone !== null) {
      this.#lose(this.#gone);
    }
  }

  /** Encrypt and send what is queued, in order, and at the end the record that says so. */
  async #write() {
    if (this.#writing) {
      return;
    }
    this.#writing = true;
    try {
      for (let message = this.#leaving.shift(); message !== undefined; message = this.#leaving.shift()) {
        (await this.#sealed.seal(message)).forEach((record) => this.#put(record));
        this.#unsent -= message.length;
      }
      if (this.#closing && this.binding.length > 0) {
        this.#put(await this.#sealed.close());
      }
    } catch (error) {
      this.#lose(`an internal error: ${error}`);
    }
    this.#writing = false;
    this.#look();
  }

  /** @param {Uint8Array} data */
  #put(data) {
    if (this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(/** @type {Uint8Array<ArrayBuffer>} */ (data));
    }
  }

  /** Tell the receiver if there is room again. */
  #look() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#full && this.takes()) {
      this.#full = false;
      this.#receiver?.room();
    }
  }

  #tellStanding() {
    const { binding } = this.#sealed;
    if (binding !== null && this.binding.length === 0) {
      this.binding = binding;
      this.#stand();
    }
  }

  /** @param {Uint8Array} message */
  #deliver(message) {
    if (this.#receiver === null) {
      this.#early.push(message);
    } else if (this.#reason === null) {
      this.#receiver.message(message);
    }
  }

  /**
   * End the channel. The first reason counts.
   *
   * @param {string} reason
   */
  #lose(reason) {
    if (this.#reason !== null) {
      return;
    }
    this.#reason = reason;
    clearTimeout(this.#timer);
    this.#arrived.clear();
    this.#socket.close(1000);
    this.#fail(new ConnectFailed(`Cannot reach the peer over the relay: ${reason}.`));
    this.#tellClosed(reason);
  }

  /** @param {string} reason */
  #tellClosed(reason) {
    const receiver = this.#receiver;
    this.#receiver = null;
    receiver?.closed(reason);
  }
}

async function begin() {
  try {
    return await Sealed.begin();
  } catch {
    throw new ConnectFailed("This browser cannot use the relay: it lacks X25519.", {
      hint: "Use a newer browser, or a network that permits UDP.",
    });
  }
}

/**
 * @param {string} url
 * @param {string} ticket
 */
function openSocket(url, ticket) {
  try {
    return new WebSocket(url, [PROTOCOL, ticket]);
  } catch {
    throw new ConnectFailed("This page may not connect to the relay.");
  }
}

/**
 * Return the URL at which to use a ticket.
 *
 * @param {string} url
 * @param {string} ticket
 */
export function atInstance(url, ticket) {
  const [, name] = INSTANCE.exec(ticket) ?? [];
  if (name === undefined) {
    return url;
  }
  const at = new URL(url);
  at.pathname = `${at.pathname.replace(/\/+$/, "")}/at/${name}`;
  return at.href;
}

/**
 * Return why a socket has closed. The relay may say anything.
 *
 * @param {string} reason
 */
function told(reason) {
  if (reason === "") {
    return "the connection was cut";
  }
  return `the relay says: ${[...reason].map((each) => (isPrintable(each) ? each : " ")).join("")}`;
}
