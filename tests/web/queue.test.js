import assert from "node:assert/strict";
import { test } from "node:test";

import { Queue } from "../../llmtunnel/web/core/queue.js";

test("a queue does what an array does, however much has passed through it", () => {
  /** @type {Queue<number>} */
  const queue = new Queue();
  /** @type {number[]} */
  const array = [];
  let next = 0;
  let seed = 17;
  for (let step = 0; step < 20_000; step += 1) {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    switch (seed % 11) {
      case 0:
      case 1:
      case 2:
        assert.equal(queue.shift(), array.shift());
        break;
      case 4:
        queue.putBack(next);
        array.unshift(next);
        break;
      case 5:
        if (array.length > 0) {
          queue.remove(/** @type {number} */ (array[0]));
          array.shift();
        }
        break;
      case 6:
        queue.remove(next - 3);
        array.splice(0, array.length, ...array.filter((each) => each !== next - 3));
        break;
      default:
        queue.push(next);
        array.push(next);
    }
    next += 1;
    assert.equal(queue.length, array.length);
    assert.equal(queue.first, array[0]);
    assert.equal(queue.last, array.at(-1));
  }
  assert.ok(array.length > 1000);
  assert.deepEqual([...queue], array);
  queue.replaceLast(-1);
  assert.equal(queue.last, -1);
  queue.clear();
  assert.equal(queue.length, 0);
  assert.equal(queue.last, undefined);
});
