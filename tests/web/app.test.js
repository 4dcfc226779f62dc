/** What the worker of an app's origin decides: which requests it takes, and how it changes responses. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Script } from "node:vm";
import { gzipSync } from "node:zlib";

import { admit } from "../../llmtunnel/web/app/admission.js";
import { respond } from "../../llmtunnel/web/app/answer.js";
import { beforeScript, charsetOf, insertionPoint, needsMore } from "../../llmtunnel/web/app/documents.js";
import { page } from "../../llmtunnel/web/app/pages.js";
import { changedPolicy, documentFields, otherFields, savedFields } from "../../llmtunnel/web/app/policy.js";

const OWN = "http://x.localhost:1";
const SHELL = "http://localhost:1";

/** @param {Partial<import("../../llmtunnel/web/app/admission.js").Facts>} facts */
function admitted(facts) {
  const usual = { url: `${OWN}/a`, method: "GET", mode: "cors", destination: "", referrer: `${OWN}/`, origin: null };
  return admit({ ...usual, ...facts }, { own: OWN, shell: SHELL });
}

const frame = { mode: "navigate", destination: "iframe" };

for (const [name, facts, verdict] of /** @type {[string, object, string][]} */ ([
  ["a request of the app", {}, "tunnel"],
  ["one to elsewhere", { url: "https://example.org/" }, "network"],
  ["one to the shell", { url: `${SHELL}/?secret` }, "refuse"],
  ["a file of ours", { url: `${OWN}/~llmtunnel/keeper.html`, ...frame }, "network"],
  ["clearing", { url: `${OWN}/~llmtunnel/clear` }, "network"],
  ["data for the server of the page in a query", { url: `${OWN}/~llmtunnel/keeper.js?data` }, "missing"],
  ["data for it in a path", { url: `${OWN}/~llmtunnel/data` }, "missing"],
  ["data for it in a body", { url: `${OWN}/~llmtunnel/keeper.js`, method: "POST" }, "missing"],
  ["a navigation of the app", frame, "tunnel"],
  ["a form of the app", { ...frame, method: "POST", origin: OWN }, "tunnel"],
  ["a window", { mode: "navigate", destination: "document" }, "popup"],
  ["a navigation of another site", { ...frame, referrer: "https://evil.example/" }, "foreign"],
  ["one of the shell", { ...frame, referrer: `${SHELL}/` }, "foreign"],
  ["a form of another site", { ...frame, method: "POST", origin: "https://evil.example" }, "foreign"],
  ["one that hides its referrer", { ...frame, method: "POST", origin: "null", referrer: "" }, "foreign"],
  ["a form without any origin", { ...frame, method: "POST", referrer: "" }, "foreign"],
  ["a navigation without a referrer", { ...frame, referrer: "" }, "unsure"],
  ["a file to save", { ...frame, url: `${OWN}/~llmtunnel/save?target=/a&name=b` }, "save"],
  ["a file to save for another site", { ...frame, url: `${OWN}/~llmtunnel/save?target=/a`, referrer: "" }, "foreign"],
  ["a file to save that is fetched", { url: `${OWN}/~llmtunnel/save?target=/a` }, "missing"],
])) {
  test(`${name}: ${verdict}`, () => assert.equal(admitted(facts), verdict));
}

for (const [text, before] of [
  ["<!doctype html><html><head><title>", "<!doctype html><html><head>"],
  ["\xef\xbb\xbf <!-- <head> --><!DOCTYPE html>\n<p>", "\xef\xbb\xbf <!-- <head> --><!DOCTYPE html>\n"],
  ['<html lang="a>b" data-x=\'<head>\'>\n<HEAD id=x>\n<script>', '<html lang="a>b" data-x=\'<head>\'>\n<HEAD id=x>'],
  ["<?xml version='1.0'?><html><header>", "<?xml version='1.0'?><html>"],
  ["<script>first()</script>", ""],
  ["text", ""],
  ["", ""],
  ["<!doctype html><!-- open", "<!doctype html>"],
]) {
  test(`our script goes after '${before}'`, () => assert.equal(insertionPoint(text ?? ""), (before ?? "").length));
}

