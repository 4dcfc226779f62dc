/**
 * What a model server understands: OpenAI's API (`/v1/models`, `/v1/chat/completions`), or Ollama's own where there is
 * no `/v1` (`/api/tags`, `/api/chat`). Mirrors `llmtunnel/endpoints/chat.py` and `models.py`.
 */

import { TooLong, eventsOf, linesOf } from "./lines.js";
import { thoughtsApart } from "./thoughts.js";

/** @typedef {import("../peer/exchange.js").Request} Request */
/** @typedef {import("../peer/exchange.js").Response} Response */
/** @typedef {{request: (request: Request) => Promise<Response>}} Requester What sends requests: a `Peer`. */
/** @typedef {"openai" | "ollama"} Kind */

/**
 * A message as the conversation has it. `images` are data URLs.
 *
 * @typedef {{role: "system" | "user" | "assistant", text: string, images: readonly string[]}} Turn
 */

/**
 * @typedef {object} Question
 * @property {Kind} kind
 * @property {string} model
 * @property {readonly Turn[]} turns
 * @property {number | null} temperature Null: the server's own.
 * @property {string} key API key of the model server; empty: none.
 * @property {AbortSignal} signal
 */

/**
 * A part of an answer.
 *
 * - `text`, `thought`: more of the answer, or of what a reasoning model thinks before it
 * - `usage`: how many tokens the answer has, and how long they took
 * - `end`: the answer is complete, for this reason
 *
 * @typedef {{kind: "text" | "thought", text: string}
 *   | {kind: "usage", tokens: number, seconds: number | null}
 *   | {kind: "end", reason: string}} Piece
 */

/** Maximum size of an answer that is read whole, in bytes. */
const MOST = 8 * 1024 * 1024;
/** Maximum number of models that are listed. */
const MOST_MODELS = 1000;
/** Maximum length of a server's own message that is repeated, in characters. */
const MOST_SAID = 500;
const ABSENT = [404, 405, 501];
const NO_CHAT = "A chat needs a server with OpenAI's API, such as Ollama, vLLM or llama.cpp.";

/** What the model server answered is not what was asked for. `status` is 0 if it is not about a status. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{hint?: string, status?: number}} [options]
   */
  constructor(message, { hint = "", status = 0 } = {}) {
    super(message);
    this.name = "ApiError";
    this.hint = hint;
    this.status = status;
  }
}

/**
 * Return the models, or null if the server has neither API. Throws `ApiError` if it has one and refuses to list them:
 * with status 401 or 403 if it requires a key.
 *
 * @param {Requester} peer
 * @param {{key?: string, signal?: AbortSignal}} [options]
 * @returns {Promise<{kind: Kind, models: string[]} | null>}
 */
export async function listModels(peer, { key = "", signal } = {}) {
  /** @type {[Kind, string, string, string][]} */
  const apis = [
    ["openai", "/v1/models", "data", "id"],
    ["ollama", "/api/tags", "models", "name"],
  ];
  for (const [kind, target, list, name] of apis) {
    const response = await peer.request({ target, headers: fields(key), ...(signal ? { signal } : {}) });
    const text = await textOf(response);
    const found = parsed(text)[list];
    if (response.status === 200 && Array.isArray(found)) {
      const names = found.flatMap((each) => (typeof each?.[name] === "string" ? [each[name]] : []));
      return { kind, models: [...new Set(names)].slice(0, MOST_MODELS) };
    }
    if (response.status !== 200 && !ABSENT.includes(response.status) && isJson(response)) {
      throw refusal(response.status, text);
    }
  }
  return null;
}

/**
 * Ask a model to continue a conversation, and yield its answer as it arrives. A caller that stops iterating, or aborts
 * `signal`, ends the request, and the model server stops generating. Throws `ApiError`, or what a request throws.
 *
 * An answer without an `end` is incomplete. The first `end` counts, and `usage` may follow it.
 *
 * @param {Requester} peer
 * @param {Question} question
 * @returns {AsyncGenerator<Piece, void, void>}
 */
export function answer(peer, question) {
  return thoughtsApart(piecesOf(peer, question));
}

