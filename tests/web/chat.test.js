/** The chat's pure parts: streams of events and lines, the two APIs, figures, conversations, Markdown. */

import assert from "node:assert/strict";
import test from "node:test";

import { ApiError, answer, listModels } from "../../llmtunnel/web/chat/api.js";
import { newAnswer, newConversation, questionOf, titleOf, turnsOf } from "../../llmtunnel/web/chat/conversation.js";
import { LONGEST, TooLong, eventsOf, linesOf } from "../../llmtunnel/web/chat/lines.js";
import { stableEnd, toHtml } from "../../llmtunnel/web/chat/markdown.js";
import { Pace, toText } from "../../llmtunnel/web/chat/pace.js";

const TEXT = new TextEncoder();

/**
 * Return a body that arrives in pieces of this size.
 *
 * @param {string} text
 * @param {number} [size]
 */
function bodyOf(text, size = 1 << 20) {
  const bytes = TEXT.encode(text);
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      controller.enqueue(bytes.subarray(at, (at += size)));
      if (at >= bytes.length) {
        controller.close();
      }
    },
  });
}

/**
 * @template Item
 * @param {AsyncIterable<Item>} items
 */
async function all(items) {
  /** @type {Item[]} */
  const found = [];
  for await (const item of items) {
    found.push(item);
  }
  return found;
}

/**
 * @param {number} status
 * @param {string} type
 * @param {string} text
 */
function response(status, type, text) {
  /** @type {[string, string][]} */
  const headers = [["content-type", type]];
  return { status, reason: "", headers, body: bodyOf(text, 7) };
}

/** A peer that answers by target, and keeps what it was asked. */
class Fake {
  /** @type {import("../../llmtunnel/web/peer/exchange.js").Request[]} */
  asked = [];

  /** @param {Record<string, ReturnType<typeof response>[]>} answers */
  constructor(answers) {
    this.answers = answers;
  }

  /** @param {import("../../llmtunnel/web/peer/exchange.js").Request} request */
  async request(request) {
    this.asked.push(request);
    return this.answers[request.target]?.shift() ?? response(404, "text/plain", "none");
  }

  /** @param {number} place */
  body(place) {
    return JSON.parse(String(this.asked[place]?.body));
  }
}

/** @param {Partial<import("../../llmtunnel/web/chat/api.js").Question>} [changes] */
function question(changes = {}) {
  return {
    kind: /** @type {const} */ ("openai"),
    model: "m",
    turns: [{ role: /** @type {const} */ ("user"), text: "hi", images: [] }],
    temperature: null,
    key: "",
    signal: new AbortController().signal,
    ...changes,
  };
}

/** @param {unknown} value */
function event(value) {
  return `data: ${JSON.stringify(value)}\n\n`;
}

/**
 * @param {Record<string, unknown>} said
 * @param {string | null} [finish]
 */
function delta(said, finish = null) {
  return event({ choices: [{ delta: said, finish_reason: finish }] });
}

for (const size of [1, 2, 3, 1000]) {
  test(`lines end with LF, CR or CRLF, and pieces of ${size} bytes cut characters`, async () => {
    const text = "a\nb\r\nnaïve 🙂\r\rlast";
    assert.deepEqual(await all(linesOf(bodyOf(text, size))), ["a", "b", "naïve 🙂", "", "last"]);
  });

  test(`events have data only, in pieces of ${size} bytes`, async () => {
    const text = "\ufeffdata: one\r\n\r\n: comment\r\nevent: x\r\nid: 3\r\ndata:two\r\ndata\r\ndata:  three\r\n\r\ndata: cut";
    assert.deepEqual(await all(eventsOf(linesOf(bodyOf(text, size)))), ["one", "two\n\n three", "cut"]);
  });
}

test("a line without an end does not fill the memory", async () => {
  const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1 << 20).fill(97)) });
  await assert.rejects(all(linesOf(endless)), TooLong);
  const lines = new ReadableStream({
    pull: (controller) => controller.enqueue(TEXT.encode(`data: ${"x".repeat(LONGEST / 4)}\n`)),
  });
  await assert.rejects(all(eventsOf(linesOf(lines))), TooLong);
});

