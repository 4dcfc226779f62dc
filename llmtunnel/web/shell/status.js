/** The state of the tunnel in the page's head: a line, and a panel with details that opens below it. */

import { el } from "./dom.js";
import { pathText, rateText, rttText } from "./texts.js";

/** @typedef {import("../peer/peer.js").State} State */

/** Milliseconds between two looks at the rates. */
const EVERY = 1000;

/** @type {Partial<Record<State["phase"], string>>} */
const WORDS = { failed: "Ended", suspended: "Interrupted", waiting: "Waiting" };

/**
 * @param {State["path"]} path
 * @param {number | null} rtt
 */
function lineOf(path, rtt) {
  const name = pathText(path, { short: true });
  return rtt === null ? name : `${name} · ${rttText(rtt)}`;
}

/** Shows itself as `element`. Call `show` with each state, and `close` at the end. */
export class Status {
  #read;
  #changed;
  #name = "–";
  #dot = el("span", { class: "dot" });
  #short = el("span", { class: "short" });
  #rows = el("dl");
  /** @type {Map<string, HTMLElement>} */
  #values = new Map();
  #ended = new AbortController();
  #timer;
  /** @type {{at: number, received: number, sent: number}} */
  #last;
  #rates = { down: 0, up: 0 };

  /**
   * @param {() => State} read
   * @param {object} options
   * @param {Promise<string>} options.name This page's name, as serve's views show it.
   * @param {() => void} options.changed Called now and then: the number of requests may have changed.
   * @param {() => void} options.reconnect
   */
  constructor(read, { name, changed, reconnect }) {
    this.#read = read;
    this.#changed = changed;
    name.then((known) => {
      this.#name = known;
    });
    const { received, sent } = read();
    this.#last = { at: performance.now(), received, sent };
    this.element = el(
      "details",
      { class: "status", keydown: (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && this.#shut() },
      el("summary", {}, this.#dot, el("span", { class: "hidden" }, "State of the tunnel: "), this.#short),
      el(
        "div",
        { class: "panel" },
        this.#rows,
        el("button", { type: "button", click: reconnect }, "Connect again"),
      ),
    );
    document.addEventListener("pointerdown", (event) => this.#pressed(event), { signal: this.#ended.signal });
    this.#timer = setInterval(() => this.#measure(), EVERY);
    this.show();
  }

  /** Show the state as it is now. */
  show() {
    const { phase, path, rtt, requests, peer } = this.#read();
    const connected = phase === "connected";
    this.#dot.className = `dot ${connected ? "ok" : phase === "failed" ? "error" : "warning"}`;
    this.#short.textContent = connected ? lineOf(path, rtt) : (WORDS[phase] ?? "Connecting");
    const { down, up } = this.#rates;
    this.#setRows({
      Path: pathText(path),
      "Round trip": rttText(rtt),
      Download: rateText(down),
      Upload: rateText(up),
      Requests: String(requests),
      "Other side": peer ?? "–",
      "This page": this.#name,
    });
  }

  close() {
    clearInterval(this.#timer);
    this.#ended.abort();
  }

  /**
   * Close the panel after a press outside of it.
   *
   * @param {Event} event
   */
  #pressed({ target }) {
    if (!(target instanceof Node && this.element.contains(target))) {
      this.element.open = false;
    }
  }

  #shut() {
    if (this.element.open) {
      this.element.open = false;
      this.element.querySelector("summary")?.focus();
    }
  }

  /**
   * Show the values. One that stays the same stays selected.
   *
   * @param {Record<string, string>} rows
   */
  #setRows(rows) {
    for (const [name, value] of Object.entries(rows)) {
      let shown = this.#values.get(name);
      if (shown === undefined) {
        shown = el("dd");
        this.#values.set(name, shown);
        this.#rows.append(el("dt", {}, name), shown);
      }
      if (shown.textContent !== value) {
        shown.textContent = value;
      }
    }
  }

  #measure() {
    const { received, sent } = this.#read();
    const at = performance.now();
    const seconds = (at - this.#last.at) / 1000;
    // A new session counts from 0.
    const rate = (/** @type {number} */ now, /** @type {number} */ then) => Math.max(0, now - then) / seconds;
    this.#rates = { down: rate(received, this.#last.received), up: rate(sent, this.#last.sent) };
    this.#last = { at, received, sent };
    this.show();
    this.#changed();
  }
}