/**
 * See `answer`. Thoughts are still in the text if the server leaves them there.
 *
 * @param {Requester} peer
 * @param {Question} question
 * @returns {AsyncGenerator<Piece, void, void>}
 */
async function* piecesOf(peer, question) {
  const response = await ask(peer, question);
  const type = typeOf(response);
  try {
    if (response.body === null) {
      throw new ApiError("The server sent an empty response.", { hint: NO_CHAT });
    }
    if (type === "text/event-stream") {
      for await (const data of eventsOf(linesOf(response.body))) {
        if (data === "[DONE]") {
          yield { kind: "end", reason: "stop" };
          return;
        }
        yield* ofOpenAi(data, "delta");
      }
    } else if (type === "application/x-ndjson") {
      for await (const line of linesOf(response.body)) {
        yield* ofOllama(line);
      }
    } else if (type === "application/json") {
      const text = await textOf(response);
      yield* question.kind === "openai" ? ofOpenAi(text, "message") : ofOllama(text);
    } else {
      throw new ApiError(`The server sent a response of type ${type || "unknown"}, not a chat.`, { hint: NO_CHAT });
    }
  } catch (error) {
    if (error instanceof TooLong) {
      throw new ApiError(`The server sent ${error.message}.`, { hint: NO_CHAT });
    }
    throw error;
  }
}

/**
 * Return the response to a question, whose status is 200. Throws `ApiError` otherwise.
 *
 * @param {Requester} peer
 * @param {Question} question
 */
async function ask(peer, question) {
  const first = await post(peer, question, true);
  if (first.status === 200) {
    return first;
  }
  const text = await textOf(first);
  if ([400, 422].includes(first.status) && text.includes("stream_options")) {
    const second = await post(peer, question, false); // the server does not know how to report its usage
    if (second.status === 200) {
      return second;
    }
    throw refusal(second.status, await textOf(second));
  }
  throw refusal(first.status, text);
}

/**
 * @param {Requester} peer
 * @param {Question} question
 * @param {boolean} usage Whether to ask how many tokens the answer has.
 */
function post(peer, question, usage) {
  const { kind, key, signal } = question;
  return peer.request({
    method: "POST",
    target: kind === "openai" ? "/v1/chat/completions" : "/api/chat",
    headers: [["Content-Type", "application/json"], ...fields(key)],
    body: JSON.stringify(kind === "openai" ? toOpenAi(question, usage) : toOllama(question)),
    signal,
  });
}

/**
 * @param {Question} question
 * @param {boolean} usage
 */
function toOpenAi({ model, turns, temperature }, usage) {
  return {
    model,
    messages: turns.map(({ role, text, images }) => ({
      role,
      content:
        images.length === 0
          ? text
          : [{ type: "text", text }, ...images.map((url) => ({ type: "image_url", image_url: { url } }))],
    })),
    stream: true,
    ...(usage ? { stream_options: { include_usage: true } } : {}),
    ...(temperature === null ? {} : { temperature }),
  };
}

/** @param {Question} question */
function toOllama({ model, turns, temperature }) {
  return {
    model,
    messages: turns.map(({ role, text, images }) => ({
      role,
      content: text,
      ...(images.length > 0 ? { images: images.map((url) => url.slice(url.indexOf(",") + 1)) } : {}),
    })),
    stream: true,
    ...(temperature === null ? {} : { options: { temperature } }),
  };
}

/**
 * Yield what one event says, or a whole answer. Throws `ApiError` if it is an error.
 *
 * @param {string} data
 * @param {"delta" | "message"} key
 * @returns {Generator<Piece, void, void>}
 */
function* ofOpenAi(data, key) {
  const event = parsed(data);
  throwIfError(event);
  const choice = Array.isArray(event["choices"]) ? event["choices"][0] : null;
  const told = choice?.[key];
  yield* piece("thought", told?.reasoning_content ?? told?.reasoning);
  yield* piece("text", told?.content);
  if (Number.isInteger(event["usage"]?.completion_tokens)) {
    yield { kind: "usage", tokens: event["usage"].completion_tokens, seconds: null };
  }
  if (typeof choice?.finish_reason === "string") {
    yield { kind: "end", reason: choice.finish_reason };
  }
}

