"""A peer that breaks the rules, or fills what it can: it gets the error that README.md names, and others go on."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.config import Limits
from llmtunnel.errors import ErrorCode
from llmtunnel.protocol import frames
from llmtunnel.protocol.events import ClientClosed, ConnectionEnded, DataReceived, EndReceived, Event, StreamEnded
from llmtunnel.protocol.frames import KINDS, MAX_BODY, FrameType
from llmtunnel.protocol.hello import ALL_FEATURES, Feature, Features, Hello
from llmtunnel.status import Role

from ..support.core_pair import GET, OK, ConnectionPair, Core, frames_of, head_frame, request_frame, sent

V1_TYPES = {kind.type for kind in KINDS.values() if kind.needs is None}
OF_PEER = {
    Role.SERVE: {FrameType.REQ_HEADERS, FrameType.REQ_BODY, FrameType.REQ_END},
    Role.PROXY: {FrameType.RES_HEADERS, FrameType.RES_BODY, FrameType.RES_END},
}
ANY_TIME = {FrameType.PING, FrameType.PONG, FrameType.ERROR}
HELLO = frames.encode(FrameType.HELLO, 0, Hello().encode())


@dataclass
class Victim:
    """One core, with an honest stream that has begun and another that a hostile peer may play with."""

    connection: Core
    honest: int
    played: int

    def receive(self, *messages: bytes) -> list[Event]:
        return [event for message in messages for event in self.connection.receive_message(message, 0.0)]

    @property
    def body(self) -> FrameType:
        return FrameType.REQ_BODY if self.connection.role is Role.SERVE else FrameType.RES_BODY

    @property
    def end(self) -> FrameType:
        return FrameType.REQ_END if self.connection.role is Role.SERVE else FrameType.RES_END

    def head(self, stream: int, **changes: object) -> bytes:
        return head_frame(self.connection.role.other, stream, **changes)

    def goes_on(self) -> None:
        """The honest stream gets the rest of its body, whole."""
        assert self.connection.ended is None
        size = b"" if Feature.LENGTH not in self.connection.features else frames.encode_length(6)
        events = self.receive(
            frames.encode(self.body, self.honest, b"honest"), frames.encode(self.end, self.honest, size)
        )
        assert events == [DataReceived(self.honest, b"honest"), EndReceived(self.honest)]


def victim(role: Role, *, features: Features = ALL_FEATURES, limits: Limits | None = None) -> Victim:
    pair = ConnectionPair(proxy_features=features, limits=limits)
    honest, played = pair.open(), pair.open()
    for stream in (honest, played):
        pair.serve.connection.send_response(stream, OK)
    pair.pump()
    return Victim((pair.serve if role is Role.SERVE else pair.proxy).connection, honest, played)


@pytest.fixture(params=Role)
def role(request: pytest.FixtureRequest) -> Role:
    assert isinstance(request.param, Role)
    return request.param


def without_acks(messages: list[bytes]) -> list[frames.Frame]:
    return [frame for frame in frames_of(messages) if frame.type != FrameType.ACK]


def fails_stream(target: Victim, code: ErrorCode, *messages: bytes, stream: int | None = None) -> None:
    """The breach ends the played stream with that code, told to both sides, and nothing else."""
    stream = target.played if stream is None else stream
    events = target.receive(*messages)
    ended = events[-1]
    assert isinstance(ended, StreamEnded)
    assert (ended.stream, ended.code, ended.remote) == (stream, code, False)
    (reset,) = frames_of(sent(target.connection))
    assert (reset.type, reset.stream) == (FrameType.RESET, stream)
    assert frames.decode_reset(reset.payload) == (code, ended.message)
    assert target.receive(frames.encode(target.body, stream, b"late")) == []
    target.goes_on()


def fails_session(connection: Core, message: bytes) -> None:
    (event,) = connection.receive_message(message, 0.0)
    assert isinstance(event, ConnectionEnded)
    assert (event.code, event.remote) == (ErrorCode.PROTOCOL, False)
    last = frames_of(sent(connection))[-1]
    assert (last.type, last.stream) in ((FrameType.RESET, 0), (FrameType.ERROR, 0))
    assert connection.receive_message(message, 0.0) == []
    assert sent(connection) == []


# -- errors of a stream


def test_a_malformed_head_ends_its_stream(role: Role) -> None:
    target = victim(role)
    if role is Role.PROXY:
        fails_stream(target, ErrorCode.PROTOCOL, target.head(target.played, status="x"))
        return
    assert target.receive(request_frame(9, path="no path")) == []
    (reset,) = frames_of(sent(target.connection))
    assert (reset.type, reset.stream) == (FrameType.RESET, 9)
    assert target.receive(frames.encode(FrameType.REQ_BODY, 9, b"late")) == []
    target.goes_on()


def test_a_second_head_ends_the_stream(role: Role) -> None:
    target = victim(role)
    fails_stream(target, ErrorCode.PROTOCOL, target.head(target.played))


def test_an_interim_head_after_the_final_one_ends_the_stream() -> None:
    target = victim(Role.PROXY)
    fails_stream(target, ErrorCode.PROTOCOL, target.head(target.played, status=103))


def test_an_interim_head_that_was_not_agreed_on_ends_the_stream() -> None:
    pair = ConnectionPair(proxy_features=ALL_FEATURES - {Feature.INTERIM})
    stream = pair.open()
    (event,) = pair.proxy.connection.receive_message(head_frame(Role.SERVE, stream, status=100), 0.0)
    assert isinstance(event, StreamEnded)


@pytest.mark.parametrize("type_", [FrameType.RES_BODY, FrameType.RES_END])
def test_a_response_that_begins_without_a_head_ends_the_stream(type_: FrameType) -> None:
    pair = ConnectionPair()
    stream = pair.open()
    (event,) = pair.proxy.connection.receive_message(frames.encode(type_, stream, b"12345678"), 0.0)
    assert isinstance(event, StreamEnded)
    assert event.code is ErrorCode.PROTOCOL


def test_body_or_a_second_end_after_the_end_ends_the_stream(role: Role) -> None:
    for again in ("body", "end"):
        target = victim(role)
        end = frames.encode(target.end, target.played, frames.encode_length(0))
        body = frames.encode(target.body, target.played, b"x")
        fails_stream(target, ErrorCode.PROTOCOL, end, body if again == "body" else end)


def test_a_body_frame_that_is_too_long_ends_the_stream(role: Role) -> None:
    target = victim(role)
    target.receive(frames.encode(target.body, target.played, bytes(MAX_BODY)))
    fails_stream(target, ErrorCode.PROTOCOL, frames.encode(target.body, target.played, bytes(MAX_BODY + 1)))


@pytest.mark.parametrize("told", [0, 4, 6, 2**64 - 1])
def test_an_end_that_tells_another_length_ends_the_stream_as_truncated(role: Role, told: int) -> None:
    target = victim(role)
    body = frames.encode(target.body, target.played, b"12345")
    end = frames.encode(target.end, target.played, frames.encode_length(told))
    fails_stream(target, ErrorCode.TRUNCATED, body, end)


def test_an_end_without_its_length_ends_the_stream(role: Role) -> None:
    target = victim(role)
    fails_stream(target, ErrorCode.PROTOCOL, frames.encode(target.end, target.played, b"1234"))


def test_a_byte_past_the_credit_ends_the_stream(role: Role) -> None:
    target = victim(role, limits=Limits(window=10_000))
    target.receive(frames.encode(target.body, target.played, bytes(10_000)))
    fails_stream(target, ErrorCode.FLOW_CONTROL, frames.encode(target.body, target.played, b"x"))


@pytest.mark.parametrize("amount", [b"", b"\0\0\0", bytes(4), b"\xff\xff\xff\xff", b"\0\0\0\0\1"], ids=repr)
def test_a_malformed_credit_ends_the_stream(role: Role, amount: bytes) -> None:
    target = victim(role)
    fails_stream(target, ErrorCode.PROTOCOL, frames.encode(FrameType.CREDIT, target.played, amount))


def test_a_reset_without_a_code_ends_the_stream(role: Role) -> None:
    target = victim(role)
    fails_stream(target, ErrorCode.PROTOCOL, frames.encode(FrameType.RESET, target.played, b"\0"))


def test_a_v1_stream_whose_reader_lags_ends_alone(role: Role) -> None:
    target = victim(role, features=frozenset(), limits=Limits(v1_backlog=100_000))
    events = target.receive(*[frames.encode(target.body, target.played, bytes(50_000))] * 3)
    ended = events[-1]
    assert isinstance(ended, StreamEnded)
    assert ended.code is ErrorCode.FLOW_CONTROL
    target.goes_on()


def test_a_v1_reader_that_keeps_up_has_no_limit(role: Role) -> None:
    target = victim(role, features=frozenset(), limits=Limits(v1_backlog=100_000))
    for _ in range(10):
        target.receive(frames.encode(target.body, target.played, bytes(50_000)))
        target.connection.consumed(target.played, 50_000)
    target.goes_on()


# -- streams that nobody opened


@pytest.mark.parametrize("stream", [3, 500, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_frame_for_a_stream_that_nobody_opened_is_answered_with_reset(role: Role, stream: int) -> None:
    target = victim(role)
    for _ in range(3):
        assert target.receive(frames.encode(target.body, stream, b"x")) == []
        (reset,) = frames_of(sent(target.connection))
        assert (reset.type, reset.stream) == (FrameType.RESET, stream)
    target.goes_on()


@pytest.mark.parametrize("type_", [FrameType.RESET, FrameType.ERROR])
def test_a_reset_for_a_stream_that_nobody_opened_is_skipped(role: Role, type_: FrameType) -> None:
    target = victim(role)
    assert target.receive(frames.encode(type_, 77, b"\0\1why")) == []
    assert sent(target.connection) == []
    target.goes_on()


def test_a_head_for_a_stream_that_is_gone_is_skipped() -> None:
    target = victim(Role.SERVE)
    target.connection.reset(target.played, ErrorCode.CANCELLED, "x")
    sent(target.connection)
    assert target.receive(request_frame(target.played)) == []
    assert sent(target.connection) == []


@pytest.mark.parametrize("stream", [2**31, 2**32 - 1])
def test_a_stream_number_that_is_too_high_is_refused(stream: int) -> None:
    target = victim(Role.SERVE)
    assert target.receive(request_frame(stream)) == []
    assert [(frame.type, frame.stream) for frame in frames_of(sent(target.connection))] == [(FrameType.RESET, stream)]
    target.goes_on()


# -- errors of the session


@pytest.mark.parametrize("type_", sorted(FrameType))
def test_a_known_frame_from_the_wrong_side_or_late_ends_the_session(role: Role, type_: FrameType) -> None:
    if type_ in OF_PEER[role] | ANY_TIME or type_ not in V1_TYPES:
        return
    fails_session(victim(role).connection, frames.encode(type_, 1, b"{}"))


@pytest.mark.parametrize("type_", sorted(V1_TYPES - ANY_TIME))
def test_a_frame_before_the_hello_ends_the_session(role: Role, type_: FrameType) -> None:
    fails_session(Core(role, now=0.0), frames.encode(type_, 1, b"[]"))


def test_an_error_before_the_hello_ends_the_session(role: Role) -> None:
    connection = Core(role, now=0.0)
    (event,) = connection.receive_message(frames.encode(FrameType.ERROR, 0, b"version: no"), 0.0)
    assert event == ConnectionEnded(ErrorCode.VERSION, "version: no", remote=True)


@pytest.mark.parametrize("type_", sorted({FrameType.CREDIT, FrameType.CLIENT_CLOSED} | OF_PEER[Role.SERVE]))
def test_a_streams_frame_without_a_stream_ends_the_session(type_: FrameType) -> None:
    fails_session(victim(Role.SERVE).connection, frames.encode(type_, 0, b"1234"))


def test_a_second_hello_ends_the_session() -> None:
    fails_session(victim(Role.SERVE).connection, HELLO)


def test_a_message_that_is_too_long_ends_the_session(role: Role) -> None:
    target = victim(role)
    fails_session(target.connection, frames.encode(target.body, target.played, bytes(frames.MAX_PAYLOAD + 1)))


@pytest.mark.parametrize("payload", [b"\0", b"\0\7\3\0\0\0\0", b"\0\5\5\0\0\0\0"], ids=["cut", "short", "nested"])
def test_a_bundle_that_does_not_add_up_ends_the_session(role: Role, payload: bytes) -> None:
    fails_session(victim(role).connection, frames.encode(FrameType.BUNDLE, 0, payload))


def test_frames_before_the_breach_in_a_bundle_count_and_those_after_do_not(role: Role) -> None:
    target = victim(role)
    good = frames.encode(target.body, target.honest, b"good")
    events = target.receive(frames.bundle([good, frames.encode(FrameType.HELLO, 0), good]))
    assert events[0] == DataReceived(target.honest, b"good")
    assert [type(event) for event in events[1:]] == [ConnectionEnded]


# -- what was not agreed on


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (Feature.BUNDLE, frames.bundle([frames.encode(FrameType.PING, 0)] * 2)),
        (Feature.RESET, frames.encode(FrameType.RESET, 2, b"\0\1x")),
        (Feature.RESET, frames.encode(FrameType.RESET, 0, b"\0\1x")),
        (Feature.CREDIT, frames.encode(FrameType.CREDIT, 2, bytes(4))),
        (Feature.CREDIT, frames.encode(FrameType.CREDIT, 0, bytes(4))),
        (Feature.CLIENT, frames.encode(FrameType.CLIENT_CLOSED, 2)),
        (Feature.CLIENT, frames.encode(FrameType.CLIENT_CLOSED, 0)),
    ],
)
def test_a_frame_of_a_feature_that_was_not_agreed_on_is_skipped(role: Role, feature: Feature, message: bytes) -> None:
    for features in (ALL_FEATURES - {feature}, frozenset[Feature]()):
        target = victim(role, features=features)
        assert target.receive(message) == []
        assert sent(target.connection) == []
        assert target.connection.is_open(target.played)
        target.goes_on()
    early = Core(role, now=0.0, features=ALL_FEATURES - {feature})
    sent(early)
    assert early.receive_message(message, 0.0) == []
    assert early.ended is None


UNKNOWN = sorted({0, *range(10, 256)} - set(FrameType))
"""40 to 59, which are kept for further frames of the session, among them."""


@pytest.mark.parametrize("stream", [0, 1, 2, 9, 2**32 - 1])
def test_frames_of_unknown_types_are_skipped_and_counted_where_they_are_a_streams(role: Role, stream: int) -> None:
    target = victim(role, limits=Limits(lanes=1))
    before = counted(target)
    assert target.receive(*(frames.encode(type_, stream, b"later") for type_ in UNKNOWN)) == []  # type: ignore[arg-type]
    own = 1
    assert counted(target) - before - own == (len(UNKNOWN) - 1 if stream else 0)
    target.goes_on()
    early = Core(role, now=0.0)
    sent(early)
    for type_ in UNKNOWN:
        assert early.receive_message(frames.encode(type_, stream, b"later"), 0.0) == []  # type: ignore[arg-type]
    assert early.ended is None


def counted(target: Victim) -> int:
    """How many frames it says have come, with one of our own behind them."""
    target.receive(frames.encode(target.body, target.honest))  # empty: skipped, and counted
    target.receive(frames.encode(FrameType.PING, 0))
    (ack,) = (frame for frame in frames_of(sent(target.connection)) if frame.type == FrameType.ACK)
    return frames.decode_count(ack.payload)


def test_a_client_that_closes_ends_no_stream_and_needs_none(role: Role) -> None:
    target = victim(role)
    for client in (target.played, 9, 2**31 - 1, 2**32 - 1):
        events = target.receive(frames.encode(FrameType.CLIENT_CLOSED, client, b"and more"))
        assert events == ([ClientClosed(client)] if role is Role.SERVE else [])
    assert without_acks(sent(target.connection)) == []
    assert target.connection.is_open(target.played)
    target.goes_on()


# -- floods


@pytest.mark.parametrize("features", [ALL_FEATURES, frozenset()], ids=["v2", "v1"])
def test_of_ten_thousand_streams_so_many_are_taken_and_the_others_refused(features: Features) -> None:
    target = victim(Role.SERVE, features=features, limits=Limits(streams=100, lanes=1))
    for stream in range(3, 10_003):
        target.receive(request_frame(stream))
        if stream % 100 == 0:
            for reset in without_acks(sent(target.connection)):
                assert reset.type == (FrameType.RESET if features else FrameType.ERROR)
                assert not features or frames.decode_reset(reset.payload)[0] is ErrorCode.REFUSED
    assert sum(target.connection.is_open(stream) for stream in range(1, 10_003)) == 100
    target.goes_on()


def test_a_peer_that_only_asks_and_never_reads_is_cut_off(role: Role) -> None:
    target = victim(role, limits=Limits(control=50))
    pings = [frames.encode(FrameType.PING, 0)] * 60
    to_nobody = [frames.encode(target.body, 100 + number, b"x") for number in range(60)]
    for flood in (pings, to_nobody):
        target = victim(role, limits=Limits(control=50))
        target.receive(*flood)
        assert target.connection.ended is not None
        assert len(without_acks(sent(target.connection))) <= 52


def test_one_bundle_cannot_ask_for_more_than_the_next_one_is_told_of() -> None:
    connection = victim(Role.SERVE).connection
    ping = frames.encode(FrameType.PING, 0)
    connection.receive_message(frames.bundle([ping] * 9000), 0.0)
    assert connection.ended is not None


def test_a_peer_that_opens_and_resets_without_end_leaves_nothing() -> None:
    target = victim(Role.SERVE)
    for stream in range(3, 5000):
        target.receive(request_frame(stream), frames.encode(FrameType.RESET, stream, b"\0\1"))
    assert without_acks(sent(target.connection)) == []
    assert len(target.connection.streams) == 2
    target.goes_on()


# -- anything at all

frame_types = st.sampled_from(sorted(FrameType)) | st.integers(0, 255)
small_streams = st.integers(0, 6) | st.sampled_from([2**31 - 1, 2**31, 2**32 - 1])
heads = st.sampled_from(
    [
        request_frame(1)[5:],
        head_frame(Role.SERVE, 1)[5:],
        head_frame(Role.SERVE, 1, status=100)[5:],
        HELLO[5:],
        json.dumps({"version": 1, "features": ["reset", "bundle"]}).encode(),
    ]
)
payloads = (
    st.binary(max_size=40) | heads | st.integers(0, 2000).map(bytes) | st.sampled_from([bytes(8), b"\0\1", b"\0\0\0\1"])
)
one_frame = st.builds(
    lambda type_, stream, payload: frames.HEADER.pack(type_, stream) + payload, frame_types, small_streams, payloads
)
bundles = st.lists(one_frame, min_size=2, max_size=4).map(frames.bundle)
anything = st.lists(st.one_of(one_frame, bundles, st.binary(max_size=60)), max_size=30)


@settings(max_examples=150)
@given(st.sampled_from(Role), st.booleans(), anything)
def test_whatever_comes_is_an_event_and_never_an_exception(
    role: Role, after_hello: bool, messages: list[bytes]
) -> None:
    connection = victim(role).connection if after_hello else Core(role, now=0.0)
    for message in messages:
        connection.receive_message(message, 0.0)
        if connection.ended:
            break
    sent(connection)
    if connection.ended:
        assert connection.receive_message(frames.encode(FrameType.PING, 0), 0.0) == []
        assert sent(connection) == []


of_streams = st.sampled_from([10, 11, 12, 13, 20, 21, 22, 30, 31, 99, 6, 77, 255])
other_streams = st.integers(2, 8) | st.sampled_from([2**31, 2**32 - 1])


@settings(max_examples=150)
@given(st.sampled_from(Role), st.lists(st.tuples(of_streams, other_streams, payloads), max_size=30))
def test_garbage_on_other_streams_never_touches_an_honest_one(
    role: Role, garbage: list[tuple[int, int, bytes]]
) -> None:
    target = victim(role)
    wrong_side = OF_PEER[role.other]
    for type_, stream, payload in garbage:
        if type_ not in wrong_side:
            target.receive(frames.HEADER.pack(type_, stream) + payload)
    target.goes_on()


def test_the_sides_agree_on_which_stream_was_the_breach(role: Role) -> None:
    pair = ConnectionPair()
    stream = pair.open(GET)
    pair.serve.connection.send_response(stream, OK)
    pair.pump()
    one = pair.proxy if role is Role.PROXY else pair.serve
    far = pair.other(one)
    one.inbox.append(head_frame(role.other, stream))
    pair.deliver(one)
    pair.pump()
    told = far.events[-1]
    assert isinstance(told, StreamEnded)
    assert (told.stream, told.code, told.remote) == (stream, ErrorCode.PROTOCOL, True)
    assert pair.proxy.connection.ended is None and pair.serve.connection.ended is None
