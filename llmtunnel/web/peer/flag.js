/** An event that somebody may wait for, as `asyncio.Event`. */

/** Set once, it stays set until it is cleared. */
export class Flag {
  #set = false;
  /** @type {Set<() => void>} */
  #waiting = new Set();

  get isSet() {
    return this.#set;
  }

  set() {
    this.#set = true;
    [...this.#waiting].forEach((wake) => wake());
  }

  clear() {
    this.#set = false;
  }

  /**
   * Wait until it is set, and return whether it is.
   *
   * @param {{seconds?: number, signal?: AbortSignal}} [options] Either ends the wait.
   * @returns {Promise<boolean>}
   */
  async wait({ seconds, signal } = {}) {
    if (!this.#set && !signal?.aborted) {
      await new Promise((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", wake);
          this.#waiting.delete(wake);
          resolve(null);
        };
        const timer = seconds === undefined ? undefined : setTimeout(wake, seconds * 1000);
        signal?.addEventListener("abort", wake);
        this.#waiting.add(wake);
      });
    }
    return this.#set;
  }
}
