/** The service worker of an app's origin, in a scope that the test makes. */

import assert from "node:assert/strict";
import { test } from "node:test";

const ORIGIN = "http://x.localhost:1";
const SHELL = "http://localhost:1";
const SHIM = { code: "S", hash: "H" };
const PATIENCE = 15_000;

/** @type {Map<string, (event: any) => void>} */
const handlers = new Map();
/** What the keeper was asked for. @type {unknown[]} */
const asked = [];
const keeper = { url: `${ORIGIN}/~llmtunnel/keeper.html`, postMessage: (/** @type {unknown} */ message) => asked.push(message) };
Object.assign(globalThis, {
  location: { origin: ORIGIN },
  self: {
    addEventListener: (/** @type {string} */ type, /** @type {any} */ handler) => handlers.set(type, handler),
    clients: { matchAll: async () => [keeper] },
  },
});
await import("../../llmtunnel/web/app/worker.js");

/**
 * Send a request of the app, and return the response.
 *
 * @param {{url?: string, headers?: Record<string, string>, mode?: string, destination?: string, referrer?: string}} [request]
 * @returns {Promise<Response>}
 */
function requested({ url = "/a", headers = {}, ...more } = {}) {
  const { signal } = new AbortController();
  const usual = { method: "GET", mode: "cors", destination: "", referrer: `${ORIGIN}/`, credentials: "include", cache: "default" };
  return new Promise((respondWith) => {
    const request = { ...usual, url: ORIGIN + url, headers: new Headers(headers), body: null, signal, ...more };
    handlers.get("fetch")?.({ request, respondWith });
  });
}

/**
 * Give the worker a port, whose other end answers.
 *
 * @param {import("node:test").TestContext} t
 * @param {(message: any) => object[]} answers
 */
function given(t, answers) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => answers(data).forEach((each) => port1.postMessage({ id: data.id, ...each }));
  handlers.get("message")?.({ data: { kind: "port", shell: SHELL, shim: SHIM }, ports: [port2], waitUntil() {} });
  t.after(() => port1.close());
}

const whole = ({ kind = "" }) => (kind === "open" ? [{ kind: "head", status: 200, headers: [], empty: true }] : []);

test("a worker without a port asks for one, again if none comes, and at once has it", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const round of [1, 2]) {
    const answers = [requested(), requested()];
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(asked.length, round);
    t.mock.timers.tick(PATIENCE);
    assert.deepEqual((await Promise.all(answers)).map(({ status }) => status), [503, 503]);
  }
  given(t, whole);
  assert.equal((await requested()).status, 200);
  assert.equal(asked.length, 2);
});

test("a request that the tunnel cannot answer says why; to an EventSource it is a lost connection", async (t) => {
  given(t, ({ kind }) => (kind === "open" ? [{ kind: "error", message: "Serve is gone." }] : []));
  const answer = await requested();
  assert.deepEqual([answer.status, (await answer.text()).startsWith("Serve is gone.")], [502, true]);
  assert.equal((await requested({ headers: { accept: "text/event-stream" } })).type, "error");
});

test("a response that no browser takes is cancelled", async (t) => {
  /** @type {string[]} */
  const kinds = [];
  given(t, ({ kind }) => {
    kinds.push(kind);
    return kind === "open" ? [{ kind: "head", status: 999, headers: [] }] : [];
  });
  assert.equal((await requested()).status, 502);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(kinds.includes("cancel"));
});

test("no other site can show the question whether to open a page", async (t) => {
  given(t, whole);
  const answer = await requested({ mode: "navigate", destination: "iframe", referrer: "", url: "/b?c" });
  assert.match(await answer.text(), /<a href="\/b\?c">Continue/);
  assert.match(answer.headers.get("content-security-policy") ?? "", new RegExp(`frame-ancestors 'self' ${SHELL}$`));
});

test("what is not saved says so", async (t) => {
  given(t, ({ kind }) => (kind === "open" ? [{ kind: "head", status: 404, reason: "Not Found", headers: [], empty: true }] : []));
  const save = { url: "/~llmtunnel/save?target=%2Fa&name=b", mode: "navigate", destination: "iframe" };
  const answer = await requested(save);
  assert.deepEqual([answer.status, answer.headers.get("content-disposition")], [502, null]);
  assert.match(await answer.text(), /The app answered: 404 Not Found/);
});
