/**
 * The signalling messages as values, to and from JSON (protocol/README.md section 10). Pure.
 *
 * Mirrors `llmtunnel/signaling/messages.py`.
 */

import { ProtocolError } from "../errors.js";
import { isPrintable } from "../protocol/frames.js";

/** @typedef {Record<string, unknown>} Values */
/** @typedef {"serve" | "proxy"} Role */

/** Maximum characters of a peer's id, an instance or a token, which are kept and shown. UUIDs have 36. */
const MAX_ID = 128;
/** Characters of an error's text that are kept for display. */
const MAX_TEXT = 300;
/** STUN and TURN servers that are used. Each costs packets for every connection, to a place that the server chooses. */
const MAX_ICE = 4;
/** Maximum characters of a STUN or TURN server's URL. */
const MAX_URL = 255;
/** Maximum characters of a user name or credential for a TURN server. Ours have 28. */
const MAX_CREDENTIAL = 512;
/** Maximum number of seconds that credentials count as valid. */
const MAX_TTL = 7 * 86_400;
const FIRST_PORT = 1024;
const LAST_PORT = 65_535;
const HTTPS = 443;
const TOO_LARGE = 2 ** 63;
// Narrower than the URLs of a user, since these are the signal server's: printable, without IPv6 literals, and without
// TURN over DTLS.
const HOST = "[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})";
const STUN = new RegExp(`^stun:${HOST}(?::([0-9]{1,5}))?$`);
const TURN = new RegExp(
  `^(?:turn:${HOST}(?::([0-9]{1,5}))?(?:\\?transport=(?:udp|tcp))?` +
    `|turns:${HOST}(?::([0-9]{1,5}))?(?:\\?transport=tcp)?)$`,
);
/** A ticket becomes part of an HTTP field. */
const TICKET = /^[\w.~-]{1,128}$/;
const HALF_A_PAIR = /[\ud800-\udfff]/u;

/**
 * Another member of the room.
 *
 * @typedef {object} Member
 * @property {string} peerId
 * @property {Role | null} role Null: an original member, or a server that does not report roles.
 * @property {string | null} instance
 */

/**
 * A candidate as in WebRTC's RTCIceCandidateInit. An empty `candidate` means the end of candidates.
 *
 * @typedef {object} IceCandidate
 * @property {string} candidate
 * @property {string | null} sdpMid
 * @property {number | null} sdpMLineIndex
 * @property {string | null} usernameFragment
 */

/**
 * STUN servers, and TURN servers with the user name and password for all of them.
 *
 * @typedef {{stun: readonly string[], turn: readonly string[], user: string | null, password: string | null}} IceServers
 */

/**
 * The STUN and TURN servers that the signal server hands out, as far as they may be used.
 *
 * @typedef {object} IceOffer
 * @property {readonly IceServers[]} servers One entry for each user name.
 * @property {number} ttl Seconds for which the credentials are valid. 0: the server does not report that.
 * @property {number} skipped URLs that are not used: too many, or of a kind that the signal server may not name.
 */

/**
 * The limits of the signal server's relay: bytes per second and per day for a room, and seconds without a message after
 * which a pipe closes. 0: the server does not report this limit.
 *
 * @typedef {{rate: number, total: number, idle: number}} RelayOffer
 */

/**
 * We have joined the room. `role`: our role, echoed by a server that knows roles. There, messages are addressed.
 *
 * @typedef {object} Joined
 * @property {"joined"} kind
 * @property {string} peerId
 * @property {readonly Member[]} peers
 * @property {Role | null} role
 * @property {string | null} token
 * @property {RelayOffer | null} relay Null: the server has no relay.
 * @property {IceOffer | null} ice Null: the server hands out no STUN or TURN servers.
 */

/** @typedef {{kind: "peer-joined", member: Member}} PeerJoined */

/**
 * A member has left, or lost the signal server. `abrupt`: its connection ended without a goodbye, as that of a killed
 * process does.
 *
 * @typedef {{kind: "peer-left", peerId: string, abrupt: boolean}} PeerLeft
 */

/** @typedef {{kind: "offer" | "answer", peerId: string, sdp: string}} Described */
/** @typedef {{kind: "candidate", peerId: string, candidate: IceCandidate}} Candidate */

/**
 * A ticket to open a pipe to a member. One of the two has asked for the pipe.
 *
 * @typedef {{kind: "pipe", peerId: string, ticket: string}} PipeTicket
 */

/** @typedef {{kind: "ice", ice: IceOffer}} IceTold */
/** @typedef {{kind: "error", message: string, code: string | null}} ServerError */
/** @typedef {Joined | PeerJoined | PeerLeft | Described | Candidate | PipeTicket | IceTold | ServerError} Message */

