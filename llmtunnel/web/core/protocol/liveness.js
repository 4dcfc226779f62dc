/**
 * Whether the peer is alive: when to ping, and when silence means that it is dead (README.md section 8).
 *
 * Mirrors `llmtunnel/protocol/liveness.py`. Only an unanswered ping makes the peer dead. A timer that fires long after
 * its time means that *this* page slept (a suspended laptop, a tab in the background). The peer then gets another ping
 * first.
 */

/** Seconds that a timer may be late before we conclude that the process was stopped. */
export const OVERSLEPT = 1;

/** @typedef {"alive" | "ping" | "dead"} Verdict "ping": send one now. */

/** The clock of one session. `busy`: whether streams are open. */
export class Liveness {
  /**
   * The last round trip in seconds.
   *
   * @type {number | null}
   */
  rtt = null;
  #timeouts;
  #heard;
  /**
   * When the unanswered ping was sent, for judging silence.
   *
   * @type {number | null}
   */
  #pinged = null;
  /**
   * The same, for measuring the round trip.
   *
   * @type {number | null}
   */
  #sent = null;
  #suspected = false;
  #givenUp = false;

  /**
   * @param {import("../config.js").Timeouts} timeouts
   * @param {number} now
   */
  constructor(timeouts, now) {
    this.#timeouts = timeouts;
    this.#heard = now;
  }

  /** When the last message arrived. */
  get lastHeard() {
    return this.#heard;
  }

  /**
   * Note that a message has arrived.
   *
   * @param {number} now
   */
  heard(now) {
    this.#heard = now;
    this.#givenUp = false;
    this.#pinged = null;
    this.#suspected = false;
  }

  /**
   * Note that a PONG has arrived.
   *
   * @param {number} now
   */
  pong(now) {
    if (this.#sent !== null) {
      this.rtt = now - this.#sent;
      this.#sent = null;
    }
  }

  /**
   * Note a ping that only measures the round trip. The peer need not answer it to stay alive.
   *
   * While an earlier ping is unanswered, that one measures instead: the first answer is its own.
   *
   * @param {number} now
   */
  measure(now) {
    this.#sent ??= now;
  }

  /** Ask the peer at once, and give it little time, since it is said to have left. */
  suspect() {
    if (!this.#suspected && !this.#givenUp) {
      // A repeated report grants no new delay.
      this.#suspected = true;
      this.#pinged = null;
    }
  }

  /**
   * Start again on a new channel.
   *
   * @param {number} now
   */
  renew(now) {
    this.heard(now);
    this.#sent = null;
    this.rtt = null;
  }

  /** Send no more pings until something is heard. */
  giveUp() {
    this.#givenUp = true;
  }

  /**
   * Return when to call `check` next, or null if it has given up.
   *
   * @param {boolean} busy
   */
  deadline(busy) {
    if (this.#givenUp) {
      return null;
    }
    const [pingAfter, deadAfter] = this.#limits(busy);
    return this.#pinged === null ? this.#heard + pingAfter : this.#pinged + deadAfter - pingAfter;
  }

  /**
   * Return what is due at the `deadline`. A ping counts as sent.
   *
   * @param {number} now
   * @param {boolean} busy
   * @returns {Verdict}
   */
  check(now, busy) {
    const deadline = this.deadline(busy);
    if (deadline === null || now < deadline) {
      return "alive";
    }
    if (this.#pinged !== null && (this.#suspected || now - deadline < OVERSLEPT)) {
      this.giveUp();
      return "dead";
    }
    this.#pinged = now;
    this.#sent = now;
    return "ping";
  }

  /**
   * @param {boolean} busy
   * @returns {[number, number]}
   */
  #limits(busy) {
    const times = this.#timeouts;
    if (this.#suspected) {
      return [0, times.deadSuspect];
    }
    return busy ? [times.pingBusy, times.deadBusy] : [times.pingIdle, times.deadIdle];
  }
}
