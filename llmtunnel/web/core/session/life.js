/**
 * The state of a session: what its channel does and `now` go in, what its owner should know comes out.
 *
 *     state         what happens                            next          the owner hears
 *     ------------  --------------------------------------  ------------  ---------------
 *     standing      a channel carries it                    standing      resumed
 *     standing      the peer is heard                       standing
 *     standing      the peer is silent                      suspended     suspended
 *     standing      the channel closes                      suspended     suspended
 *     suspended     a channel carries it                    standing      resumed
 *     suspended     the peer is heard                       standing      resumed
 *     suspended     the peer is silent                      suspended
 *     suspended     the channel closes                      suspended
 *     any           the session ends                        ended
 *
 * A suspended session waits for a channel until `Life.deadline`, and then has to end. Mirrors
 * `llmtunnel/session/life.py` without its state INTRODUCED: a page cannot use local TCP, so no channel of its only
 * introduces the peers.
 */

/** Seconds that a peer has to come back after its process seems to have ended. */
const GONE = 10;
/** Seconds after which such a report no longer applies to a silence that begins. */
const FRESH = 5;

/** @typedef {"standing" | "suspended" | "ended"} State */

/**
 * Nothing is sent or received until the session resumes or ends.
 *
 * @typedef {{kind: "suspended", reason: string}} Suspended
 */

/**
 * A channel carries the session: another one, or the same one after `gap` seconds of silence.
 *
 * @typedef {{kind: "resumed", gap: number}} Resumed
 */

/** @typedef {Suspended | Resumed} Change */

/** The state of one session, from its first channel to its end. */
export class Life {
  /** @type {State} */
  state = "standing";
  #resumeFor;
  #reason = "";
  #waitsSince = 0;
  #silentSince = 0;
  /** When a report said that the peer's process had ended. */
  #goneAt = -Infinity;

  /** @param {number} resumeFor Seconds that the session waits for a channel. */
  constructor(resumeFor) {
    this.#resumeFor = resumeFor;
  }

  /** Whether streams wait for a channel. */
  get waits() {
    return this.state === "suspended";
  }

  /** When a waiting session has to end (see `endOfWait`), or null if it does not wait. */
  get deadline() {
    if (!this.waits) {
      return null;
    }
    // The time runs from the start of the wait if the report came earlier.
    const gone = this.#goneAt > -Infinity ? Math.max(this.#waitsSince, this.#goneAt) + GONE : Infinity;
    return Math.min(this.#waitsSince + this.#resumeFor, gone);
  }

  /**
   * Return the seconds since the peer was last heard. During a wait, count from before the wait.
   *
   * @param {number} now
   * @param {number} lastHeard
   */
  silence(now, lastHeard) {
    return now - (this.waits ? this.#silentSince : lastHeard);
  }

  /**
   * Note that the session has moved to another channel.
   *
   * @param {number} now
   * @param {number} lastHeard
   */
  moved(now, lastHeard) {
    return this.#stand(this.waits ? this.silence(now, lastHeard) : 0);
  }

  /**
   * Note that a message has arrived. `lastHeard`: when the previous message arrived.
   *
   * @param {number} now
   * @param {number} lastHeard
   * @returns {Change | null}
   */
  heard(now, lastHeard) {
    return this.waits ? this.#stand(this.silence(now, lastHeard)) : null;
  }

  /**
   * Note that the peer is silent, or that the channel has closed.
   *
   * @param {number} now
   * @param {string} reason
   * @param {number} lastHeard
   * @returns {Change | null}
   */
  lost(now, reason, lastHeard) {
    if (this.state !== "standing") {
      return null;
    }
    this.state = "suspended";
    this.#reason = reason;
    this.#waitsSince = now;
    this.#silentSince = lastHeard;
    if (now - this.#goneAt > FRESH) {
      this.#goneAt = -Infinity; // the peer has been there since the report
    }
    return { kind: "suspended", reason };
  }

  /**
   * Note a report that the peer's process has ended, which shortens the wait for it.
   *
   * @param {number} now
   */
  saidGone(now) {
    this.#goneAt = now;
  }

  /** Note a report that the peer's process is running. */
  saidThere() {
    this.#goneAt = -Infinity;
  }

  /** End the session, whatever the reason. */
  end() {
    this.state = "ended";
  }

  /**
   * Return why the session has to end now, or null if it does not have to.
   *
   * @param {number} now
   */
  endOfWait(now) {
    const { deadline } = this;
    if (deadline === null || now < deadline) {
      return null;
    }
    const waited = Number((now - this.#waitsSince).toFixed(1));
    return `${this.#reason.replace(/\.+$/, "")}. It did not come back within ${waited} s.`;
  }

  /**
   * @param {number} gap
   * @returns {Change}
   */
  #stand(gap) {
    this.state = "standing";
    this.#goneAt = -Infinity;
    return { kind: "resumed", gap };
  }
}
