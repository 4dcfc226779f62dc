/**
 * What a connection reports: the events between the protocol and the session. Mirrors `llmtunnel/protocol/events.py`.
 */

/** @typedef {import("./heads.js").ResponseHead} ResponseHead */

/**
 * @typedef {{kind: "response", stream: number, head: ResponseHead}} ResponseReceived A head, perhaps an interim one.
 */
/** @typedef {{kind: "data", stream: number, data: Uint8Array}} DataReceived Call `Connection.consumed` for it later. */
/** @typedef {{kind: "end", stream: number}} EndReceived The response has ended, and is complete. */

/**
 * The stream was reset: by serve, or (`remote` is false) by us, because serve broke the protocol.
 *
 * @typedef {{kind: "ended", stream: number, code: number, message: string, remote: boolean}} StreamEnded
 */

/**
 * Serve has answered completely and will not read the rest of the request. The response is valid.
 *
 * @typedef {{kind: "rest-unwanted", stream: number}} RestUnwanted
 */

/**
 * The channel is silent. The session can continue over another channel, or when this one speaks again.
 *
 * @typedef {{kind: "silent"}} PeerSilent
 */

/**
 * The session has ended. Nothing more is received, and only a last message is sent.
 *
 * @typedef {{kind: "over", code: number, message: string, remote: boolean}} ConnectionEnded
 */

/**
 * @typedef {ResponseReceived | DataReceived | EndReceived | StreamEnded | RestUnwanted | PeerSilent | ConnectionEnded
 *   } Event
 */

export {};
