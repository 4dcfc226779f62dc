from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.errors import ProtocolError
from llmtunnel.signaling import messages
from llmtunnel.signaling.messages import (
    Answer,
    Candidate,
    IceCandidate,
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


KINDS = "joined", "peer-joined", "peer-left", "offer", "answer", "candidate", "pipe", "error"
NAMES = "peerId", "peers", "members", "role", "token", "relay", "sdp", "candidate", "ticket", "message", "code"
items = st.text() | st.dictionaries(st.text(), st.text())
values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(items)


@settings(deadline=None)  # a busy machine is no defect
@given(st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional=dict.fromkeys(NAMES, values)))
def test_any_values_make_a_message_or_a_protocol_error(message: dict[str, object]) -> None:
    with suppress(ProtocolError):
        parse(json.dumps(message))


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
