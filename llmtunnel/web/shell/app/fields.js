/**
 * What an app's requests say, and what of its answers the app's origin gets. Pure.
 *
 * A worker cannot see or set the fields that browsers keep to themselves. They are made here, as a browser would.
 */

/** @typedef {[string, string]} Field */

const CONNECTION = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
/** Fields that only a browser, a proxy or a connection sets. */
const MADE_HERE = new Set([
  ...[...CONNECTION, "host", "expect", "content-length", "accept-encoding", "cookie", "cookie2", "origin", "referer"],
  ...["x-forwarded-host", "x-forwarded-proto", "x-forwarded-for", "x-forwarded-port", "forwarded", "via"],
  ...["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-user", "service-worker"],
]);
const WITHHELD = new Set([...CONNECTION, "set-cookie", "set-cookie2"]);
const RESERVED = "/~llmtunnel/";
/** What the modes of a cache say to a server, which a worker does not see either. @type {Record<string, Field[]>} */
const OF_CACHE = {
  "no-store": [["Pragma", "no-cache"], ["Cache-Control", "no-cache"]],
  reload: [["Pragma", "no-cache"], ["Cache-Control", "no-cache"]],
  "no-cache": [["Cache-Control", "max-age=0"]],
};

/**
 * @typedef {object} Asked
 * @property {string} method
 * @property {readonly (readonly [string, string])[]} headers
 * @property {string} mode
 * @property {string} destination
 * @property {string} referrer
 * @property {string} cache
 */

/**
 * Return the fields of a request.
 *
 * @param {Asked} asked
 * @param {{origin: string, cookie: string, agent: string, languages: readonly string[]}} context `origin`: the app's.
 * @returns {Field[]}
 */
export function requestFields({ method, headers, mode, destination, referrer, cache }, { origin, cookie, agent, languages }) {
  const { host, protocol } = new URL(origin);
  const kept = headers
    .filter(([name]) => !MADE_HERE.has(name.toLowerCase()))
    .map(([name, value]) => /** @type {Field} */ ([name, value]));
  const said = new Set(kept.map(([name]) => name.toLowerCase()));
  const from = refererOf(referrer, origin);
  /** @type {Field[]} */
  const made = [
    ["Accept-Encoding", "identity"],
    ["X-Forwarded-Host", host],
    ["X-Forwarded-Proto", protocol.replace(":", "")],
    ["Sec-Fetch-Site", mode === "navigate" && from === "" ? "none" : "same-origin"],
    ["Sec-Fetch-Mode", mode],
    ["Sec-Fetch-Dest", destination || "empty"],
  ];
  const more = /** @type {Field[]} */ ([
    ["Accept", "*/*"],
    ["User-Agent", agent],
    ["Accept-Language", languagesOf(languages)],
    ...(OF_CACHE[cache] ?? []),
  ]).filter(([name]) => !said.has(name.toLowerCase()));
  if (method !== "GET" && method !== "HEAD") {
    made.push(["Origin", origin]);
  }
  if (from !== "") {
    made.push(["Referer", from]);
  }
  if (cookie !== "") {
    made.push(["Cookie", cookie]);
  }
  return [...kept, ...[...more, ...made].filter(([, value]) => value !== "")];
}

/**
 * Return the fields of a response for the app's origin, and its cookies, which stay here.
 *
 * @param {readonly (readonly [string, string])[]} fields
 * @returns {{fields: Field[], cookies: string[]}}
 */
export function responseFields(fields) {
  const lower = (/** @type {string} */ name) => name.toLowerCase();
  return {
    fields: fields
      .filter(([name]) => !WITHHELD.has(lower(name)))
      .map(([name, value]) => /** @type {Field} */ ([name, value])),
    cookies: fields.filter(([name]) => lower(name) === "set-cookie").map(([, value]) => value),
  };
}

/**
 * Return the Referer: a page of the app, but not the frame around it.
 *
 * @param {string} referrer
 * @param {string} origin
 */
function refererOf(referrer, origin) {
  if (!URL.canParse(referrer)) {
    return "";
  }
  const { origin: from, pathname, search } = new URL(referrer);
  return from === origin && !pathname.startsWith(RESERVED) ? from + pathname + search : "";
}

/**
 * Return the value of Accept-Language.
 *
 * @param {readonly string[]} languages
 */
export function languagesOf(languages) {
  return languages
    .slice(0, 10)
    .map((each, index) => (index === 0 ? each : `${each};q=${(1 - index / 10).toFixed(1)}`))
    .join(",");
}
