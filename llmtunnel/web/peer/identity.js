/**
 * The page's key: by it serve knows the page, on every path and after a reload (protocol/README.md section 9).
 *
 * The browser keeps the private half, and gives it to no script. It lives in the IndexedDB of this origin until
 * `forgetIdentity`. Two tabs are two peers, so only one of them uses the stored key, which a Web Lock decides. Another
 * tab, and a browser that refuses to store anything (some private windows), have a key in memory.
 */

import { fingerprint } from "../core/protocol/keys.js";
import { toHex } from "../core/bytes.js";

/** @typedef {import("../core/protocol/auth.js").Identity} Identity */

const NAME = "llmtunnel identity";
const STORE = "keys";
const KEY = "page";
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256" };
/** Milliseconds that a page waits for the one before it, which a reload has just ended, to let the key go. */
const PATIENCE = 500;

let alone = false;

/** Return a new identity, which lives as long as the page. */
export async function newIdentity() {
  return identityOf(await newPair());
}

/** Return the identity that this origin keeps, or a new one. */
export async function loadIdentity() {
  try {
    return identityOf((await haveAlone()) ? await stored() : await newPair());
  } catch {
    return newIdentity(); // IndexedDB is refused, or damaged
  }
}

/**
 * Delete the stored key: serve takes this browser for another one from the next visit on. The key that another tab uses
 * stays until that tab forgets it.
 */
export async function forgetIdentity() {
  try {
    if (!(await haveAlone())) {
      return;
    }
    await transact("readwrite", (store) => store.delete(KEY));
  } catch {
    // where nothing can be stored, nothing is
  }
}

/**
 * Return the name by which serve's views show the owner of an identity.
 *
 * @param {Identity} identity
 */
export async function nameOf({ publicKey }) {
  return `browser-${toHex(await fingerprint(publicKey)).slice(0, 8)}`;
}

function newPair() {
  return crypto.subtle.generateKey(ALGORITHM, false, ["sign", "verify"]);
}

/**
 * @param {CryptoKeyPair} pair
 * @returns {Promise<Identity>}
 */
async function identityOf({ publicKey, privateKey }) {
  return {
    publicKey: new Uint8Array(await crypto.subtle.exportKey("raw", publicKey)),
    sign: async (data) =>
      new Uint8Array(await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, privateKey, new Uint8Array(data))),
  };
}

/** Return whether this page alone uses the stored key. It keeps that right until it ends. */
async function haveAlone() {
  if (!alone) {
    await new Promise((resolve) => {
      const held = navigator.locks.request(NAME, { signal: AbortSignal.timeout(PATIENCE) }, () => {
        alone = true;
        resolve(null);
        return new Promise(() => {});
      });
      held.catch(resolve);
    });
  }
  return alone;
}

/** Return the stored pair, or store a new one. */
async function stored() {
  const found = await transact("readonly", (store) => store.get(KEY));
  if (found !== undefined) {
    return found;
  }
  const made = await newPair();
  await transact("readwrite", (store) => store.put(made, KEY));
  return made;
}

/**
 * Do one thing in the database, and return its result.
 *
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} use
 */
async function transact(mode, use) {
  const opening = indexedDB.open(NAME, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  const database = await resultOf(opening);
  try {
    return await resultOf(use(database.transaction(STORE, mode).objectStore(STORE)));
  } finally {
    database.close();
  }
}

/**
 * @param {IDBRequest} request
 * @returns {Promise<any>}
 */
function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
