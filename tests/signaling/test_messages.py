from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.config import IceServers
from llmtunnel.errors import ProtocolError
from llmtunnel.signaling import messages
from llmtunnel.signaling.messages import (
    MAX_CREDENTIAL,
    MAX_ICE,
    MAX_TTL,
    MAX_URL,
    Answer,
    Candidate,
    IceCandidate,
    IceOffer,
    IceTold,
    Joined,
    Member,
    Offer,
    PeerJoined,
    PeerLeft,
    PipeTicket,
    RelayOffer,
    ServerError,
    parse,
)
from llmtunnel.status import Role

HOST = "candidate:1 1 udp 2130706431 127.0.0.1 9 typ host"


def dump(**values: object) -> str:
    return json.dumps(values)


def test_joined_of_an_original_server_has_bare_ids() -> None:
    text = '{"type":"joined","peerId":"me","peers":["you"]}'
    assert parse(text) == Joined("me", (Member("you"),), None, None)


def test_joined_of_our_server_has_roles_instances_and_a_token() -> None:
    text = dump(
        type="joined",
        peerId="me",
        peers=["you", "old"],
        role="proxy",
        token="t",
        members=[{"peerId": "you", "role": "serve", "instance": "i"}, {"peerId": "old"}],
    )
    members = Member("you", Role.SERVE, "i"), Member("old")
    assert parse(text) == Joined("me", members, Role.PROXY, "t")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (dump(type="peer-joined", peerId="you"), PeerJoined(Member("you"))),
        (
            dump(type="peer-joined", peerId="you", role="serve", instance="i"),
            PeerJoined(Member("you", Role.SERVE, "i")),
        ),
        (dump(type="peer-joined", peerId="you", role="later"), PeerJoined(Member("you"))),
        (dump(type="peer-left", peerId="you"), PeerLeft("you")),
        (dump(type="peer-left", peerId="you", abrupt=True), PeerLeft("you", abrupt=True)),
        (dump(type="peer-left", peerId="you", abrupt="yes"), PeerLeft("you")),
        (dump(type="offer", peerId="you", sdp="v=0\r\n"), Offer("you", "v=0\r\n")),
        (dump(type="answer", peerId="you", sdp="v=0\r\n", later=1), Answer("you", "v=0\r\n")),
        (dump(type="error", message="room 'R' is full (max 2)"), ServerError("room 'R' is full (max 2)")),
        (dump(type="error", message="m", code="too-fast"), ServerError("m", "too-fast")),
        (dump(type="pipe", peerId="you", ticket="t-1_x"), PipeTicket("you", "t-1_x")),
    ],
)
def test_what_the_server_says_is_read(text: str, message: messages.Message) -> None:
    assert parse(text) == message


@pytest.mark.parametrize(
    ("inner", "candidate"),
    [
        (dump(candidate=HOST, sdpMid="0", sdpMLineIndex=0, usernameFragment="u"), IceCandidate(HOST, "0", 0, "u")),
        (dump(candidate=HOST, sdpMid=None, sdpMLineIndex=None), IceCandidate(HOST)),
        (dump(candidate="", sdpMid="0"), IceCandidate("", "0")),
        (dump(candidate=HOST, sdpMid=7, sdpMLineIndex=True, usernameFragment=[]), IceCandidate(HOST)),
    ],
)
def test_a_candidate_is_json_within_json(inner: str, candidate: IceCandidate) -> None:
    assert parse(dump(type="candidate", peerId="you", candidate=inner)) == Candidate("you", candidate)


@pytest.mark.parametrize("kind", ["later", 7, None, [], {}])
def test_a_type_that_we_do_not_know_is_none(kind: object) -> None:
    assert parse(dump(type=kind)) is None
    assert parse("{}") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "[" * 60_000,
        '{"a":' * 9_000,
        "1" * 60_000,
        dump(type="joined", peerId="me"),
        dump(type="joined", peers=[]),
        dump(type="joined", peerId="me", peers=[1]),
        dump(type="joined", peerId="me", peers=[""]),
        dump(type="joined", peerId="me", peers=["you"], members=[{"peerId": 1}]),
        dump(type="peer-joined", peerId=["you"]),
        dump(type="peer-left", peerId="x" * 129),
        dump(type="peer-left", peerId=""),
        dump(type="peer-left", peerId="\ud800"),
        dump(type="offer", peerId="you"),
        dump(type="offer", sdp="s"),
        dump(type="answer", peerId="you", sdp=None),
        dump(type="answer", peerId="you", sdp="\udc00"),
        dump(type="candidate", peerId="you", candidate={"candidate": HOST}),
        dump(type="candidate", peerId="you", candidate="nonsense"),
        dump(type="candidate", peerId="you", candidate="{}"),
        dump(type="pipe", peerId="you"),
        dump(type="pipe", ticket="t"),
        dump(type="pipe", peerId="you", ticket=""),
        dump(type="pipe", peerId="you", ticket="x" * 129),
        dump(type="pipe", peerId="you", ticket="a, b"),
        dump(type="pipe", peerId="you", ticket="a\r\nX: y"),
        dump(type="pipe", peerId="you", ticket="ä"),
        dump(type="error"),
    ],
    ids=lambda text: text[:50],
)
def test_what_makes_no_sense_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse(text)


