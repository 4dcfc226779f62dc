import assert from "node:assert/strict";
import { test } from "node:test";

import { LIMITS } from "../../llmtunnel/web/core/config.js";
import { bundle, encode, encodeCredit, encodeReset } from "../../llmtunnel/web/core/protocol/frames.js";
import { ErrorCode, FrameType, GET, Rig } from "./rig.js";

const POST = { method: "POST", target: "/" };

test("a body that waits for credit is sent as credit comes, and counts as held meanwhile", async () => {
  const rig = new Rig({ agreement: { window: 1000 } });
  const stream = await rig.session.open(POST, { now: 0 });
  const data = new Uint8Array(2500).fill(7);
  let sent = false;
  const sending = stream.send(data).then(() => {
    sent = true;
  });
  assert.equal(rig.session.budget.used, 2500);
  const frames = rig.sent();
  rig.receive(FrameType.CREDIT, stream.id, encodeCredit(1000));
  frames.push(...rig.sent());
  await new Promise(setImmediate);
  assert.ok(!sent);
  rig.receive(FrameType.CREDIT, stream.id, encodeCredit(5000));
  await sending;
  data.fill(0); // it is the caller's again
  frames.push(...rig.sent());
  assert.equal(rig.session.budget.used, 0);
  const bodies = frames.filter(({ type }) => type === FrameType.REQ_BODY);
  assert.deepEqual(Buffer.concat(bodies.map(({ payload }) => payload)), Buffer.alloc(2500, 7));
});

test("a writer that waits hears that the stream has ended, and why", async () => {
  const rig = new Rig({ agreement: { window: 1000 } });
  const stream = await rig.session.open(POST, { now: 0 });
  const sending = stream.send(new Uint8Array(2500));
  rig.receive(FrameType.RESET, stream.id, encodeReset(ErrorCode.UPSTREAM, "It broke off."));
  const expected = { name: "StreamReset", code: ErrorCode.UPSTREAM, message: "It broke off.", remote: true };
  await assert.rejects(sending, expected);
  assert.equal(rig.session.budget.used, 0);
});

test("a rest that serve does not need fails the writer and not the reader", async () => {
  const rig = new Rig({ agreement: { window: 1000 } });
  const stream = await rig.session.open(POST, { now: 0 });
  const sending = stream.send(new Uint8Array(2500));
  rig.respond(stream.id, 413);
  rig.receive(FrameType.RES_END, stream.id, new Uint8Array(8));
  rig.receive(FrameType.RESET, stream.id, encodeReset(ErrorCode.NO_ERROR, "not needed"));
  await assert.rejects(sending, { name: "StreamReset", code: ErrorCode.NO_ERROR });
  assert.equal((await stream.response()).status, 413);
  assert.equal(await stream.receive(), null);
});

test("what came before a reset is delivered before its error", async () => {
  const rig = new Rig();
  const stream = await rig.session.open(GET, { now: 0, ended: true });
  rig.respond(stream.id);
  rig.receive(FrameType.RES_BODY, stream.id, Uint8Array.of(1, 2));
  rig.receive(FrameType.RESET, stream.id, encodeReset(ErrorCode.UPSTREAM, "It broke off."));
  assert.equal((await stream.response()).status, 200);
  assert.deepEqual(await stream.receive(), Uint8Array.of(1, 2));
  await assert.rejects(stream.receive(), { code: ErrorCode.UPSTREAM });
  assert.equal(rig.session.budget.used, 0);
});

test("tiny pieces share memory, and none keeps the message that it came in", async () => {
  const rig = new Rig();
  const stream = await rig.session.open(GET, { now: 0, ended: true });
  rig.respond(stream.id);
  const padding = encode(200, 0, new Uint8Array(20_000));
  for (let byte = 0; byte < 100; byte += 1) {
    const body = encode(FrameType.RES_BODY, stream.id, Uint8Array.of(byte));
    rig.session.receiveMessage(bundle([body, padding]), 0);
  }
  await stream.response();
  const data = await stream.receive();
  assert.deepEqual(data, Uint8Array.from({ length: 100 }, (_, byte) => byte));
  assert.equal(data?.buffer.byteLength, 100);
  for (const size of [1, 5000, 40_000]) {
    rig.session.receiveMessage(bundle([encode(FrameType.RES_BODY, stream.id, new Uint8Array(size)), padding]), 0);
    const piece = await stream.receive();
    assert.equal(piece?.length, size);
    assert.ok(piece.buffer.byteLength <= 2 * size, "it may keep as much again");
  }
});

test("a response that is more than this side may hold ends its stream alone", async () => {
  const limits = { ...LIMITS, window: 4000, windowMost: 4000, held: 5000 };
  const rig = new Rig({ options: { limits } });
  const [one, other] = await Promise.all([rig.session.open(GET, { now: 0 }), rig.session.open(GET, { now: 0 })]);
  for (const stream of [one, other]) {
    rig.respond(stream.id);
    rig.receive(FrameType.RES_BODY, stream.id, new Uint8Array(3000));
  }
  await other.response();
  await assert.rejects(other.receive(), { code: ErrorCode.FLOW_CONTROL, remote: false });
  await one.response();
  assert.equal((await one.receive())?.length, 3000);
  assert.equal(rig.session.budget.used, 0);
});

test("interim heads that nobody reads, or without end, end the stream", async () => {
  const rig = new Rig();
  const stream = await rig.session.open(GET, { now: 0, ended: true });
  for (let count = 0; count < 17; count += 1) {
    rig.respond(stream.id, 103);
  }
  for (let count = 0; count < 16; count += 1) {
    assert.equal((await stream.response()).status, 103);
  }
  await assert.rejects(stream.response(), { code: ErrorCode.FLOW_CONTROL });

  const endless = await rig.session.open(GET, { now: 0, ended: true });
  for (let count = 0; count < 1000; count += 1) {
    rig.respond(endless.id, 103);
    await endless.response();
  }
  rig.respond(endless.id, 103);
  await assert.rejects(endless.response(), /more than 1000 interim heads/);
});

test("a stream that is given up tells serve once, and its reader and writer hear it", async () => {
  const rig = new Rig({ agreement: { window: 1000 } });
  const stream = await rig.session.open(POST, { now: 0 });
  rig.sent();
  const reading = stream.response();
  const sending = stream.send(new Uint8Array(2500));
  stream.reset();
  stream.reset();
  await assert.rejects(reading, { code: ErrorCode.CANCELLED, remote: false });
  await assert.rejects(sending, { code: ErrorCode.CANCELLED });
  assert.throws(() => stream.sendEnd(), { code: ErrorCode.CANCELLED });
  assert.deepEqual(rig.sent().map(({ type }) => type), [FrameType.RESET]);
  assert.equal(rig.session.budget.used, 0);
});

test("what waits to be sent on a stream that serve has ended is not sent", async () => {
  const rig = new Rig();
  const stream = await rig.session.open(POST, { now: 0 });
  rig.sent();
  await stream.send(new Uint8Array(60_000));
  rig.receive(FrameType.RESET, stream.id, encodeReset(ErrorCode.UPSTREAM, "It broke off."));
  assert.deepEqual(rig.sent(), []);
});