test("a document's beginning is waited for, as long as it may go on", () => {
  const whole = "<!doctype html><!-- c --><html lang=en><head class=x><title>";
  for (let end = 0; end <= whole.length; end += 1) {
    const early = insertionPoint(whole.slice(0, end)) < insertionPoint(whole);
    assert.ok(!early || needsMore(whole.slice(0, end), { encoding: false }), whole.slice(0, end));
  }
  assert.equal(needsMore("<p>", { encoding: false }), false);
  assert.equal(needsMore("<p>", { encoding: true }), true);
  assert.equal(needsMore("x".repeat(16384), { encoding: true }), false);
});

test("the encoding that a document names is found", () => {
  assert.equal(charsetOf('<meta charset="ISO-8859-1">'), "ISO-8859-1");
  assert.equal(charsetOf('<meta http-equiv=Content-Type content="text/html; charset=koi8-r">'), "koi8-r");
  assert.equal(charsetOf("<meta name=viewport>"), null);
});

test("a worker's script keeps its mode", () => {
  assert.equal(beforeScript("x()", "f()"), "x()\n");
  assert.equal(beforeScript("x()", "// a\n/* b */ 'use strict'; f()"), '"use strict";x()\n');
});

for (const [policy, changed] of [
  ["default-src 'self'", "default-src 'self'; script-src 'self' 'sha256-H'"],
  ["script-src 'none'", "script-src 'sha256-H'"],
  ["script-src 'nonce-a' 'unsafe-inline'", "script-src 'nonce-a' 'unsafe-inline' 'sha256-H'"],
  ["script-src 'unsafe-inline'; img-src *", "script-src 'unsafe-inline'; img-src *"],
  ["script-src-elem 'self'; script-src 'unsafe-inline'", "script-src-elem 'self' 'sha256-H'; script-src 'unsafe-inline'"],
  ["frame-ancestors 'none'; report-uri /r; report-to x; img-src 'self'", "img-src 'self'"],
]) {
  test(`the policy '${policy}' lets our script run`, () => assert.equal(changedPolicy(policy ?? "", "H"), changed));
}

/** @type {[string, string][]} */
const FIELDS = [
  ["X-Frame-Options", "DENY"],
  ["Content-Security-Policy", "frame-ancestors 'none'"],
  ["NEL", "{}"],
  ["Clear-Site-Data", "*"],
  ["Referrer-Policy", "no-referrer"],
  ["X-App", "1"],
];

test("a document gets our policy beside the app's", () => {
  const fields = documentFields([...FIELDS, ["Content-Security-Policy", "img-src a, img-src b"]], { shell: SHELL });
  assert.deepEqual(fields[0], ["X-App", "1"]);
  const policies = fields.filter(([name]) => name === "Content-Security-Policy").map(([, value]) => value);
  assert.deepEqual(policies.slice(0, 2), ["img-src a", "img-src b"]);
  assert.match(policies[2] ?? "", /^connect-src http: https: blob: data:;.* frame-ancestors 'self' http:\/\/localhost:1$/);
  assert.equal(fields.find(([name]) => name === "Referrer-Policy")?.[1], "same-origin");
  assert.deepEqual(otherFields(FIELDS), [["X-App", "1"]]);
});

test("a document whose origin the app takes away loads nothing", () => {
  const policies = (/** @type {string} */ given) =>
    documentFields([["Content-Security-Policy", given]], { shell: SHELL }).map(([, value]) => value);
  assert.ok(policies("sandbox allow-scripts").some((each) => each.startsWith("default-src data: blob:")));
  assert.ok(!policies("sandbox allow-same-origin").some((each) => each.startsWith("default-src data: blob:")));
});

test("a file that is saved has its name", () => {
  assert.deepEqual(savedFields([["Content-Disposition", "attachment; filename=a"]], { name: "b", url: OWN }), [
    ["Content-Disposition", "attachment; filename=a"],
  ]);
  assert.deepEqual(savedFields([["Content-Disposition", "inline"]], { name: "a (1).txt", url: OWN }), [
    ["Content-Disposition", "attachment; filename*=UTF-8''a%20%281%29.txt"],
  ]);
});

