/** What a page passes to its browser of a peer's description and candidates. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectFailed } from "../../llmtunnel/web/core/errors.js";
import { certificateOf, isUsable, parse, rebuild } from "../../llmtunnel/web/core/transport/sdp.js";

const ONE = Array.from({ length: 32 }, (_, index) => index.toString(16).padStart(2, "0").toUpperCase()).join(":");
const OTHER = ONE.replaceAll("0", "F");

/** @param {string[]} fingerprints */
const sdp = (...fingerprints) =>
  [
    "v=0",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "a=mid:0",
    "a=sctp-port:5000",
    "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host",
    "a=ice-ufrag:abcd",
    `a=ice-pwd:${"p".repeat(22)}`,
    ...fingerprints.map((each) => `a=fingerprint:${each}`),
    "a=setup:actpass",
  ].join("\r\n");

test("the browser sees exactly one fingerprint, the SHA-256 that the transcript binds", () => {
  const description = parse(sdp(`sha-384 ${OTHER}`, `sha-256 ${ONE.toLowerCase()}`, `sha-512 ${OTHER}`));
  const lines = rebuild(description).split("\r\n");
  assert.deepEqual(
    lines.filter((line) => line.startsWith("a=fingerprint")),
    [`a=fingerprint:sha-256 ${ONE}`],
  );
  assert.deepEqual([...certificateOf(description)], [...Array(32).keys()]);
  assert.ok(!lines.some((line) => line.includes("candidate")));
});

test("a rebuilt description is the same one", () => {
  const description = parse(sdp(`sha-256 ${ONE}`));
  assert.deepEqual(parse(rebuild(description)), { ...description, candidates: [] });
});

test("two certificates, or none that is bound, are refused", () => {
  for (const fingerprints of [
    [`sha-256 ${ONE}`, `sha-256 ${OTHER}`],
    [`sha-256 ${OTHER}`, `sha-256 ${ONE}`],
    [`sha-512 ${ONE}`],
    ["sha-256 00:AB"],
  ]) {
    assert.throws(() => rebuild(parse(sdp(...fingerprints))), ConnectFailed);
    assert.throws(() => certificateOf(parse(sdp(...fingerprints))), ConnectFailed);
  }
});

test("candidates of services, of no machine and of other protocols are not passed on", () => {
  for (const [address, usable] of /** @type {const} */ ([
    ["192.168.1.5 40000", true],
    ["2001:db8::1 40000", true],
    ["3f0c1e2a-1111-2222-3333-444455556666.local 40000", true],
    ["192.168.1.5 53", false],
    ["192.168.1.5 11211", false],
    ["192.168.1.5 70000", false],
    ["224.0.0.1 40000", false],
    ["0.0.0.0 40000", false],
    ["ff02::1 40000", false],
    ["::ffff:10.0.0.1 40000", false],
  ])) {
    assert.equal(isUsable(`candidate:1 1 udp 1 ${address} typ host`), usable, address);
  }
  assert.equal(isUsable("candidate:1 1 tcp 1 192.168.1.5 40000 typ host tcptype passive"), false);
  assert.equal(isUsable("candidate:1 1 udp 1 192.168.1.5 40000 typ host\r\na=setup:active"), false);
  assert.equal(isUsable(""), false);
});
