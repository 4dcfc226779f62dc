/** The cookies of an app. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { CookieJar, ScriptCookies, parseDate } from "../../llmtunnel/web/app/cookies.js";

const NOW = Date.UTC(2026, 0, 1);

/**
 * @param {string[]} cookies
 * @param {{origin?: string, path?: string}} [options]
 */
function jarOf(cookies, { origin = "https://x.app.example.org", path = "/a/b" } = {}) {
  const jar = new CookieJar(origin);
  for (const each of cookies) {
    jar.set(each, { path, now: NOW });
  }
  return jar;
}

test("a cookie comes back for its path and below, longer paths and older cookies first", () => {
  const jar = jarOf(["one=1; Path=/", "two=2; Path=/a", "three=3; Path=/a/", "four=4", "five=5; Path=/other", "six=6; Path=/"]);
  assert.equal(jar.header("/a/b", NOW), "three=3; two=2; four=4; one=1; six=6");
  assert.equal(jar.header("/ab", NOW), "one=1; six=6");
  assert.equal(jar.header("/a", NOW), "two=2; four=4; one=1; six=6");
});

test("a cookie is replaced, and ends by its age or date", () => {
  const jar = jarOf(["a=1", "a=2", "b=1; Max-Age=10", "c=1; Expires=Thu, 01 Jan 2026 00:00:20 GMT", "d=1; Max-Age=x"]);
  assert.equal(jar.header("/a/b", NOW), "a=2; b=1; c=1; d=1");
  assert.equal(jar.header("/a/b", NOW + 15_000), "a=2; c=1; d=1");
  assert.equal(jar.header("/a/b", NOW + 25_000), "a=2; d=1");
  assert.equal(jar.set("a=; Max-Age=0", { path: "/a/b", now: NOW }), true);
  assert.equal(jar.set("d=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", { path: "/a/b", now: NOW }), true);
  assert.equal(jar.header("/a/b", NOW + 25_000), "");
});

test("scripts neither see nor change what is HttpOnly", () => {
  const jar = jarOf(["id=1; HttpOnly; Path=/", "token=2; Path=/"]);
  assert.equal(jar.visible("/", NOW), "token=2");
  assert.deepEqual(jar.list(), [{ name: "token", value: "2", path: "/", expires: null, secure: false }]);
  const script = { path: "/", now: NOW, script: true };
  assert.equal(jar.set("id=forged; Path=/", script), false);
  assert.equal(jar.set("id=; Path=/; Max-Age=0", script), false);
  assert.equal(jar.set("new=1; HttpOnly", script), false);
  assert.equal(jar.header("/", NOW), "id=1; token=2");
});

test("an expired HttpOnly cookie does not keep scripts from its name", () => {
  const jar = jarOf(["id=1; HttpOnly; Path=/; Max-Age=10"]);
  const script = { path: "/", now: NOW + 20_000, script: true };
  assert.equal(jar.set("id=2; Path=/", script), true);
  assert.equal(jar.visible("/", NOW + 20_000), "id=2");
});

test("cookies are bytes in fields, and UTF-8 for scripts", () => {
  const jar = jarOf(["city=voil\xc3\xa0; Path=/"]);
  jar.set("name=\u674e\u00a0; Path=/", { path: "/", now: NOW, script: true });
  assert.equal(jar.header("/", NOW), "city=voil\xc3\xa0; name=\xe6\x9d\x8e\xc2\xa0");
  assert.equal(jar.visible("/", NOW), "city=voil\u00e0; name=\u674e\u00a0");
  const other = new CookieJar("https://x.app.example.org");
  other.replace(jar.list());
  assert.equal(other.visible("/", NOW), jar.visible("/", NOW));
});

test("a jar that has another's list answers the same", () => {
  const jar = jarOf(["a=1; Path=/", "h=1; HttpOnly", "b=2; Max-Age=5; Path=/a"]);
  const other = new CookieJar("https://x.app.example.org");
  other.replace(jar.list());
  for (const [path, now] of /** @type {[string, number][]} */ ([["/a/c", NOW], ["/", NOW], ["/a", NOW + 6000]])) {
    assert.equal(other.visible(path, now), jar.visible(path, now));
  }
});

test("a list from before a script set a cookie does not take it away", () => {
  const shell = jarOf([]);
  /** @type {string[]} */
  const sent = [];
  const cookies = new ScriptCookies("https://x.app.example.org", (text) => sent.push(text));
  const earlier = shell.list();
  for (const text of ["a=1", "b=2"]) {
    cookies.set(text, { path: "/", now: NOW });
  }
  cookies.receive({ cookies: earlier, answer: false });
  assert.equal(cookies.visible("/", NOW), "a=1; b=2");
  for (const [index, text] of sent.entries()) {
    shell.set(text, { path: "/", now: NOW, script: true });
    shell.set(`after=${index}`, { path: "/", now: NOW });
    cookies.receive({ cookies: shell.list(), answer: true });
  }
  assert.equal(cookies.visible("/", NOW), "a=1; after=1; b=2");
});

for (const [text, kept] of /** @type {[string, boolean][]} */ ([
  ["a=1; Domain=x.app.example.org", true],
  ["a=1; Domain=.EXAMPLE.org", true],
  ["a=1; Domain=evil.example", false],
  ["a=1; Domain=y.app.example.org", false],
  ["a=1; Domain=ample.org", false],
  ["__Secure-a=1", false],
  ["__secure-a=1; Secure", true],
  ["__Host-a=1; Secure; Path=/", true],
  ["__Host-a=1; Secure", false],
  ["__Host-a=1; Secure; Path=/; Domain=example.org", false],
  ["a=1; SameSite=None", false],
  ["a=1; SameSite=None; Secure", true],
  ["=__Host-a=1", false],
  ["value", true],
  ["=", false],
  ["", false],
  ["a=\x00", false],
  [`a=${"x".repeat(4096)}`, false],
  [`a=1; Path=/${"x".repeat(1024)}`, true],
])) {
  test(`'${text.slice(0, 60)}' is ${kept ? "" : "not "}kept`, () => {
    assert.equal(new CookieJar("https://x.app.example.org").set(text, { path: "/", now: NOW }), kept);
  });
}

test("a secure cookie needs TLS, or this machine", () => {
  assert.equal(jarOf(["a=1; Secure"], { origin: "http://example.org" }).header("/a", NOW), "");
  assert.equal(jarOf(["a=1; Secure"], { origin: "http://x.localhost:8001" }).header("/a", NOW), "a=1");
});

test("an app keeps 300 cookies, and loses the oldest", () => {
  const jar = jarOf(Array.from({ length: 310 }, (_, index) => `c${index}=1; Path=/`));
  const kept = jar.header("/", NOW).split("; ");
  assert.equal(kept.length, 300);
  assert.equal(kept[0], "c10=1");
});

for (const [text, date] of /** @type {[string, string | null][]} */ ([
  ["Wed, 21 Oct 2015 07:28:00 GMT", "2015-10-21T07:28:00.000Z"],
  ["Wednesday, 21-Oct-15 07:28:00 GMT", "2015-10-21T07:28:00.000Z"],
  ["Wed Oct 21 07:28:00 2015", "2015-10-21T07:28:00.000Z"],
  ["21 oct 99 7:8:9", "1999-10-21T07:08:09.000Z"],
  ["21 Oct 2015", null],
  ["40 Oct 2015 07:28:00", null],
  ["21 Oct 2015 24:00:00", null],
  ["0", null],
])) {
  test(`the date '${text}'`, () => {
    const time = parseDate(text);
    assert.equal(time === null ? null : new Date(time).toISOString(), date);
  });
}
