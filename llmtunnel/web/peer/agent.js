/** What a page says that it is, for the people at serve's side. */

/** Browsers by what their user agent string contains. Of several, the first counts, since most name others too. */
const BROWSERS = [
  ["Edg", "Edge"],
  ["OPR/", "Opera"],
  ["SamsungBrowser/", "Samsung Internet"],
  ["FxiOS/", "Firefox"],
  ["Firefox/", "Firefox"],
  ["CriOS/", "Chrome"],
  ["Chrome/", "Chrome"],
  ["Safari/", "Safari"],
];

/**
 * Return the agent of HELLO for a browser.
 *
 * @param {string} userAgent
 */
export function agentOf(userAgent) {
  const found = BROWSERS.find(([part]) => userAgent.includes(/** @type {string} */ (part)));
  return found ? `llmtunnel page (${found[1]})` : "llmtunnel page";
}
