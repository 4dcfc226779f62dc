import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { RelayChannel } from "../../llmtunnel/web/peer/relay.js";

/** Stands in for a WebSocket: the test plays the relay. */
class Socket extends EventTarget {
  static OPEN = 1;
  /** @type {Socket[]} */
  static all = [];
  protocol = "llmtunnel-relay";
  readyState = 0;
  bufferedAmount = 0;
  /** @type {Uint8Array[]} */
  sent = [];

  constructor() {
    super();
    Socket.all.push(this);
  }

  open() {
    this.readyState = Socket.OPEN;
    this.dispatchEvent(new Event("open"));
  }

  /** @param {Uint8Array} data */
  deliver(data) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: data.slice().buffer }));
  }

  /** @param {Uint8Array} data */
  send(data) {
    this.sent.push(data);
  }

  close() {
    this.readyState = 3;
  }
}

const { WebSocket } = globalThis;
beforeEach(() => {
  Socket.all = [];
  Object.assign(globalThis, { WebSocket: Socket });
});
afterEach(() => {
  Object.assign(globalThis, { WebSocket });
});

/** @returns {Promise<Socket>} */
async function theSocket() {
  while (Socket.all[0] === undefined) {
    await new Promise(setImmediate);
  }
  return Socket.all[0];
}

test("the page's first message leaves as the pipe opens, whatever the relay has sent by then", async () => {
  const opening = RelayChannel.open("ws://h", "ticket", new AbortController().signal);
  const socket = await theSocket();
  socket.open();
  socket.deliver(new Uint8Array(48).fill(9));
  assert.deepEqual(socket.sent.map((each) => [each.length, each[0]]), [[33, 1]]);
  await assert.rejects(opening, { name: "ConnectFailed", message: /altered on the way/ });
});

test("a pipe that is given up before its socket exists opens none", async () => {
  const giveUp = new AbortController();
  const opening = RelayChannel.open("ws://h", "ticket", giveUp.signal);
  giveUp.abort(new Error("not needed"));
  await assert.rejects(opening, /not needed/);
  assert.deepEqual(Socket.all, []);
});
