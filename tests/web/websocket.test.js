import assert from "node:assert/strict";
import { test } from "node:test";

import { concat, decodeUtf8, encodeUtf8 } from "../../llmtunnel/web/core/bytes.js";
import { acceptOf } from "../../llmtunnel/web/shell/app/rfc6455.js";
import { WebSocketClient } from "../../llmtunnel/web/shell/app/websocket.js";

/** @typedef {import("../../llmtunnel/web/peer/upgrade.js").UpgradeRequest} UpgradeRequest */
/** @typedef {import("../../llmtunnel/web/shell/app/rfc6455.js").DataReceived} DataReceived */

const WAITS = { open: 5, close: 0.05, end: 0.05 };

/** A client, and a server that the test plays. */
class Rig {
  /** What the owner was told. @type {unknown[]} */
  told = [];
  /** @type {Promise<void>} Every piece waits for it. */
  gate = Promise.resolve();
  /** Whether the client has cancelled what it reads. */
  cancelled = false;
  /** @type {UpgradeRequest | null} */
  request = null;
  /** @type {Uint8Array[]} */
  #written = [];
  /** What has arrived of the client's frames. */
  #wake = () => {};
  ended = false;
  /** Whether writes of the client wait. @type {Promise<void> | null} */
  blocked = null;
  /** @type {ReadableStreamDefaultController<Uint8Array> | null} */
  #down = null;

  /**
   * @param {{status?: number, fields?: [string, string][], protocols?: string[], answers?: boolean, most?: number,
   *   waits?: Partial<typeof WAITS>}} [options]
   */
  constructor({ status = 101, fields = [], protocols = [], answers = true, most, waits = {} } = {}) {
    const peer = { upgrade: (/** @type {UpgradeRequest} */ request) => this.#upgrade(request, status, fields, answers) };
    this.client = new WebSocketClient(peer, {
      target: "/ws?a",
      headers: [["Origin", "http://app"]],
      protocols,
      waits: { ...WAITS, ...waits },
      ...(most === undefined ? {} : { most }),
      owner: {
        answered: (headers) => this.told.push(["answered", headers.length]),
        opened: (protocol) => this.told.push(["open", protocol]),
        received: (piece) => this.#received(piece),
        closing: () => this.told.push(["closing"]),
      },
    });
    this.over = this.client.run();
  }

  /** @param {DataReceived} piece */
  async #received({ data, last }) {
    this.told.push([typeof data === "string" ? data : [...data], last]);
    await this.gate;
  }

  /**
   * @param {UpgradeRequest} request
   * @param {number} status
   * @param {[string, string][]} fields
   * @param {boolean} answers
   */
  async #upgrade(request, status, fields, answers) {
    this.request = request;
    if (!answers) {
      await new Promise((_, reject) => {
        request.signal?.addEventListener("abort", () => reject(request.signal?.reason));
      });
    }
    const key = [...(request.headers ?? [])].find(([name]) => name === "Sec-WebSocket-Key")?.[1] ?? "";
    /** @type {[string, string][]} */
    const headers = [
      ["Upgrade", "websocket"],
      ["Connection", "Upgrade"],
      ["Sec-WebSocket-Accept", await acceptOf(key)],
      ...fields,
    ];
    const readable = new ReadableStream({
      start: (controller) => {
        this.#down = controller;
      },
      cancel: () => {
        this.cancelled = true;
      },
    });
    const writable = new WritableStream({
      write: async (chunk) => {
        await this.blocked;
        this.#written.push(chunk);
        this.#wake();
      },
      close: () => {
        this.ended = true;
      },
    });
    const pipe = status === 101 ? { readable, writable } : null;
    return { status, reason: "", headers, pipe, body: status === 101 ? null : readable };
  }

  /** Send bytes as the server. @param {...Uint8Array} parts */
  send(...parts) {
    this.#down?.enqueue(concat(parts));
  }

  /** End the connection as the server. */
  end() {
    this.#down?.close();
  }

  /** Break the connection. @param {Error} error */
  fail(error) {
    this.#down?.error(error);
  }

  /** Return the client's next frame: its first byte, and its payload as text. */
  async frame() {
    while (this.#written.length === 0) {
      await new Promise((resolve) => {
        this.#wake = () => resolve(null);
      });
    }
    const bytes = /** @type {Uint8Array} */ (this.#written.shift());
    const short = (bytes[1] ?? 0) & 0x7f;
    const start = short === 126 ? 4 : short === 127 ? 10 : 2;
    const payload = bytes.subarray(start + 4).map((byte, index) => byte ^ (bytes[start + (index & 3)] ?? 0));
    return [bytes[0], payload];
  }

  async text() {
    const [first, payload] = await this.frame();
    return [first, decodeUtf8(/** @type {Uint8Array} */ (payload))];
  }

  /** Wait until the owner has been told this often. @param {number} count */
  async until(count) {
    while (this.told.length < count) {
      await new Promise((resolve) => {
        setTimeout(resolve);
      });
    }
  }
}

