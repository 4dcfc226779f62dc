/** How fast an answer comes: the time to its first token, and tokens per second. Times are in seconds. */

/**
 * @typedef {object} Figures
 * @property {number} first Seconds from the question to the first token.
 * @property {number | null} rate Tokens per second after the first; null for an answer too short to tell.
 * @property {number} tokens
 * @property {boolean} counted Whether the page counted the pieces, because the server does not say how many tokens
 *   they are.
 */

/** Shortest time from the first token to the last one that says something of the rate. */
const SHORTEST = 0.05;

/** The pace of one answer. Call `piece` for each piece of text, and `usage` if the server tells. */
export class Pace {
  #asked;
  /** @type {number | null} */
  #first = null;
  #last = 0;
  #pieces = 0;
  /** @type {number | null} */
  #tokens = null;
  /** @type {number | null} */
  #seconds = null;

  /** @param {number} now When the question was sent. */
  constructor(now) {
    this.#asked = now;
  }

  /** @param {number} now */
  piece(now) {
    this.#first ??= now;
    this.#last = now;
    this.#pieces += 1;
  }

  /**
   * Note what the server says.
   *
   * @param {{tokens: number, seconds: number | null}} usage `seconds`: the time it took to generate them.
   */
  usage({ tokens, seconds }) {
    this.#tokens = tokens;
    this.#seconds = seconds;
  }

  /**
   * The figures so far; null before the first token.
   *
   * @returns {Figures | null}
   */
  get figures() {
    if (this.#first === null) {
      return null;
    }
    const tokens = this.#tokens ?? this.#pieces;
    const span = this.#last - this.#first;
    const measured = span >= SHORTEST && tokens > 1 ? (tokens - 1) / span : null;
    const rate = this.#tokens !== null && this.#seconds !== null ? this.#tokens / this.#seconds : measured;
    return { first: this.#first - this.#asked, rate, tokens, counted: this.#tokens === null };
  }
}

/**
 * Return the figures as a line of text.
 *
 * @param {Figures} figures
 */
export function toText({ first, rate, tokens, counted }) {
  const speed = rate === null ? [] : [`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`];
  const wait = first < 10 ? first.toFixed(2) : first.toFixed(0);
  return [...speed, `first token after ${wait} s`, `${counted ? "about " : ""}${tokens} token${tokens === 1 ? "" : "s"}`].join(" · ");
}