/**
 * Return the server's message, or null if its type is unknown. Throws `ProtocolError`.
 *
 * @param {string} text
 * @returns {Message | null}
 */
export function parse(text) {
  const values = objectOf(text);
  switch (values["type"]) {
    case "joined":
      return {
        kind: "joined",
        peerId: idOf(values),
        peers: membersOf(values),
        role: roleOf(values),
        token: optional(values, "token"),
        relay: relayOf(values["relay"]),
        ice: iceOf(values["ice"]),
      };
    case "peer-joined":
      return { kind: "peer-joined", member: memberOf(values) };
    case "peer-left":
      return { kind: "peer-left", peerId: idOf(values), abrupt: values["abrupt"] === true };
    case "offer":
    case "answer":
      return { kind: values["type"], peerId: idOf(values), sdp: textOf(values, "sdp") };
    case "candidate":
      return { kind: "candidate", peerId: idOf(values), candidate: candidateOf(textOf(values, "candidate")) };
    case "pipe":
      return { kind: "pipe", peerId: idOf(values), ticket: ticketOf(values) };
    case "ice":
      return { kind: "ice", ice: iceOf(values["ice"]) ?? { servers: [], ttl: 0, skipped: 0 } };
    case "error":
      return { kind: "error", message: shown(textOf(values, "message")), code: optional(values, "code") };
    default:
      return null;
  }
}

/**
 * Return the message to join a room. `token` proves that we are an earlier member, and `access` that we may use a
 * private signal server.
 *
 * @param {string} room
 * @param {{role: Role, instance: string, token?: string | null, access?: string | null}} options
 */
export function join(room, { role, instance, token, access }) {
  return dump({ type: "join", room, role, instance, token, access });
}

/**
 * Return the message that offers a connection. `to`: null if the server knows no roles, here and below.
 *
 * @param {string} sdp
 * @param {string | null} to
 */
export function offer(sdp, to) {
  return dump({ type: "offer", sdp, to });
}

/**
 * Return the message that answers an offer.
 *
 * @param {string} sdp
 * @param {string | null} to
 */
export function answer(sdp, to) {
  return dump({ type: "answer", sdp, to });
}

/**
 * Return the message that trickles a candidate: a JSON text within the JSON message, as in the original.
 *
 * @param {IceCandidate} found
 * @param {string | null} to
 */
export function candidate(found, to) {
  const { candidate: text, sdpMid, sdpMLineIndex, usernameFragment } = found;
  const inner = JSON.stringify({ candidate: text, sdpMid, sdpMLineIndex, usernameFragment });
  return dump({ type: "candidate", candidate: inner, to });
}

/**
 * Return the message that asks for a pipe through the relay to a member. Both receive a ticket.
 *
 * @param {string} to
 */
export function pipe(to) {
  return dump({ type: "pipe", to });
}

/** Return the message that asks for the STUN and TURN servers again, with new credentials. */
export function askIce() {
  return dump({ type: "ice" });
}

/** @param {Values} values */
function dump(values) {
  return JSON.stringify(Object.fromEntries(Object.entries(values).filter(([, value]) => (value ?? null) !== null)));
}

/**
 * @param {unknown} value
 * @returns {value is Values}
 */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * @param {string} text
 * @returns {Values}
 */
function objectOf(text) {
  let values;
  try {
    values = JSON.parse(text);
  } catch {
    throw new ProtocolError("A signalling message is not JSON.");
  }
  if (!isObject(values)) {
    throw new ProtocolError("A signalling message is not a JSON object.");
  }
  return values;
}

/**
 * @param {Values} values
 * @param {string} name
 */
function textOf(values, name) {
  const value = values[name];
  if (typeof value !== "string" || HALF_A_PAIR.test(value)) {
    throw new ProtocolError(`A signalling message has no ${name}.`);
  }
  return value;
}

/** @param {Values} values */
function idOf(values) {
  const value = textOf(values, "peerId");
  if (value === "" || isLonger(value, MAX_ID)) {
    throw new ProtocolError("A signalling message has an invalid peerId.");
  }
  return value;
}

/**
 * @param {Values} values
 * @param {string} name
 */
function optional(values, name) {
  const value = values[name];
  return typeof value === "string" && !isLonger(value, MAX_ID) && !HALF_A_PAIR.test(value) ? value : null;
}

/**
 * Return whether a text has more characters than this.
 *
 * @param {string} text
 * @param {number} most
 */
function isLonger(text, most) {
  return text.length > most && (text.length > 2 * most || [...text].length > most);
}

/**
 * Return an external text for people: short, on one line, without control characters.
 *
 * @param {string} text
 */
