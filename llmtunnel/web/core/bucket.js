/** A token bucket. Pure: the caller passes the time. Mirrors `llmtunnel/bucket.py`. */

/** A bucket that starts full with `size` tokens, and gets one more every `every` seconds. */
export class Bucket {
  #size;
  #every;
  #left;
  /** @type {number | null} */
  #countedAt = null;

  /**
   * @param {number} size
   * @param {{every: number}} options
   */
  constructor(size, { every }) {
    this.#size = size;
    this.#every = every;
    this.#left = size;
  }

  /**
   * Return the number of available tokens.
   *
   * @param {number} now
   */
  count(now) {
    if (this.#countedAt !== null) {
      this.#left = Math.min(this.#size, this.#left + (now - this.#countedAt) / this.#every);
    }
    this.#countedAt = now;
    return Math.floor(this.#left);
  }

  /**
   * Take a token if one is available. Returns whether it was.
   *
   * @param {number} now
   */
  take(now) {
    if (this.count(now) < 1) {
      return false;
    }
    this.#left -= 1;
    return true;
  }

  /** Return a token to the bucket. */
  give() {
    this.#left = Math.min(this.#size, this.#left + 1);
  }
}
