/** What answers at the other end of the tunnel: a model server, a web app, or both. Decides between chat and app. */

import { ApiError, field, listModels, typeOf } from "../chat/api.js";

/** @typedef {import("../chat/api.js").Kind} Kind */
/** @typedef {import("../chat/api.js").Requester} Requester */

/**
 * @typedef {object} Upstream
 * @property {boolean} app Whether it has a web app.
 * @property {{kind: Kind, models: string[], problem: ApiError | null} | null} chat Its chat API; null: it has none.
 * @property {string} problem Why it seems to have neither; empty if it has one.
 */

/** Statuses of a page that says only that there is none, or that its server is out of order. */
const NO_PAGE = [404, 405, 500, 501, 502, 503, 504];

/**
 * Ask the upstream what it is. Throws what a request throws.
 *
 * @param {Requester} peer
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<Upstream>}
 */
export async function look(peer, options = {}) {
  const [home, found] = await Promise.all([askHome(peer, options), askChat(peer, options)]);
  const guarded = found.chat !== null && found.chat.problem !== null;
  const chat = home.app && guarded ? null : found.chat; // a web app with a login refuses every path
  const app = home.app || (chat === null && home.html);
  return { app, chat, problem: app || chat !== null ? "" : found.problem || home.problem };
}

/**
 * @param {Requester} peer
 * @param {{signal?: AbortSignal}} options
 */
async function askHome(peer, { signal }) {
  const headers = /** @type {[string, string][]} */ ([
    ["Accept", "text/html"],
    ["Accept-Encoding", "identity"],
    ["Sec-Fetch-Mode", "cors"], // so that serve's own refusal is no page, which would pass for a web app
  ]);
  const response = await peer.request({ target: "/", headers, ...(signal ? { signal } : {}) });
  await response.body?.cancel();
  const { status } = response;
  const html = ["text/html", "application/xhtml+xml"].includes(typeOf(response));
  const redirects = status >= 300 && status < 400 && field(response, "location") !== "";
  return {
    app: redirects || (html && !NO_PAGE.includes(status)),
    html,
    problem: `It answered with HTTP status ${status}, without a web page, and it has no chat API.`,
  };
}

/**
 * @param {Requester} peer
 * @param {{signal?: AbortSignal}} options
 * @returns {Promise<{chat: Upstream["chat"], problem: string}>}
 */
async function askChat(peer, options) {
  try {
    const found = await listModels(peer, options);
    return { chat: found && { ...found, problem: null }, problem: "" };
  } catch (error) {
    if (!(error instanceof ApiError)) {
      throw error;
    }
    // Only a server that requires a key is known to have the API.
    const guarded = [401, 403].includes(error.status);
    return { chat: guarded ? { kind: "openai", models: [], problem: error } : null, problem: `${error.message} ${error.hint}`.trim() };
  }
}
