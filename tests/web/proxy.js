/**
 * A proxy of the core, whose channels and whose user are another process: see live.py.
 *
 * Standard input and output consist of records: `length:u32` of what follows, `kind:u8`, `channel:u8`, and a payload.
 * The channel of a command or report is 0.
 *
 *     MESSAGE   both directions: a message on a channel
 *     OPEN      to here: a channel has opened; JSON of `openChannel`
 *     CLOSED    to here: it has closed; the reason
 *     COMMAND   to here: JSON {"do": the name of a command, "id": n, …}
 *     REPORT    from here: JSON {"id": n, …}, the answer; or {"event": …}
 */

import { createHash, randomBytes } from "node:crypto";
import { exit, stdin, stdout } from "node:process";
import { clearTimeout, setTimeout } from "node:timers";
import { performance } from "node:perf_hooks";

import { newGuesses } from "../../llmtunnel/web/core/protocol/auth.js";
import { Greeting } from "../../llmtunnel/web/core/protocol/greeting.js";
import { Carrier } from "../../llmtunnel/web/core/session/carrier.js";
import { Session } from "../../llmtunnel/web/core/session/mux.js";

/** @typedef {import("../../llmtunnel/web/core/session/stream.js").Stream} Stream */

const MESSAGE = 0;
const OPEN = 1;
const CLOSED = 2;
const COMMAND = 3;
const REPORT = 4;
const HEADER = 6;

const guesses = newGuesses();
/** @type {Map<number, Channel>} */
const channels = new Map();
/** @type {Session | null} */
let session = null;
/** @type {Map<number, {stream: Stream, go: () => void}>} */
const requests = new Map();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

function now() {
  return performance.now() / 1000;
}

/**
 * @param {number} kind
 * @param {number} channel
 * @param {Uint8Array} payload
 */
function write(kind, channel, payload) {
  const header = Buffer.alloc(HEADER);
  header.writeUInt32BE(payload.length + 2);
  header.writeUInt8(kind, 4);
  header.writeUInt8(channel, 5);
  stdout.write(Buffer.concat([header, payload]));
}

/** @param {object} report */
function tell(report) {
  write(REPORT, 0, Buffer.from(JSON.stringify(report)));
}

/** One channel: what it carries, and what it has to send. */
class Channel {
  #flushing = false;

  /**
   * @param {number} number
   * @param {Greeting} greeting
   * @param {any} options See `openChannel`.
   */
  constructor(number, greeting, options) {
    this.number = number;
    this.open = true;
    this.carrier = new Carrier(greeting, {
      changed: () => this.flush(),
      agreed: (carrier, agreement, at) => {
        if (session !== null && agreement.received !== null) {
          session.resume(agreement, carrier, at);
          return;
        }
        session = new Session(agreement, carrier, {
          now: at,
          ...options.session,
          owner: {
            changed: (change) => tell({ event: change.kind, ...change }),
            ended: (error) => tell({ event: "session-ended", ...errorOf(error) }),
          },
        });
        tell({ event: "agreed", features: [...agreement.features], agent: agreement.agent });
      },
    });
    this.carrier.over.then((error) => tell({ event: "carrier-over", channel: number, ...errorOf(error) }));
  }

  /** Send what there is, in the next turn of the loop: what is written in one turn shares a message. */
  flush() {
    if (!this.#flushing) {
      this.#flushing = true;
      setImmediate(() => {
        this.#flushing = false;
        for (const pipe of this.open ? this.carrier.ready : []) {
          for (let next = this.carrier.messageToSend(pipe); next !== null; next = this.carrier.messageToSend(pipe)) {
            write(MESSAGE, this.number, next);
          }
        }
        setTimer();
      });
    }
  }
}

function setTimer() {
  clearTimeout(timer);
  const all = [...channels.values()].filter((each) => each.open).map((each) => each.carrier);
  const due = [session, ...all].flatMap((each) => each?.nextTimer() ?? []);
  if (due.length > 0) {
    timer = setTimeout(() => {
      for (const each of [session, ...all]) {
        const when = each?.nextTimer() ?? Infinity;
        if (now() >= when) {
          each?.handleTimer(now());
        }
      }
      setTimer();
    }, Math.max(0, (Math.min(...due) - now()) * 1000));
  }
}

/** @param {any} error */
function errorOf(error) {
  const { name, message, hint = "", code = null, remote = null } = error;
  return { error: name, message, hint, code, remote };
}

/**
 * @param {number} number
 * @param {any} options `secret`, `certificates` in hexadecimal, `greeting` and `session` for their constructors.
 */
