/**
 * Which requests of a browser the worker answers through the tunnel. Pure.
 *
 * A request goes through the tunnel only if the app's own frame sends it. A page of another site that starts a
 * navigation to the app, or posts a form to it, is told by its referrer: every document of the app is sent with
 * `Referrer-Policy: same-origin`, so the app's own navigations have one. A navigation without any is shown to the person
 * first.
 */

/** Paths of the page itself. The worker of the app's origin leaves its files to the network. */
export const RESERVED = "/~llmtunnel/";
export const SAVE = `${RESERVED}save`;
const OWN_FILE = /^\/~llmtunnel\/(?:[a-z0-9]+\.(?:js|html)|clear)$/;

/**
 * - `tunnel`: answer it through the tunnel
 * - `save`: the same, as a file for the person
 * - `network`: leave it to the browser
 * - `refuse`: fail it
 * - `missing`: a reserved path that is no file of ours
 * - `popup`, `foreign`, `unsure`: show a page of our own that explains it
 *
 * @typedef {"tunnel" | "save" | "network" | "refuse" | "missing" | "popup" | "foreign" | "unsure"} Verdict
 */

/**
 * @typedef {object} Facts
 * @property {string} url
 * @property {string} method
 * @property {string} mode
 * @property {string} destination
 * @property {string} referrer
 * @property {string | null} origin The Origin field, where a browser shows it.
 */

/**
 * Decide about a request.
 *
 * @param {Facts} facts
 * @param {{own: string, shell: string | null}} origins `own`: the app's. `shell`: the shell's, once it is known.
 * @returns {Verdict}
 */
export function admit({ url, method, mode, destination, referrer, origin }, { own, shell }) {
  const target = new URL(url);
  if (target.origin !== own) {
    return target.origin === shell ? "refuse" : "network";
  }
  const saves = target.pathname === SAVE;
  if (target.pathname.startsWith(RESERVED) && !saves) {
    return OWN_FILE.test(target.pathname) && target.search === "" && method === "GET" ? "network" : "missing";
  }
  if (mode !== "navigate") {
    return saves ? "missing" : "tunnel";
  }
  if (destination !== "iframe" && destination !== "frame") {
    return "popup";
  }
  const foreign = (referrer !== "" && originOf(referrer) !== own) || (origin !== null && origin !== own);
  if (foreign) {
    return "foreign";
  }
  if (referrer === "") {
    return method === "GET" && !saves ? "unsure" : "foreign";
  }
  return saves ? "save" : "tunnel";
}

/**
 * Return the URL at which a file can be saved.
 *
 * @param {string} target
 * @param {string} name
 */
export function saveUrl(target, name) {
  return `${SAVE}?${new URLSearchParams({ target, name })}`;
}

/** @param {string} url */
function originOf(url) {
  try {
    return new URL(url).origin;
  } catch {
    return "";
  }
}
