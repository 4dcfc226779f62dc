import assert from "node:assert/strict";
import { test } from "node:test";

import { Feature, encodeCount } from "../../llmtunnel/web/core/protocol/frames.js";
import { ErrorCode, FrameType, GET, Rig } from "./rig.js";

const DATA = Uint8Array.of(1, 2, 3);

/** A session whose stream 1 has got a head, which is one frame of serve's. @param {object} [agreed] */
async function begun(agreed = {}) {
  const rig = new Rig({ agreement: agreed });
  const stream = await rig.session.open(GET, { now: 0 });
  rig.sent();
  rig.respond(stream.id);
  return { rig, stream };
}

/** The same, on its second channel. @param {number} [received] How many of our frames serve says that it has. */
async function moved(received = 1) {
  const { rig, stream } = await begun();
  rig.move({ received: [received] });
  return { rig, stream };
}

/**
 * Serve has broken the protocol: the session has ended with that, and serve is told.
 *
 * @param {Rig} rig
 * @param {string} message
 */
function isOver(rig, message) {
  assert.equal(rig.session.error?.message, `The session ended: ${message}`);
  const last = rig.sent().at(-1);
  assert.equal(last?.type, FrameType.RESET);
  assert.equal(last?.payload[1], ErrorCode.PROTOCOL);
}

test("an acknowledgement of what was not sent ends the session", async () => {
  for (const payload of [encodeCount(2), encodeCount(2 ** 53), new Uint8Array(8).fill(255)]) {
    const { rig } = await begun();
    rig.receive(FrameType.ACK, 0, encodeCount(1));
    assert.equal(rig.session.error, null);
    rig.receive(FrameType.ACK, 0, payload);
    isOver(rig, "The peer acknowledges what was not sent.");
  }
  const { rig } = await begun();
  rig.receive(FrameType.ACK, 0, DATA);
  isOver(rig, "A RESUME or ACK has not 8 bytes.");
});

test("a resume on the first channel, or twice, ends the session", async () => {
  const { rig: first } = await begun();
  first.receive(FrameType.RESUME, 0, encodeCount(2));
  isOver(first, "A RESUME came on a channel where none was due.");
  const { rig: second } = await moved();
  second.receive(FrameType.RESUME, 0, encodeCount(2));
  assert.equal(second.session.error, null);
  second.receive(FrameType.RESUME, 0, encodeCount(2));
  isOver(second, "A RESUME came on a channel where none was due.");
});

test("a resume that leaves frames out, or begins before the first one, ends the session", async () => {
  for (const first of [0, 3, 2 ** 53]) {
    const { rig } = await moved();
    rig.receive(FrameType.RESUME, 0, encodeCount(first));
    isOver(rig, "The peer cannot go on where this side has got to.");
  }
});

test("a frame of a stream before the resume ends the session", async () => {
  const { rig, stream } = await moved();
  rig.receive(FrameType.RES_BODY, stream.id, DATA);
  isOver(rig, "A stream's frame came before RESUME.");
});

test("what comes twice is taken once", async () => {
  const { rig, stream } = await moved();
  rig.receive(FrameType.RESUME, 0, encodeCount(1));
  rig.respond(stream.id);
  rig.receive(FrameType.RES_BODY, stream.id, DATA);
  assert.equal((await stream.response()).status, 200);
  assert.deepEqual(await stream.receive(), DATA);
  assert.equal(rig.session.error, null);
});

test("a lane that there is not ends the session", async () => {
  for (const type of [FrameType.ACK, FrameType.RESUME]) {
    const { rig } = await begun({ lanes: 4, streams: 9 });
    rig.receive(type, 4, encodeCount(0));
    isOver(rig, "A RESUME or ACK is of a lane that there is none of.");
  }
});

test("serve that says that it has more than was sent ends the session on the new channel", async () => {
  const { rig, stream } = await moved(2);
  isOver(rig, "The peer acknowledges what was not sent.");
  await assert.rejects(async () => {
    await stream.response();
    await stream.receive();
  });
});

test("serve that goes on with other features or lanes ends the session", async () => {
  const { rig: features } = await begun();
  features.move({ received: [1], features: new Set([Feature.RESUME, Feature.RESET]) });
  isOver(features, "A session goes on with other features.");
  const { rig: lanes } = await begun();
  lanes.move({ received: [1, 0], lanes: 2 });
  isOver(lanes, "A session goes on with another number of lanes.");
});

test("the page says first where it goes on, and sends again what serve lacks", async () => {
  const { rig, stream } = await moved(0);
  await stream.send(DATA);
  const [resume, ...frames] = rig.sent();
  assert.equal(resume?.type, FrameType.RESUME);
  assert.deepEqual(resume?.payload, encodeCount(1));
  const streams = frames.filter((frame) => frame.stream > 0);
  assert.deepEqual(streams.map(({ type }) => type), [FrameType.REQ_HEADERS, FrameType.REQ_BODY]);
});
