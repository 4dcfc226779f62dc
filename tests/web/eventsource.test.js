/** The class EventSource of an app's documents and workers, with answers that a test makes. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { runInNewContext } from "node:vm";

const CODE = readFileSync(new URL("../../llmtunnel/web/app/eventsource.js", import.meta.url), "utf8");
const ORIGIN = "http://x.localhost:1";
const FAILED = new TypeError("The network failed.");

/**
 * A stream of these pieces, which ends after them, or an answer of another kind.
 *
 * @param {(string | Uint8Array)[]} pieces
 * @param {{status?: number, type?: string, goesOn?: boolean}} [options]
 */
function stream(pieces, { status = 200, type = "text/event-stream", goesOn = false } = {}) {
  const body = new ReadableStream({
    start(controller) {
      pieces.forEach((each) => controller.enqueue(typeof each === "string" ? new TextEncoder().encode(each) : each));
      if (!goesOn) {
        controller.close();
      }
    },
  });
  return { status, body, headers: new Headers({ "content-type": type }) };
}

/** The browser's own class. */
class Native extends EventTarget {
  /** @param {string} url */
  constructor(url) {
    super();
    this.url = url;
  }
}

/**
 * The class in a realm whose requests get these answers: the last one for ever.
 *
 * @param {(ReturnType<typeof stream> | TypeError)[]} answers
 */
function realm(answers) {
  /** @type {{url: string, headers: Record<string, string>, credentials: string, cache: string, signal: AbortSignal}[]} */
  const requests = [];
  /** @type {number[]} */
  const waits = [];
  /** @type {string[]} */
  const told = [];
  const scope = {
    ...{ AbortController, Event, EventTarget, Headers, MessageChannel, MessageEvent, TextDecoder, TextEncoder, URL },
    ...{ EventSource: /** @type {any} */ (Native), origin: ORIGIN, location: { href: `${ORIGIN}/page/` } },
    console: { error: (/** @type {string} */ text) => told.push(text) },
    /** @param {() => void} done @param {number} wait */
    setTimeout(done, wait) {
      waits.push(wait);
      setImmediate(done);
    },
    /** @param {string} url @param {any} init */
    async fetch(url, init) {
      requests.push({ url, ...init });
      const answer = answers.shift();
      if (answer === undefined) {
        return new Promise((_, reject) => init.signal.addEventListener("abort", () => reject(init.signal.reason)));
      }
      if (answer instanceof TypeError) {
        throw answer;
      }
      return { ...answer, url: `${ORIGIN}/landed` };
    },
  };
  runInNewContext(CODE, scope);
  return { EventSource: scope.EventSource, requests, waits, told };
}

/**
 * Return what a source tells until it has told that many errors. Then it is closed.
 *
 * @param {any} source
 * @param {{errors?: number, types?: string[]}} [options]
 */
async function heard(source, { errors = 1, types = ["open", "message", "named"] } = {}) {
  /** @type {unknown[]} */
  const seen = [];
  await new Promise((resolve) => {
    types.forEach((type) =>
      source.addEventListener(type, (/** @type {any} */ { data, lastEventId, origin }) =>
        seen.push(data === undefined ? [type, source.readyState] : [type, data, lastEventId, origin]),
      ),
    );
    source.addEventListener("error", () => {
      seen.push(["error", source.readyState]);
      if (seen.filter((each) => Array.isArray(each) && each[0] === "error").length === errors) {
        resolve(undefined);
      }
    });
  });
  source.close();
  return seen;
}

const TEXT =
  "\ufeff: a comment\r\n\r\ndata: one\r\ndata\rdata:  two\n\nevent: named\nid: 日\ndata: ü\n\n" +
  "id: a\0b\nretry: 7x\nretry\nretry: 70\nother: 1\ndata:x:y\n\r\nevent: named\n\nid\ndata: \ufeff\n\ndata: unfinished";
const EVENTS = [
  ["message", "one\n\n two", ""],
  ["named", "ü", "日"],
  ["message", "x:y", "日"],
  ["message", "\ufeff", ""],
];

