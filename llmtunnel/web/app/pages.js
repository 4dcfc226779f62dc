/** The pages that the worker shows in place of an app's, and how it fails other requests. Pure. */

/** @typedef {"popup" | "foreign" | "unsure" | "missing" | "gone" | "failed" | "large"} Reason */

/** @type {Record<Reason, {status: number, title: string, text: string}>} */
const PAGES = {
  popup: {
    status: 403,
    title: "This app runs in the tunnel's page only.",
    text: "An app that comes through a tunnel cannot be opened in a window of its own. Go back to the tunnel's page.",
  },
  foreign: {
    status: 403,
    title: "Another site tried to open this app.",
    text: "Requests that another site starts are not sent through the tunnel.",
  },
  unsure: {
    status: 403,
    title: "Do you want to open this page of the app?",
    text: "The browser does not say where this request comes from. If you have just clicked on a link of the app, continue.",
  },
  missing: { status: 404, title: "Not found.", text: "Addresses below /~llmtunnel/ belong to the tunnel." },
  gone: {
    status: 503,
    title: "The tunnel is disconnected.",
    text: "Open the tunnel's page, and connect again.",
  },
  failed: { status: 502, title: "The tunnel could not answer.", text: "Load this page again in a moment." },
  large: {
    status: 413,
    title: "The upload is too large for this browser.",
    text: "This browser cannot stream uploads. Use Chrome or Edge, or send a smaller file.",
  },
};

/**
 * Return a page of ours.
 *
 * @param {Reason} reason
 * @param {{detail?: string, again?: string | null}} [options] `detail`: what has failed. `again`: path of a link to
 *   continue with.
 * @returns {{status: number, html: string}}
 */
export function page(reason, { detail = "", again = null } = {}) {
  const { status, title, text } = PAGES[reason];
  const link = again === null ? "" : `<p><a href="${escaped(again)}">Continue</a></p>`;
  const said = detail === "" ? "" : `<p>${escaped(detail)}</p>`;
  return {
    status,
    html: `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:4em auto;padding:0 1em}</style>
<h1 style="font-size:1.25em">${title}</h1>${said}<p>${text}</p>${link}`,
  };
}

/**
 * Return the same in a line of text, for a request that shows no page.
 *
 * @param {Reason} reason
 * @param {string} [detail]
 */
export function line(reason, detail = "") {
  const { status, title, text } = PAGES[reason];
  return { status, text: [detail || title, text].join(" ") };
}

/** @param {string} text */
function escaped(text) {
  return text.replace(/[&<>"']/g, (each) => `&#${each.charCodeAt(0)};`);
}
