/** The kinds of path that a page has, the best first. Mirrors `llmtunnel/paths.py`. */

/** @typedef {"direct" | "turn" | "relay"} Path */

/** @type {readonly Path[]} */
const PATHS = ["direct", "turn", "relay"];

/**
 * Return the rank of quality: the lowest is the best.
 *
 * @param {Path} path
 */
export function rank(path) {
  return PATHS.indexOf(path);
}
