/** Which words look like a mistyped one: `difflib.get_close_matches` of Python, for texts of under 200 characters. */

const CUTOFF = 0.6;

/**
 * Return the words that are most alike, the best first, at most `count` of them.
 *
 * @param {string} typed
 * @param {readonly string[]} words
 * @param {number} count
 */
export function closeMatches(typed, words, count) {
  return words
    .map((word) => /** @type {const} */ ([ratio(word, typed), word]))
    .filter(([score]) => score >= CUTOFF)
    .sort(([one, word], [other, second]) => other - one || (word < second ? 1 : -1))
    .slice(0, count)
    .map(([, word]) => word);
}

/**
 * Return how alike two texts are, from 0 to 1: twice the letters in matching blocks, divided by all letters.
 *
 * @param {string} one
 * @param {string} other
 */
function ratio(one, other) {
  return (2 * matching(one, other)) / (one.length + other.length);
}

/**
 * Return the number of letters in matching blocks: the longest one, and those on either side of it.
 *
 * @param {string} one
 * @param {string} other
 * @returns {number}
 */
function matching(one, other) {
  let [best, bestStart, bestOther] = [0, 0, 0];
  for (let start = 0; start < one.length; start += 1) {
    for (let at = 0; at < other.length; at += 1) {
      let size = 0;
      while (start + size < one.length && one[start + size] === other[at + size]) {
        size += 1;
      }
      if (size > best) {
        [best, bestStart, bestOther] = [size, start, at];
      }
    }
  }
  if (best === 0) {
    return 0;
  }
  const before = matching(one.slice(0, bestStart), other.slice(0, bestOther));
  return best + before + matching(one.slice(bestStart + best), other.slice(bestOther + best));
}
