import assert from "node:assert/strict";
import { test } from "node:test";

import { concat, decodeUtf8, encodeUtf8 } from "../../llmtunnel/web/core/bytes.js";
import {
  Code,
  Decoder,
  MAX_PIECE,
  Opcode,
  Violation,
  acceptOf,
  checkResponse,
  encodeClose,
  encodeFrame,
  newKey,
  requestFields,
} from "../../llmtunnel/web/shell/app/rfc6455.js";

/** @typedef {import("../../llmtunnel/web/shell/app/rfc6455.js").Event} Event */

const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; // both of RFC 6455 section 1.3

/**
 * Return a frame as a server sends it.
 *
 * @param {number} opcode
 * @param {Uint8Array | string} [payload]
 * @param {{final?: boolean}} [options]
 */
function frame(opcode, payload = "", { final = true } = {}) {
  const bytes = typeof payload === "string" ? encodeUtf8(payload) : payload;
  const size = bytes.length;
  const head = [(final ? 0x80 : 0) | opcode];
  if (size < 126) {
    head.push(size);
  } else if (size < 0x10000) {
    head.push(126, size >> 8, size & 0xff);
  } else {
    head.push(127, 0, 0, 0, 0, size >>> 24, (size >> 16) & 0xff, (size >> 8) & 0xff, size & 0xff);
  }
  return concat([Uint8Array.from(head), bytes]);
}

/** @param {Uint8Array[]} chunks */
function decode(...chunks) {
  const decoder = new Decoder();
  return chunks.flatMap((chunk) => [...decoder.receive(chunk)]);
}

/**
 * Return what the events mean, however the messages are split.
 *
 * @param {Event[]} events
 */
function meaning(events) {
  const meant = [];
  /** @type {(string | Uint8Array)[]} */
  let pieces = [];
  for (const event of events) {
    if (event.kind === "data") {
      assert.equal(event.first, pieces.length === 0);
      pieces.push(event.data);
      if (event.last) {
        const text = typeof pieces[0] === "string";
        meant.push(text ? pieces.join("") : concat(/** @type {Uint8Array[]} */ (pieces)));
        pieces = [];
      }
    } else {
      meant.push(event);
    }
  }
  assert.deepEqual(pieces, []);
  return meant;
}

/** @param {Uint8Array} bytes */
function fails(bytes, /** @type {number} */ code = Code.PROTOCOL_ERROR) {
  assert.throws(
    () => decode(bytes),
    (error) => error instanceof Violation && error.code === code,
  );
}

/** @param {number} seed */
function random(seed) {
  let state = seed;
  return (/** @type {number} */ below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % below;
  };
}

/** @param {number} size */
function pattern(size) {
  return Uint8Array.from({ length: size }, (_, index) => (index * 7 + (index >> 8)) & 0xff);
}

test("the example of the specification is accepted", async () => {
  assert.equal(await acceptOf(KEY), ACCEPT);
  assert.equal(atob(newKey()).length, 16);
  assert.notEqual(newKey(), newKey());
});

const HEADERS = Object.freeze({ Upgrade: "WebSocket", Connection: "keep-alive, upgrade", "Sec-WebSocket-Accept": ACCEPT });

/**
 * @param {Record<string, string | null>} changed
 * @param {string[]} protocols
 */
function answer(changed = {}, protocols = [], status = 101) {
  const all = Object.entries({ ...HEADERS, ...changed });
  const headers = all.flatMap(([name, value]) => (value === null ? [] : [/** @type {const} */ ([name, value])]));
  return checkResponse({ status, reason: "", headers }, KEY, protocols);
}

