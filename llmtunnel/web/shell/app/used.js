/**
 * The app origins that this browser has used and not cleared, as when a tab is closed without "Disconnect".
 *
 * Each tunnel's app has an origin with a random name. So without this list, nobody would ever clear it.
 */

const KEY = "llmtunnel.apps";
const MOST = 20;

/** @returns {string[]} */
export function usedOrigins() {
  try {
    const listed = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(listed) ? listed.filter((each) => typeof each === "string" && URL.canParse(each)) : [];
  } catch {
    return []; // no storage, or not ours
  }
}

/** @param {string} origin */
export function markUsed(origin) {
  write([...usedOrigins().filter((each) => each !== origin), origin].slice(-MOST));
}

/** @param {string} origin */
export function markCleared(origin) {
  write(usedOrigins().filter((each) => each !== origin));
}

/** @param {string[]} origins */
function write(origins) {
  try {
    localStorage.setItem(KEY, JSON.stringify(origins));
  } catch {
    // A browser that keeps nothing for us keeps nothing for the app either.
  }
}
