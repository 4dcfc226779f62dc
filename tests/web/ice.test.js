/** Which STUN and TURN servers a connection uses. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULT_STUN, IceBook, Reach, reachOf } from "../../llmtunnel/web/core/session/ice.js";

const SIGNAL = "wss://signal.example";
const TOLD = {
  servers: [
    { stun: ["stun:told.example"], turn: [], user: null, password: null },
    { stun: [], turn: ["turn:told.example", "turns:told.example:443"], user: "9:id", password: "credential" },
  ],
  ttl: 3600,
  skipped: 0,
};

/** @param {IceBook} book */
const urls = (book, now = 0) => book.servers(now).map((each) => each.urls);

/** @param {string[]} turn */
const offer = (...turn) => ({ servers: [{ stun: [], turn, user: "u", password: "p" }], ttl: 0, skipped: 0 });

test("without an offer the default STUN server is used", () => {
  const book = new IceBook();
  book.told(null, { signal: SIGNAL, now: 0 });
  assert.deepEqual(book.servers(0), [{ urls: DEFAULT_STUN }]);
});

test("what the signal server tells is used with its credentials until they expire", () => {
  const book = new IceBook();
  book.told(TOLD, { signal: SIGNAL, now: 10 });
  assert.deepEqual(urls(book, 10), ["stun:told.example", "turn:told.example", "turns:told.example:443"]);
  assert.deepEqual(book.servers(10)[1], { urls: "turn:told.example", username: "9:id", credential: "credential" });
  assert.deepEqual(urls(book, 3610), ["stun:told.example"]);
});

test("new credentials are asked for after half of their time", () => {
  const book = new IceBook();
  book.told(TOLD, { signal: SIGNAL, now: 0 });
  assert.equal(book.renewal, 1800);
  assert.equal(book.takeRenewal(1799), false);
  assert.equal(book.takeRenewal(1800), true);
  assert.equal(book.renewal, 2700);
});

test("a signal server names only servers that are as public as itself", () => {
  for (const [signal, turn, used] of /** @type {const} */ ([
    [SIGNAL, "turn:8.8.8.8", true],
    [SIGNAL, "turn:192.168.1.1", false],
    [SIGNAL, "turn:3232235777", false],
    [SIGNAL, "turn:0x7f.1", false],
    [SIGNAL, "turn:localhost:3478", false],
    ["ws://192.168.1.5:8787", "turn:10.0.0.1", true],
    ["ws://192.168.1.5:8787", "turn:127.0.0.1", false],
    ["ws://[fd00::5]:8787", "turn:10.0.0.1", true],
    ["ws://127.0.0.1:8787", "turn:127.0.0.1", true],
    ["ws://[::1]:8787", "turn:localhost", true],
    ["ws://127.0.0.1:8787", "turn:169.254.169.254", false],
    ["ws://127.0.0.1:8787", "turn:224.0.0.1", false],
  ])) {
    const book = new IceBook([]);
    book.told(offer(turn), { signal, now: 0 });
    assert.deepEqual(urls(book), used ? [turn] : [], `${turn} from ${signal}`);
  }
});

test("addresses are told from names", () => {
  assert.equal(reachOf("example.org"), Reach.PUBLIC);
  assert.equal(reachOf("100.64.0.1"), Reach.PRIVATE);
  assert.equal(reachOf("172.32.0.1"), Reach.PUBLIC);
  assert.equal(reachOf("999.1.1.1"), null);
});