test("a server's answer is checked", async () => {
  assert.equal(await answer(), "");
  assert.equal(await answer({ "Sec-WebSocket-Protocol": "b" }, ["a", "b"]), "b");
  assert.equal(await answer({ "Sec-WebSocket-Extensions": "" }), "");
  await assert.rejects(answer({}, [], 200), /^Violation: The server answered 200, and no WebSocket/);
  await assert.rejects(answer({ Upgrade: null }), /Upgrade: websocket/);
  await assert.rejects(answer({ Upgrade: "h2c" }), /Upgrade: websocket/);
  await assert.rejects(answer({ Connection: "close" }), /Connection: Upgrade/);
  await assert.rejects(answer({ "Sec-WebSocket-Accept": null }), /Sec-WebSocket-Accept/);
  await assert.rejects(answer({ "Sec-WebSocket-Accept": ACCEPT.toLowerCase() }), /Sec-WebSocket-Accept/);
  await assert.rejects(answer({ "sec-websocket-accept": ACCEPT }), /Sec-WebSocket-Accept/); // twice
  await assert.rejects(answer({ "Sec-WebSocket-Extensions": "permessage-deflate" }), /extension/);
  await assert.rejects(answer({ "Sec-WebSocket-Protocol": "c" }, ["a"]), /subprotocol c, which was not offered/);
  await assert.rejects(answer({ "Sec-WebSocket-Protocol": "a, b" }, ["a", "b"]), /not offered/);
  await assert.rejects(answer({}, ["a", "b"]), /none of the subprotocols/);
});

test("a request offers subprotocols and no extension", () => {
  assert.deepEqual(requestFields(KEY, ["a", "b"]), [
    ["Sec-WebSocket-Version", "13"],
    ["Sec-WebSocket-Key", KEY],
    ["Sec-WebSocket-Protocol", "a, b"],
  ]);
  assert.equal(requestFields(KEY, []).length, 2);
});

test("a frame of the client is masked, and of the shortest form", () => {
  for (const size of [0, 1, 3, 4, 5, 125, 126, 127, 65_535, 65_536, 100_001]) {
    const payload = pattern(size);
    const bytes = encodeFrame(Opcode.BINARY, payload, { final: size % 2 === 0 });
    const extended = size < 126 ? 0 : size < 65_536 ? 2 : 8;
    assert.equal(bytes.length, 6 + extended + size);
    assert.equal(bytes[0], (size % 2 === 0 ? 0x80 : 0) | 2);
    assert.equal(bytes[1], 0x80 | (size < 126 ? size : size < 65_536 ? 126 : 127));
    const key = bytes.subarray(2 + extended, 6 + extended);
    const unmasked = bytes.subarray(6 + extended).map((byte, index) => byte ^ (key[index & 3] ?? 0));
    assert.deepEqual(Uint8Array.from(unmasked), payload);
  }
  assert.notDeepEqual(encodeFrame(1, Uint8Array.of(1)).subarray(2, 6), encodeFrame(1, Uint8Array.of(1)).subarray(2, 6));
  assert.equal(encodeClose(null).length, 6);
  assert.equal(encodeClose(1000, "é").length, 6 + 2 + 2);
});

test("messages, fragments and control frames are read in every split", () => {
  const long = pattern(3 * MAX_PIECE + 5);
  const stream = concat([
    frame(Opcode.TEXT, "hello"),
    frame(Opcode.TEXT),
    frame(Opcode.BINARY, pattern(300)),
    frame(Opcode.TEXT, encodeUtf8("grüße €𝄞").subarray(0, 4), { final: false }),
    frame(Opcode.PING, "are you there?"),
    frame(Opcode.CONTINUATION, "", { final: false }),
    frame(Opcode.CONTINUATION, encodeUtf8("grüße €𝄞").subarray(4, 13), { final: false }),
    frame(Opcode.PONG, "unasked"),
    frame(Opcode.CONTINUATION, encodeUtf8("grüße €𝄞").subarray(13)),
    frame(Opcode.BINARY, long),
    frame(Opcode.PING),
    frame(Opcode.TEXT, "\ufeffmark"),
    frame(Opcode.CLOSE, concat([Uint8Array.of(4321 >> 8, 4321 & 0xff), encodeUtf8("büy")])),
    frame(Opcode.TEXT, "too late"),
  ]);
  const expected = [
    "hello",
    "",
    pattern(300),
    { kind: "ping", data: encodeUtf8("are you there?") },
    "grüße €𝄞",
    long,
    { kind: "ping", data: new Uint8Array(0) },
    "\ufeffmark",
    { kind: "close", code: 4321, reason: "büy" },
  ];
  // A control frame may stand between pieces of a message.
  const sorted = (/** @type {Event[]} */ events) => [
    ...meaning(events.filter((event) => event.kind === "data")),
    ...events.filter((event) => event.kind !== "data"),
  ];
  const isEvent = (/** @type {any} */ each) => typeof each === "object" && "kind" in each;
  const wanted = [...expected.filter((each) => !isEvent(each)), ...expected.filter(isEvent)];
  assert.deepEqual(sorted(decode(stream)), wanted);
  assert.deepEqual(sorted(decode(...Array.from(stream.subarray(0, 2000), (byte) => Uint8Array.of(byte)), stream.subarray(2000))), wanted);
  for (let seed = 1; seed <= 60; seed += 1) {
    const next = random(seed);
    const chunks = [];
    for (let at = 0; at < stream.length; ) {
      const size = 1 + next(seed % 3 === 0 ? 9 : 40_000);
      chunks.push(stream.subarray(at, at + size));
      at += size;
    }
    assert.deepEqual(sorted(decode(...chunks)), wanted, `seed ${seed}`);
  }
});

