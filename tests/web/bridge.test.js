/** Both ends of the port between the worker of an app's origin and the shell, and the fields of requests. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { CookieJar } from "../../llmtunnel/web/app/cookies.js";
import { Line } from "../../llmtunnel/web/app/line.js";
import { Bridge } from "../../llmtunnel/web/shell/app/bridge.js";
import { requestFields, responseFields } from "../../llmtunnel/web/shell/app/fields.js";

const ORIGIN = "http://x.localhost:1";
const PARTS = { mode: "cors", destination: "", referrer: "", credentials: "include", cache: "default" };
const ASKED = { method: "GET", target: "/a?b", headers: [], ...PARTS };
const { signal: NEVER } = new AbortController();

/**
 * @param {import("node:test").TestContext} t
 * @param {(request: any) => Promise<any>} request
 */
function connected(t, request) {
  const { port1, port2 } = new MessageChannel();
  const jar = new CookieJar(ORIGIN);
  let changes = 0;
  const cookiesChanged = () => (changes += 1);
  const bridge = new Bridge({ origin: ORIGIN, jar, agent: "Browser/1", languages: ["de"], request, cookiesChanged });
  bridge.attach(/** @type {any} */ (port1));
  const line = new Line(/** @type {any} */ (port2));
  t.after(() => {
    line.close();
    bridge.close();
  });
  return { bridge, line, jar, port: port2, changes: () => changes };
}

/**
 * @param {number} pieces
 * @param {{size?: number}} [options]
 */
function counted(pieces, { size = 100_000 } = {}) {
  const state = { read: 0, cancelled: false };
  const stream = new ReadableStream(
    {
      pull(controller) {
        if (state.read === pieces) {
          controller.close();
          return;
        }
        state.read += 1;
        controller.enqueue(new Uint8Array(size).fill(state.read));
      },
      cancel() {
        state.cancelled = true;
      },
    },
    { highWaterMark: 0 },
  );
  return { state, stream };
}

test("a response passes, and its HttpOnly cookie stays in the shell", async (t) => {
  const { line, jar, changes } = connected(t, async () => ({
    status: 201,
    reason: "Made",
    headers: [["Set-Cookie", "a=1; HttpOnly"], ["X-One", "1"], ["Connection", "close"]],
    body: new Response("hello").body,
  }));
  const answered = await line.send(ASKED, { body: null, signal: NEVER });
  assert.deepEqual([answered.status, answered.reason, answered.headers], [201, "Made", [["X-One", "1"]]]);
  assert.equal(await new Response(answered.body).text(), "hello");
  assert.deepEqual([jar.header("/a", Date.now()), changes(), line.active], ["a=1", 1, 0]);
});

test("no more is read than the reader takes", async (t) => {
  const { state, stream } = counted(100, { size: 300_000 });
  const { line } = connected(t, async () => ({ status: 200, reason: "", headers: [], body: stream }));
  const { body } = await line.send(ASKED, { body: null, signal: NEVER });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(state.read <= 3, `${state.read} pieces were read`);
  assert.equal((await new Response(body).arrayBuffer()).byteLength, 30_000_000);
});

test("an upload passes piece by piece", async (t) => {
  const { state, stream } = counted(50, { size: 300_000 });
  /** @type {(value: undefined) => void} */
  let read = () => {};
  const reading = new Promise((resolve) => (read = resolve));
  const { line } = connected(t, async ({ body }) => {
    await reading;
    const { byteLength } = await new Response(body).arrayBuffer();
    return { status: 200, reason: "", headers: [], body: new Response(`${byteLength}`).body };
  });
  const answering = line.send(ASKED, { body: stream, signal: NEVER });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(state.read <= 2, `${state.read} pieces were read`);
  read(undefined);
  assert.equal(await new Response((await answering).body).text(), "15000000");
});

test("cancelling reaches the upstream: before the head, and while the body comes", async (t) => {
  /** @type {AbortSignal[]} */
  const signals = [];
  const { state, stream } = counted(1000);
  const { line } = connected(t, ({ signal, target }) => {
    signals.push(signal);
    return target === "/never"
      ? new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))
      : Promise.resolve({ status: 200, reason: "", headers: [], body: stream });
  });
  const abort = new AbortController();
  const waiting = line.send({ ...ASKED, target: "/never" }, { body: null, signal: abort.signal });
  await new Promise((resolve) => setTimeout(resolve, 20));
  abort.abort();
  await assert.rejects(waiting, { name: "AbortError" });
  const { body } = await line.send(ASKED, { body: null, signal: NEVER });
  await body.cancel();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([signals[0]?.aborted, signals[1]?.aborted, state.cancelled, line.active], [true, true, true, 0]);
});

test("an answer that the browser does not take is cancelled, whoever reads its body", async (t) => {
  const { state, stream } = counted(1000);
  const { line } = connected(t, async () => ({ status: 999, reason: "", headers: [], body: stream }));
  const { body, cancel } = await line.send(ASKED, { body: null, signal: NEVER });
  const reader = body.getReader();
  cancel();
  await assert.rejects(reader.closed, { name: "AbortError" });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([state.cancelled, line.active], [true, 0]);
});