/**
 * @param {number} first
 * @param {string | Uint8Array} payload
 */
function frame(first, payload = "") {
  const bytes = typeof payload === "string" ? encodeUtf8(payload) : payload;
  assert.ok(bytes.length < 126);
  return concat([Uint8Array.of(first, bytes.length), bytes]);
}

/**
 * @param {number} code
 * @param {string} [reason]
 */
function close(code, reason = "") {
  return frame(0x88, concat([Uint8Array.of(code >> 8, code & 0xff), encodeUtf8(reason)]));
}

/** @param {number} code */
function saysClose(code) {
  return [0x88, Uint8Array.of(code >> 8, code & 0xff)];
}

test("messages go both ways until the server closes", async () => {
  const rig = new Rig({ protocols: ["a", "b"], fields: [["Sec-WebSocket-Protocol", "b"]] });
  await rig.until(2);
  assert.equal(rig.request?.target, "/ws?a");
  await rig.client.send(encodeUtf8("one"), { text: true, last: true });
  await rig.client.send(encodeUtf8("tw"), { text: false, last: false });
  await rig.client.send(encodeUtf8("o"), { text: false, last: true });
  assert.deepEqual([await rig.text(), await rig.text(), await rig.text()], [[0x81, "one"], [2, "tw"], [0x80, "o"]]);
  rig.send(frame(0x81, "hi"), frame(2, "x"), frame(0x80, "y"), close(1001, "bye"));
  assert.deepEqual(await rig.frame(), saysClose(1001));
  rig.end();
  assert.deepEqual(await rig.over, { code: 1001, reason: "bye", clean: true, problem: "" });
  assert.deepEqual(rig.told, [["answered", 4], ["open", "b"], ["hi", true], [[120], false], [[121], true], ["closing"]]);
});

test("the client closes, after what it has sent", async () => {
  const rig = new Rig();
  await rig.until(2);
  const sent = rig.client.send(encodeUtf8("last"), { text: true, last: true });
  rig.client.close(4000, "why");
  await sent;
  assert.deepEqual(await rig.text(), [0x81, "last"]);
  assert.equal((await rig.text())[0], 0x88);
  await rig.client.send(encodeUtf8("too late"), { text: true, last: true });
  rig.send(frame(0x81, "still here"), close(4000, "why"));
  rig.end();
  const { code, reason, clean } = await rig.over;
  assert.deepEqual([code, reason, clean], [4000, "why", true]);
  assert.deepEqual(rig.told.slice(2), [["still here", true], ["closing"]]);
  while (!rig.ended) {
    await new Promise((resolve) => {
      setTimeout(resolve);
    });
  }
});

test("a Close frame without a code is 1005", async () => {
  const rig = new Rig();
  await rig.until(2);
  rig.send(frame(0x88));
  assert.deepEqual(await rig.frame(), [0x88, new Uint8Array(0)]);
  assert.deepEqual((await rig.over).code, 1005);
});