test("an event stream says the same in whatever pieces it comes", async () => {
  const bytes = new TextEncoder().encode(TEXT);
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const { EventSource, waits } = realm([stream([bytes.slice(0, cut), bytes.slice(cut)])]);
    const seen = await heard(new EventSource("events"));
    assert.deepEqual(seen, [["open", 1], ...EVENTS.map((each) => [...each, ORIGIN]), ["error", 0]], `cut at ${cut}`);
    assert.deepEqual(waits, [70]);
  }
});

test("it connects again, and says which event was the last whole one", async () => {
  const first = stream(["id: 日\ndata: a\n\nid: lost\ndata: b\n"]);
  const { EventSource, requests, waits } = realm([FAILED, first, stream(["data: c\n\n"])]);
  const source = new EventSource("/events?x", { withCredentials: 1 });
  const seen = await heard(source, { errors: 3 });
  const message = (/** @type {string} */ data) => ["message", data, "日", ORIGIN];
  assert.deepEqual(seen, [
    ["error", 0],
    ...[["open", 1], message("a"), ["error", 0]],
    ...[["open", 1], message("c"), ["error", 0]],
  ]);
  assert.deepEqual(waits, [3000, 3000, 3000]);
  assert.deepEqual(
    requests.map(({ headers }) => ({ ...headers })),
    [
      { Accept: "text/event-stream" },
      { Accept: "text/event-stream" },
      { Accept: "text/event-stream", "Last-Event-ID": "\xe6\x97\xa5" },
    ],
  );
  const [{ url, credentials, cache } = {}] = requests;
  assert.deepEqual([url, credentials, cache], [`${ORIGIN}/events?x`, "include", "no-store"]);
  assert.deepEqual([source.url, source.withCredentials, source.readyState], [`${ORIGIN}/events?x`, true, 2]);
});

for (const [name, answer] of /** @type {[string, ReturnType<typeof stream>][]} */ ([
  ["204", stream([], { status: 204 })],
  ["an error", stream(["data: a\n\n"], { status: 500 })],
  ["another type", stream(["data: a\n\n"], { type: "text/event-streams" })],
])) {
  test(`${name} ends it`, async () => {
    const { EventSource, requests, told } = realm([answer, stream([])]);
    assert.deepEqual(await heard(new EventSource("/")), [["error", 2]]);
    assert.match(told[0] ?? "", /^EventSource http:\/\/x.localhost:1\/: the answer is \d+/);
    assert.equal(requests.length, 1);
  });
}

test("closing it ends its request, and what has come is not told", async () => {
  const { EventSource, requests } = realm([stream(["data: a\n\ndata: b\n\n"], { goesOn: true })]);
  const source = new EventSource("/");
  /** @type {string[]} */
  const seen = [];
  await new Promise((resolve) => {
    source.onmessage = (/** @type {any} */ { data }) => {
      seen.push(data);
      source.close();
      setTimeout(resolve, 20);
    };
  });
  assert.deepEqual([seen, requests[0]?.signal.aborted, source.readyState], [["a"], true, 2]);
});

test("what an event causes happens before the next one", async () => {
  const { EventSource } = realm([stream(["data: a\n\ndata: b\n\ndata: c\n\n"])]);
  const source = new EventSource("/");
  /** @type {string[]} */
  const seen = [];
  for (const expected of ["a", "b", "c"]) {
    const { data } = await new Promise((resolve) => source.addEventListener("message", resolve, { once: true }));
    await Promise.resolve().then(() => {});
    seen.push(data);
    assert.equal(data, expected);
  }
  source.close();
});

test("it has the face of the browser's class", async () => {
  const { EventSource } = realm([]);
  const source = new EventSource("/a?b");
  const handler = () => {};
  source.onopen = handler;
  source.onerror = "no function";
  assert.deepEqual([source.onopen, source.onerror, source.onmessage], [handler, null, null]);
  assert.deepEqual([EventSource.CLOSED, source.OPEN, source.readyState, EventSource.length], [2, 1, 0, 1]);
  assert.equal(Object.prototype.toString.call(source), "[object EventSource]");
  assert.ok(source instanceof EventSource && source instanceof EventTarget);
  /** @type {any} */ (source).close();
  /** @type {unknown} */
  const foreign = new EventSource("https://example.org/");
  assert.ok(foreign instanceof Native && foreign instanceof EventSource);
});