/**
 * The same for a line of Ollama's.
 *
 * @param {string} line
 * @returns {Generator<Piece, void, void>}
 */
function* ofOllama(line) {
  const event = parsed(line);
  throwIfError(event);
  yield* piece("thought", event["message"]?.thinking);
  yield* piece("text", event["message"]?.content);
  if (Number.isInteger(event["eval_count"])) {
    const nanoseconds = event["eval_duration"];
    const seconds = typeof nanoseconds === "number" && nanoseconds > 0 ? nanoseconds / 1e9 : null;
    yield { kind: "usage", tokens: event["eval_count"], seconds };
  }
  if (event["done"] === true) {
    yield { kind: "end", reason: typeof event["done_reason"] === "string" ? event["done_reason"] : "stop" };
  }
}

/**
 * @param {"text" | "thought"} kind
 * @param {unknown} text
 * @returns {Generator<Piece, void, void>}
 */
function* piece(kind, text) {
  if (typeof text === "string" && text !== "") {
    yield { kind, text };
  }
}

/** @param {Record<string, any>} event */
function throwIfError(event) {
  if (event["error"]) {
    throw new ApiError(`The model server says: ${said(event) || "an error without a message"}`);
  }
}

/**
 * @param {number} status
 * @param {string} text
 */
function refusal(status, text) {
  const value = parsed(text);
  const message = said(value);
  if (status === 403 && value["error"]?.type === "tunnel_error") {
    return new ApiError(message, { hint: "Ask the person who runs serve to allow it." }); // its policy: no key helps
  }
  if (status === 401 || status === 403) {
    const hint = "Enter the model server's API key in the chat's settings.";
    return new ApiError(sentence(message) || `The model server answered with HTTP status ${status}.`, { hint, status });
  }
  if (message === "" && ABSENT.includes(status)) {
    return new ApiError("The server behind the tunnel has no chat API.", { hint: NO_CHAT, status });
  }
  return new ApiError(message || `The request was answered with HTTP status ${status}.`, { status });
}

/**
 * Return the message of an error in the format of OpenAI, Ollama, FastAPI or serve; empty if there is none.
 *
 * @param {Record<string, any>} value
 */
function said(value) {
  const error = value["error"];
  const message = [error?.message, error, value["message"], value["detail"]].find((each) => typeof each === "string");
  return (message ?? "").slice(0, MOST_SAID);
}

/**
 * Return a server's message with a full stop, so that another sentence can follow.
 *
 * @param {string} text
 */
function sentence(text) {
  return text.replace(/[^.!?…:]$/u, "$&.");
}

/** @param {string} key */
function fields(key) {
  /** @type {[string, string][]} */
  const all = [["Accept-Encoding", "identity"]];
  return key === "" ? all : [...all, /** @type {[string, string]} */ (["Authorization", `Bearer ${key}`])];
}

/**
 * Return a value of a response's field, or an empty text.
 *
 * @param {Response} response
 * @param {string} name In lower case.
 */
export function field({ headers }, name) {
  return headers.find(([each]) => each.toLowerCase() === name)?.[1] ?? "";
}

/**
 * Return the media type, in lower case and without its parameters.
 *
 * @param {Response} response
 */
export function typeOf(response) {
  return (field(response, "content-type").split(";")[0] ?? "").trim().toLowerCase();
}

/** @param {Response} response */
function isJson(response) {
  return typeOf(response).endsWith("json");
}

/**
 * Return a whole body as text. Throws `ApiError` if it is too long.
 *
 * @param {Response} response
 */
async function textOf({ body }) {
  if (body === null) {
    return "";
  }
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let [text, size] = ["", 0];
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    text += decoder.decode(next.value, { stream: true });
    size += next.value.length;
    if (size > MOST) {
      await reader.cancel();
      throw new ApiError(`The server sent a response of more than ${MOST} bytes.`, { hint: NO_CHAT });
    }
  }
  return text + decoder.decode();
}

/**
 * @param {string} text
 * @returns {Record<string, any>}
 */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}
