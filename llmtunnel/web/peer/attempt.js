/**
 * A link's attempt to reach serve over one way, and what its end means for the link.
 *
 * Mirrors `llmtunnel/session/attempt.py`, whose table of stages has the details.
 */

import { Flag } from "./flag.js";
import { MAX_MESSAGE } from "../core/transport/sdp.js";
import { AuthenticationFailed, ConnectFailed, HandshakeFailed, Unwelcome, VersionMismatch } from "../core/errors.js";

/** @typedef {import("../core/errors.js").TunnelError} TunnelError */
/** @typedef {import("../core/session/carrier.js").Carrier} Carrier */
/** @typedef {import("./ways.js").Opened} Opened */
/** @typedef {import("./ways.js").Way} Way */

/** Why a relay ends for which there was no need. */
export const NOT_NEEDED = "The relay is not needed.";

/** One attempt: its way, the channel that opens, and the carrier on that. */
export class Attempt {
  /** @type {Opened | null} */
  opened = null;
  /**
   * Set when the greeting on its channel starts.
   *
   * @type {Carrier | null}
   */
  carrier = null;
  /**
   * Why the attempt has ended; null while it may still succeed.
   *
   * @type {TunnelError | null}
   */
  failure = null;
  /** Whether it is its turn to greet on its channel, or was. */
  begun = false;
  /** Set once the peers have agreed on its channel, or never will. */
  settled = new Flag();
  /** Aborted to give it up. The reason is a `TunnelError`. */
  abandon = new AbortController();
  #flushing = false;

  /** @param {Way} way */
  constructor(way) {
    this.way = way;
  }

  get running() {
    return this.failure === null;
  }

  /**
   * Return whether the peers are still negotiating on its channel.
   *
   * @returns {boolean}
   */
  get greets() {
    return this.running && this.begun && !this.settled.isSet;
  }

  /**
   * Send what is waiting at the end of this turn of the loop, so that all writes of one turn share a message.
   *
   * @param {() => void} sent Called afterwards.
   */
  flush(sent) {
    if (this.#flushing) {
      return;
    }
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.#send();
      sent();
    });
  }

  #send() {
    const { carrier } = this;
    const channel = this.opened?.channel;
    if (carrier === null || channel === undefined) {
      return;
    }
    for (const pipe of carrier.ready) {
      while (channel.takes(pipe)) {
        const message = carrier.messageToSend(pipe, MAX_MESSAGE);
        if (message === null) {
          break;
        }
        channel.send(message, pipe);
      }
    }
  }
}

/**
 * Return the failure to report: a rejection, else the last one from a channel, else a sign of somebody in between, else
 * why no way has led anywhere.
 *
 * @param {readonly Attempt[]} attempts
 * @returns {TunnelError}
 */
export function verdict(attempts) {
  const failures = attempts.flatMap(({ failure }) => failure ?? []);
  const refused = failures.filter(isFinal);
  const said = failures.filter((failure) => !(failure instanceof ConnectFailed));
  const alarm = failures.find((failure) => failure instanceof HandshakeFailed);
  return refused.at(-1) ?? said.at(-1) ?? alarm ?? joined(failures);
}

/**
 * Return the failures of all ways as one. The last one knows best what to do.
 *
 * @param {TunnelError[]} failures
 */
function joined(failures) {
  const told = failures.filter(({ message }) => message !== NOT_NEEDED);
  return new ConnectFailed(told.map(({ message }) => message).join(" "), { hint: told.at(-1)?.hint ?? "" });
}

/**
 * Whether serve itself has refused, so that another path to it would not help.
 *
 * @param {TunnelError} failure
 */
export function isFinal(failure) {
  return [AuthenticationFailed, Unwelcome, VersionMismatch].some((kind) => failure instanceof kind);
}
