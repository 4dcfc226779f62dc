/**
 * A WebSocket client over the tunnel: the handshake, messages in pieces, pings, and the close (RFC 6455).
 *
 * It holds no messages. `send` is done when the tunnel has taken the piece, and the next piece is read when the owner
 * has accepted the last one.
 */

import { Code, Decoder, Opcode, Violation, checkResponse, encodeClose, encodeFrame, newKey, requestFields } from "./rfc6455.js";
import { EMPTY } from "../../core/bytes.js";
import { MIB } from "../../core/config.js";

/** @typedef {import("./rfc6455.js").CloseReceived} CloseReceived */
/** @typedef {import("./rfc6455.js").DataReceived} DataReceived */
/** @typedef {import("../../peer/upgrade.js").Pipe} Pipe */
/** @typedef {import("../../peer/upgrade.js").UpgradeRequest} UpgradeRequest */
/** @typedef {import("../../peer/upgrade.js").UpgradeResponse} UpgradeResponse */

/** The longest message that is accepted from a server, in bytes. */
export const MAX_MESSAGE = 256 * MIB;

/** How a WebSocket ended, for a CloseEvent. `problem` says why it failed; empty if it did not. */
/** @typedef {{code: number, reason: string, clean: boolean, problem: string}} Ending */

/**
 * @typedef {object} Owner
 * @property {(headers: UpgradeResponse["headers"]) => void} answered The server has answered, whatever it is.
 * @property {(protocol: string) => void} opened
 * @property {(piece: DataReceived) => Promise<void>} received The next piece is read when this is done.
 * @property {() => void} closing The server's Close frame has arrived.
 */

/**
 * Seconds.
 *
 * @typedef {object} Waits
 * @property {number} open Maximum time for the server's answer.
 * @property {number} close Maximum time for the server's Close frame after ours, and for ours after the server's.
 * @property {number} end Maximum time for the end of the connection after both.
 */

/** @type {Waits} */
const WAITS = Object.freeze({ open: 60, close: 10, end: 2 });
/** The code of a connection that ended without a Close frame, and that of a Close frame without a code. */
const ABNORMAL = 1006;
const NO_CODE = 1005;

/** Call `run` once. */
export class WebSocketClient {
  #peer;
  #request;
  #owner;
  #waits;
  #most;
  /** Aborts the handshake. */
  #opening = new AbortController();
  /** @type {WritableStreamDefaultWriter<Uint8Array> | null} */
  #writer = null;
  /** Whether a message is being sent, of which a piece has gone. */
  #inside = false;
  /** Bytes of the message that is arriving. */
  #arrived = 0;
  /** The ping to answer. Only the last one counts (section 5.5.3). @type {Uint8Array} */
  #ping = EMPTY;
  #answering = false;
  /**
   * Our Close frame, once it is on its way.
   *
   * @type {Promise<void> | null}
   */
  #sentClose = null;
  /** @type {CloseReceived | null} */
  #received = null;
  /** Why we end the WebSocket. */
  #problem = "";
  /** Gives up on a server that does not close, after a while. */
  #givingUp = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {{upgrade: (request: UpgradeRequest) => Promise<UpgradeResponse>}} peer
   * @param {object} options
   * @param {string} options.target
   * @param {Iterable<readonly [string, string]>} options.headers Those without the handshake's own.
   * @param {readonly string[]} options.protocols
   * @param {Owner} options.owner
   * @param {Waits} [options.waits]
   * @param {number} [options.most] The longest message.
   */
  constructor(peer, { target, headers, protocols, owner, waits = WAITS, most = MAX_MESSAGE }) {
    this.#peer = peer;
    this.#request = { target, headers, protocols };
    this.#owner = owner;
    this.#waits = waits;
    this.#most = most;
  }

