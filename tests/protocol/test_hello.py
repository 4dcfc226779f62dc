from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol.hello import (
    MIN_WINDOW,
    UNLIMITED,
    Agree,
    AuthAnswer,
    AuthOffer,
    Feature,
    Features,
    Hello,
    ResumeOffer,
    check_version,
)

features = st.frozensets(st.sampled_from(Feature))
windows = st.integers(MIN_WINDOW, UNLIMITED)
agents = st.text(max_size=100).filter(str.isprintable)
numbers = st.binary(min_size=1, max_size=64)
offers = st.none() | st.builds(AuthOffer, share=numbers, ticket=st.none() | numbers)
answers = st.none() | st.builds(AuthAnswer, share=numbers) | st.builds(AuthAnswer, nonce=numbers)

HELLO: dict[str, Any] = {"proto": "httptunnel", "min_version": 1, "max_version": 1, "features": ["sse"]}
AGREE: dict[str, Any] = {"version": 1, "features": ["sse"]}
DEEP = b'{"proto":"httptunnel","a":' + b"[" * 30_000


def read(**changes: object) -> Hello:
    return Hello.decode(json.dumps(HELLO | changes).encode())


def read_agree(**changes: object) -> Agree:
    return Agree.decode(json.dumps(AGREE | changes).encode())


@given(features, windows, agents, offers, st.integers(0, 9), st.integers(0, 9))
def test_a_hello_comes_back_as_it_went(
    listed: Features, window: int, agent: str, auth: AuthOffer | None, least: int, most: int
) -> None:
    hello = Hello(min_version=least, max_version=most, features=listed, window=window, agent=agent, auth=auth)
    assert Hello.decode(hello.encode()) == hello


@given(features, windows, agents, answers, st.integers(1, UNLIMITED))
def test_an_agree_comes_back_as_it_went(
    listed: Features, window: int, agent: str, auth: AuthAnswer | None, streams: int
) -> None:
    agree = Agree(features=listed, window=window, streams=streams, agent=agent, auth=auth)
    assert Agree.decode(agree.encode()) == agree


def test_the_originals_hello_and_agree_say_nothing_of_limits() -> None:
    assert read() == Hello(features=frozenset({Feature.SSE}))
    assert read_agree() == Agree(features=frozenset({Feature.SSE}))
    assert (read().window, read_agree().window, read_agree().streams) == (UNLIMITED,) * 3


def test_unknown_members_and_features_are_ignored() -> None:
    assert read(colour={"deep": [1]}, features=["sse", "telepathy", 7, None, ["sse"]]).features == {Feature.SSE}


def test_features_may_be_absent() -> None:
    assert Hello.decode(b'{"proto":"httptunnel","min_version":1,"max_version":1}').features == frozenset()


@pytest.mark.parametrize("proto", ["other", "", "HTTPTUNNEL", None, 1, ["httptunnel"]])
def test_another_protocol_is_a_matter_of_version(proto: object) -> None:
    with pytest.raises(ProtocolError, match=r"^version:") as caught:
        read(proto=proto)
    assert caught.value.code is ErrorCode.VERSION


@pytest.mark.parametrize(("least", "most"), [(1, 1), (0, 1), (1, 7), (0, 99)])
def test_a_range_that_holds_ours_fits(least: int, most: int) -> None:
    check_version(read(min_version=least, max_version=most))


@pytest.mark.parametrize(("least", "most"), [(2, 2), (2, 9), (0, 0), (9, 2)])
def test_a_range_that_leaves_ours_out_does_not(least: int, most: int) -> None:
    with pytest.raises(ProtocolError, match=r"^version:") as caught:
        check_version(read(min_version=least, max_version=most))
    assert caught.value.code is ErrorCode.VERSION


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b"1",
        b'"httptunnel"',
        b"\xff\xfe\xfd",
        b"{} {}",
        DEEP,
        b'{"proto":"httptunnel","min_version":' + b"9" * 20_000 + b"}",
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    for decode in (Hello.decode, Agree.decode):
        with pytest.raises(ProtocolError):
            decode(payload)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_version": None},
        {"min_version": "1"},
        {"max_version": True},
        {"max_version": 1.0},
        {"max_version": -1},
        {"max_version": 2**31},
        {"features": "sse"},
        {"features": {"sse": 1}},
        {"features": None},
        {"window": 0},
        {"window": MIN_WINDOW - 1},
        {"window": UNLIMITED + 1},
        {"window": "1024"},
        {"window": None},
    ],
)
def test_a_member_of_another_type_or_range_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        read(**changes)


@pytest.mark.parametrize(
    "changes", [{"version": None}, {"version": "1"}, {"streams": 0}, {"streams": -5}, {"streams": 1.5}, {"window": 7}]
)
def test_so_it_is_in_an_agree(changes: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        read_agree(**changes)


@pytest.mark.parametrize("agent", [7, None, ["x"], "a\nb", "\x1b[2J", "\ud800"])
def test_an_agent_that_cannot_be_shown_is_none(agent: object) -> None:
    assert read(agent=agent).agent == ""


def test_a_long_agent_is_cut() -> None:
    assert read(agent="x" * 5000).agent == "x" * 100


@given(st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(payload: bytes) -> None:
    for decode in (Hello.decode, Agree.decode):
        try:
            decode(payload)
        except ProtocolError:
            continue


def test_a_share_of_so_many_bytes_is_taken_and_of_one_more_refused() -> None:
    for name in ("share", "ticket"):
        auth = {"share": "ab"} | {name: "ab" * 64}
        assert read(auth=auth).auth is not None
        with pytest.raises(ProtocolError):
            read(auth=auth | {name: "ab" * 65})
    for name in ("share", "nonce"):
        assert read_agree(auth={name: "ab" * 64}).auth is not None
        with pytest.raises(ProtocolError):
            read_agree(auth={name: "ab" * 65})


@pytest.mark.parametrize("auth", [[], "x", 1, {}, {"share": 1}, {"share": "0"}, {"share": "zz"}, {"share": "ab" * 65}])
def test_an_auth_that_makes_no_sense_is_refused(auth: object) -> None:
    for read_one in (read, read_agree):
        with pytest.raises(ProtocolError):
            read_one(auth=auth)


def test_serve_answers_with_a_share_or_a_nonce_and_not_with_both() -> None:
    with pytest.raises(ProtocolError):
        read_agree(auth={"share": "ab", "nonce": "cd"})


def test_what_is_to_be_resumed_comes_as_it_was_sent() -> None:
    offer = ResumeOffer(session=b"s" * 16, received=(2**40,))
    assert Hello.decode(Hello(resume=offer).encode()).resume == offer
    agree = Agree(session=b"s" * 16, received=(0,), once=True)
    assert Agree.decode(agree.encode()) == agree
    assert Agree.decode(Agree(session=b"s" * 16).encode()).received is None


@pytest.mark.parametrize(
    "resume", [1, [], {}, {"session": "0g", "received": 1}, {"session": "00", "received": -1}, {"session": "00"}]
)
def test_a_resume_that_makes_no_sense_is_refused(resume: object) -> None:
    payload = json.dumps({"proto": "httptunnel", "min_version": 1, "max_version": 1, "resume": resume}).encode()
    with pytest.raises(ProtocolError):
        Hello.decode(payload)
