import assert from "node:assert/strict";
import { test } from "node:test";

import { FrameType, decode, encode, encodeError } from "../../llmtunnel/web/core/protocol/frames.js";
import { Greeting } from "../../llmtunnel/web/core/protocol/greeting.js";
import { Carrier } from "../../llmtunnel/web/core/session/carrier.js";
import { Session } from "../../llmtunnel/web/core/session/mux.js";

const CERTIFICATES = { proxy: new Uint8Array(32), serve: new Uint8Array(32) };

/** @param {object} members */
function agree(members) {
  const text = JSON.stringify({ version: 1, features: ["reset"], ...members });
  return encode(FrameType.AGREE, 0, new TextEncoder().encode(text));
}

/** @param {object} [options] */
async function greeted(options = {}) {
  const greeting = await Greeting.begin({ now: 0, ...options });
  /** @type {Session[]} */
  const sessions = [];
  const carrier = new Carrier(greeting, {
    changed: () => {},
    agreed: (own, agreement, now) => sessions.push(new Session(agreement, own, { now })),
  });
  return { carrier, sessions };
}

/** @param {Carrier} carrier */
function sent(carrier) {
  const types = [];
  for (let next = carrier.messageToSend(); next !== null; next = carrier.messageToSend()) {
    types.push(decode(next)?.type);
  }
  return types;
}

test("what arrives right behind the agreement is the session's", async () => {
  const { carrier, sessions } = await greeted();
  assert.deepEqual(sent(carrier), [FrameType.HELLO]);
  carrier.receive(agree({}), 1);
  carrier.receive(encode(FrameType.PING, 0), 1);
  carrier.receive(encode(FrameType.ERROR, 0, encodeError("bye")), 1);
  assert.equal((await carrier.over).message, "The session ended: bye");
  assert.equal(sessions.length, 1);
  assert.equal(sessions[0]?.error?.message, "The session ended: bye");
});

test("a serve that lets only local TCP carry requests is of no use, and is told", async () => {
  const { carrier, sessions } = await greeted();
  sent(carrier);
  carrier.receive(agree({ path: "tcp" }), 1);
  const error = await carrier.over;
  assert.match(error.message, /only local TCP/);
  assert.match(error.hint, /--path tcp/);
  assert.deepEqual(sent(carrier), [FrameType.RESET]);
  assert.deepEqual(sessions, []);
});

test("a serve that does not answer in time is given up", async () => {
  const { carrier } = await greeted();
  sent(carrier);
  assert.equal(carrier.nextTimer(), 20);
  carrier.handleTimer(20);
  assert.equal((await carrier.over).message, "The session ended: The peer did not say hello in time.");
  assert.deepEqual(sent(carrier), [FrameType.ERROR]);
  assert.equal(carrier.nextTimer(), null);
});

test("a flood before the agreement ends the channel", async () => {
  const { carrier } = await greeted();
  sent(carrier);
  for (let count = 0; count < 300; count += 1) {
    carrier.receive(encode(FrameType.PING, 0), 0);
  }
  assert.match((await carrier.over).message, /too much before the session begins/);
});

test("a channel that closes after our proof means that the other side may not know the code", async () => {
  const guesses = { take: () => true, give: () => {} };
  const credentials = /** @type {any} */ ({ room: "r", secret: "s", certificates: CERTIFICATES, guesses });
  const { carrier } = await greeted({ credentials });
  sent(carrier);
  // A share of serve: the base point of the curve.
  const share = `42${"58"}${"66".repeat(31)}`;
  carrier.receive(agree({ features: ["reset", "auth"], auth: { share } }), 1);
  while (sent(carrier).length === 0) {
    await new Promise(setImmediate);
  }
  carrier.closed("gone", 2);
  const error = await carrier.over;
  assert.equal(error.name, "AuthenticationFailed");
  assert.match(error.message, /has not proven that it knows the code\. .*gone/);
});

test("a defect while it greets ends the carrier, and is not swallowed", async () => {
  const greeting = await Greeting.begin({ now: 0 });
  const carrier = new Carrier(greeting, {
    changed: () => {},
    agreed: () => {
      throw new TypeError("of a page");
    },
  });
  carrier.receive(agree({}), 1);
  assert.match((await carrier.over).message, /internal error .*of a page/);
});
