import assert from "node:assert/strict";
import { test } from "node:test";

import * as bytes from "../../llmtunnel/web/core/bytes.js";

const EVERY = Uint8Array.from({ length: 256 }, (_, byte) => byte);

test("byte strings and hexadecimal give their bytes back", () => {
  assert.deepEqual(bytes.fromByteString(bytes.toByteString(EVERY)), EVERY);
  assert.deepEqual(bytes.fromHex(bytes.toHex(EVERY)), EVERY);
  assert.deepEqual(bytes.fromHex(""), bytes.EMPTY);
  assert.ok(bytes.isByteString(bytes.toByteString(EVERY)));
  assert.ok(!bytes.isByteString("\u0100"));
});

test("a text that may be UTF-8 is read as that, or else as ISO-8859-1", () => {
  assert.equal(bytes.guessText("caf\u00c3\u00a9"), "caf\u00e9");
  assert.equal(bytes.guessText("caf\u00e9"), "caf\u00e9");
  assert.equal(bytes.utf8ByteString("\u00e9"), "\u00c3\u00a9");
  assert.equal(bytes.utf8ByteString("\ud800"), null);
});

test("only equal bytes are equal", () => {
  assert.ok(bytes.equal(EVERY, EVERY.slice()));
  assert.ok(bytes.equal(bytes.EMPTY, bytes.EMPTY));
  for (const other of [EVERY.slice(1), EVERY.slice(0, 255), bytes.EMPTY, EVERY.slice().fill(0, 255)]) {
    assert.ok(!bytes.equal(EVERY, other));
    assert.ok(!bytes.equal(other, EVERY));
  }
});
