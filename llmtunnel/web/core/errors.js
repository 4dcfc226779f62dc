/** Every error of the tunnel. Mirrors `llmtunnel/errors.py`, and adds `HandshakeFailed`. */

/**
 * Why a stream or a session ended, as RESET carries it (protocol/README.md, "Error codes").
 *
 * @readonly
 */
export const ErrorCode = Object.freeze({
  NO_ERROR: 0,
  CANCELLED: 1,
  PROTOCOL: 2,
  FLOW_CONTROL: 3,
  REFUSED: 4,
  UPSTREAM: 5,
  TRUNCATED: 6,
  TOO_LARGE: 7,
  VERSION: 8,
  INTERNAL: 9,
  UNAUTHENTICATED: 10,
  UNWELCOME: 11,
});

/** @type {ReadonlySet<number>} */
const CODES = new Set(Object.values(ErrorCode));

/**
 * Return the code with this number. An unknown number is read as INTERNAL.
 *
 * @param {number} number
 * @returns {number}
 */
export function errorCode(number) {
  return CODES.has(number) ? number : ErrorCode.INTERNAL;
}

/** A failure of the tunnel. `message` is one sentence, and `hint` says what to do. */
export class TunnelError extends Error {
  /**
   * @param {string} message
   * @param {{hint?: string}} [options]
   */
  constructor(message, { hint = "" } = {}) {
    super(message);
    this.name = new.target.name;
    this.hint = hint;
  }
}

/** A setting, such as the code that the user has typed, is invalid. */
export class SettingError extends TunnelError {}

/** The signal server failed. */
export class SignalError extends TunnelError {}

/** The signal server does not answer. */
export class SignalUnreachable extends SignalError {}

/** The signal server answered with an error. */
export class SignalRejected extends SignalError {}

/** The signal server is private, and the page sent no access token, or one that it does not accept. */
export class AccessDenied extends SignalRejected {}

/** The signal server restarts, and asks this side to connect again. */
export class SignalRestarting extends SignalError {}

/** The room has no place for this member. */
export class RoomFull extends SignalError {}

/** The other side of the tunnel failed. */
export class PeerError extends TunnelError {}

/** Nobody is in the room, or no peer could be reached in time. */
export class PeerNotFound extends PeerError {}

/** No network path to the peer works. */
export class ConnectFailed extends PeerError {}

/** Packets pass, but the encryption does not begin. Somebody may be in between, so people should know at once. */
export class HandshakeFailed extends ConnectFailed {}

/** The connection to the peer broke. */
export class PeerLost extends PeerError {}

/** The peer supports no protocol version that this program supports. */
export class VersionMismatch extends PeerError {}

/** One side does not hold the secret, or somebody is in the middle. */
export class AuthenticationFailed extends PeerError {}

/** Serve rejects this proxy: it was removed, or the invite has expired. */
export class Unwelcome extends PeerError {}

/** One request failed; the session continues. */
export class StreamError extends TunnelError {}

/** The session cannot open more streams now. */
export class TooManyStreams extends StreamError {}

/** The request ended before it was complete. `code` says why; `remote` is true if the peer ended it. */
export class StreamReset extends StreamError {
  /**
   * @param {number} code
   * @param {string} message
   * @param {{remote?: boolean}} [options]
   */
  constructor(code, message, { remote = true } = {}) {
    super(message);
    this.code = code;
    this.remote = remote;
  }
}

/** A peer violated the protocol. RESET will carry `code`. */
export class ProtocolError extends TunnelError {
  /**
   * @param {string} message
   * @param {number} [code]
   */
  constructor(message, code = ErrorCode.PROTOCOL) {
    super(message);
    this.code = code;
  }
}

/**
 * Throw if the caller has broken the contract of a function. A peer's mistake never ends here.
 *
 * @param {unknown} holds
 * @param {string} contract
 * @returns {asserts holds}
 */
export function assert(holds, contract) {
  if (!holds) {
    throw new Error(`a defect of llmtunnel: ${contract}`);
  }
}
