/**
 * The proxy's limits and timeouts. Mirrors `Limits` and `Timeouts` of `llmtunnel/config.py`, which give the reasons.
 */

export const KIB = 1024;
export const MIB = 1024 * KIB;

/**
 * A bound for everything that a peer can fill, in bytes unless stated otherwise.
 *
 * @typedef {object} Limits
 * @property {number} window Initial credit per stream and direction.
 * @property {number} windowMost Maximum credit per stream and direction.
 * @property {number} journal Unacknowledged bytes kept, to be sent again on the next channel.
 * @property {number} lanes Lanes of a session, 1 to 16.
 * @property {number} v1Backlog Unread bytes of one stream without credit.
 * @property {number} held What the peer can make this side hold, in all.
 * @property {number} control Control frames that wait for the channel.
 */

/** @type {Readonly<Limits>} */
export const LIMITS = Object.freeze({
  window: 512 * KIB,
  windowMost: 4 * MIB,
  journal: 4 * MIB,
  lanes: 8,
  v1Backlog: 8 * MIB,
  held: 128 * MIB,
  control: 4096,
});

/**
 * Timeouts, in seconds.
 *
 * @typedef {object} Timeouts
 * @property {number} handshake Maximum time for HELLO, AGREE and AUTH once the channel is open.
 * @property {number} pingBusy Silence after which the peer is pinged while streams are open.
 * @property {number} deadBusy Silence after which the peer counts as dead while streams are open.
 * @property {number} pingIdle Silence after which the peer is pinged while no stream is open.
 * @property {number} deadIdle Silence after which the peer counts as dead while no stream is open.
 * @property {number} deadSuspect Maximum wait for a pong after a report that the peer has left.
 * @property {number} stream Maximum time that a request waits until serve accepts one more.
 */

/** @type {Readonly<Timeouts>} */
export const TIMEOUTS = Object.freeze({
  handshake: 20,
  pingBusy: 1,
  deadBusy: 3,
  pingIdle: 5,
  deadIdle: 15,
  deadSuspect: 1,
  stream: 30,
});

/** Seconds that requests wait for a silent peer. */
export const RESUME_FOR = 60;
