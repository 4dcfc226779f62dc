/** `site.json`: what whoever serves this page says of it. A page without one, or with a malformed one, has defaults. */

import { DEFAULT_SIGNAL } from "../core/invite.js";

/** @typedef {import("../core/invite.js").Invite} Invite */

/**
 * @typedef {object} Site
 * @property {string | null} signal The signal server for codes that name none. Null: the code's default.
 * @property {string | null} app The app's origin, in which `*` stands for a random label. Null: there is no app mode.
 * @property {string} version
 */

const LABEL = 20;
const LETTERS = "abcdefghijklmnopqrstuvwxyz234567";

/**
 * @param {string} base The page's address.
 * @returns {Promise<Site>}
 */
export async function loadSite(base) {
  try {
    const response = await fetch(new URL("site.json", base), { cache: "no-cache" });
    return siteOf(response.ok ? await response.json() : {}, base);
  } catch {
    return siteOf({}, base);
  }
}

/**
 * @param {unknown} value
 * @param {string} base
 * @returns {Site}
 */
export function siteOf(value, base) {
  const { signal, app, version } = /** @type {Record<string, unknown>} */ (
    typeof value === "object" && value !== null ? value : {}
  );
  return {
    signal: typeof signal === "string" ? signalOf(signal, base) : null,
    app: typeof app === "string" && /^https?:\/\/[^/]+$/.test(app) ? app : null,
    version: typeof version === "string" ? version : "",
  };
}

/**
 * @param {string} signal
 * @param {string} base
 */
function signalOf(signal, base) {
  if (signal === "same") {
    return new URL(".", base).href.replace(/^http/, "ws").replace(/\/$/, "");
  }
  return /^wss?:\/\/./.test(signal) ? signal : null;
}

/**
 * Let an invite use the site's signal server, if its code has named none.
 *
 * @param {Invite} invite
 * @param {string} code The text that it was read from.
 * @param {Site} site
 */
export function useSignal(invite, code, { signal }) {
  if (signal !== null && invite.signal === DEFAULT_SIGNAL && !code.includes("@")) {
    invite.signal = signal;
  }
  return invite;
}

/**
 * Return the origin that the next tunnel's app gets.
 *
 * @param {string} app
 */
export function appOrigin(app) {
  const bytes = crypto.getRandomValues(new Uint8Array(LABEL));
  return app.replace("*", Array.from(bytes, (byte) => LETTERS.charAt(byte % LETTERS.length)).join(""));
}
