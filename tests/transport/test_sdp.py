from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ConnectFailed
from llmtunnel.transport.sdp import Description, Fingerprint, parse

OURS = Description(
    ufrag="abcd",
    password="p" * 22,
    fingerprints=(Fingerprint(algorithm="sha-256", value="00:AB"),),
    setup="actpass",
    candidates=("1 1 udp 2130706431 192.0.2.1 5000 typ host",),
    complete=True,
)

# An offer as webrtc-rs 0.11 writes it: fingerprint before the media section, no max-message-size.
ORIGINAL = """v=0\r
o=- 4018021446436163013 520143000 IN IP4 0.0.0.0\r
s=-\r
t=0 0\r
a=fingerprint:sha-256 1D:8B:0A:35\r
a=group:BUNDLE 0\r
m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r
c=IN IP4 0.0.0.0\r
a=setup:actpass\r
a=mid:0\r
a=sendrecv\r
a=sctp-port:5000\r
a=ice-ufrag:CTYEwbKfXWqTrrNA\r
a=ice-pwd:GoDYLAlIdMzKuUUKpuxmtqSgEKfwiUDu\r
a=candidate:167090039 1 udp 2130706431 192.0.2.7 44123 typ host\r
a=candidate:167090039 2 udp 2130706431 192.0.2.7 44123 typ host\r
a=end-of-candidates\r
"""


def test_what_we_write_we_read() -> None:
    assert parse(str(OURS)) == OURS
    assert parse(str(dataclasses.replace(OURS, candidates=(), complete=False))).candidates == ()


def test_an_original_peers_offer_is_read() -> None:
    read = parse(ORIGINAL)
    assert read.ufrag == "CTYEwbKfXWqTrrNA"
    assert read.fingerprints == (Fingerprint(algorithm="sha-256", value="1D:8B:0A:35"),)
    assert read.max_message == 65_536
    assert len(read.candidates) == 2
    assert read.complete


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("a=ice-ufrag:abcd", "a=ice-ufrag:a:b!"),
        ("a=ice-ufrag:abcd", "a=ice-ufrag:" + "a" * 257),
        ("a=ice-pwd:" + "p" * 22, ""),
        ("a=fingerprint:sha-256 00:AB", ""),
        ("a=fingerprint:sha-256 00:AB", "a=fingerprint:sha-256 zz"),
        ("a=setup:actpass", "a=setup:holdconn"),
        ("a=sctp-port:5000", "a=sctp-port:65536"),
        ("a=sctp-port:5000", "a=sctp-port:0"),
        ("a=max-message-size:65536", "a=max-message-size:-1"),
        ("a=max-message-size:65536", "a=max-message-size:1000"),
        ("a=mid:0", "a=mid:"),
        ("m=application 9", "m=audio 9"),
        ("m=application 9", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nm=application 9"),
    ],
)
def test_an_unusable_description_is_refused(there: str, instead: str) -> None:
    text = str(OURS)
    assert there in text
    with pytest.raises(ConnectFailed):
        parse(text.replace(there, instead))


LINES = [*str(OURS).splitlines(), "a=", "m=", "a=setup", "a=mid: ", "a=sctp-port:9999999"]


@given(st.text() | st.lists(st.sampled_from(LINES)).map("\n".join))
def test_rubbish_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        parse(text)
    except ConnectFailed as exc:
        assert exc.message.startswith("The peer")