async function openChannel(number, options) {
  const serve = Buffer.from(options.certificates.serve, "hex");
  const certificates = { proxy: Buffer.from(options.certificates.proxy, "hex"), serve };
  const credentials = options.secret
    ? { room: "room", secret: options.secret, certificates, guesses, ticket: session?.ticket ?? null }
    : null;
  const resume = session?.offer(serve) ?? null;
  const greeting = await Greeting.begin({
    ...options.greeting,
    now: now(),
    agent: "web/1",
    certificate: serve,
    credentials,
    resume,
  });
  const channel = new Channel(number, greeting, options);
  channels.set(number, channel);
  channel.flush();
}

/** @type {Record<string, (command: any) => object | void | Promise<object | void>>} */
const COMMANDS = {
  /** Report how an exchange went. */
  async request({ id, method, target, fields = [], size = null, pause = false }) {
    const open = /** @type {Session} */ (session);
    const stream = await open.open({ method, target, fields }, { now: now(), ended: size === null });
    /** @type {Promise<void>} */
    const going = new Promise((resolve) => requests.set(id, { stream, go: resolve }));
    const [up, down] = await Promise.all([send(stream, size), read(stream, pause ? going : null)]);
    return { up, ...down };
  },

  /** Let an exchange that pauses go on. */
  go({ request }) {
    requests.get(request)?.go();
  },

  reset({ request }) {
    requests.get(request)?.stream.reset();
  },

  status() {
    const { suspended = null, active = null, rtt = null, budget = null } = session ?? {};
    return { suspended, active, rtt, held: budget?.used ?? null };
  },

  close() {
    session?.close(now());
  },

  giveUp({ channel }) {
    channels.get(channel)?.carrier.giveUp();
  },
};

/**
 * Send so many random bytes, and return their hash, or how it failed.
 *
 * @param {Stream} stream
 * @param {number | null} size
 */
async function send(stream, size) {
  const hash = createHash("sha256");
  try {
    for (let left = size ?? 0; left > 0; ) {
      const data = randomBytes(Math.min(left, 100_000));
      hash.update(data);
      await stream.send(data);
      data.fill(0); // it was copied
      left -= data.length;
    }
    if (size !== null) {
      stream.sendEnd();
    }
  } catch (error) {
    return errorOf(error);
  }
  return hash.digest("hex");
}

/**
 * Read all of a response, after `pause`.
 *
 * @param {Stream} stream
 * @param {Promise<void> | null} pause
 */
async function read(stream, pause) {
  const hash = createHash("sha256");
  const heads = [];
  let size = 0;
  try {
    let head = await stream.response();
    heads.push(head);
    while (head.status < 200 && head.status !== 101) {
      head = await stream.response();
      heads.push(head);
    }
    await pause;
    for (let data = await stream.receive(); data !== null; data = await stream.receive()) {
      hash.update(data);
      size += data.length;
    }
  } catch (error) {
    return { heads, size, down: hash.digest("hex"), ...errorOf(error) };
  }
  return { heads, size, down: hash.digest("hex") };
}

/**
 * @param {number} kind
 * @param {number} number
 * @param {Buffer} payload
 */
async function take(kind, number, payload) {
  if (kind === MESSAGE) {
    channels.get(number)?.carrier.receive(new Uint8Array(payload), now());
  } else if (kind === OPEN) {
    await openChannel(number, JSON.parse(payload.toString()));
  } else if (kind === CLOSED) {
    const channel = channels.get(number);
    if (channel) {
      channel.open = false;
      channel.carrier.closed(payload.toString(), now());
      setTimer();
    }
  } else if (kind === COMMAND) {
    const command = JSON.parse(payload.toString());
    Promise.resolve(COMMANDS[command.do]?.(command))
      .then((report) => tell({ id: command.id, ...report }), (error) => tell({ id: command.id, ...errorOf(error) }))
      .catch(fail);
  }
}

/** @param {unknown} error */
function fail(error) {
  tell({ event: "defect", ...errorOf(error) });
  exit(1);
}

let pending = Buffer.alloc(0);
let taken = Promise.resolve();
stdin.on("data", (chunk) => {
  pending = pending.length > 0 ? Buffer.concat([pending, chunk]) : chunk;
  while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE()) {
    const end = 4 + pending.readUInt32BE();
    const record = pending.subarray(4, end);
    pending = pending.subarray(end);
    taken = taken.then(() => take(record.readUInt8(0), record.readUInt8(1), record.subarray(2))).catch(fail);
  }
});
stdin.on("end", () => exit(0));
