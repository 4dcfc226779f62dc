import assert from "node:assert/strict";
import { test } from "node:test";

import { Spake2 } from "../../llmtunnel/web/core/protocol/spake2.js";

test("a random scalar of zero is drawn again, since guesses could be tested on its share", async () => {
  let draws = 0;
  const entropy = (/** @type {number} */ size) => {
    draws += 1;
    return new Uint8Array(size).fill(draws > 2 ? 7 : 0);
  };
  const { share } = await Spake2.start("secret", { entropy });
  assert.equal(draws, 3);
  const { share: same } = await Spake2.start("secret", { entropy: (size) => new Uint8Array(size).fill(7) });
  assert.deepEqual(share, same);
});

test("each exchange has another share", async () => {
  const shares = await Promise.all([1, 2, 3].map(async () => String((await Spake2.start("secret")).share)));
  assert.equal(new Set(shares).size, 3);
});