test("who stops reading lines cancels the body", async () => {
  let cancelled = false;
  const body = new ReadableStream({
    pull: (controller) => controller.enqueue(TEXT.encode("line\n")),
    cancel() {
      cancelled = true;
    },
  });
  for await (const line of linesOf(body)) {
    assert.equal(line, "line");
    break;
  }
  assert.equal(cancelled, true);
});

test("models come from OpenAI's API, and from Ollama's where there is no /v1", async () => {
  const models = '{"data": [{"id": "a"}, {"id": "b"}, {"id": "a"}, {"no": 1}]}';
  const openai = new Fake({ "/v1/models": [response(200, "application/json", models)] });
  assert.deepEqual(await listModels(openai), { kind: "openai", models: ["a", "b"] });
  const tags = '{"models": [{"name": "c:latest"}]}';
  const ollama = new Fake({ "/api/tags": [response(200, "application/json; charset=utf-8", tags)] });
  assert.deepEqual(await listModels(ollama, { key: "k" }), { kind: "ollama", models: ["c:latest"] });
  assert.deepEqual([...(ollama.asked[0]?.headers ?? [])].at(-1), ["Authorization", "Bearer k"]);
  assert.equal(await listModels(new Fake({})), null);
  const page = new Fake({ "/v1/models": [response(200, "text/html", "<p>hi")] });
  assert.equal(await listModels(page), null);
});

