"""Lanes: what is sent on one keeps its order, whatever others do, and a session keeps them on its next channel."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from llmtunnel.config import KIB, MIB, Limits
from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol import frames
from llmtunnel.protocol.events import ConnectionEnded, RequestReceived
from llmtunnel.protocol.frames import MAX_MESSAGE, FrameType
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.hello import ALL_FEATURES, MAX_LANES, Agree, Feature, Features, Hello, ResumeOffer
from llmtunnel.protocol.journal import OVERHEAD, journals_of
from llmtunnel.protocol.outbox import QUANTUM
from llmtunnel.status import Role

from ..support.core_pair import GET, POST, ConnectionPair, frames_of, request_frame, sent
from .test_interleavings import Interleavings
from .test_resume import Resuming, Switching

WITH_LANES = frozenset({Feature.LANES, Feature.RESUME})


class Inbox(deque[bytes]):
    """Messages on their way over pipes: each in order within its pipe, and any pipe before any other."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = Random(0)

    def popleft(self) -> bytes:
        first: dict[int, int] = {}
        for at, message in enumerate(self):
            first.setdefault(getattr(message, "pipe", 0), at)
        at = self.rng.choice(list(first.values()))
        message = self[at]
        del self[at]
        return message


class Apart(ConnectionPair):
    """Two ends whose channel has a pipe for each lane."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for end in (self.proxy, self.serve):
            assert not end.inbox
            end.inbox = Inbox()
            end.connection.line.outbox.split(end.connection.line.lanes)


class SwitchingApart(Apart, Switching):
    """The same, while they change their channel."""

    make_inbox = Inbox
    pipes = 4


class InterleavingsApart(Interleavings):
    """The rules that hold of one pipe hold of several, in whatever order they deliver."""

    def make_pair(self, proxy: Features, serve: Features, limits: Limits) -> ConnectionPair:
        limits = replace(limits, lanes=3)
        return Apart(proxy_features=proxy | WITH_LANES, serve_features=serve | WITH_LANES, limits=limits)

    @rule(seed=st.integers(0, 1000))
    def shuffle(self, seed: int) -> None:
        for end in (self.pair.proxy, self.pair.serve):
            end.inbox.rng.seed(seed)  # type: ignore[attr-defined]


TestInterleavingsApart = InterleavingsApart.TestCase
TestInterleavingsApart.settings = settings(max_examples=60, stateful_step_count=60)


class ResumingLanes(Resuming):
    """A session with lanes over one pipe after the other, as over TCP."""

    lanes = 3


TestResumingLanes = ResumingLanes.TestCase
TestResumingLanes.settings = settings(max_examples=80, stateful_step_count=80)


class ResumingApart(InterleavingsApart, Resuming):
    """The same over channels some of which have a pipe for each lane, and some of which have one."""

    def make_pair(self, proxy: Features, serve: Features, limits: Limits) -> ConnectionPair:
        limits = replace(limits, journal=MAX_MESSAGE + OVERHEAD + 400, lanes=4)
        return SwitchingApart(proxy_features=proxy | WITH_LANES, serve_features=serve | WITH_LANES, limits=limits)

    @rule(pipes=st.sampled_from([1, 4]))
    def next_channel_has(self, pipes: int) -> None:
        self.pair.pipes = pipes


TestResumingApart = ResumingApart.TestCase
TestResumingApart.settings = settings(max_examples=150, stateful_step_count=80)


# -- how many


def agreed(proxy: int, serve: int, *, features: Features = ALL_FEATURES) -> tuple[int, int]:
    """What the two sides have agreed on, each by its own word."""
    ends = [
        Greeting(role, now=0.0, limits=Limits(lanes=lanes), features=features)
        for role, lanes in ((Role.PROXY, proxy), (Role.SERVE, serve))
    ]
    for one, other in (ends, ends[::-1]):
        while message := one.message_to_send():
            other.receive_message(message, 0.0)
    assert ends[0].agreement and ends[1].agreement
    return ends[0].agreement.lanes, ends[1].agreement.lanes


@pytest.mark.parametrize(("proxy", "serve", "both"), [(8, 8, 8), (8, 3, 3), (2, 16, 2), (1, 8, 1), (8, 1, 1)])
def test_there_are_as_many_lanes_as_both_take(proxy: int, serve: int, both: int) -> None:
    assert agreed(proxy, serve) == (both, both)


@pytest.mark.parametrize("without", [Feature.LANES, Feature.RESUME])
def test_without_the_features_there_is_one_lane(without: Feature) -> None:
    assert agreed(8, 8, features=ALL_FEATURES - {without}) == (1, 1)


def test_a_peer_without_lanes_is_told_nothing_that_it_does_not_know() -> None:
    """What 0.1.0 and an original peer would read: no member of theirs has another type."""
    pair = ConnectionPair(serve_features=ALL_FEATURES - {Feature.LANES})
    assert pair.proxy.connection.line.lanes == pair.serve.connection.line.lanes == 1
    assert [pair.open() for _ in range(3)] == [1, 2, 3]
    assert b"lanes" not in Agree(received=(5,), session=b"s").encode()
    assert b'"received":5' in Agree(received=(5,), session=b"s").encode()


def greeted(agree: Agree, resume: ResumeOffer | None = None) -> Greeting:
    proxy = Greeting(Role.PROXY, now=0.0, limits=Limits(lanes=4), resume=resume)
    proxy.receive_message(frames.encode(FrameType.AGREE, 0, agree.encode()), 0.0)
    return proxy


@pytest.mark.parametrize("lanes", [0, -1, "8", 5, 2**31])
def test_a_serve_that_agrees_on_more_lanes_than_were_offered_is_not_believed(lanes: object) -> None:
    payload = Agree(features=ALL_FEATURES, session=b"s").encode()[:-1] + b',"lanes":%b}' % str(lanes).encode()
    proxy = Greeting(Role.PROXY, now=0.0, limits=Limits(lanes=4))
    proxy.receive_message(frames.encode(FrameType.AGREE, 0, payload), 0.0)
    assert proxy.ended is not None and proxy.agreement is None
    assert greeted(Agree(features=ALL_FEATURES, session=b"s", lanes=4)).agreement is not None


@pytest.mark.parametrize(("lanes", "received"), [(1, (0,)), (3, (0, 0, 0)), (2, (0, 0, 0)), (2, (0,)), (4, (0, 0))])
def test_a_session_does_not_go_on_with_another_number_of_lanes(lanes: int, received: tuple[int, ...]) -> None:
    asked = ResumeOffer(session=b"s", received=(0, 0))
    assert greeted(Agree(features=ALL_FEATURES, session=b"s", lanes=lanes, received=received), asked).ended
    right = Agree(features=ALL_FEATURES, session=b"s", lanes=2, received=(0, 0))
    assert greeted(right, asked).agreement


def test_a_session_keeps_its_lanes_whatever_the_next_hello_offers() -> None:
    pair = SwitchingApart(limits=Limits(lanes=4))
    stream = pair.open(POST)
    pair.switch()
    pair.send(pair.proxy, stream, b"body")
    assert pair.serve.body(stream) == b"body"
    assert pair.serve.connection.line.lanes == 4


@pytest.mark.parametrize("counts", [[], [0] * (MAX_LANES + 1), [1, "2"], [1, -1], [1, None]])
def test_counts_that_make_no_sense_are_refused(counts: object) -> None:
    payload = Hello(resume=ResumeOffer(session=b"s", received=(0, 0))).encode()
    spoilt = payload.replace(b"[0,0]", repr(counts).replace("'", '"').replace("None", "null").encode())
    assert Hello.decode(payload).resume == ResumeOffer(session=b"s", received=(0, 0))
    with pytest.raises(ProtocolError):
        Hello.decode(spoilt)


# -- order within a lane, none across


def test_a_request_may_come_ahead_of_those_of_other_lanes_and_not_of_its_own() -> None:
    pair = ConnectionPair(limits=Limits(lanes=4))
    serve = pair.serve.connection
    for stream, taken in ((9, True), (2, True), (5, False), (8, True), (4, False), (6, True), (2, False)):
        events = serve.receive_message(request_frame(stream), 0.0)
        assert any(isinstance(event, RequestReceived) for event in events) is taken


def test_a_client_of_another_lane_is_read_as_absent() -> None:
    pair = ConnectionPair(limits=Limits(lanes=4))
    clients = []
    for stream, client in ((1, 0), (5, 1), (9, 2), (13, 13), (17, 9)):
        [event] = pair.serve.connection.receive_message(request_frame(stream, client=client), 0.0)
        clients.append(event.head.client)
    assert clients == [0, 1, 0, 0, 9]


def test_serve_takes_twice_as_many_streams_since_their_ends_may_be_late() -> None:
    pair = ConnectionPair(limits=Limits(lanes=4, streams=10))
    for stream in range(1, 40):
        pair.serve.connection.receive_message(request_frame(stream), 0.0)
    assert len(pair.serve.connection.streams) == 20
    refused = [frame for frame in frames_of(sent(pair.serve.connection)) if frame.type == FrameType.RESET]
    assert {frames.decode_reset(frame.payload)[0] for frame in refused} == {ErrorCode.REFUSED}
    assert len(refused) == 19
    for _ in range(10):
        pair.proxy.connection.open_stream(GET)
    assert len(pair.proxy.connection.streams) == 10


@pytest.mark.parametrize("type", [FrameType.RESUME, FrameType.ACK])
def test_a_lane_that_there_is_not_ends_the_session(type: FrameType) -> None:
    pair = ConnectionPair(limits=Limits(lanes=4))
    event = pair.serve.connection.receive_message(frames.encode(type, 4, frames.encode_count(0)), 0.0)[-1]
    assert isinstance(event, ConnectionEnded) and event.code is ErrorCode.PROTOCOL


def test_each_lane_says_on_its_own_pipe_where_it_goes_on() -> None:
    pair = SwitchingApart(limits=Limits(lanes=4))
    for _ in range(4):
        pair.open(POST)
    pair.switch()
    messages = sent(pair.proxy.connection)
    resumes = {message.pipe: frames_of([message])[0] for message in messages}  # type: ignore[attr-defined]
    assert sorted(resumes) == [0, 1, 2, 3]
    for pipe, frame in resumes.items():
        assert (frame.type, frame.stream, frames.decode_count(frame.payload)) == (FrameType.RESUME, pipe, 2)


def test_a_pipe_carries_its_lane_alone_in_messages_that_hold_no_other_lane_up() -> None:
    pair = Apart(limits=Limits(lanes=4, window=MIB))
    streams = [pair.open(POST) for _ in range(12)]
    for stream in streams:
        pair.proxy.connection.send_data(stream, memoryview(bytes(60_000)))
    messages = sent(pair.proxy.connection, size=QUANTUM)
    for message in messages:
        assert {frame.stream % 4 for frame in frames_of([message])} == {message.pipe}  # type: ignore[attr-defined]
        assert len(message) < 2 * QUANTUM
    assert sum(len(frame.payload) for frame in frames_of(messages)) == 12 * 60_000


# -- one bound for all journals


def test_bulk_on_one_lane_leaves_every_other_one_a_share_of_the_journal() -> None:
    bulk, *others = every = journals_of(4 * MIB, 8)
    while not bulk.full:
        bulk.add(bytes(QUANTUM))
    assert bulk.size > 3 * MIB
    for journal in others:
        for _ in range(3):
            assert not journal.full
            journal.add(bytes(QUANTUM))
    assert sum(journal.size for journal in every) <= 4 * MIB
    bulk.acknowledge(bulk.sent)
    assert not bulk.full


@pytest.mark.parametrize("limit", [70 * KIB, 256 * KIB, 4 * MIB])
@pytest.mark.parametrize("size", [1, 1000, MAX_MESSAGE])
def test_journals_that_are_asked_first_never_hold_more_than_their_limit(limit: int, size: int) -> None:
    every = journals_of(limit, 8)
    rng = Random(1)
    while usable := [journal for journal in every if not journal.full]:
        rng.choice(usable).add(bytes(size))
        assert sum(journal.size for journal in every) <= limit
    for journal in every:
        journal.acknowledge(journal.sent)
    assert not any(journal.size or journal.full for journal in every)


def test_a_ping_that_overtakes_what_it_asks_about_is_sent_again() -> None:
    pair = Apart(limits=Limits(lanes=2, journal=256 * KIB, window=4 * MIB))
    stream = pair.open(POST)
    assert stream % 2 == 1
    body = memoryview(bytes(MIB))
    while body:
        body = body[pair.proxy.connection.send_data(stream, body) :]
        messages = sent(pair.proxy.connection)
        messages.sort(key=lambda message: message.pipe)  # type: ignore[attr-defined]
        for message in messages:
            pair.serve.events += pair.serve.connection.receive_message(message, 0.0)
            for answer in sent(pair.serve.connection):
                pair.proxy.connection.receive_message(answer, 0.0)
    pair.pump()
    assert len(pair.serve.body(stream)) == MIB