test("what the server may not send is a violation", () => {
  const byte = (/** @type {number[]} */ ...bytes) => Uint8Array.from(bytes);
  for (const reserved of [0x40, 0x20, 0x10]) {
    fails(byte(0x81 | reserved, 0));
  }
  for (const opcode of [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) {
    fails(byte(0x80 | opcode, 0));
  }
  fails(byte(0x81, 0x80, 1, 2, 3, 4)); // masked
  fails(byte(0x09, 0)); // a fragmented ping
  fails(byte(0x89, 126, 0, 126)); // a long ping
  fails(byte(0x80, 0)); // nothing to continue
  fails(concat([frame(Opcode.TEXT, "a", { final: false }), frame(Opcode.TEXT, "b")]));
  fails(byte(0x82, 126, 0, 125));
  fails(byte(0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255));
  fails(byte(0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0));
  fails(byte(0x88, 1, 3)); // half a code
  for (const code of [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535]) {
    fails(frame(Opcode.CLOSE, byte(code >> 8, code & 0xff)));
  }
  fails(frame(Opcode.CLOSE, byte(3, 232, 0xff)), Code.NOT_UTF8);
  for (const bad of [[0xff], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82]]) {
    fails(frame(Opcode.TEXT, byte(...bad)), Code.NOT_UTF8);
  }
  assert.throws(() => decode(frame(Opcode.TEXT, byte(0xe2), { final: false }), frame(Opcode.CONTINUATION, "a")), Violation);
});

test("every valid code of a Close frame is accepted", () => {
  for (const code of [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999]) {
    assert.deepEqual(decode(frame(Opcode.CLOSE, Uint8Array.of(code >> 8, code & 0xff))), [{ kind: "close", code, reason: "" }]);
  }
  assert.deepEqual(decode(frame(Opcode.CLOSE)), [{ kind: "close", code: null, reason: "" }]);
});

test("what precedes a violation is delivered", () => {
  const decoder = new Decoder();
  const events = [];
  assert.throws(() => {
    for (const event of decoder.receive(concat([frame(Opcode.TEXT, "hello"), Uint8Array.of(0xff, 0xff)]))) {
      events.push(event);
    }
  }, Violation);
  assert.equal(events.length, 1);
});

test("random bytes are read or are a violation, and nothing else", () => {
  for (let seed = 1; seed <= 3000; seed += 1) {
    const next = random(seed);
    const bytes = Uint8Array.from({ length: 40 }, () => (next(3) === 0 ? next(256) : next(16) === 0 ? 0x81 : next(12)));
    try {
      decode(bytes);
    } catch (error) {
      assert.ok(error instanceof Violation, String(error));
    }
  }
  assert.equal(decodeUtf8(encodeUtf8("end")), "end");
});