test("a server that requires a key says so", async () => {
  const refusal = '{"error": {"message": "Invalid API key"}}';
  const peer = new Fake({ "/v1/models": [response(401, "application/json", refusal)] });
  await assert.rejects(listModels(peer), (error) => {
    assert.ok(error instanceof ApiError);
    assert.deepEqual([error.message, error.status], ["Invalid API key.", 401]);
    assert.match(error.hint, /API key in the chat's settings/);
    return true;
  });
});

test("what serve's policy refuses asks for no key", async () => {
  const refusal = '{"error": {"message": "GET /v1/models is not allowed.", "type": "tunnel_error"}}';
  const peer = new Fake({ "/v1/models": [response(403, "application/json", refusal)] });
  await assert.rejects(listModels(peer), (error) => {
    assert.ok(error instanceof ApiError);
    assert.deepEqual([error.message, error.status], ["GET /v1/models is not allowed.", 0]);
    assert.match(error.hint, /person who runs serve/);
    return true;
  });
});

test("an answer of OpenAI's API comes in pieces, with its usage and its end", async () => {
  const text = [
    delta({ role: "assistant", content: "" }),
    delta({ reasoning_content: "hm" }),
    delta({ content: "na" }),
    delta({ content: "ïve" }),
    delta({}, "length"),
    event({ choices: [], usage: { completion_tokens: 3 } }),
    "data: [DONE]\n\n",
  ].join("");
  const peer = new Fake({ "/v1/chat/completions": [response(200, "text/event-stream", text)] });
  assert.deepEqual(await all(answer(peer, question({ temperature: 0.5 }))), [
    { kind: "thought", text: "hm" },
    { kind: "text", text: "na" },
    { kind: "text", text: "ïve" },
    { kind: "end", reason: "length" },
    { kind: "usage", tokens: 3, seconds: null },
    { kind: "end", reason: "stop" },
  ]);
  const sent = peer.body(0);
  assert.deepEqual(sent.messages, [{ role: "user", content: "hi" }]);
  assert.deepEqual([sent.stream, sent.temperature, sent.stream_options], [true, 0.5, { include_usage: true }]);
});

/** Texts, and the thoughts and the answer in them. */
const THOUGHTS = [
  ["<think>\nhm <b> </ thin\n</think>\n\nYes </think>", "\nhm <b> </ thin\n", "Yes </think>"],
  ["\n<think>\n\n</think>\n\nYes", "\n\n", "Yes"],
  ["<think>hm </thin", "hm </thin", ""],
  ["<think></think>", "", ""],
  ["<thin", "", "<thin"],
  [" <thinker>", "", " <thinker>"],
  ["Yes <think>no</think>", "", "Yes <think>no</think>"],
  [" ".repeat(200), "", " ".repeat(200)],
];

for (const [text = "", ...parts] of THOUGHTS) {
  for (const size of [1, 3, 100]) {
    test(`thoughts in the text are told apart, in pieces of ${size}: ${JSON.stringify(text)}`, async () => {
      const events = [];
      for (let at = 0; at < text.length; at += size) {
        events.push(delta({ content: text.slice(at, at + size) }));
        events.push(event({ choices: [], usage: { completion_tokens: at + 1 } }));
      }
      events.push("data: [DONE]\n\n");
      const peer = new Fake({ "/v1/chat/completions": [response(200, "text/event-stream", events.join(""))] });
      const pieces = await all(answer(peer, question()));
      const found = ["thought", "text"].map((kind) =>
        pieces.map((each) => (each.kind === kind && "text" in each ? each.text : "")).join(""),
      );
      assert.deepEqual(found, parts);
      assert.equal(pieces.at(-1)?.kind, "end");
    });
  }
}

test("space without end is not held", async () => {
  const text = delta({ content: " ".repeat(10) }).repeat(20);
  const peer = new Fake({ "/v1/chat/completions": [response(200, "text/event-stream", text)] });
  assert.equal((await all(answer(peer, question()))).length, 14);
});

test("an answer of Ollama's API comes in lines", async () => {
  const lines = [
    { message: { role: "assistant", content: "", thinking: "hm" }, done: false },
    { message: { content: "hello" }, done: false },
    { message: { content: "" }, done: true, done_reason: "stop", eval_count: 10, eval_duration: 2e9 },
  ];
  const text = lines.map((each) => `${JSON.stringify(each)}\n`).join("");
  const peer = new Fake({ "/api/chat": [response(200, "application/x-ndjson", text)] });
  const turns = [{ role: /** @type {const} */ ("user"), text: "see", images: ["data:image/png;base64,AAAA"] }];
  assert.deepEqual(await all(answer(peer, question({ kind: "ollama", turns, temperature: 1 }))), [
    { kind: "thought", text: "hm" },
    { kind: "text", text: "hello" },
    { kind: "usage", tokens: 10, seconds: 2 },
    { kind: "end", reason: "stop" },
  ]);
  assert.deepEqual(peer.body(0).messages, [{ role: "user", content: "see", images: ["AAAA"] }]);
  assert.deepEqual(peer.body(0).options, { temperature: 1 });
});

test("images are sent as data URLs", async () => {
  const peer = new Fake({ "/v1/chat/completions": [response(200, "application/json", "{}")] });
  const url = "data:image/png;base64,AAAA";
  await all(answer(peer, question({ turns: [{ role: "user", text: "see", images: [url] }] })));
  assert.deepEqual(peer.body(0).messages[0].content, [
    { type: "text", text: "see" },
    { type: "image_url", image_url: { url } },
  ]);
});

test("a server that does not stream answers at once", async () => {
  const whole = { choices: [{ message: { content: "all" }, finish_reason: "stop" }], usage: { completion_tokens: 1 } };
  const peer = new Fake({ "/v1/chat/completions": [response(200, "application/json", JSON.stringify(whole))] });
  const pieces = await all(answer(peer, question()));
  assert.deepEqual(pieces.map(({ kind }) => kind), ["text", "usage", "end"]);
});

test("a server that does not know stream_options is asked without them", async () => {
  const peer = new Fake({
    "/v1/chat/completions": [
      response(422, "application/json", '{"detail": "extra field: stream_options"}'),
      response(200, "text/event-stream", delta({ content: "ok" }, "stop")),
    ],
  });
  assert.equal((await all(answer(peer, question()))).length, 2);
  assert.equal("stream_options" in peer.body(1), false);
});

for (const [status, type, text, message] of /** @type {[number, string, string, string][]} */ ([
  [400, "application/json", '{"error": {"message": "too long"}}', "too long"],
  [500, "application/json", '{"error": "out of memory"}', "out of memory"],
  [503, "text/html", "<p>no", "The request was answered with HTTP status 503."],
  [404, "text/plain", "no", "The server behind the tunnel has no chat API."],
  [200, "text/html", "<p>hi", "The server sent a response of type text/html, not a chat."],
  [200, "text/event-stream", 'data: {"error": {"message": "crashed"}}\n\n', "The model server says: crashed"],
])) {
  test(`an error of status ${status} and type ${type} is said: ${message}`, async () => {
    const peer = new Fake({ "/v1/chat/completions": [response(status, type, text)] });
    await assert.rejects(all(answer(peer, question())), { name: "ApiError", message });
  });
}

test("the pace is the server's if it tells, and counted otherwise", () => {
  const pace = new Pace(10);
  assert.equal(pace.figures, null);
  [10.5, 11, 11.5].forEach((now) => pace.piece(now));
  assert.deepEqual(pace.figures, { first: 0.5, rate: 2, tokens: 3, counted: true });
  pace.usage({ tokens: 21, seconds: null });
  assert.deepEqual(pace.figures, { first: 0.5, rate: 20, tokens: 21, counted: false });
  pace.usage({ tokens: 21, seconds: 3 });
  assert.deepEqual(pace.figures, { first: 0.5, rate: 7, tokens: 21, counted: false });
  assert.equal(toText({ first: 0.5, rate: 7, tokens: 21, counted: false }), "7.0 tokens/s · first token after 0.50 s · 21 tokens");
  assert.equal(toText({ first: 12, rate: null, tokens: 1, counted: true }), "first token after 12 s · about 1 token");
});

test("a model is sent what came before its answer, without answers that have nothing", () => {
  const conversation = newConversation({ model: "m", system: "Be brief." });
  const empty = newAnswer("m");
  const said = { ...newAnswer("m"), text: "two" };
  const next = newAnswer("m");
  conversation.messages.push(questionOf("one", []), empty, questionOf("one again", []), said, questionOf("three", []), next);
  assert.deepEqual(
    turnsOf(conversation, next).map(({ role, text }) => [role, text]),
    [
      ["system", "Be brief."],
      ["user", "one again"],
      ["assistant", "two"],
      ["user", "three"],
    ],
  );
});

test("a conversation is called by its first question", () => {
  const conversation = newConversation();
  assert.equal(titleOf(conversation), "New chat");
  conversation.messages.push(questionOf(`  Why\n is ${"the sky ".repeat(20)}`, []));
  assert.match(titleOf(conversation), /^Why is the sky .*…$/);
  conversation.messages[0] = questionOf("", ["data:"]);
  assert.equal(titleOf(conversation), "An image");
});

test("Markdown becomes HTML, raw HTML becomes text, images become links", () => {
  assert.equal(toHtml("**a** `b`"), "<p><strong>a</strong> <code>b</code></p>\n");
  assert.equal(toHtml("x<sub>2</sub> a<br>b"), "<p>x<sub>2</sub> a<br>b</p>\n");
  assert.equal(toHtml("<div>\none\n</div>\n\ntwo"), "<p>&#60;div&#62;<br>one<br>&#60;/div&#62;</p><p>two</p>\n");
  assert.equal(toHtml("- [x] done\n- [ ] open"), "<ul>\n<li>☑ done</li>\n<li>☐ open</li>\n</ul>\n");
  assert.equal(toHtml("use <div> here"), "<p>use &#60;div&#62; here</p>\n");
  for (const attack of [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<b onclick=alert(1)>b</b>",
    "<style>*{display:none}</style>",
    "<iframe src=//evil>",
    "<p><svg onload=alert(1)>",
  ]) {
    assert.doesNotMatch(toHtml(attack), /<(script|img|b |style|iframe|svg)/, attack);
  }
  const image = toHtml('![seen"><script>](http://evil/?me)');
  assert.doesNotMatch(image, /<(img|script)/);
  assert.match(image, /<a href="http:&#47;&#47;evil|<a href="http:\/\/evil/);
});

test("a growing text is split where nothing that follows changes what came before", () => {
  assert.equal(stableEnd("one\n\ntwo\n"), 5);
  assert.equal(stableEnd("one\n\ntwo"), 0, "the line may still become another thing");
  assert.equal(stableEnd("one\ntwo\n"), 0);
  assert.equal(stableEnd("- a\n\n- b\n\n  c\n"), 0, "a list goes on");
  assert.equal(stableEnd("```\na\n\nb\n\nc\n"), 0, "code goes on");
  const code = "```\na\n\nb\n```\n\nthen\n";
  assert.equal(stableEnd(code), code.indexOf("then"));
  const nested = "````\n```\n\nno\n```\n````\n\nyes\n";
  assert.equal(stableEnd(nested), nested.indexOf("yes"));
  assert.equal(stableEnd("one\n\ntwo\n\nthree\n", 5), 10);
});
