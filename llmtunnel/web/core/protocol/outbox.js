/**
 * What waits for the channel: first the session's own frames, then the streams in turn, a piece of each.
 *
 * The frames of one stream keep their order. The channel pulls: a frame is cut when there is room for it. So what is
 * queued behind a slow channel can still be dropped (by a reset) or overtaken (by another stream). Frames of streams
 * are entered in their lane's journal when they are cut. A new channel gets those again, before everything else of
 * streams.
 *
 * A channel has one *pipe*, or one for each lane. In the second case, the frames of a lane use its own pipe and wait
 * for no other lane. Frames of the session use the first pipe. Mirrors `llmtunnel/protocol/outbox.py`.
 */

import { MIB } from "../config.js";
import { assert } from "../errors.js";
import { Queue } from "../queue.js";
import { FrameType, HEADER, MAX_BUNDLED_FRAME, MAX_MESSAGE, bundle, bundledSize, encode, streamOf } from "./frames.js";

/** @typedef {import("./journal.js").Journal} Journal */

/** Body bytes that a stream sends in its turn. */
export const QUANTUM = 16_384;
/** Bytes that a stream may have waiting here. A head is accepted whole if there is any room. */
const STREAM_ROOM = 65_536;
/** Bytes of all streams that may wait here before each may have no more than `QUANTUM`. */
const SHARED_ROOM = 8 * MIB;

/** One stream's frames: encoded ones, and bodies that are still to be cut. */
class StreamQueue {
  /** @type {Queue<{type: number, data: Uint8Array, whole: boolean}>} `whole`: `data` is an encoded frame. */
  items = new Queue();
  size = 0;

  /**
   * @param {number} type
   * @param {Uint8Array} data
   * @param {boolean} whole
   */
  add(type, data, whole) {
    this.items.push({ type, data, whole });
    this.size += data.length;
  }

  /** @param {number} stream */
  nextFrame(stream) {
    const item = this.items.shift();
    assert(item, "a stream in turn has something queued");
    if (item.whole) {
      this.size -= item.data.length;
      return item.data;
    }
    const data = item.data.subarray(0, QUANTUM);
    if (item.data.length > QUANTUM) {
      this.items.putBack({ ...item, data: item.data.subarray(QUANTUM) });
    }
    this.size -= data.length;
    return encode(item.type, stream, data);
  }
}

/** What waits for one pipe of the channel. */
class Pipe {
  /** @type {Queue<Uint8Array>} */
  control = new Queue();
  /** Frames that the last channel may have lost. @type {Queue<Uint8Array>} */
  again = new Queue();
  /** @type {Queue<Uint8Array>} */
  urgent = new Queue();
  /** Streams with something queued, in the order of their turns. @type {Queue<number>} */
  turns = new Queue();
  /** A frame that did not fit the last bundle. @type {Uint8Array | null} */
  next = null;

  get isEmpty() {
    const waiting = this.control.length + this.again.length + this.urgent.length + this.turns.length;
    return waiting === 0 && this.next === null;
  }
}

/** The frames of all streams, taken one message at a time. `journals`: one for each lane, or none. */
export class Outbox {
  #bundles;
  #journals;
  #pipes = [new Pipe()];
  /** @type {Map<number, StreamQueue>} */
  #queues = new Map();
  #size = 0;
  /** @type {Set<number>} */
  #cut = new Set();

  /**
   * @param {{bundles: boolean, journals: readonly Journal[]}} options `bundles`: whether frames may share a message.
   */
  constructor({ bundles, journals }) {
    this.#bundles = bundles;
    this.#journals = journals;
  }

  /** The number of pipes of the channel. */
  get pipes() {
    return this.#pipes.length;
  }

  /** The pipes for which something waits, and the first one, which is last. */
  get ready() {
    const others = this.#pipes.flatMap((pipe, number) => (number > 0 && !pipe.isEmpty ? [number] : []));
    return [...others, 0];
  }