test("a server that never answers our Close frame, or never ends the connection, is given up", async () => {
  const silent = new Rig();
  await silent.until(2);
  silent.client.close(1000);
  assert.deepEqual(await silent.over, { code: 1006, reason: "", clean: false, problem: "" });
  assert.ok(silent.cancelled);
  const lingers = new Rig();
  await lingers.until(2);
  lingers.send(close(1000));
  assert.equal((await lingers.over).code, 1000);
  while (!lingers.cancelled) {
    await new Promise((resolve) => {
      setTimeout(resolve);
    });
  }
});

test("a connection that ends or breaks without a Close frame is 1006", async () => {
  const ended = new Rig();
  await ended.until(2);
  ended.end();
  assert.deepEqual(await ended.over, { code: 1006, reason: "", clean: false, problem: "" });
  const broken = new Rig();
  await broken.until(2);
  broken.fail(new Error("The peer has left."));
  assert.deepEqual(await broken.over, { code: 1006, reason: "", clean: false, problem: "The peer has left." });
});

test("a violation is told to the server, after what came before it", async () => {
  const rig = new Rig();
  await rig.until(2);
  rig.send(frame(0x81, "fine"), frame(0x81, Uint8Array.of(0xff)));
  assert.deepEqual(await rig.frame(), saysClose(1007));
  const ending = await rig.over;
  assert.deepEqual([ending.code, ending.clean], [1006, false]);
  assert.match(ending.problem, /not UTF-8/);
  assert.deepEqual(rig.told[2], ["fine", true]);
});

test("a message that is too long closes with 1009, and what follows is not passed on", async () => {
  const rig = new Rig({ most: 100 });
  await rig.until(2);
  rig.send(frame(2, "x".repeat(60)), frame(0, "x".repeat(60)), frame(0x80, "x"), frame(0x81, "next"));
  assert.equal((await rig.text())[0], 0x88);
  rig.send(close(1009));
  const ending = await rig.over;
  assert.deepEqual([ending.code, ending.clean], [1009, true]);
  assert.match(ending.problem, /more than 100 bytes/);
  assert.deepEqual(rig.told.length, 4); // answered, open, the first piece, closing
});

test("while the server does not read, only the last ping waits for its answer", async () => {
  const rig = new Rig();
  await rig.until(2);
  let unblock = () => {};
  rig.blocked = new Promise((resolve) => {
    unblock = () => resolve();
  });
  for (let number = 0; number < 50; number += 1) {
    rig.send(frame(0x89, `${number}`));
  }
  rig.send(frame(0x81, "all read"));
  await rig.until(3);
  unblock();
  assert.deepEqual([await rig.text(), await rig.text()], [[0x8a, "0"], [0x8a, "49"]]);
  rig.send(close(1000));
  assert.deepEqual(await rig.frame(), saysClose(1000));
  await rig.over;
});

test("the next piece is read when the owner has accepted the last one", async () => {
  const rig = new Rig();
  await rig.until(2);
  let open = () => {};
  rig.gate = new Promise((resolve) => {
    open = () => resolve();
  });
  rig.send(frame(0x81, "one"), frame(0x81, "two"));
  await rig.until(3);
  await new Promise((resolve) => {
    setTimeout(resolve, 20);
  });
  assert.equal(rig.told.length, 3);
  open();
  await rig.until(4);
  rig.end();
  await rig.over;
});

test("an answer that opens no WebSocket fails, and its connection is cancelled", async () => {
  for (const options of [
    { status: 200 },
    { status: 401 },
    { fields: /** @type {[string, string][]} */ ([["Sec-WebSocket-Extensions", "x"]]) },
    { protocols: ["a"] },
  ]) {
    const rig = new Rig(options);
    const { code, clean, problem } = await rig.over;
    assert.deepEqual([code, clean], [1006, false]);
    assert.notEqual(problem, "");
    assert.ok(rig.cancelled);
    assert.deepEqual(rig.told.map((each) => /** @type {string[]} */ (each)[0]), ["answered"]);
  }
});

test("a handshake is abandoned by a close, and after a while", async () => {
  const rig = new Rig({ answers: false });
  rig.client.close(1001);
  assert.match((await rig.over).problem, /closed before it was open/);
  const late = new Rig({ answers: false, waits: { open: 0.02 } });
  assert.match((await late.over).problem, /did not answer within 0.02 s/);
});