test("a file that is saved may be elsewhere in the app", async () => {
  const moved = (/** @type {string} */ to) => savedFields([["Location", to]], { name: "a", url: `${OWN}/b/c` })[0]?.[1];
  assert.equal(moved("d?e"), "/~llmtunnel/save?target=%2Fb%2Fd%3Fe&name=a");
  assert.equal(moved("https://example.org/"), "https://example.org/");
  assert.equal(moved("http://:x/"), "http://:x/");
  const save = { name: "a", url: OWN };
  await assert.rejects(answered(["<p>"], { save, status: 404 }), /The app answered: 404 OK/);
});

test("a page of ours escapes what it shows", () => {
  assert.ok(!page("unsure", { again: '/"><script>', detail: "<b>" }).html.includes("<script>"));
});

/**
 * @param {(string | Uint8Array)[]} pieces
 * @param {any} options
 */
async function answered(pieces, { headers = {}, status = 200, ...context }) {
  const body = new ReadableStream({
    start(controller) {
      pieces.forEach((each) => controller.enqueue(typeof each === "string" ? new TextEncoder().encode(each) : each));
      controller.close();
    },
  });
  const response = await respond(
    { status, reason: "OK", headers: Object.entries(headers), body, cancel() {} },
    {
      ...{ method: "GET", mode: "navigate", destination: "iframe", save: null, shell: SHELL },
      shim: { code: "S", hash: "H" },
      ...context,
    },
  );
  return { headers: response.headers, text: await response.text() };
}

test("a document that comes in pieces has our script before its own", async () => {
  const whole = "<!doctype html><html><head><title>t</title>";
  for (let cut = 0; cut <= whole.length; cut += 1) {
    const pieces = [whole.slice(0, cut), whole.slice(cut)];
    const { text, headers } = await answered(pieces, { headers: { "content-type": "text/html", "content-length": "43" } });
    assert.equal(text, "<!doctype html><html><head><script>S</script><title>t</title>");
    assert.equal(headers.get("content-length"), null);
  }
});

test("what is no document stays as it is", async () => {
  const type = { "content-type": "text/html" };
  assert.equal((await answered(["<p>"], { headers: type, mode: "cors" })).text, "<p>");
  assert.equal((await answered(["<p>"], { headers: { "content-type": "text/plain" } })).text, "<p>");
  assert.equal((await answered([new Uint8Array([255, 254, 60, 0])], { headers: type })).text.includes("S"), false);
});

test("a worker's script has ours before it", async () => {
  const { text } = await answered(["\ufeff'use strict';f()"], { mode: "same-origin", destination: "worker" });
  assert.equal(text, "\"use strict\";S\n'use strict';f()");
});

test("our code leaves a worker's script in the mode that it chooses", () => {
  const texts = ["shim", "socket", "eventsource"].map((name) =>
    readFileSync(new URL(`../../llmtunnel/web/app/${name}.js`, import.meta.url), "utf8"),
  );
  const sloppy = "with ({}) {}";
  assert.ok(new Script(beforeScript(texts.join("\n"), sloppy) + sloppy));
});

test("an attachment stays as it is, but a worker's script does not", async () => {
  const headers = { "content-type": "text/html", "content-length": "3", "content-disposition": "attachment; filename=a.html" };
  const saved = await answered(["<p>"], { headers });
  assert.deepEqual([saved.text, saved.headers.get("content-length")], ["<p>", "3"]);
  assert.equal((await answered(["f()"], { headers, mode: "same-origin", destination: "worker" })).text, "S\nf()");
});

test("a body is decoded although it was asked for without encoding", async () => {
  const packed = new Uint8Array(gzipSync("hello"));
  const { text, headers } = await answered([packed], { mode: "cors", headers: { "content-encoding": "gzip" } });
  assert.deepEqual([text, headers.get("content-encoding")], ["hello", null]);
  await assert.rejects(answered([packed], { headers: { "content-encoding": "unheard-of" } }), /unheard-of/);
});
