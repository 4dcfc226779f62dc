/** The shell's pure parts: what it says of each state, what a site says, and what decides between chat and app. */

import assert from "node:assert/strict";
import test from "node:test";

import { DEFAULT_SIGNAL, parseInvite } from "../../llmtunnel/web/core/invite.js";
import { appOrigin, siteOf, useSignal } from "../../llmtunnel/web/shell/site.js";
import { describe, pathText, rateText, rttText } from "../../llmtunnel/web/shell/texts.js";
import { look } from "../../llmtunnel/web/shell/upstream.js";

const CODE = "4821309-tulip-mango-onion-cedar-fruit";

/**
 * @param {string} name
 * @param {string} [hint]
 */
function problem(name, hint = "") {
  return { name, message: `${name} happened.`, hint };
}

test("nothing is said while requests pass", () => {
  assert.equal(describe({ phase: "connected", text: "", problem: null }), null);
  assert.equal(describe({ phase: "closed", text: "", problem: null }), null);
});

test("what is waited for is said", () => {
  const connecting = describe({ phase: "signal", text: "Connecting to ws://x.", problem: null });
  assert.deepEqual([connecting?.tone, connecting?.text], ["busy", "Connecting to ws://x."]);
  const waiting = describe({ phase: "waiting", text: "", problem: problem("PeerLost") });
  assert.deepEqual([waiting?.title, waiting?.text], ["Waiting for the other side", "PeerLost happened."]);
  assert.match(waiting?.hint ?? "", /`llmtunnel serve`/);
  assert.deepEqual(waiting?.actions, ["code"]);
});

for (const [name, first] of /** @type {[string, string][]} */ ([
  ["AuthenticationFailed", "code"],
  ["Unwelcome", "code"],
  ["VersionMismatch", "retry"],
  ["AccessDenied", "token"],
  ["TunnelError", "retry"],
])) {
  test(`a tunnel that failed with ${name} says why, and offers: ${first}`, () => {
    const notice = describe({ phase: "failed", text: "", problem: problem(name) });
    assert.deepEqual([notice?.tone, notice?.text, notice?.actions[0]], ["error", `${name} happened.`, first]);
    assert.notEqual(notice?.hint, "");
    assert.equal(describe({ phase: "failed", text: "", problem: problem(name, "Do this.") })?.hint, "Do this.");
  });
}

for (const name of ["SignalUnreachable", "SignalRestarting", "SignalRejected", "RoomFull", "ConnectFailed", "PeerLost"]) {
  test(`what is not final says what to do: ${name}`, () => {
    for (const phase of /** @type {const} */ (["signal", "connecting"])) {
      const notice = describe({ phase, text: "", problem: problem(name) });
      assert.deepEqual([notice?.tone, notice?.text, notice?.actions[0]], ["warning", `${name} happened.`, "retry"]);
      assert.notEqual(notice?.hint, "");
    }
  });
}

test("figures are written for people", () => {
  assert.deepEqual([null, "direct", "turn", "relay"].map((path) => pathText(path, { short: true })), [
    ...["None", "Direct", "TURN", "Relay"],
  ]);
  assert.deepEqual([null, 0.0001, 0.0123].map(rttText), ["–", "< 1 ms", "12 ms"]);
  assert.deepEqual([0, 999, 1500, 25_000, 1_500_000, 25_000_000].map(rateText), [
    ...["0 B/s", "999 B/s", "1.5 kB/s", "25 kB/s", "1.5 MB/s", "25 MB/s"],
  ]);
});

test("a site's signal server is for codes that name none", () => {
  const site = siteOf({ signal: "same", app: null, version: "1" }, "https://a.example/chat/index.html?x");
  assert.equal(site.signal, "wss://a.example/chat");
  assert.equal(useSignal(parseInvite(CODE), CODE, site).signal, "wss://a.example/chat");
  const named = `${CODE}@ws://10.0.0.2:8787`;
  assert.equal(useSignal(parseInvite(named), named, site).signal, "ws://10.0.0.2:8787");
  assert.equal(useSignal(parseInvite(CODE), CODE, siteOf({}, "https://a.example/")).signal, DEFAULT_SIGNAL);
});

test("what a malformed site.json says is not used", () => {
  for (const value of [null, [], "x", { signal: 1, app: 2, version: 3 }, { signal: "javascript:1", app: "x" }]) {
    assert.deepEqual(siteOf(value, "http://localhost/"), { signal: null, app: null, version: "" });
  }
});

test("each tunnel's app has an origin of its own where names are free", () => {
  const [one, other] = [appOrigin("https://*.app.example"), appOrigin("https://*.app.example")];
  assert.match(one, /^https:\/\/[a-z2-7]{20}\.app\.example$/);
  assert.notEqual(one, other);
  assert.equal(appOrigin("https://app.example"), "https://app.example");
});

/**
 * @param {Record<string, [number, string, string]>} answers Status, type and body by target.
 */
function peerOf(answers) {
  return {
    /** @param {{target: string}} request */
    async request({ target }) {
      const [status, type, text] = answers[target] ?? [404, "application/json", '{"detail": "Not Found"}'];
      /** @type {[string, string][]} */
      const headers = [["Content-Type", type], ...(status === 302 ? [/** @type {[string, string]} */ (["Location", "/lab"])] : [])];
      return { status, reason: "", headers, body: new Response(text).body };
    },
  };
}

const HTML = /** @type {[number, string, string]} */ ([200, "text/html; charset=utf-8", "<p>app"]);
const MODELS = /** @type {[number, string, string]} */ ([200, "application/json", '{"data": [{"id": "m"}]}']);
const GUARDED = /** @type {[number, string, string]} */ ([401, "application/json", '{"error": "key"}']);

for (const [what, answers, app, chat] of /** @type {[string, Record<string, any>, boolean, string | null][]} */ ([
  ["a model server", { "/v1/models": MODELS }, false, "openai"],
  ["Ollama, which says so in plain text", { "/": [200, "text/plain", "Ollama"], "/v1/models": MODELS }, false, "openai"],
  ["a web app", { "/": HTML }, true, null],
  ["a web app that redirects", { "/": [302, "text/html", ""] }, true, null],
  ["a web app with a login for everything", { "/": [401, "text/html", "log in"], "/v1/models": GUARDED }, true, null],
  ["both", { "/": HTML, "/v1/models": MODELS }, true, "openai"],
  ["a model server behind a page of errors", { "/": [404, "text/html", "no"], "/v1/models": MODELS }, false, "openai"],
  ["a model server that requires a key", { "/v1/models": GUARDED }, false, "openai"],
  ["a page of errors", { "/": [404, "text/html", "no"] }, true, null],
  ["neither", {}, false, null],
])) {
  test(`the upstream is ${what}`, async () => {
    const found = await look(peerOf(answers));
    assert.deepEqual([found.app, found.chat?.kind ?? null], [app, chat]);
    assert.equal(found.problem === "", app || chat !== null);
  });
}
