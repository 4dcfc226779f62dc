/**
 * One request for another protocol through the tunnel (protocol/README.md section 7). After a 101, its stream is a pipe.
 */

import { now } from "./clock.js";
import { CANCELLED, checkLine, fieldsOf, readable } from "./exchange.js";
import { ErrorCode, PeerLost, SettingError, StreamReset } from "../core/errors.js";
import { Feature } from "../core/protocol/frames.js";
import { isInterim } from "../core/protocol/heads.js";

/** @typedef {import("../core/session/mux.js").Session} Session */
/** @typedef {import("../core/session/stream.js").Stream} Stream */

/**
 * @typedef {object} UpgradeRequest
 * @property {string} protocol Value of the field Upgrade, such as `websocket`.
 * @property {string} target `/path?query`, as on the request line.
 * @property {Iterable<readonly [string, string]>} [headers] Byte strings, in order.
 * @property {AbortSignal} [signal] Cancels the request until its answer is there.
 */

/**
 * The bytes of the other protocol. Cancelling `readable` or aborting `writable` ends both. Closing `writable` ends only
 * that direction. The bytes of a write must not change before it is done.
 *
 * @typedef {object} Pipe
 * @property {ReadableStream<Uint8Array>} readable
 * @property {WritableStream<Uint8Array>} writable
 */

/**
 * @typedef {object} UpgradeResponse
 * @property {number} status
 * @property {string} reason
 * @property {readonly (readonly [string, string])[]} headers
 * @property {Pipe | null} pipe Not null if the status is 101.
 * @property {ReadableStream<Uint8Array> | null} body Not null if it is another one. Cancel it if it is not read.
 */

/**
 * Send the request, and return the response once its head has arrived.
 *
 * Throws as `exchange` does, and `SettingError` if serve carries no upgrades.
 *
 * @param {Session} session
 * @param {UpgradeRequest} request
 * @returns {Promise<UpgradeResponse>}
 */
export async function upgrade(session, { protocol, target, headers = [], signal }) {
  signal?.throwIfAborted();
  if (!session.features.has(Feature.UPGRADE)) {
    throw new SettingError("The other side carries no WebSockets.", { hint: "Update llmtunnel there." });
  }
  /** @type {[string, string][]} */
  const fields = [...fieldsOf("GET", headers, 0), ["Connection", "Upgrade"], ["Upgrade", protocol]];
  checkLine("GET", target);
  const stream = await session.open({ method: "GET", target, fields, last: true }, { now: now(), signal });
  const cancel = () => stream.reset(ErrorCode.CANCELLED, CANCELLED);
  signal?.addEventListener("abort", cancel);
  try {
    signal?.throwIfAborted();
    let head = await stream.response();
    while (isInterim(head)) {
      head = await stream.response();
    }
    const { status, reason } = head;
    const switched = status === 101;
    if (!switched) {
      sendEnd(stream);
    }
    return {
      status,
      reason,
      headers: head.fields,
      pipe: switched ? pipeOf(stream) : null,
      body: switched ? null : readable(stream, { end: cancel, failure: (error) => error }),
    };
  } catch (error) {
    cancel();
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/**
 * End a request that was refused. Serve may have ended it already.
 *
 * @param {Stream} stream
 */
function sendEnd(stream) {
  try {
    stream.sendEnd();
  } catch (error) {
    if (!(error instanceof StreamReset || error instanceof PeerLost)) {
      throw error;
    }
  }
}

/**
 * @param {Stream} stream
 * @returns {Pipe}
 */
function pipeOf(stream) {
  return {
    readable: readable(stream, { end: () => {}, failure: (error) => error }),
    writable: new WritableStream({
      start({ signal }) {
        // Not the method `abort`, which is called only after a write that may never be done.
        signal.addEventListener("abort", () => stream.reset(ErrorCode.CANCELLED, CANCELLED));
      },
      write: (chunk) => stream.send(chunk),
      close: () => sendEnd(stream),
    }),
  };
}
