/** What the unit tests of a session share: an agreement, and a carrier that keeps what it is told. */

import { ErrorCode } from "../../llmtunnel/web/core/errors.js";
import { ALL_FEATURES, FrameType, decode, encode, unbundle } from "../../llmtunnel/web/core/protocol/frames.js";
import { Session } from "../../llmtunnel/web/core/session/mux.js";

/** @typedef {import("../../llmtunnel/web/core/protocol/frames.js").Frame} Frame */
/** @typedef {import("../../llmtunnel/web/core/protocol/handshake.js").Agreement} Agreement */

export const GET = { method: "GET", target: "/" };
const TEXT = new TextEncoder();

/**
 * @param {Partial<Agreement>} [changes]
 * @returns {Agreement}
 */
export function agreement(changes = {}) {
  return {
    features: ALL_FEATURES,
    window: 100_000,
    streams: 2,
    ticket: null,
    certificate: Uint8Array.of(1),
    session: Uint8Array.of(2),
    received: null,
    lanes: 1,
    tcpOnly: false,
    agent: "",
    ...changes,
  };
}

/** A session over a carrier that is none. */
export class Rig {
  /** @type {string[]} */
  heard = [];
  /** @type {string | null} */
  left = null;
  /** @type {Uint8Array[]} */
  last = [];

  /**
   * @param {{agreement?: Partial<Agreement>, pipes?: number, options?: object}} [settings]
   */
  constructor({ agreement: changes = {}, pipes = 1, options = {} } = {}) {
    this.session = new Session(agreement(changes), this.#carrier(pipes), {
      now: 0,
      owner: {
        changed: ({ kind }) => this.heard.push(kind),
        ended: (error) => this.heard.push(error.message),
      },
      ...options,
    });
  }

  /**
   * @param {number} pipes
   * @returns {any}
   */
  #carrier(pipes) {
    return {
      carry: () => pipes,
      changed: () => {},
      leave: (/** @type {string} */ reason, /** @type {Uint8Array[]} */ last = []) => {
        this.left = reason;
        this.last = [...last];
      },
    };
  }

  /**
   * Move the session to another channel.
   *
   * @param {Partial<Agreement>} changes
   */
  move(changes) {
    this.session.resume(agreement(changes), this.#carrier(1), 1);
  }

  /** The frames that the session has to send, or those of its last messages. */
  sent() {
    const messages = [...this.last.splice(0)];
    for (const pipe of this.session.ready) {
      for (let next = this.session.messageToSend(pipe); next !== null; next = this.session.messageToSend(pipe)) {
        messages.push(next);
      }
    }
    return messages.flatMap((message) => {
      const frame = /** @type {Frame} */ (decode(message));
      return frame.type === FrameType.BUNDLE ? [...unbundle(frame.payload)] : [frame];
    });
  }

  /**
   * @param {number} type
   * @param {number} stream
   * @param {Uint8Array | object} [payload] An object stands for its JSON.
   * @param {number} [now]
   */
  receive(type, stream, payload = new Uint8Array(0), now = 0) {
    const data = payload instanceof Uint8Array ? payload : TEXT.encode(JSON.stringify(payload));
    this.session.receiveMessage(encode(type, stream, data), now);
  }

  /**
   * Let serve begin a response.
   *
   * @param {number} stream
   * @param {number} [status]
   */
  respond(stream, status = 200) {
    this.receive(FrameType.RES_HEADERS, stream, { status, reason: "", fields: [] });
  }
}

export { ErrorCode, FrameType };
