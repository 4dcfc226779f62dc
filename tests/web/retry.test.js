/** When a page tries again. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { PeerLost } from "../../llmtunnel/web/core/errors.js";
import { Backoff, Retry } from "../../llmtunnel/web/core/session/retry.js";

/**
 * @param {number} delay
 * @param {number} longest
 */
function assertShortened(delay, longest) {
  assert.ok(delay >= 0.7 * longest && delay <= longest, `${delay} of ${longest}`);
}

test("waits double up to the last one, and begin anew after a success", () => {
  const backoff = new Backoff();
  for (const longest of [0.25, 0.5, 1, 2, 3, 3]) {
    assertShortened(backoff.next(), longest);
  }
  backoff.reset();
  assertShortened(backoff.next(), 0.25);
});

test("a link is wanted until one carries, and at once when what carries fails", () => {
  const retry = new Retry();
  assert.equal(retry.linkWanted, true);
  retry.reached(10);
  assert.equal(retry.linkWanted, false);
  retry.wantLink();
  assert.equal(retry.linkWanted, true);
  assert.equal(retry.linkDelay(10), 0);
});

test("after a failure it waits, and after a link that lasted it does not", () => {
  const retry = new Retry();
  assertShortened(retry.linkFailed(0), 0.25);
  assert.ok(retry.linkDelay(0) > 0);
  assert.equal(retry.linkDelay(1), 0);
  assertShortened(retry.linkFailed(1), 0.5);
  retry.reached(2);
  assert.equal(retry.linkFailed(10), 0);
  assertShortened(retry.linkFailed(10), 0.25);
});

test("what happens during the delay ends it", () => {
  const retry = new Retry();
  retry.linkFailed(0);
  retry.failure = new PeerLost("for good");
  assert.equal(retry.linkDelay(0), 0);
});

test("a signal server that streams wait for is tried soon, and one that denies us rarely", () => {
  const retry = new Retry();
  for (let times = 0; times < 6; times += 1) {
    assert.ok(retry.signalDelay({ soon: true }) <= 0.5);
  }
  assertShortened(retry.signalDelay({ soon: true, denied: true }), 15);
  assertShortened(retry.signalDelay({ soon: false }), 3);
  retry.joined();
  assertShortened(retry.signalDelay({ soon: false }), 0.25);
});

test("on a poor path a better one is tried for, ever more seldom", () => {
  const retry = new Retry();
  retry.carries("relay", 100);
  retry.carries("turn", 101); // it changes nothing
  let now = 100;
  const waits = [];
  for (let times = 0; times < 6; times += 1) {
    const due = /** @type {number} */ (retry.betterDue);
    assert.equal(retry.takeBetter(due - 0.1), false);
    assert.equal(retry.takeBetter(due), true);
    waits.push(due - now);
    now = due;
  }
  assert.deepEqual(waits, [45, 90, 180, 360, 600, 600]);
});

test("a good path, or none, ends that, and the next poor one begins anew", () => {
  for (const end of [(/** @type {Retry} */ retry) => retry.disturbed(), (/** @type {Retry} */ retry) => retry.carries("direct", 45)]) {
    const retry = new Retry();
    retry.carries("relay", 0);
    assert.equal(retry.takeBetter(45), true);
    end(retry);
    assert.equal(retry.betterDue, null);
    assert.equal(retry.takeBetter(10_000), false);
    retry.carries("relay", 0);
    assert.equal(retry.betterDue, 45);
  }
});
