/**
 * Streams of text, line by line: server-sent events, as OpenAI's API sends them, and newline-delimited JSON, as Ollama
 * does. A chunk may end anywhere, also within a character or between CR and LF.
 */

/** Maximum length of one line or event, in characters. An event of one token has some hundred. */
export const LONGEST = 4 * 1024 * 1024;

/** A line or an event is longer than any that a model server sends. */
export class TooLong extends Error {}

/** Splits text that arrives in pieces into lines, which end with LF, CR or CRLF. */
export class Lines {
  #rest = "";
  /** Whether the last piece ended with CR: an LF that follows belongs to it. */
  #afterCr = false;

  /**
   * Return the lines that are complete with this piece.
   *
   * @param {string} piece
   * @returns {string[]}
   */
  push(piece) {
    if (piece === "") {
      return [];
    }
    const text = this.#afterCr && piece.startsWith("\n") ? piece.slice(1) : piece;
    this.#afterCr = piece.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop() ?? "";
    if (this.#rest.length > LONGEST) {
      throw new TooLong(`a line of more than ${LONGEST} characters`);
    }
    return lines;
  }

  /** Return what follows the last line's end. */
  end() {
    const rest = this.#rest;
    this.#rest = "";
    return rest;
  }
}

/**
 * Yield the lines of a body as they arrive. A caller that stops early cancels the body, and so the request.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string, void, void>}
 */
export async function* linesOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const lines = new Lines();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      yield* lines.push(decoder.decode(next.value, { stream: true }));
    }
    yield* lines.push(decoder.decode());
    const rest = lines.end();
    if (rest !== "") {
      yield rest;
    }
  } finally {
    await reader.cancel().catch(() => {}); // a body that has failed has told so already
  }
}

/**
 * Yield the data of each server-sent event. Other fields are not used by any model server's API.
 *
 * An event that the end of the stream cuts off is yielded too, unlike in browsers: some servers omit the last empty
 * line, and what is not whole does not parse.
 *
 * @param {AsyncIterable<string>} lines
 * @returns {AsyncGenerator<string, void, void>}
 */
export async function* eventsOf(lines) {
  /** @type {string[]} */
  let data = [];
  let size = 0;
  for await (const line of lines) {
    if (line === "" && data.length > 0) {
      yield data.join("\n");
      data = [];
      size = 0;
    } else if (line === "data" || line.startsWith("data:")) {
      const value = line.slice("data:".length);
      data.push(value.startsWith(" ") ? value.slice(1) : value);
      size += line.length;
      if (size > LONGEST) {
        throw new TooLong(`an event of more than ${LONGEST} characters`);
      }
    }
  }
  if (data.length > 0) {
    yield data.join("\n");
  }
}
