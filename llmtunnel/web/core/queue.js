/** A first-in, first-out queue whose operations take constant time, however long it is. */

const TIDY = 1024;

/** @template T */
export class Queue {
  /** @type {(T | undefined)[]} */
  #items = [];
  #start = 0;

  get length() {
    return this.#items.length - this.#start;
  }

  /** @param {T} item */
  push(item) {
    this.#items.push(item);
  }

  /**
   * Put an item ahead of all others.
   *
   * @param {T} item
   */
  putBack(item) {
    if (this.#start > 0) {
      this.#start -= 1;
      this.#items[this.#start] = item;
    } else {
      this.#items.unshift(item);
    }
  }

  /**
   * Remove and return the first item; undefined if there is none.
   *
   * @returns {T | undefined}
   */
  shift() {
    if (this.length === 0) {
      return undefined;
    }
    const item = this.#items[this.#start];
    this.#items[this.#start] = undefined;
    this.#start += 1;
    if (this.#start === this.#items.length) {
      this.clear();
    } else if (this.#start >= TIDY && this.#start * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
    return item;
  }

  /** @returns {T | undefined} */
  get first() {
    return this.#items[this.#start];
  }

  /** @returns {T | undefined} */
  get last() {
    return this.length ? this.#items[this.#items.length - 1] : undefined;
  }

  /**
   * Replace the last item.
   *
   * @param {T} item
   */
  replaceLast(item) {
    this.#items[this.#items.length - 1] = item;
  }

  /**
   * Remove an item, if it is there.
   *
   * @param {T} item
   */
  remove(item) {
    if (this.first === item) {
      this.shift();
      return;
    }
    const index = this.#items.indexOf(item, this.#start);
    if (index >= 0) {
      this.#items.splice(index, 1);
    }
  }

  clear() {
    this.#items = [];
    this.#start = 0;
  }

  /** @returns {Generator<T, void>} */
  *[Symbol.iterator]() {
    for (let index = this.#start; index < this.#items.length; index += 1) {
      yield /** @type {T} */ (this.#items[index]);
    }
  }
}
