/** The timeouts of connecting, in seconds. Mirrors fields of `Timeouts` in `llmtunnel/config.py`. */

/** @type {Readonly<Record<"signal" | "connect" | "answer" | "offer" | "waitForPeer", number>>} */
export const TIMEOUTS = Object.freeze({
  /** Maximum wait for the signal server: for the WebSocket to open, and for the reply to our join. */
  signal: 10,
  /** Maximum time from the offer to the open channel. */
  connect: 30,
  /** Maximum time from our offer to its answer. */
  answer: 10,
  /** Maximum wait for an offer from a peer in the room. */
  offer: 12,
  /** Maximum time that a request waits for a peer. */
  waitForPeer: 5,
});
