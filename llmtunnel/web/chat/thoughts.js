/**
 * The thoughts of a reasoning model, where its server leaves them in the text: `<think>…</think>` before the answer.
 * Mirrors `_Thoughts` in `llmtunnel/endpoints/chat.py`.
 */

/** @typedef {import("./api.js").Piece} Piece */

const OPENING = "<think>";
const CLOSING = "</think>";
/** Characters that may be held before thoughts, which begin an answer. */
const SPACE = 64;

/**
 * Yield the pieces of an answer, whose thoughts have a kind of their own. Text waits for the next piece only if it may
 * be the beginning of a tag.
 *
 * @param {AsyncIterable<Piece>} pieces
 * @returns {AsyncGenerator<Piece, void, void>}
 */
export async function* thoughtsApart(pieces) {
  const thoughts = new Thoughts();
  for await (const piece of pieces) {
    if (piece.kind === "text") {
      yield* thoughts.take(piece.text);
      continue;
    }
    if (piece.kind === "end") {
      yield* thoughts.rest();
    }
    yield piece;
  }
  yield* thoughts.rest();
}

class Thoughts {
  /**
   * Where the next text is. Between the thoughts and the answer, there is only space.
   *
   * @type {"before" | "within" | "between" | "after"}
   */
  #place = "before";
  #held = "";

  /**
   * @param {string} text
   * @returns {Generator<Piece, void, void>}
   */
  *take(text) {
    this.#held += text;
    if (this.#place === "before") {
      const start = this.#held.trimStart();
      if (this.#held.length < SPACE && start.length < OPENING.length && OPENING.startsWith(start)) {
        return;
      }
      this.#place = start.startsWith(OPENING) ? "within" : "after";
      this.#held = this.#place === "within" ? start.slice(OPENING.length) : this.#held;
    }
    if (this.#place === "within") {
      const end = this.#held.indexOf(CLOSING);
      const known = end < 0 ? this.#held.length - overlap(this.#held, CLOSING) : end;
      yield* part("thought", this.#held.slice(0, known));
      this.#held = this.#held.slice(end < 0 ? known : end + CLOSING.length);
      if (end < 0) {
        return;
      }
      this.#place = "between";
    }
    if (this.#place === "between") {
      this.#held = this.#held.trimStart();
      this.#place = this.#held === "" ? "between" : "after";
    }
    yield* this.rest();
  }

  /**
   * Yield what is held: nothing follows that could make a tag of it.
   *
   * @returns {Generator<Piece, void, void>}
   */
  *rest() {
    const held = this.#held;
    this.#held = "";
    yield* part(this.#place === "within" ? "thought" : "text", held);
  }
}

/**
 * @param {"text" | "thought"} kind
 * @param {string} text
 * @returns {Generator<Piece, void, void>}
 */
function* part(kind, text) {
  if (text !== "") {
    yield { kind, text };
  }
}

/**
 * Return the length of the longest end of the text with which the tag begins.
 *
 * @param {string} text
 * @param {string} tag
 */
function overlap(text, tag) {
  let length = Math.min(text.length, tag.length - 1);
  while (!tag.startsWith(text.slice(text.length - length))) {
    length -= 1;
  }
  return length;
}
