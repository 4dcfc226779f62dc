/**
 * Conversations that the person keeps on this device, in IndexedDB. Nothing is written before they ask for it; from then
 * on the database exists, which is how the page remembers the choice.
 */

/** @typedef {import("./conversation.js").Conversation} Conversation */

const NAME = "llmtunnel-chat";
const TABLE = "conversations";

/** The kept conversations. `open` it, and `close` it. */
export class Store {
  #database;

  /**
   * @param {IDBDatabase} database
   * @param {() => void} lost Called when another tab deletes it.
   */
  constructor(database, lost) {
    this.#database = database;
    database.addEventListener("versionchange", () => {
      database.close();
      lost();
    });
  }

  /** Return whether the person has chosen to keep conversations on this device. */
  static async exists() {
    const all = await indexedDB.databases();
    return all.some(({ name }) => name === NAME);
  }

  /** @param {() => void} lost */
  static async open(lost) {
    const opening = indexedDB.open(NAME, 1);
    opening.addEventListener("upgradeneeded", () => opening.result.createObjectStore(TABLE, { keyPath: "id" }));
    return new Store(await outcome(opening), lost);
  }

  /** Delete all kept conversations, and forget the choice. */
  static async erase() {
    await outcome(indexedDB.deleteDatabase(NAME));
  }

  /**
   * Return them, the last one changed first.
   *
   * @returns {Promise<Conversation[]>}
   */
  async all() {
    /** @type {Conversation[]} */
    const found = await outcome(this.#table("readonly").getAll());
    return found.sort((one, other) => other.changed - one.changed);
  }

  /** @param {Conversation} conversation */
  async put(conversation) {
    await outcome(this.#table("readwrite").put(conversation));
  }

  /** @param {string} id */
  async delete(id) {
    await outcome(this.#table("readwrite").delete(id));
  }

  close() {
    this.#database.close();
  }

  /** @param {IDBTransactionMode} mode */
  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }
}

/**
 * @template Result
 * @param {IDBRequest<Result>} request
 * @returns {Promise<Result>}
 */
function outcome(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
  });
}