test("an answer that comes when the app has ended leaves no cookie", async (t) => {
  const late = { status: 200, reason: "", headers: [["Set-Cookie", "a=1"]], body: null };
  const { bridge, line, jar, changes } = connected(t, ({ signal }) =>
    new Promise((resolve) => signal.addEventListener("abort", () => resolve(late))),
  );
  void line.send(ASKED, { body: null, signal: NEVER }).catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 20));
  bridge.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([jar.header("/a", Date.now()), changes()], ["", 0]);
});

test("a failure says why, also in the middle of a body", async (t) => {
  const { line } = connected(t, async ({ target }) => {
    if (target === "/a?b") {
      throw Object.assign(new Error("Serve is gone."), { hint: "Start it." });
    }
    const broken = new ReadableStream({ pull: (controller) => controller.error(new Error("The upstream broke off.")) });
    return { status: 200, reason: "", headers: [], body: broken };
  });
  await assert.rejects(line.send(ASKED, { body: null, signal: NEVER }), /Serve is gone. Start it./);
  const { body } = await line.send({ ...ASKED, target: "/" }, { body: null, signal: NEVER });
  await assert.rejects(new Response(body).text(), /broke off/);
});

test("a new port ends the requests of the one before", async (t) => {
  /** @type {AbortSignal[]} */
  const signals = [];
  const { bridge, line } = connected(t, ({ signal }) => {
    signals.push(signal);
    return new Promise(() => {});
  });
  void line.send(ASKED, { body: null, signal: NEVER }).catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 20));
  const { port1, port2 } = new MessageChannel();
  bridge.attach(/** @type {any} */ (port1));
  assert.equal(signals[0]?.aborted, true);
  port2.close();
});

test("messages that break the rules do nothing, or fail their request", async (t) => {
  let requests = 0;
  const { port } = connected(t, async () => {
    requests += 1;
    return { status: 200, reason: "", headers: [], body: null };
  });
  const said = new Promise((resolve) => {
    port.onmessage = ({ data }) => resolve(data);
  });
  for (const message of [
    { kind: "pull", id: 9 },
    { kind: "body", id: 9, data: "x" },
    { kind: "open", id: 1, method: "GET", target: "/", headers: "none", body: null },
    { kind: "open", id: 2, method: "GET", target: 7, headers: [], body: null },
    { kind: "open", id: 3, method: "GET", target: "/", headers: [["a"]], body: null },
    { kind: "open", id: 4, method: "POST", target: "/", headers: [], body: new Uint8Array(2_000_000) },
  ]) {
    port.postMessage(message);
  }
  assert.deepEqual(await said, { kind: "error", id: 1, message: "That is not a request." });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(requests, 0);
});

test("a request has a browser's fields, and none that the app has forged", () => {
  const context = { origin: ORIGIN, cookie: "a=1", agent: "Browser/1", languages: ["de", "en"] };
  const headers = /** @type {[string, string][]} */ ([
    ["Cookie", "forged=1"],
    ["Origin", "https://evil.example"],
    ["X-Forwarded-Host", "evil.example"],
    ["X-One", "1"],
    ["Range", "bytes=0-"],
  ]);
  const asked = { ...PARTS, method: "POST", headers, referrer: `${ORIGIN}/page?x#y` };
  assert.deepEqual(Object.fromEntries(requestFields(asked, context)), {
    "X-One": "1",
    Range: "bytes=0-",
    Accept: "*/*",
    "User-Agent": "Browser/1",
    "Accept-Language": "de,en;q=0.9",
    "Accept-Encoding": "identity",
    "X-Forwarded-Host": "x.localhost:1",
    "X-Forwarded-Proto": "http",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    Origin: ORIGIN,
    Referer: `${ORIGIN}/page?x`,
    Cookie: "a=1",
  });
});

test("the keeper is no referrer, and a read has no origin", () => {
  const context = { origin: ORIGIN, cookie: "", agent: "", languages: [] };
  const asked = { ...PARTS, method: "GET", headers: [], mode: "navigate", destination: "iframe" };
  const fields = Object.fromEntries(requestFields({ ...asked, referrer: `${ORIGIN}/~llmtunnel/keeper.html` }, context));
  assert.deepEqual([fields["Referer"], fields["Origin"], fields["Sec-Fetch-Site"]], [undefined, undefined, "none"]);
});

test("a request says what its cache mode does, unless the app says it, and keeps empty fields", () => {
  const context = { origin: ORIGIN, cookie: "", agent: "", languages: [] };
  const own = /** @type {[string, string][]} */ ([["cache-control", "max-age=9"], ["X-Empty", ""]]);
  const asked = { ...PARTS, method: "GET", headers: own, cache: "reload" };
  const fields = Object.fromEntries(requestFields(asked, context));
  assert.deepEqual([fields["cache-control"], fields["Cache-Control"], fields["Pragma"]], ["max-age=9", undefined, "no-cache"]);
  assert.equal(fields["X-Empty"], "");
  const again = Object.fromEntries(requestFields({ ...asked, headers: [], cache: "no-cache" }, context));
  assert.deepEqual([again["Cache-Control"], again["Pragma"]], ["max-age=0", undefined]);
});

test("cookies and fields of the connection are taken out of a response", () => {
  const { fields, cookies } = responseFields([["set-cookie", "a=1"], ["Transfer-Encoding", "chunked"], ["ETag", "x"]]);
  assert.deepEqual([fields, cookies], [[["ETag", "x"]], ["a=1"]]);
});
