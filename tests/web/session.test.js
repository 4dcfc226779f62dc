import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeReset, encodeCount } from "../../llmtunnel/web/core/protocol/frames.js";
import { ErrorCode, FrameType, GET, Rig } from "./rig.js";

const LENGTH_0 = encodeCount(0);
const TEXT = new TextDecoder();

test("a request waits until serve accepts one more, in the order of its arrival", async () => {
  const rig = new Rig();
  const [first] = await Promise.all([rig.session.open(GET, { now: 0 }), rig.session.open(GET, { now: 0 })]);
  /** @type {string[]} */
  const order = [];
  const third = rig.session.open(GET, { now: 0 }).then((stream) => order.push(`third ${stream.id}`));
  const fourth = rig.session.open(GET, { now: 0 }).then((stream) => order.push(`fourth ${stream.id}`));
  await new Promise(setImmediate);
  assert.deepEqual(order, []);
  assert.equal(rig.session.active, 2);
  first.reset();
  await third;
  assert.deepEqual(order, ["third 3"]);
  rig.receive(FrameType.RESET, 2, Uint8Array.of(0, 1));
  await fourth;
  assert.deepEqual(order, ["third 3", "fourth 4"]);
});

test("a request that no place becomes free for fails in time, and says what to do", async () => {
  const rig = new Rig();
  await Promise.all([rig.session.open(GET, { now: 0 }), rig.session.open(GET, { now: 0 })]);
  const late = rig.session.open(GET, { now: 10 });
  rig.session.handleTimer(39.9);
  rig.receive(FrameType.PONG, 0, undefined, 39.95);
  rig.session.handleTimer(40);
  await assert.rejects(late, (error) => {
    assert.ok(error instanceof Error && "hint" in error);
    assert.equal(error.name, "TooManyStreams");
    assert.match(error.message, /already works on 2 requests .* within 30 s/);
    assert.match(String(error.hint), /later/);
    return true;
  });
  assert.equal(rig.session.error, null);
});

test("requests that are given up before they are sent leave nothing to send", async () => {
  const rig = new Rig();
  rig.sent();
  for (let count = 1; count <= 10_000; count += 1) {
    const stream = await rig.session.open(GET, { now: 0, ended: count % 2 === 0 });
    assert.equal(stream.id, count);
    stream.reset();
  }
  assert.deepEqual(rig.sent(), []);
  assert.equal(rig.session.active, 0);
});

test("a request that is given up while it waits is never sent, and fails at once", async () => {
  const rig = new Rig();
  const [first] = await Promise.all([rig.session.open(GET, { now: 0 }), rig.session.open(GET, { now: 0 })]);
  const giveUp = new AbortController();
  const third = rig.session.open({ ...GET, target: "/third" }, { now: 0, ended: true, signal: giveUp.signal });
  const fourth = rig.session.open({ ...GET, target: "/fourth" }, { now: 0, signal: new AbortController().signal });
  giveUp.abort(new Error("not needed"));
  await assert.rejects(third, /not needed/);
  rig.sent();
  first.reset();
  assert.equal((await fourth).id, 3);
  const heads = rig.sent().filter(({ type }) => type === FrameType.REQ_HEADERS);
  assert.deepEqual(heads.map(({ payload }) => JSON.parse(TEXT.decode(payload)).path), ["/fourth"]);
  assert.equal(rig.session.active, 2);
});

test("a head that is too large fails its own request alone", async () => {
  const rig = new Rig();
  const large = { ...GET, fields: [/** @type {const} */ (["a", "x".repeat(70_000)])] };
  await assert.rejects(rig.session.open(large, { now: 0 }), { name: "ProtocolError", code: ErrorCode.TOO_LARGE });
  await assert.rejects(rig.session.open({ ...GET, target: "/\u0100" }, { now: 0 }), /byte strings/);
  assert.equal((await rig.session.open(GET, { now: 0 })).id, 1);
});

test("requests of one client connection name its first stream, on the same session only", async () => {
  const rig = new Rig({ agreement: { streams: 10 } });
  const first = await rig.session.open(GET, { now: 0, ended: true });
  const second = await rig.session.open(GET, { now: 0, ended: true, after: first });
  const third = await rig.session.open(GET, { now: 0, ended: true, after: second });
  const elsewhere = await new Rig().session.open(GET, { now: 0, after: third });
  assert.deepEqual([first, second, third, elsewhere].map((each) => each.clientId), [1, 1, 1, 1]);
  assert.deepEqual([first, second, third].map((each) => each.id), [1, 2, 3]);
  third.closeClient();
  const closed = rig.sent().filter(({ type }) => type === FrameType.CLIENT_CLOSED);
  assert.deepEqual(closed.map(({ stream }) => stream), [1]);
});