function shown(text) {
  const kept = [...text.slice(0, 2 * MAX_TEXT)].slice(0, MAX_TEXT);
  return kept.map((each) => (isPrintable(each) ? each : " ")).join("");
}

/**
 * @param {Values} values
 * @returns {Role | null}
 */
function roleOf(values) {
  const value = values["role"];
  return value === "serve" || value === "proxy" ? value : null;
}

/**
 * @param {Values} values
 * @returns {Member}
 */
function memberOf(values) {
  return { peerId: idOf(values), role: roleOf(values), instance: optional(values, "instance") };
}

/**
 * Return `members` if the server knows roles, else the plain ids of `peers`.
 *
 * @param {Values} values
 */
function membersOf(values) {
  const members = values["members"];
  if (Array.isArray(members) && members.every(isObject)) {
    return members.map(memberOf);
  }
  const peers = values["peers"];
  if (!Array.isArray(peers) || !peers.every((each) => typeof each === "string")) {
    throw new ProtocolError("A joined message has no peers.");
  }
  return peers.map((each) => memberOf({ peerId: each }));
}

/**
 * @param {unknown} offered
 * @returns {RelayOffer | null}
 */
function relayOf(offered) {
  if (!isObject(offered)) {
    return null;
  }
  return { rate: numberOf(offered["rate"]), total: numberOf(offered["total"]), idle: numberOf(offered["idle"]) };
}

/** @param {Values} values */
function ticketOf(values) {
  const ticket = textOf(values, "ticket");
  if (!TICKET.test(ticket)) {
    throw new ProtocolError("A signalling message has an invalid ticket.");
  }
  return ticket;
}

/**
 * Return the servers that may be used. A hostile server may name anything, in any number.
 *
 * @param {unknown} offered
 * @returns {IceOffer | null}
 */
function iceOf(offered) {
  if (!isObject(offered) || !Array.isArray(offered["servers"])) {
    return null;
  }
  /** @type {IceServers[]} */
  const servers = [];
  let left = MAX_ICE;
  let skipped = 0;
  for (const entry of offered["servers"]) {
    const urls = iceUrls(entry);
    const credentials = credentialsOf(entry);
    const stun = urls.filter((url) => isIceUrl(url, STUN)).slice(0, left);
    const turn = credentials ? urls.filter((url) => isIceUrl(url, TURN)).slice(0, left - stun.length) : [];
    left -= stun.length + turn.length;
    skipped += urls.length - stun.length - turn.length;
    if (stun.length + turn.length > 0) {
      const [user, password] = turn.length > 0 && credentials !== null ? credentials : [null, null];
      servers.push({ stun, turn, user, password });
    }
  }
  return { servers, ttl: Math.min(numberOf(offered["ttl"]), MAX_TTL), skipped };
}

/**
 * Return the URLs of an RTCIceServer, which are a list or a single one. An invalid one is returned as empty.
 *
 * @param {unknown} entry
 * @returns {string[]}
 */
function iceUrls(entry) {
  const urls = isObject(entry) ? entry["urls"] : null;
  return (Array.isArray(urls) ? urls : [urls]).map((url) => (typeof url === "string" ? url : ""));
}

/**
 * @param {string} url
 * @param {RegExp} pattern
 */
function isIceUrl(url, pattern) {
  const match = url.length <= MAX_URL ? pattern.exec(url) : null;
  if (match === null) {
    return false;
  }
  const ports = match.slice(1).flatMap((text) => (text ? [Number(text)] : []));
  return ports.every((port) => port === HTTPS || (port >= FIRST_PORT && port <= LAST_PORT));
}

/**
 * @param {unknown} entry
 * @returns {[string, string] | null}
 */
function credentialsOf(entry) {
  const [user, password] = isObject(entry) ? [entry["username"], entry["credential"]] : [];
  return isCredential(user) && isCredential(password) ? [user, password] : null;
}

/**
 * @param {unknown} value
 * @returns {value is string}
 */
function isCredential(value) {
  return typeof value === "string" && value !== "" && !isLonger(value, MAX_CREDENTIAL) && isPrintable(value);
}

/** @param {unknown} value */
function numberOf(value) {
  return typeof value === "number" && value >= 0 && value < TOO_LARGE ? value : 0;
}

/**
 * @param {string} text
 * @returns {IceCandidate}
 */
function candidateOf(text) {
  const values = objectOf(text);
  const index = values["sdpMLineIndex"];
  return {
    candidate: textOf(values, "candidate"),
    sdpMid: optional(values, "sdpMid"),
    sdpMLineIndex: Number.isInteger(index) ? /** @type {number} */ (index) : null,
    usernameFragment: optional(values, "usernameFragment"),
  };
}
