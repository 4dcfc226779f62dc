import assert from "node:assert/strict";
import { test } from "node:test";

import { EMPTY, encodeUtf8 } from "../../llmtunnel/web/core/bytes.js";
import { ErrorCode } from "../../llmtunnel/web/core/errors.js";
import { Feature, encode } from "../../llmtunnel/web/core/protocol/frames.js";
import { Room } from "../../llmtunnel/web/peer/room.js";
import { FrameType, Rig } from "./rig.js";

const HASH = new Uint8Array(32);
const TICKET = { id: new Uint8Array(16), key: HASH };
/** A serve that knows the secret, as any invited peer does, and no session. */
const ANOTHER = {
  version: 1,
  features: [Feature.AUTH, Feature.RESUME, Feature.RESET],
  auth: { share: `42${"00".repeat(32)}` },
  session: "aa".repeat(16),
};

/** A room whose session has no certificate of serve, as after a sealed pipe. @param {object} [agreed] */
function sealed(agreed = {}) {
  const identity = { publicKey: new Uint8Array(65), sign: async () => new Uint8Array(64) };
  const options = { signal: "ws://127.0.0.1:9", room: "R", secret: "s", identity, agent: "", changed: () => {} };
  const room = new Room(options);
  room.session = new Rig({ agreement: { certificate: EMPTY, ticket: TICKET, ...agreed } }).session;
  return room;
}

/** How a greeting with that serve ends. @param {Room} room */
async function endsWith(room) {
  const channel = /** @type {any} */ (null);
  const opened = { channel, path: /** @type {const} */ ("relay"), certificates: { proxy: HASH, serve: HASH }, certificate: EMPTY };
  const greeting = await room.greeting(opened);
  await greeting.receiveMessage(encode(FrameType.AGREE, 0, encodeUtf8(JSON.stringify(ANOTHER))), 0);
  return greeting.ended;
}

test("no invited peer takes the place of a working session whose serve has shown no certificate", async () => {
  const room = sealed();
  assert.equal((await endsWith(room))?.code, ErrorCode.REFUSED);
  room.moved();
  assert.equal((await endsWith(room))?.code, ErrorCode.REFUSED, "another network is no reason either");
});

test("a session that cannot continue elsewhere is replaced once another link is wanted", async () => {
  const room = sealed({ features: new Set([Feature.AUTH, Feature.RESET]) });
  room.moved();
  assert.notEqual((await endsWith(room))?.code, ErrorCode.REFUSED);
});
