/**
 * When a proxy tries again: for the signal server, and for another link. Pure.
 *
 *     event                                    another link
 *     ---------------------------------------  -----------------------------------------
 *     a proxy starts                           at once
 *     a link carries a session                 no longer wanted
 *     a session falls silent, or we moved      at once, next to the existing one
 *     a link fails, or a session ends          after a delay that doubles; at once if the last link had lasted
 *     the user asks                            at once
 *     a failure that no retry can fix          never
 *
 * The signal server is tried again after a delay that doubles. While a poor path carries (a TURN server, the relay), a
 * better one is due after 45 s, and then after waits that double up to 10 min. Mirrors `llmtunnel/session/retry.py`.
 */

/** @typedef {import("../errors.js").TunnelError} TunnelError */

/** Seconds until the next try of a signal server that no longer accepts our access token. */
const DENIED = 15;
/** Seconds on a poor path before a better one is tried, and the longest wait between two tries. */
const BETTER_FIRST = 45;
const BETTER_LAST = 600;
/** First and longest delay before a retry. */
const FIRST = 0.25;
const LAST = 3;
/** Maximum delay before a retry of the signal server while streams wait for it. */
const WAITING = 0.5;

/** Waits that double from the first to the last. Each is shortened at random, so that peers do not return together. */
export class Backoff {
  #next = FIRST;

  /** Note a success: the next failure counts as the first one. */
  reset() {
    this.#next = FIRST;
  }

  /** Return the next wait in seconds. */
  next() {
    const delay = this.#next;
    this.#next = Math.min(2 * delay, LAST);
    return delay * luck();
  }
}

/** What a proxy wants, and from when on. */
export class Retry {
  /** Whether another link is wanted. The proxy joins the room as a new member for that. */
  linkWanted = true;
  /**
   * The failure that no retry can fix, if there is one.
   *
   * @type {TunnelError | null}
   */
  failure = null;
  /**
   * When to try for a better path; null if the current path is good, or nothing carries.
   *
   * @type {number | null}
   */
  betterDue = null;
  #betterDelay = BETTER_FIRST;
  #linkDue = 0;
  /** @type {number | null} */
  #reachedAt = null;
  #signal = new Backoff();
  #link = new Backoff();

  /** Note that the signal server has accepted us. */
  joined() {
    this.#signal.reset();
  }

  /**
   * Note that a link carries a session.
   *
   * @param {number} now
   */
  reached(now) {
    this.linkWanted = false;
    this.#reachedAt = now;
  }

  /**
   * Note which path carries the session.
   *
   * @param {import("../paths.js").Path} path
   * @param {number} now
   */
  carries(path, now) {
    if (path === "direct") {
      this.disturbed();
    } else if (this.betterDue === null) {
      this.#waitForBetter(now);
    }
  }

  /** Note that nothing carries the session, or that no path would be better. */
  disturbed() {
    this.betterDue = null;
    this.#betterDelay = BETTER_FIRST;
  }

  /** Ask for another link now, next to the existing one. */
  wantLink() {
    this.linkWanted = true;
    this.#link.reset();
    this.#linkDue = 0;
  }

  /**
   * Note that there is no link. Return the seconds until the next try: 0 after a link that lasted.
   *
   * @param {number} now
   */
  linkFailed(now) {
    this.linkWanted = true;
    const lasted = this.#reachedAt !== null && now - this.#reachedAt > LAST;
    if (lasted) {
      this.#link.reset();
      this.#reachedAt = null;
    }
    const delay = lasted ? 0 : this.#link.next();
    this.#linkDue = now + delay;
    return delay;
  }

  /** Treat the signal server's next failure as the first one. */
  hurry() {
    this.#signal.reset();
  }

  /**
   * Return the seconds until the next try of the signal server. `soon`: streams wait for it. `denied`: it does not
   * accept our access token.
   *
   * @param {{soon: boolean, denied?: boolean}} options
   */
  signalDelay({ soon, denied = false }) {
    if (denied) {
      return DENIED * luck();
    }
    const delay = this.#signal.next();
    return soon ? Math.min(delay, WAITING) : delay;
  }

  /**
   * Return the seconds until another link may be made: 0 for at once, or if a failure is final.
   *
   * @param {number} now
   */
  linkDelay(now) {
    return this.failure === null ? Math.max(0, this.#linkDue - now) : 0;
  }

  /**
   * Return whether to try for a better path now. If so, the next try is due later.
   *
   * @param {number} now
   */
  takeBetter(now) {
    if (this.betterDue === null || now < this.betterDue) {
      return false;
    }
    this.#waitForBetter(now);
    return true;
  }

  /** @param {number} now */
  #waitForBetter(now) {
    this.betterDue = now + this.#betterDelay;
    this.#betterDelay = Math.min(2 * this.#betterDelay, BETTER_LAST);
  }
}

/** Return a random number from 0.7 to 1. */
function luck() {
  const [random = 0] = crypto.getRandomValues(new Uint32Array(1));
  return 0.7 + 0.3 * (random / 2 ** 32);
}
