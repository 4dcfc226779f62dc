/** The conversations of this page: in memory, and on this device too while the person keeps them. Knows no document. */

import { newConversation } from "./conversation.js";
import { Store } from "./store.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

/** Holds all conversations. One of them is `current`. */
export class Library {
  /** @type {Conversation[]} */
  #all = [];
  /** @type {Store | null} */
  #store = null;
  /** Writes, one after the other. */
  #writing = Promise.resolve();
  /** What opens the store or gives it up, one after the other. */
  #turns = Promise.resolve();
  current = newConversation();
  /**
   * Hears that something could not be kept.
   *
   * @type {(error: unknown) => void}
   */
  failed = () => {};

  /** Load the conversations that were kept before, if any. Idempotent. */
  load() {
    return this.#inTurn(() => this.#load());
  }

  /** Keep all conversations on this device from now on. */
  keep() {
    return this.#inTurn(() => this.#keep());
  }

  /** Delete what is kept on this device. The conversations stay in this page's memory. */
  forget() {
    return this.#inTurn(() => this.#forget());
  }

  /** Forget the conversations. What is kept on this device stays, and `load` finds it again. */
  close() {
    return this.#inTurn(() => this.#close());
  }

  async #load() {
    try {
      if (this.#store === null && (await Store.exists())) {
        this.#store = await this.#open();
        this.#all.push(...(await this.#store.all()).map(settled));
      }
    } catch (error) {
      this.failed(error); // a private window, for example, may have no IndexedDB
    }
  }

  /** Whether conversations are kept on this device. */
  get keeps() {
    return this.#store !== null;
  }

  /** The number of conversations that this device keeps. */
  get kept() {
    return this.keeps ? this.#all.length : 0;
  }

  /** All that have messages, the last one changed first. */
  get all() {
    return [...this.#all].sort((one, other) => other.changed - one.changed);
  }

  /** Begin another conversation, with the settings of the current one. */
  begin() {
    this.current = newConversation(this.current);
  }

  /** @param {Conversation} conversation */
  choose(conversation) {
    this.current = conversation;
  }

  /**
   * Note that a conversation has changed.
   *
   * @param {Conversation} conversation
   */
  changed(conversation) {
    conversation.changed = Date.now();
    if (!this.#all.includes(conversation) && conversation.messages.length > 0) {
      this.#all.push(conversation);
    }
    this.save(conversation);
  }

  /**
   * Write a conversation if it is kept.
   *
   * @param {Conversation} conversation
   */
  save(conversation) {
    if (this.#all.includes(conversation)) {
      this.#write((store) => store.put(conversation));
    }
  }

  /** @param {Conversation} conversation */
  delete(conversation) {
    this.#all = this.#all.filter((each) => each !== conversation);
    this.#write((store) => store.delete(conversation.id));
    if (this.current === conversation) {
      this.begin();
    }
  }

  async #keep() {
    try {
      this.#store = await this.#open();
      this.#all.forEach((each) => this.save(each));
      await this.#writing;
    } catch (error) {
      this.failed(error);
    }
  }

  async #forget() {
    await this.#writing;
    this.#store?.close();
    this.#store = null;
    try {
      await Store.erase();
    } catch (error) {
      this.failed(error);
    }
  }

  async #close() {
    await this.#writing;
    this.#store?.close();
    this.#store = null;
    this.#all = [];
    this.current = newConversation();
  }

  /**
   * Open the store, or give it up, after whatever was begun before: a person may press "Disconnect" while it opens.
   *
   * @param {() => Promise<void>} act It fails with nothing.
   */
  #inTurn(act) {
    this.#turns = this.#turns.then(act);
    return this.#turns;
  }

  #open() {
    return Store.open(() => {
      this.#store = null; // in another tab, the person has chosen to keep nothing
    });
  }

  /** @param {(store: Store) => Promise<void>} write */
  #write(write) {
    const store = this.#store;
    if (store !== null) {
      this.#writing = this.#writing.then(() => write(store)).catch((error) => this.failed(error));
    }
  }
}

/**
 * Return a kept conversation in which no answer runs: the page that it came to is gone.
 *
 * @param {Conversation} conversation
 * @returns {Conversation}
 */
function settled(conversation) {
  const messages = conversation.messages.map((each) =>
    each.outcome === "running" ? { ...each, outcome: /** @type {const} */ ("incomplete") } : each,
  );
  return { ...conversation, messages };
}