@pytest.mark.parametrize(
    ("offer", "relay"),
    [
        ({"rate": 4, "total": 5.5, "idle": 6}, RelayOffer(rate=4, total=5.5, idle=6)),
        ({"rate": "fast", "total": -1, "idle": True, "later": 1}, RelayOffer()),
        ({"rate": 1e300, "total": 2**63, "idle": None}, RelayOffer()),
        ({}, RelayOffer()),
        (None, None),
        ([], None),
        (True, None),
    ],
)
def test_a_relay_is_offered_with_the_limits_that_it_tells(offer: object, relay: RelayOffer | None) -> None:
    joined = parse(dump(type="joined", peerId="me", peers=[], relay=offer))
    assert joined == Joined("me", relay=relay)


def test_a_ticket_is_shown_nowhere() -> None:
    assert "secret" not in repr(parse(dump(type="pipe", peerId="you", ticket="secret")))


def test_a_pipe_is_asked_for_by_the_members_id() -> None:
    assert json.loads(messages.pipe("you")) == {"type": "pipe", "to": "you"}


def test_an_errors_text_is_fit_for_a_terminal() -> None:
    error = parse(dump(type="error", message="\x1b[2J\r\nred" + "x" * 1000, code="x" * 1000))
    assert error == ServerError(f" [2J  red{'x' * 291}", None)


@settings(deadline=None)  # a busy machine is no defect
@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_is_a_message_or_a_protocol_error(text: str) -> None:
    with suppress(ProtocolError):
        parse(text)


KINDS = "joined", "peer-joined", "peer-left", "offer", "answer", "candidate", "pipe", "ice", "error"
TURN = {"urls": ["turn:a", "turns:a:443"], "username": "9:i", "credential": "c="}


def ice_of(*servers: object, ttl: object = 3600) -> IceOffer:
    joined = parse(dump(type="joined", peerId="me", peers=[], ice={"servers": servers, "ttl": ttl}))
    assert isinstance(joined, Joined) and joined.ice is not None
    return joined.ice


def used(*urls: object) -> list[str]:
    """Which of these URLs are used, as those of one entry."""
    offer = ice_of({**TURN, "urls": list(urls)})
    assert offer.skipped == len(urls) - sum(len(each.stun) + len(each.turn) for each in offer.servers)
    return [url for each in offer.servers for url in (*each.stun, *each.turn)]


def test_servers_come_as_those_of_webrtc_with_their_credentials() -> None:
    turn = IceServers(stun=(), turn=("turn:a", "turns:a:443"), turn_user="9:i", turn_pass="c=")
    offer = IceOffer(servers=(IceServers(stun=("stun:b:3478",)), turn), ttl=3600.0)
    assert ice_of({"urls": "stun:b:3478"}, TURN) == offer
    told = parse(dump(type="ice", ice={"servers": [{"urls": ["stun:b:3478"]}, TURN], "ttl": 3600}))
    assert told == IceTold(offer)
    assert json.loads(messages.ask_ice()) == {"type": "ice"}


@pytest.mark.parametrize("ice", [None, 7, [], "x", {}, {"servers": 7}, {"servers": {"urls": "stun:a"}}])
def test_what_is_no_list_of_servers_counts_as_none(ice: object) -> None:
    joined = parse(dump(type="joined", peerId="me", peers=[], ice=ice))
    assert isinstance(joined, Joined) and joined.ice is None
    assert parse(dump(type="ice", ice=ice)) == IceTold(IceOffer())


def test_at_most_four_servers_are_used_however_many_are_named() -> None:
    hundred = [f"turn:host{number}" for number in range(100)]
    assert used(*hundred) == hundred[:MAX_ICE]
    offer = ice_of(*({"urls": f"stun:host{number}"} for number in range(60)), *({**TURN, "urls": hundred[:40]},) * 2)
    assert [each.stun for each in offer.servers] == [(f"stun:host{number}",) for number in range(MAX_ICE)]
    assert offer.skipped == 60 + 80 - MAX_ICE


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "http://a",
            "https://a",
            "stuns:a",
            "turn://a",
            "TURN:a",
            "turn:",
            "turn",
            "",
            "javascript:1",
        ),
        *(
            "turn:a:22",
            "turn:a:25",
            "turn:a:53",
            "stun:a:80",
            "turns:a:444x",
            "turn:a:0",
            "turn:a:1023",
            "turn:a:65536",
        ),
        *("turn:a:99999999", "turn:[::1]:3478", "turn:[::ffff:169.254.169.254]", "turn:user@a", "turn:a/b"),
        "turn:a b",
        *(
            "turn:a?transport=tls",
            "turns:a?transport=udp",
            "stun:a?transport=tcp",
            "turn:a\n",
            "turn:\x1b[2J",
            "turn:é",
        ),
        *("turn:" + "a" * MAX_URL, "turn:.a", 7, None, ["turn:a"], {"turn": "a"}),
    ],
)
def test_a_server_of_another_kind_or_port_is_not_used(url: object) -> None:
    assert used(url, "turn:a:3478") == ["turn:a:3478"]