  /** The number of control frames, and of streams with something queued. */
  get waiting() {
    return this.#pipes.reduce((sum, pipe) => sum + pipe.control.length + pipe.urgent.length + pipe.turns.length, 0);
  }

  /** Whether only the journal keeps frames of a stream waiting. */
  get held() {
    if (!this.#journals.some((journal) => journal.full)) {
      return false;
    }
    const urgent = this.#pipes.flatMap((pipe) => pipe.urgent.first ?? []).map(streamOf);
    return [...urgent, ...this.#queues.keys()].some((stream) => this.#isFull(stream));
  }

  /** Return the streams of which body bytes have left since the last call, so that there is room again. */
  takeCut() {
    const cut = this.#cut;
    this.#cut = new Set();
    return cut;
  }

  /**
   * Return how many body bytes of a stream may be queued now.
   *
   * @param {number} stream
   */
  room(stream) {
    const most = this.#size < SHARED_ROOM ? STREAM_ROOM : QUANTUM;
    return Math.max(0, most - (this.#queues.get(stream)?.size ?? 0));
  }

  /**
   * Queue a frame of the session, ahead of all streams.
   *
   * @param {Uint8Array} frame
   */
  addControl(frame) {
    this.#pipe(0).control.push(frame);
  }

  /**
   * Queue a frame of a stream, ahead of everything that streams of its pipe have queued.
   *
   * @param {Uint8Array} frame
   */
  addUrgent(frame) {
    this.#pipe(streamOf(frame)).urgent.push(frame);
  }

  /**
   * Queue a head or an end, behind what the stream has queued.
   *
   * @param {number} stream
   * @param {Uint8Array} frame
   */
  addFrame(stream, frame) {
    this.#queue(stream).add(frame[0] ?? 0, frame, true);
    this.#size += frame.length;
  }

  /**
   * Queue body bytes, at most `room`. The outbox keeps the array: the caller must not change it.
   *
   * @param {number} stream
   * @param {number} type
   * @param {Uint8Array} data
   */
  addBody(stream, type, data) {
    this.#queue(stream).add(type, data, false);
    this.#size += data.length;
  }

  /**
   * Drop what a stream has queued.
   *
   * Return whether that included its request, of which the peer then never hears.
   *
   * @param {number} stream
   */
  drop(stream) {
    const queue = this.#queues.get(stream);
    if (queue === undefined) {
      return false;
    }
    this.#queues.delete(stream);
    this.#size -= queue.size;
    this.#pipe(stream).turns.remove(stream);
    return queue.items.first?.type === FrameType.REQ_HEADERS;
  }

  /** Drop what all streams have queued. */
  dropStreams() {
    this.#queues.clear();
    for (const pipe of this.#pipes) {
      pipe.turns.clear();
      pipe.urgent.clear();
      pipe.again.clear();
      pipe.next = null;
    }
    this.#size = 0;
  }

  /**
   * Use a channel with this many pipes: one, or one for each lane. Nothing has been sent over it yet.
   *
   * @param {number} pipes
   */
  split(pipes) {
    assert(pipes === 1 || pipes === this.#journals.length, "a channel has one pipe, or one for each lane");
    const last = this.#pipes;
    this.#pipes = Array.from({ length: pipes }, () => new Pipe());
    for (const pipe of last) {
      for (const frame of pipe.control) {
        this.addControl(frame);
      }
      for (const frame of pipe.urgent) {
        this.addUrgent(frame);
      }
      for (const stream of pipe.turns) {
        this.#pipe(stream).turns.push(stream);
      }
    }
  }

  /**
   * Start again on a new channel: for each lane, send the first frame, then the contents of its journal.
   *
   * @param {readonly Uint8Array[]} firsts
   * @param {number} pipes
   */
  beginAgain(firsts, pipes) {
    for (const pipe of this.#pipes) {
      pipe.control.clear(); // frames of the session were for the other channel
    }
    this.split(pipes);
    for (const [lane, journal] of this.#journals.entries()) {
      const pipe = this.#pipe(lane);
      const first = firsts[lane];
      assert(first, "each lane has a RESUME");
      pipe.control.push(first);
      for (const frame of journal.kept) {
        pipe.again.push(frame);
      }
    }
  }

  /**
   * Return one message for a pipe, or null: a frame, or as many as fit if bundles are agreed on.
   *
   * A message that has `size` bytes gets no further frame.
   *
   * @param {number} [number]
   * @param {number} [size]
   */
  nextMessage(number = 0, size = MAX_MESSAGE) {
    const pipe = this.#pipes[number];
    assert(pipe, "the channel has this pipe");
    const first = this.#take(pipe);
    if (first === null || !this.#bundles || first.length > MAX_BUNDLED_FRAME) {
      return first;
    }
    const frames = [first];
    let bundled = HEADER + bundledSize(first);
    while (bundled < size) {
      const frame = this.#take(pipe);
      if (frame === null) {
        break;
      }
      bundled += bundledSize(frame);
      if (bundled > MAX_MESSAGE) {
        pipe.next = frame;
        break;
      }
      frames.push(frame);
    }
    return bundle(frames);
  }

  /**
   * Return the pipe of a stream. Its lane is its number modulo the number of lanes.
   *
   * @param {number} stream
   */
  #pipe(stream) {
    const pipe = this.#pipes[stream % this.#pipes.length];
    assert(pipe, "there is a pipe for each lane");
    return pipe;
  }

  /** @param {number} stream */
  #queue(stream) {
    let queue = this.#queues.get(stream);
    if (queue === undefined) {
      queue = new StreamQueue();
      this.#queues.set(stream, queue);
      this.#pipe(stream).turns.push(stream);
    }
    return queue;
  }

  /**
   * @param {Pipe} pipe
   * @returns {Uint8Array | null}
   */
  #take(pipe) {
    if (pipe.next !== null) {
      const held = pipe.next;
      pipe.next = null;
      return held;
    }
    const control = pipe.control.shift();
    return control ?? pipe.again.shift() ?? this.#takeNew(pipe);
  }

  /**
   * Return the next frame that its lane's journal has room for, and enter it there.
   *
   * @param {Pipe} pipe
   */
  #takeNew(pipe) {
    const urgent = pipe.urgent.first;
    if (urgent !== undefined && !this.#isFull(streamOf(urgent))) {
      pipe.urgent.shift();
      return this.#enter(urgent);
    }
    // Streams that wait keep their order: a lane's heads go in the order of their numbers.
    for (const stream of pipe.turns) {
      if (!this.#isFull(stream)) {
        return this.#enter(this.#takeTurn(pipe, stream));
      }
      if (this.#pipes.length === this.#journals.length) {
        break; // all of these streams use one lane
      }
    }
    return null;
  }

  /** @param {Uint8Array} frame */
  #enter(frame) {
    this.#journal(streamOf(frame))?.add(frame);
    return frame;
  }

  /** @param {number} stream */
  #isFull(stream) {
    return this.#journal(stream)?.full ?? false;
  }

  /** @param {number} stream */
  #journal(stream) {
    return this.#journals[stream % this.#journals.length];
  }

  /**
   * @param {Pipe} pipe
   * @param {number} stream
   */
  #takeTurn(pipe, stream) {
    pipe.turns.remove(stream);
    const queue = this.#queue(stream);
    const { size } = queue;
    const frame = queue.nextFrame(stream);
    this.#size += queue.size - size;
    if (queue.size < size) {
      this.#cut.add(stream);
    }
    if (queue.items.length > 0) {
      pipe.turns.push(stream);
    } else {
      this.#queues.delete(stream);
    }
    return frame;
  }
}