test("an orderly end says so as the last message, and streams fail with the reason", async () => {
  const rig = new Rig();
  const stream = await rig.session.open(GET, { now: 0 });
  rig.sent();
  rig.session.close(0);
  await rig.session.over;
  const [last, ...more] = rig.sent();
  assert.deepEqual(more, []);
  assert.equal(last?.type, FrameType.RESET);
  assert.deepEqual(decodeReset(last?.payload ?? new Uint8Array(0)), [ErrorCode.NO_ERROR, "The peer stops."]);
  await assert.rejects(stream.response(), { name: "PeerLost", message: "The peer stops." });
  await assert.rejects(rig.session.open(GET, { now: 0 }), { name: "PeerLost" });
  assert.deepEqual(rig.heard, ["The peer stops."]);
  assert.equal(rig.session.nextTimer(), null);
});

for (const confirmed of [true, false]) {
  const name = `with a pipe for each lane, the end waits until serve has all${confirmed ? "" : ", or for a second"}`;
  test(name, async () => {
    const rig = new Rig({ agreement: { lanes: 2, streams: 10 }, pipes: 2 });
    await rig.session.open(GET, { now: 0 });
    rig.sent();
    rig.session.close(5);
    assert.equal(rig.session.error, null);
    await assert.rejects(rig.session.open(GET, { now: 5 }), { name: "PeerLost" });
    assert.ok(rig.sent().some(({ type }) => type === FrameType.PING), "it asks for an acknowledgement");
    if (confirmed) {
      rig.receive(FrameType.ACK, 1, encodeCount(1), 5.1);
    } else {
      rig.session.handleTimer(6);
    }
    await rig.session.over;
    assert.deepEqual(rig.sent().map(({ type }) => type).at(-1), FrameType.RESET);
  });
}

test("streams wait while no channel carries them, and the session ends when none comes", async () => {
  const rig = new Rig({ options: { resumeFor: 10 } });
  const stream = await rig.session.open(GET, { now: 0 });
  rig.session.channelClosed("gone", 3);
  assert.ok(rig.session.suspended);
  assert.ok(rig.session.offer(Uint8Array.of(1)));
  assert.equal(rig.session.offer(Uint8Array.of(9)), null, "that is another serve");
  assert.equal(rig.session.nextTimer(), 13);
  rig.session.handleTimer(13);
  await assert.rejects(stream.response(), /gone\. It did not come back within 10 s\./);
  assert.equal(rig.heard[0], "suspended");
  assert.equal(rig.session.offer(Uint8Array.of(1)), null);
});

test("without resuming, the end of the channel or a silence is the end of the session", async () => {
  for (const options of [{ resumeFor: 0 }, {}]) {
    const closed = new Rig({ options, agreement: "resumeFor" in options ? {} : { features: new Set(["reset"]) } });
    closed.session.channelClosed("gone", 3);
    assert.deepEqual(closed.heard, ["The connection to the peer closed: gone"]);
    const silent = new Rig({ options, agreement: "resumeFor" in options ? {} : { features: new Set(["reset"]) } });
    silent.session.handleTimer(5);
    silent.session.handleTimer(15);
    assert.deepEqual(silent.heard, ["The session ended: The peer is silent."]);
  }
});

for (const there of [true, false]) {
  test(`a serve that is said to have left is asked at once, and waited for${there ? "" : " 10 s"}`, async () => {
    const rig = new Rig();
    rig.receive(FrameType.PONG, 0, undefined, 1);
    rig.sent();
    rig.session.suspect(2, { gone: true });
    rig.session.suspect(2.5, { gone: true }); // a repeated report grants no new delay
    rig.session.handleTimer(2.5);
    assert.deepEqual(rig.sent().map(({ type }) => type), [FrameType.PING]);
    assert.equal(rig.session.nextTimer(), 3.5);
    rig.session.handleTimer(3.5);
    assert.deepEqual(rig.heard, ["suspended"]);
    if (there) {
      rig.session.reassure();
    }
    assert.equal(rig.session.nextTimer(), there ? 63.5 : 13.5);
  });
}

test("the round trip is that of the last ping", async () => {
  const rig = new Rig();
  assert.equal(rig.session.rtt, null);
  rig.receive(FrameType.PONG, 0, undefined, 0.25);
  assert.equal(rig.session.rtt, 0.25);
  rig.session.measure(7);
  rig.receive(FrameType.PONG, 0, undefined, 7.5);
  assert.equal(rig.session.rtt, 0.5);
});

test("a page that was stopped for long says so when it hears serve again, before its timer", async () => {
  const rig = new Rig();
  rig.receive(FrameType.PONG, 0, undefined, 1);
  rig.receive(FrameType.PONG, 0, undefined, 60);
  assert.deepEqual(rig.heard, ["resumed"]);
});

test("what comes for a stream is delivered also where its end follows in the same message", async () => {
  const rig = new Rig();
  const stream = await rig.session.open(GET, { now: 0, ended: true });
  rig.respond(stream.id);
  rig.receive(FrameType.RES_END, stream.id, LENGTH_0);
  assert.equal((await stream.response()).status, 200);
  assert.equal(await stream.receive(), null);
  assert.equal(rig.session.active, 0);
});
