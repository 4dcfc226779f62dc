/**
 * A session description (SDP) with one data channel and nothing else, as text and as a value. Pure.
 *
 * RFC 8866 (SDP), RFC 8839 and RFC 8840 (ICE and trickle ICE in SDP), RFC 8841 (SCTP over DTLS), RFC 8842 (DTLS).
 * Mirrors `llmtunnel/transport/sdp.py`.
 *
 * A page passes no description of a peer to its browser as it came. `rebuild` writes it anew, with one fingerprint:
 * Chromium enforces only the last of several, so an attacker could show one certificate to the transcript and another
 * to the browser.
 */

import { fromHex } from "../bytes.js";
import { ConnectFailed } from "../errors.js";

/** Maximum bytes in one message (`llmtunnel/transport/base.py`). */
export const MAX_MESSAGE = 65_536;
/** Candidates that are accepted from one peer. */
export const MAX_CANDIDATES = 48;
const SHA_256 = "sha-256";
const UFRAG = /^[A-Za-z0-9+/]{4,256}$/;
const PASSWORD = /^[A-Za-z0-9+/]{22,256}$/;
const FINGERPRINT = /^([A-Za-z0-9-]+) +([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+)$/;
const SHA_256_VALUE = /^(?:[0-9A-F]{2}:){31}[0-9A-F]{2}$/;
const MID = /^[!-~]{1,64}$/;
const SETUP = /^(?:actpass|active|passive)$/;
const NUMBER = /^[0-9]{1,18}$/;
const LINES = /\r\n|\n|\r/;
/** RFC 8841 section 6.1. */
const SIZE_WHERE_ABSENT = "65536";
/** Foundation, component, protocol, priority, address, port, type and extensions (RFC 8839 section 5.1). */
const CANDIDATE = /^(?:candidate:)?[A-Za-z0-9+/]{1,32} 1 udp [0-9]{1,10} ([0-9A-Za-z.:-]{1,255}) ([0-9]{1,5}) typ [ -~]{1,300}$/i;
/** This network, multicast, reserved and unspecified addresses, and IPv4 addresses within IPv6. */
const NO_MACHINE = /^(?:0\.|22[4-9]\.|2[345]\d\.|ff|::$|::ffff:)/i;
/** The lowest port that is no service. */
const FIRST_PORT = 1024;
/** Higher ports of UDP services that may send more to forged senders than they receive, as `transport/networks.py` has. */
const SERVICES = new Set([
  ...[1434, 1900, 3283, 3389, 3478, 3702, 5060, 5093, 5349, 5351, 5353, 5355, 5683],
  ...[10001, 11211, 17185, 27015, 27960, 32414, 37810],
]);

/** @typedef {"actpass" | "active" | "passive"} Setup */

/**
 * What one side tells the other so that they can connect.
 *
 * @typedef {object} Description
 * @property {string} ufrag
 * @property {string} password
 * @property {readonly {algorithm: string, value: string}[]} fingerprints Upper-case bytes, separated by colons.
 * @property {Setup} setup Which side begins the DTLS handshake: the `active` one.
 * @property {string} mid
 * @property {number} sctpPort
 * @property {number} maxMessage Bytes; 0 means no limit.
 * @property {readonly string[]} candidates Without the leading `candidate:`.
 * @property {boolean} complete Whether no more candidates will be trickled.
 */

/**
 * Parse a peer's SDP. Throws `ConnectFailed` if it is invalid or describes more than a data channel.
 *
 * @param {string} text
 * @returns {Description}
 */
export function parse(text) {
  const attributes = attributesOf(text);
  const last = (/** @type {string} */ name) => attributes.get(name)?.at(-1) ?? "";
  const sctpPort = Number(valid(last("sctp-port"), NUMBER, "sctp-port"));
  const maxMessage = Number(valid(last("max-message-size") || SIZE_WHERE_ABSENT, NUMBER, "max-message-size"));
  if (sctpPort < 1 || sctpPort > 65_535) {
    throw unusable("sctp-port");
  }
  if (maxMessage > 0 && maxMessage < MAX_MESSAGE) {
    throw new ConnectFailed(`The peer accepts only messages up to ${maxMessage} bytes.`);
  }
  return {
    ufrag: valid(last("ice-ufrag"), UFRAG, "ice-ufrag"),
    password: valid(last("ice-pwd"), PASSWORD, "ice-pwd"),
    fingerprints: fingerprintsOf(attributes.get("fingerprint") ?? []),
    setup: /** @type {Setup} */ (valid(last("setup"), SETUP, "setup")),
    mid: valid(last("mid"), MID, "mid"),
    sctpPort,
    maxMessage,
    candidates: attributes.get("candidate") ?? [],
    complete: attributes.has("end-of-candidates"),
  };
}

/**
 * Return the SDP of a description, with its one SHA-256 fingerprint and without its candidates. Throws `ConnectFailed`.
 *
 * @param {Description} description
 */
export function rebuild(description) {
  const { mid, sctpPort, maxMessage, ufrag, password, setup } = description;
  const lines = [
    "v=0",
    "o=- 1 1 IN IP4 0.0.0.0",
    "s=-",
    "t=0 0",
    `a=group:BUNDLE ${mid}`,
    "a=msid-semantic:WMS *",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 0.0.0.0",
    `a=mid:${mid}`,
    `a=sctp-port:${sctpPort}`,
    `a=max-message-size:${maxMessage}`,
    `a=ice-ufrag:${ufrag}`,
    `a=ice-pwd:${password}`,
    "a=ice-options:trickle",
    `a=fingerprint:${SHA_256} ${sha256Of(description)}`,
    `a=setup:${setup}`,
  ];
  return `${lines.join("\r\n")}\r\n`;
}

/**
 * Return the SHA-256 of the certificate that a description announces. Throws `ConnectFailed` unless it is exactly one.
 *
 * @param {Description} description
 */
export function certificateOf(description) {
  return fromHex(sha256Of(description).replaceAll(":", ""));
}

/**
 * Return whether to pass a peer's candidate to the browser, which then sends a few packets there.
 *
 * A stranger has good reason to name private addresses, as two peers in one network have no others. It cannot have a
 * multicast or unspecified address, or the port of a service.
 *
 * @param {string} candidate
 */
export function isUsable(candidate) {
  const [, address = "", port = ""] = CANDIDATE.exec(candidate) ?? [];
  const number = Number(port);
  return address !== "" && !NO_MACHINE.test(address) && number >= FIRST_PORT && number < 65_536 && !SERVICES.has(number);
}

/** @param {Description} description */
function sha256Of({ fingerprints }) {
  const values = new Set(fingerprints.flatMap(({ algorithm, value }) => (algorithm === SHA_256 ? [value] : [])));
  const [value = ""] = values;
  if (values.size !== 1 || !SHA_256_VALUE.test(value)) {
    throw unusable("fingerprint");
  }
  return value;
}

/**
 * Return the values of each attribute, the session's before the media's. The one media section must be the data channel.
 *
 * @param {string} text
 */
function attributesOf(text) {
  /** @type {Map<string, string[]>} */
  const found = new Map();
  const lines = text.split(LINES);
  for (const line of lines.filter((each) => each.startsWith("a="))) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line.slice(2) : line.slice(2, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).trim();
    const values = found.get(name) ?? [];
    values.push(value);
    found.set(name, values);
  }
  const media = lines.filter((each) => each.startsWith("m="));
  if (media.length !== 1 || !/^m=application .*DTLS\/SCTP webrtc-/.test(media[0] ?? "")) {
    throw unusable("m");
  }
  return found;
}

/** @param {string[]} values */
function fingerprintsOf(values) {
  const found = values.flatMap((value) => {
    const [, algorithm = "", bytes = ""] = FINGERPRINT.exec(value) ?? [];
    return algorithm ? [{ algorithm: algorithm.toLowerCase(), value: bytes.toUpperCase() }] : [];
  });
  if (found.length === 0 || found.length < values.length) {
    throw unusable("fingerprint");
  }
  return found;
}

/**
 * @param {string} value
 * @param {RegExp} pattern
 * @param {string} name
 */
function valid(value, pattern, name) {
  if (!pattern.test(value)) {
    throw unusable(name);
  }
  return value;
}

/** @param {string} name */
function unusable(name) {
  return new ConnectFailed(`The peer's session description is not valid (${name}).`);
}
