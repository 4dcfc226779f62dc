/**
 * The WebSocket to the signal server: one connection, from joining until it is lost.
 *
 * Mirrors `llmtunnel/signaling/client.py`. A browser does not say why a WebSocket failed, and cannot ping: it answers
 * the server's pings itself. So a connection that has silently died is noticed only when the page opens the next one.
 */

import { TIMEOUTS } from "./timeouts.js";
import {
  AccessDenied,
  ProtocolError,
  RoomFull,
  SignalRejected,
  SignalRestarting,
  SignalUnreachable,
} from "../core/errors.js";
import { Queue } from "../core/queue.js";
import * as messages from "../core/signaling/messages.js";

/** @typedef {import("../core/errors.js").SignalError} SignalError */
/** @typedef {import("../core/signaling/messages.js").Joined} Joined */
/** @typedef {import("../core/signaling/messages.js").Message} Message */
/** @typedef {import("../core/signaling/messages.js").ServerError} ServerError */

/** Invalid messages after which we abandon the server. */
const RUBBISH = 100;
/** Maximum characters of a message, and messages that may wait to be read. */
const LONGEST = 65_536;
const MOST_WAITING = 4096;
/** Close codes of a server, or of an HTTP server in front of it, that stops (RFC 6455 section 7.4.1). */
const STOPPING = [1001, 1012];
const IS_IT_RUNNING = "Is it running, and is its address right?";
const GHOST = "A side that crashed may keep its place for a while.";

/** A connection to a signal server: `connect`, `join`, then `send` and `receive` until it breaks. */
export class SignalClient {
  #socket;
  #url;
  /** @type {Queue<string | null>} */
  #inbox = new Queue();
  #rubbish = 0;
  /**
   * Why nothing more will arrive.
   *
   * @type {SignalError | null}
   */
  #error = null;
  #wake = () => {};

  /**
   * @param {WebSocket} socket
   * @param {string} url
   */
  constructor(socket, url) {
    this.#socket = socket;
    this.#url = url;
    socket.addEventListener("message", ({ data }) => this.#take(data));
    socket.addEventListener("close", ({ code }) => this.#end(STOPPING.includes(code) ? this.#restarting() : this.#lost()));
  }

  /**
   * Open the WebSocket. Throws `SignalUnreachable`.
   *
   * @param {string} url
   */
  static async connect(url) {
    const socket = openSocket(url);
    /** @type {(reason: string) => void} */
    let settle = () => {};
    const timer = setTimeout(() => settle(`The signal server ${url} did not answer in time.`), TIMEOUTS.signal * 1000);
    /** @type {Promise<string>} */
    const settled = new Promise((resolve) => {
      settle = resolve;
    });
    socket.addEventListener("open", () => settle(""));
    socket.addEventListener("close", () => settle(`Cannot reach the signal server ${url}.`));
    const client = new SignalClient(socket, url);
    const failure = await settled;
    clearTimeout(timer);
    if (failure !== "") {
      socket.close();
      throw new SignalUnreachable(failure, { hint: IS_IT_RUNNING });
    }
    return client;
  }

  /**
   * Join a room. Throws `AccessDenied`, `RoomFull`, `SignalRejected`, `SignalRestarting` or `SignalUnreachable`.
   *
   * @param {string} room
   * @param {Parameters<typeof messages.join>[1]} options
   * @returns {Promise<Joined>}
   */
  async join(room, options) {
    const timer = setTimeout(() => {
      const problem = `${this.#url} did not answer when this side asked to join the room.`;
      this.#end(new SignalUnreachable(problem, { hint: "Is it a signal server?" }));
    }, TIMEOUTS.signal * 1000);
    try {
      this.send(messages.join(room, options));
      for (;;) {
        const message = await this.receive();
        if (message.kind === "joined") {
          return message;
        }
        if (message.kind === "error") {
          throw this.#refusal(message, options.access ?? null);
        }
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Send one message. It is dropped if the connection is lost, which `receive` reports.
   *
   * @param {string} message
   */
  send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(message);
    }
  }

  /**
   * Return the next valid message.
   *
   * Throws `SignalRestarting` if the server has closed the connection because it stops, and `SignalUnreachable` if the
   * connection is lost.
   *
   * @returns {Promise<Message>}
   */
  async receive() {
    for (;;) {
      const text = this.#inbox.shift();
      if (text !== undefined) {
        const message = text === null ? null : this.#parse(text);
        if (message !== null) {
          return message;
        }
      } else if (this.#error !== null) {
        throw this.#error;
      } else {
        await new Promise((resolve) => {
          this.#wake = () => resolve(null);
        });
      }
    }
  }

  /** Leave by closing the connection. Idempotent. */
  close() {
    this.#socket.close();
    this.#end(this.#lost());
  }

  /** @param {unknown} data */
  #take(data) {
    const valid = typeof data === "string" && data.length <= LONGEST;
    this.#inbox.push(valid ? data : null);
    this.#countRubbish(!valid || this.#inbox.length > MOST_WAITING);
    this.#wake();
  }

  /** @param {string} text */
  #parse(text) {
    try {
      return messages.parse(text);
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      this.#countRubbish(true);
      return null;
    }
  }

  /** @param {boolean} rubbish */
  #countRubbish(rubbish) {
    this.#rubbish += Number(rubbish);
    if (this.#rubbish >= RUBBISH) {
      const problem = `${this.#url} sends messages that no signal server sends.`;
      this.#inbox.clear();
      this.#end(new SignalUnreachable(problem, { hint: "Is it a signal server?" }));
      this.#socket.close();
    }
  }

  /** @param {SignalError} error */
  #end(error) {
    this.#error ??= error;
    this.#wake();
  }

  /**
   * @param {ServerError} error
   * @param {string | null} access
   */
  #refusal(error, access) {
    switch (error.code) {
      case "access-token":
        return this.#denied(access);
      case "draining":
        return this.#restarting();
      default:
        return refusalOf(error);
    }
  }

  /** @param {string | null} access */
  #denied(access) {
    if (access === null) {
      const problem = `The signal server ${this.#url} is private: it requires an access token.`;
      return new AccessDenied(problem, { hint: "Ask its operator for a token." });
    }
    const problem = `The signal server ${this.#url} does not accept the access token.`;
    return new AccessDenied(problem, { hint: "Ask the server's operator for a valid token." });
  }

  #restarting() {
    return new SignalRestarting(`The signal server ${this.#url} restarts, and has asked this side to connect again.`);
  }

  #lost() {
    return new SignalUnreachable(`The connection to the signal server ${this.#url} was lost.`, { hint: IS_IT_RUNNING });
  }
}

/**
 * Return what an error from the signal server, in response to our join, means.
 *
 * @param {ServerError} error
 */
function refusalOf(error) {
  if (error.code === "room-full" || (error.code === null && error.message.includes("is full"))) {
    return new RoomFull(`The signal server says: ${error.message}.`, { hint: GHOST });
  }
  return new SignalRejected(`The signal server rejected the request: ${error.message}.`);
}

/** @param {string} url */
function openSocket(url) {
  try {
    return new WebSocket(url);
  } catch {
    // A page that came over https may open no ws:// connection.
    throw new SignalUnreachable(`This page may not connect to the signal server ${url}.`, {
      hint: "A page from https needs a signal server at wss://.",
    });
  }
}