  /**
   * Open the WebSocket, and receive until it has ended.
   *
   * @returns {Promise<Ending>}
   */
  async run() {
    /** @type {Pipe} */
    let pipe;
    try {
      const opened = await this.#open();
      pipe = opened.pipe;
      this.#writer = pipe.writable.getWriter();
      this.#owner.opened(opened.protocol);
    } catch (error) {
      return { code: ABNORMAL, reason: "", clean: false, problem: messageOf(error) };
    }
    const writer = this.#writer;
    writer.closed.catch(() => {}); // the reader reports it
    const reader = pipe.readable.getReader();
    const stop = () => reader.cancel().catch(() => {});
    this.#givingUp.signal.addEventListener("abort", stop);
    let problem = "";
    try {
      await this.#receive(reader);
    } catch (error) {
      problem = messageOf(error);
      if (error instanceof Violation) {
        this.#shut(error.code, "");
      }
    }
    await this.#sentClose?.catch(() => {}); // the tunnel has failed, which the reader has reported
    this.#leave(reader, writer);
    const clean = this.#received !== null && this.#sentClose !== null;
    const { code, reason } = clean && this.#received ? this.#received : { code: ABNORMAL, reason: "" };
    return { code: code ?? NO_CODE, reason, clean, problem: clean ? this.#problem : problem || this.#problem };
  }

  /**
   * Send a piece of a message. Done when the tunnel has taken it. Rejected if it cannot.
   *
   * @param {Uint8Array} data
   * @param {{text: boolean, last: boolean}} options
   */
  async send(data, { text, last }) {
    if (this.#sentClose === null && this.#writer !== null) {
      const opcode = this.#inside ? Opcode.CONTINUATION : text ? Opcode.TEXT : Opcode.BINARY;
      this.#inside = !last;
      await this.#writer.write(encodeFrame(opcode, data, { final: last }));
    }
  }

  /**
   * Begin the close, or abandon the WebSocket while it opens.
   *
   * @param {number | null} code
   * @param {string} [reason] At most 123 bytes.
   */
  close(code, reason = "") {
    if (this.#writer === null) {
      this.#opening.abort(new Error("It was closed before it was open."));
    } else {
      this.#shut(code, reason);
    }
  }

  async #open() {
    const { target, headers, protocols } = this.#request;
    const { signal } = this.#opening;
    const timer = setTimeout(
      () => this.#opening.abort(new Error(`The server did not answer within ${this.#waits.open} s.`)),
      this.#waits.open * 1000,
    );
    try {
      const key = newKey();
      const fields = [...headers, ...requestFields(key, protocols)];
      const response = await this.#peer.upgrade({ protocol: "websocket", target, headers: fields, signal });
      this.#owner.answered(response.headers);
      response.body?.cancel().catch(() => {}); // it has failed already
      const { pipe } = response;
      try {
        const protocol = await checkResponse(response, key, protocols);
        signal.throwIfAborted();
        return { protocol, pipe: /** @type {Pipe} */ (pipe) };
      } catch (error) {
        pipe?.readable.cancel().catch(() => {});
        throw error;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Receive until the server's Close frame, or the end.
   *
   * @param {ReadableStreamDefaultReader<Uint8Array>} reader
   */
  async #receive(reader) {
    const decoder = new Decoder();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      for (const event of decoder.receive(next.value)) {
        switch (event.kind) {
          case "data":
            await this.#receiveData(event);
            break;
          case "ping":
            this.#answer(event.data);
            break;
          case "close":
            this.#received = event;
            this.#owner.closing();
            this.#shut(event.code, "");
            return;
        }
      }
    }
  }

  /** @param {DataReceived} piece */
  async #receiveData(piece) {
    this.#arrived = piece.first ? piece.size : this.#arrived + piece.size;
    if (this.#problem === "" && this.#arrived > this.#most) {
      this.#problem = `The server sent a message of more than ${this.#most} bytes.`;
      this.#shut(Code.TOO_LARGE, `A message has more than ${this.#most} bytes.`);
    }
    if (this.#problem === "") {
      await this.#owner.received(piece);
    }
  }

  /**
   * Send our Close frame, unless it is on its way, and give up on the server after a while.
   *
   * @param {number | null} code
   * @param {string} reason
   */
  #shut(code, reason) {
    if (this.#sentClose === null && this.#writer !== null) {
      this.#sentClose = this.#writer.write(encodeClose(code, reason));
      this.#sentClose.catch(() => {}); // see `run`
      this.#timer = setTimeout(() => this.#giveUp(), this.#waits.close * 1000);
    }
  }

  #giveUp() {
    this.#givingUp.abort();
    this.#writer?.abort().catch(() => {});
  }

  /**
   * Answer a ping, once the tunnel has taken the answer to the one before.
   *
   * @param {Uint8Array} ping
   */
  async #answer(ping) {
    this.#ping = ping;
    if (this.#answering) {
      return;
    }
    this.#answering = true;
    try {
      let answered = null;
      while (this.#writer !== null && this.#sentClose === null && answered !== this.#ping) {
        answered = this.#ping;
        await this.#writer.write(encodeFrame(Opcode.PONG, answered));
      }
    } catch {
      // The tunnel has failed, which the reader reports.
    } finally {
      this.#answering = false;
    }
  }

  /**
   * Let the server close the connection, which is its turn (section 7.1.1), and end it if it does not.
   *
   * @param {ReadableStreamDefaultReader<Uint8Array>} reader
   * @param {WritableStreamDefaultWriter<Uint8Array>} writer
   */
  async #leave(reader, writer) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#giveUp(), this.#waits.end * 1000);
    try {
      let next = await reader.read();
      while (!next.done) {
        next = await reader.read();
      }
      await writer.close();
    } catch {
      // It has failed, or was given up.
    } finally {
      clearTimeout(this.#timer);
      this.#giveUp();
    }
  }
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}