@pytest.mark.parametrize(
    "url",
    [
        *("stun:a", "stun:a.example:3478", "stun:192.0.2.1:443", "turn:a:1024", "turn:a:65535", "turns:a:443"),
        *("turn:a?transport=udp", "turn:a:443?transport=tcp", "turns:a-b.c?transport=tcp"),
    ],
)
def test_stun_and_turn_servers_are_used(url: str) -> None:
    assert used(url) == [url]


@pytest.mark.parametrize(
    "entry",
    [
        *(
            TURN | {name: value}
            for name in ("username", "credential")
            for value in (None, 7, "", "x" * (MAX_CREDENTIAL + 1))
        ),
        *(TURN | {"username": "a\x00b"}, TURN | {"credential": "\u202e"}, {"urls": "turn:a"}, 7, None, "turn:a", []),
    ],
)
def test_a_turn_server_without_usable_credentials_is_not_used(entry: object) -> None:
    assert ice_of(entry).servers == ()


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(60, 60.0), (1e300, MAX_TTL), (-1, 0.0), ("60", 0.0), (None, 0.0), (True, 0.0)]
)
def test_the_time_of_credentials_is_bounded(ttl: object, seconds: float) -> None:
    assert ice_of(TURN, ttl=ttl).ttl == (seconds if ttl != 1e300 else 0.0)


NAMES = "peerId", "peers", "members", "role", "token", "relay", "sdp", "candidate", "ticket", "message", "code", "ice"
items = st.text() | st.dictionaries(st.text(), st.text())
urls = st.sampled_from(("stun:a", "turn:a", "turns:a:443", "turn:a:22", "file:a", "")) | st.text()
servers = st.fixed_dictionaries(
    {}, optional={"urls": st.lists(urls) | urls, "username": st.text(), "credential": st.text()}
)
offers = st.fixed_dictionaries({"servers": st.lists(servers | items)}, optional={"ttl": st.floats() | st.text()})
values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(items) | offers


@settings(deadline=None)  # a busy machine is no defect
@given(st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional=dict.fromkeys(NAMES, values)))
def test_any_values_make_a_message_or_a_protocol_error(message: dict[str, object]) -> None:
    with suppress(ProtocolError):
        made = parse(json.dumps(message))
        if isinstance(made, Joined | IceTold) and made.ice is not None:
            used = [url for each in made.ice.servers for url in (*each.stun, *each.turn)]
            assert len(used) <= MAX_ICE
            assert all(url.startswith(("stun:", "turn:", "turns:")) and len(url) <= MAX_URL for url in used)
            assert 0 <= made.ice.ttl <= MAX_TTL


def test_join_says_who_we_are_and_proves_it_where_it_can() -> None:
    assert json.loads(messages.join("R", role=Role.SERVE, instance="i")) == {
        "type": "join",
        "room": "R",
        "role": "serve",
        "instance": "i",
    }
    assert json.loads(messages.join("R", role=Role.PROXY, instance="i", token="t"))["token"] == "t"
    assert json.loads(messages.join("R", role=Role.PROXY, instance="i", access="a"))["access"] == "a"


@pytest.mark.parametrize("to", [None, "you"])
def test_what_we_send_is_addressed_where_the_server_knows_roles(to: str | None) -> None:
    address = {"to": to} if to else {}
    assert json.loads(messages.offer("s", to=to)) == {"type": "offer", "sdp": "s", **address}
    assert json.loads(messages.answer("s", to=to)) == {"type": "answer", "sdp": "s", **address}
    message = json.loads(messages.candidate(IceCandidate(HOST, "0", 0, "u"), to=to))
    inner = json.loads(message.pop("candidate"))
    assert message == {"type": "candidate", **address}
    assert inner == {"candidate": HOST, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "u"}


def test_bye_says_nothing_more() -> None:
    assert json.loads(messages.bye()) == {"type": "bye"}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)


@settings(deadline=None)  # a busy machine is no defect
@given(texts, st.none() | texts, st.none() | st.integers(0, 65535), st.none() | texts)
def test_a_candidate_that_we_send_is_read_as_it_was(
    text: str, mid: str | None, index: int | None, fragment: str | None
) -> None:
    found = IceCandidate(text, mid, index, fragment)
    relayed = json.loads(messages.candidate(found, to=None)) | {"peerId": "me"}
    assert parse(json.dumps(relayed)) == Candidate("me", found)
