/**
 * What of a response's head a browser gets on the app's origin. Pure.
 *
 * Some fields concern the server that a browser believes to talk to, which is the one that serves this page. Others make
 * a browser send something there. An app's Content-Security-Policy stays, and lets our script run; ours comes beside it.
 */

import { saveUrl } from "./admission.js";

/** @typedef {[string, string]} Field */

const DROPPED = new Set([
  ...["x-frame-options", "strict-transport-security", "public-key-pins", "expect-ct", "alt-svc", "clear-site-data"],
  ...["report-to", "reporting-endpoints", "nel", "origin-agent-cluster", "service-worker-allowed", "speculation-rules"],
  ...["set-cookie", "set-cookie2", "content-security-policy", "content-security-policy-report-only"],
  ...["permissions-policy", "referrer-policy", "document-policy", "use-as-dictionary", "critical-ch", "accept-ch"],
]);
const DROPPED_DIRECTIVES = new Set(["frame-ancestors", "report-uri", "report-to"]);
/**
 * What a worker cannot take, and would go to the server of the page: WebSockets, plug-ins, workers from data: URLs.
 * `http:` and `https:` match no WebSocket, unlike 'self'.
 */
const OURS = "connect-src http: https: blob: data:; object-src blob: data:; worker-src http: https: blob:";
/** A document without an origin has no worker, so all that it loads would go to the server of the page. */
const WITHOUT_ORIGIN = "default-src data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'none'";

/**
 * Return the fields for a document or a worker's script.
 *
 * @param {readonly Field[]} fields
 * @param {{shell: string, hash?: string | null}} options `hash`: of the script that is put into a document.
 * @returns {Field[]}
 */
export function documentFields(fields, { shell, hash = null }) {
  const kept = otherFields(fields);
  for (const [name, value] of fields) {
    if (name.toLowerCase() === "content-security-policy") {
      kept.push(...value.split(",").map((policy) => /** @type {Field} */ ([name, changedPolicy(policy, hash)])));
    } else if (name.toLowerCase() === "permissions-policy") {
      kept.push([name, value]);
    }
  }
  if (isSandboxed(fields)) {
    kept.push(["Content-Security-Policy", WITHOUT_ORIGIN]);
  }
  kept.push(
    ["Content-Security-Policy", `${OURS}; frame-ancestors 'self' ${shell}`],
    ["Permissions-Policy", "sync-xhr=()"],
    ["Referrer-Policy", "same-origin"],
  );
  return kept.filter(([, value]) => value.trim() !== "");
}

/**
 * Return the fields for any other response.
 *
 * @param {readonly Field[]} fields
 * @returns {Field[]}
 */
export function otherFields(fields) {
  return fields.filter(([name]) => !DROPPED.has(name.toLowerCase()));
}

/**
 * Whether the app takes a document's origin away.
 *
 * @param {readonly Field[]} fields
 */
function isSandboxed(fields) {
  return fields
    .filter(([name]) => name.toLowerCase() === "content-security-policy")
    .flatMap(([, value]) => value.toLowerCase().split(/[,;]/))
    .some((each) => /^\s*sandbox(?:\s|$)/.test(each) && !/\sallow-same-origin(?:\s|$)/.test(each));
}

/**
 * Return a policy of the app without what does not apply here, and with our script permitted.
 *
 * @param {string} policy
 * @param {string | null} hash
 */
export function changedPolicy(policy, hash) {
  const directives = policy
    .split(";")
    .map((each) => each.trim().split(/[\t\n\f\r ]+/))
    .filter(([name = ""]) => name !== "" && !DROPPED_DIRECTIVES.has(name.toLowerCase()));
  const governing =
    hash === null ? undefined : ["script-src-elem", "script-src", "default-src"].flatMap((name) => named(directives, name))[0];
  if (governing !== undefined && !permitsInline(governing)) {
    const sources = governing.slice(1).filter((each) => each.toLowerCase() !== "'none'");
    const permitted = [...sources, `'sha256-${hash}'`];
    if (governing[0]?.toLowerCase() === "default-src") {
      directives.push(["script-src", ...permitted]); // default-src itself would permit it for styles too
    } else {
      governing.splice(1, governing.length, ...permitted);
    }
  }
  return directives.map((each) => each.join(" ")).join("; ");
}

/**
 * @param {string[][]} directives
 * @param {string} name
 */
function named(directives, name) {
  return directives.filter((each) => each[0]?.toLowerCase() === name).slice(0, 1);
}

/** @param {string[]} directive */
function permitsInline(directive) {
  const sources = directive.map((each) => each.toLowerCase());
  return sources.includes("'unsafe-inline'") && !sources.some((each) => /^'(?:nonce-|sha\d+-|strict-dynamic)/.test(each));
}

/**
 * Whether the app means a file to save.
 *
 * @param {readonly Field[]} fields
 */
export function isAttachment(fields) {
  const own = fields.find(([field]) => field.toLowerCase() === "content-disposition")?.[1] ?? "";
  return /^\s*attachment\s*(?:;|$)/i.test(own);
}

/**
 * Return the fields for a file that the person saves: with the app's own Content-Disposition, or this name. A redirect
 * goes to what is saved too.
 *
 * @param {readonly Field[]} fields
 * @param {{name: string, url: string}} file `url`: of this response.
 * @returns {Field[]}
 */
export function savedFields(fields, { name, url }) {
  const moved = fields.map(([field, value]) =>
    /** @type {Field} */ ([field, field.toLowerCase() === "location" ? savedLocation(value, { name, url }) : value]),
  );
  if (isAttachment(fields)) {
    return moved;
  }
  const escaped = encodeURIComponent(name).replace(/['()*]/g, (each) => `%${each.charCodeAt(0).toString(16)}`);
  const value = name === "" ? "attachment" : `attachment; filename*=UTF-8''${escaped}`;
  return [...moved.filter(([field]) => field.toLowerCase() !== "content-disposition"), ["Content-Disposition", value]];
}

/**
 * @param {string} location
 * @param {{name: string, url: string}} file
 */
function savedLocation(location, { name, url }) {
  if (!URL.canParse(location, url)) {
    return location;
  }
  const { origin, pathname, search } = new URL(location, url);
  return origin === new URL(url).origin ? saveUrl(pathname + search, name) : location;
}
