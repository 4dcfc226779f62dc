"""Two cores that keep the rules: what passes between them, by whatever features they share."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ErrorCode, ProtocolError, TooManyStreams
from llmtunnel.protocol import fields, frames
from llmtunnel.protocol.events import (
    ClientClosed,
    ConnectionEnded,
    DataReceived,
    EndReceived,
    PeerSilent,
    RequestReceived,
    ResponseReceived,
    RestUnwanted,
    StreamEnded,
    Told,
)
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature, Features
from llmtunnel.status import Role

from ..support.core_pair import (
    GET,
    OK,
    POST,
    ConnectionPair,
    Core,
    End,
    Established,
    established,
    frames_of,
    request_frame,
    sent,
)

features = st.frozensets(st.sampled_from(sorted(ALL_FEATURES)))
ONE_BY_ONE = [frozenset[Feature]()] + [ALL_FEATURES - {feature} for feature in Feature] + [ALL_FEATURES]


def without_events(end: End, kind: type[object]) -> list[object]:
    return [event for event in end.events if not isinstance(event, kind)]


# -- the hello


@given(features, features)
def test_two_peers_agree_on_what_both_list(of_proxy: Features, of_serve: Features) -> None:
    pair = ConnectionPair(proxy_features=of_proxy, serve_features=of_serve, hello=False)
    pair.pump()
    both = of_proxy & of_serve
    assert pair.proxy.events == [Established(both, "s/1")]
    assert pair.serve.events == [Established(both, "p/1")]
    assert pair.proxy.connection.features == pair.serve.connection.features == both


def test_the_agree_is_a_message_of_its_own_and_only_what_follows_is_bundled() -> None:
    pair = ConnectionPair(hello=False)
    serve = pair.serve.connection
    (hello,) = sent(pair.proxy.connection)
    ping = frames.encode(FrameType.PING, 0)
    for message in (ping, hello, ping, ping):
        serve.receive_message(message, 0.0)
    assert [message[0] for message in sent(serve)] == [FrameType.PONG, FrameType.AGREE, FrameType.BUNDLE]


def test_an_agree_of_more_than_was_offered_gives_what_was_offered() -> None:
    proxy = Core(Role.PROXY, now=0.0, features=frozenset({Feature.SSE, Feature.RESET}))
    every = json.dumps({"version": 1, "features": [feature.value for feature in Feature]}).encode()
    proxy.receive_message(frames.encode(FrameType.AGREE, 0, every), 0.0)
    assert proxy.features == {Feature.SSE, Feature.RESET}


@pytest.mark.parametrize("role", Role)
def test_a_peer_that_never_says_hello_is_given_up(role: Role) -> None:
    connection = Core(role, now=5.0, timeouts=Timeouts(handshake=3.0))
    sent(connection)
    assert connection.next_timer() == 8.0
    assert connection.handle_timer(7.9) == []
    (event,) = connection.handle_timer(8.0)
    assert isinstance(event, ConnectionEnded)
    assert [message[0] for message in sent(connection)] == [FrameType.ERROR]
    assert connection.next_timer() is None


def test_pings_are_answered_before_the_hello() -> None:
    serve = Core(Role.SERVE, now=0.0)
    assert serve.receive_message(frames.encode(FrameType.PING, 0), 0.0) == []
    assert [message[0] for message in sent(serve)] == [FrameType.PONG]


# -- whole exchanges

bodies = st.lists(st.binary(max_size=300) | st.integers(0, 200_000).map(bytes), max_size=4)


@settings(max_examples=60)
@given(features, features, bodies, bodies, st.integers(1024, 100_000))
def test_a_whole_exchange_gives_the_same_bytes_by_whatever_features(
    of_proxy: Features, of_serve: Features, up: list[bytes], down: list[bytes], window: int
) -> None:
    limits = Limits(window=window)
    pair = ConnectionPair(proxy_features=of_proxy, serve_features=of_serve, limits=limits)
    stream = pair.open(POST)
    for data in up:
        pair.send(pair.proxy, stream, data)
    pair.proxy.connection.send_end(stream)
    pair.serve.connection.send_response(stream, OK)
    for data in down:
        pair.send(pair.serve, stream, data)
    pair.serve.connection.send_end(stream)
    pair.pump()

    reason = b"OK" if Feature.FIELDS in of_proxy & of_serve else b""
    assert pair.serve.body(stream) == b"".join(up)
    assert pair.proxy.body(stream) == b"".join(down)
    assert without_events(pair.serve, DataReceived) == [RequestReceived(stream, POST), EndReceived(stream)]
    assert without_events(pair.proxy, DataReceived) == [
        ResponseReceived(stream, ResponseHead(status=200, reason=reason)),
        EndReceived(stream),
    ]
    for end in (pair.proxy, pair.serve):
        assert not end.connection.is_open(stream)
        assert end.connection.ended is None


def test_a_request_without_body_is_one_message() -> None:
    pair = ConnectionPair()
    assert pair.proxy.connection.open_stream(GET, ended=True) == 1
    assert len(sent(pair.proxy.connection)) == 1


def test_request_and_response_run_side_by_side() -> None:
    pair = ConnectionPair()
    stream = pair.open(POST)
    pair.serve.connection.send_response(stream, OK)
    for _ in range(3):
        pair.send(pair.proxy, stream, b"up")
        pair.send(pair.serve, stream, b"down")
    pair.serve.connection.send_end(stream)
    pair.send(pair.proxy, stream, b"more")
    assert pair.proxy.connection.is_open(stream)
    pair.proxy.connection.send_end(stream)
    pair.pump()
    assert (pair.serve.body(stream), pair.proxy.body(stream)) == (b"upupupmore", b"downdowndown")
    assert not pair.proxy.connection.is_open(stream) and not pair.serve.connection.is_open(stream)


def test_interim_heads_come_before_the_final_one() -> None:
    pair = ConnectionPair()
    stream = pair.open(ended=True)
    heads = [ResponseHead(status=status, reason=b"x") for status in (100, 103, 102, 200)]
    for head in heads:
        pair.serve.connection.send_response(stream, head)
    pair.pump()
    assert pair.proxy.events == [ResponseReceived(stream, head) for head in heads]


def test_a_101_is_final() -> None:
    pair = ConnectionPair()
    stream = pair.open()
    pair.serve.connection.send_response(stream, ResponseHead(status=101))
    pair.send(pair.serve, stream, b"\x81\x05hello")
    pair.send(pair.proxy, stream, b"\x81\x85mask")
    assert pair.proxy.body(stream) == b"\x81\x05hello"
    assert pair.serve.body(stream) == b"\x81\x85mask"


def test_many_streams_share_the_channel_and_keep_apart() -> None:
    pair = ConnectionPair()
    streams = [pair.open(RequestHead(method=b"GET", target=b"/%d" % number)) for number in range(100)]
    for stream in streams:
        pair.serve.connection.send_response(stream, OK)
    for part in range(3):
        for stream in streams:
            pair.send(pair.serve, stream, b"%d/%d " % (stream, part))
    for stream in streams:
        assert pair.proxy.body(stream) == b"%d/0 %d/1 %d/2 " % (stream, stream, stream)


def test_a_v1_body_goes_on_past_two_gib() -> None:
    serve = established(Role.SERVE, features=frozenset())
    serve.receive_message(request_frame(1), 0.0)
    serve.send_response(1, OK)
    serve.streams[1].tx_window.spend(2**31 - 1)
    assert serve.send_data(1, memoryview(b"more")) == 4


# -- credit


def test_a_sender_stops_at_the_window_and_goes_on_with_credit() -> None:
    pair = ConnectionPair(limits=Limits(window=10_000))
    stream = pair.open()
    pair.serve.connection.send_response(stream, OK)
    pair.pump()
    data = memoryview(bytes(30_000))
    assert pair.serve.connection.send_data(stream, data) == 10_000
    assert pair.serve.connection.send_data(stream, data) == 0
    pair.pump()
    assert pair.serve.connection.take_writable() == []
    pair.proxy.connection.consumed(stream, 4999)
    pair.pump()
    assert pair.serve.connection.take_writable() == []
    pair.proxy.connection.consumed(stream, 1)
    pair.pump()
    assert pair.serve.connection.take_writable() == [stream]
    assert pair.serve.connection.take_writable() == []
    assert pair.serve.connection.send_data(stream, data) == 5000


def test_a_sender_that_filled_the_outbox_hears_when_there_is_room() -> None:
    pair = ConnectionPair()
    stream = pair.open()
    pair.serve.connection.send_response(stream, OK)
    data = memoryview(bytes(400_000))
    taken = pair.serve.connection.send_data(stream, data)
    assert 0 < taken < len(data)
    assert pair.serve.connection.take_writable() == []
    for _ in range(3):
        pair.serve.connection.message_to_send()
    assert pair.serve.connection.take_writable() == [stream]


def test_a_stream_whose_reader_stalls_stalls_no_other() -> None:
    pair = ConnectionPair(limits=Limits(window=2000))
    stalled, other = pair.open(), pair.open()
    for stream in (stalled, other):
        pair.serve.connection.send_response(stream, OK)
    assert pair.serve.connection.send_data(stalled, memoryview(bytes(5000))) == 2000
    pair.pump()
    pair.send(pair.serve, other, bytes(50_000))
    assert pair.proxy.body(other) == bytes(50_000)
    assert pair.serve.connection.send_data(stalled, memoryview(bytes(5000))) == 0


def test_an_ended_half_is_owed_no_credit() -> None:
    pair = ConnectionPair(limits=Limits(window=1024))
    stream = pair.open(POST)
    pair.proxy.connection.send_data(stream, memoryview(bytes(1024)))
    pair.proxy.connection.send_end(stream)
    pair.pump()
    pair.serve.connection.consumed(stream, 1024)
    assert sent(pair.serve.connection) == []


def test_no_credit_is_sent_to_a_peer_that_did_not_agree_on_it() -> None:
    pair = ConnectionPair(serve_features=ALL_FEATURES - {Feature.CREDIT})
    stream = pair.open(POST)
    pair.proxy.connection.send_data(stream, memoryview(bytes(60_000)))
    pair.pump()
    pair.serve.connection.consumed(stream, 60_000)
    assert sent(pair.serve.connection) == []


# -- resets


@pytest.mark.parametrize("shared", ONE_BY_ONE, ids=lambda shared: "+".join(sorted(shared)) or "v1")
def test_either_side_may_give_a_stream_up(shared: Features) -> None:
    for by_proxy in (True, False):
        pair = ConnectionPair(proxy_features=shared)
        stream, other = pair.open(POST), pair.open(POST)
        one, far = (pair.proxy, pair.serve) if by_proxy else (pair.serve, pair.proxy)
        far.take_events()
        one.connection.reset(stream, ErrorCode.CANCELLED, "enough")
        one.connection.reset(stream, ErrorCode.INTERNAL, "said already")
        pair.pump()
        code = ErrorCode.CANCELLED if Feature.RESET in shared else ErrorCode.INTERNAL
        assert far.events == [StreamEnded(stream, code, "enough", remote=True)]
        assert not far.connection.is_open(stream)
        assert far.connection.is_open(other)
        assert sent(far.connection) == []


@pytest.mark.parametrize("ended", [False, True])
def test_a_reset_overtakes_the_body_that_waits(ended: bool) -> None:
    pair = ConnectionPair()
    stream = pair.open(POST)
    pair.proxy.connection.send_data(stream, memoryview(bytes(60_000)))
    if ended:
        pair.proxy.connection.send_end(stream)
    pair.proxy.connection.reset(stream, ErrorCode.CANCELLED, "enough")
    assert [frame.type for frame in frames_of(sent(pair.proxy.connection))] == [FrameType.RESET]


def test_what_the_upstream_said_before_it_broke_off_goes_first() -> None:
    pair = ConnectionPair()
    stream = pair.open(ended=True)
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.send_data(stream, memoryview(bytes(60_000)))
    pair.serve.connection.reset(stream, ErrorCode.UPSTREAM, "gone")
    pair.pump()
    assert pair.proxy.body(stream) == bytes(60_000)
    assert pair.proxy.events[-1] == StreamEnded(stream, ErrorCode.UPSTREAM, "gone", remote=True)


def test_what_crosses_with_a_reset_is_skipped() -> None:
    pair = ConnectionPair()
    stream = pair.open(POST)
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.send_data(stream, memoryview(b"late"))
    pair.serve.connection.send_end(stream)
    pair.flush(pair.serve)
    pair.proxy.connection.reset(stream, ErrorCode.CANCELLED, "enough")
    pair.pump()
    assert pair.proxy.events == []
    assert pair.proxy.connection.ended is None


def test_a_stream_taken_back_before_it_left_is_no_matter() -> None:
    pair = ConnectionPair()
    stream = pair.proxy.connection.open_stream(GET)
    pair.proxy.connection.reset(stream, ErrorCode.CANCELLED, "never mind")
    later = pair.open()
    assert pair.serve.events == [RequestReceived(later, GET)]
    assert pair.proxy.events == []


@pytest.mark.parametrize("shared", [ALL_FEATURES, ALL_FEATURES - {Feature.CLIENT}], ids=["agreed on", "not"])
def test_serve_hears_which_client_a_stream_is_of_and_that_the_client_has_closed(shared: Features) -> None:
    pair = ConnectionPair(proxy_features=shared)
    agreed = Feature.CLIENT in shared
    first = pair.open(ended=True)
    second = pair.open(replace(GET, client=first, last=True), ended=True)
    pair.proxy.connection.close_client(first)
    pair.pump()
    heads = [event.head for event in pair.serve.events if isinstance(event, RequestReceived)]
    assert [(head.client, head.last) for head in heads] == [(0, False), (first, True) if agreed else (0, False)]
    assert (ClientClosed(first) in pair.serve.events) is agreed
    assert pair.serve.connection.is_open(second), "the close ends no stream"


@pytest.mark.parametrize("client", [7, 8, 100, 2**31 - 1])
def test_a_stream_cannot_be_of_a_client_that_comes_later(client: int) -> None:
    """Its own id is the client's then, so that what a hostile proxy says of one stream names no other client's."""
    serve = established(Role.SERVE)
    (event,) = serve.receive_message(request_frame(7, client=client), 0.0)
    assert isinstance(event, RequestReceived)
    assert event.head.client == 0


def test_a_clients_close_overtakes_nothing_of_its_first_stream() -> None:
    pair = ConnectionPair()
    client = pair.proxy.connection.open_stream(POST)
    pair.proxy.connection.send_data(client, memoryview(bytes(60_000)))
    pair.proxy.connection.send_end(client)
    pair.proxy.connection.close_client(client)
    pair.pump()
    kinds = [type(event) for event in pair.serve.events]
    assert (kinds[0], kinds[-2:]) == (RequestReceived, [EndReceived, ClientClosed])
    assert len(pair.serve.body(client)) == 60_000


def test_a_clients_close_is_told_also_where_its_head_was_taken_back() -> None:
    pair = ConnectionPair()
    client = pair.proxy.connection.open_stream(POST)
    pair.proxy.connection.reset(client, ErrorCode.CANCELLED, "gone")
    pair.proxy.connection.close_client(client)
    pair.pump()
    assert pair.serve.events == [ClientClosed(client)]
    assert pair.serve.connection.ended is None


def test_serve_may_answer_in_full_and_decline_the_rest_of_the_request() -> None:
    pair = ConnectionPair()
    stream = pair.open(POST)
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.send_data(stream, memoryview(b"too large"))
    pair.serve.connection.send_end(stream)
    pair.serve.connection.reset(stream, ErrorCode.NO_ERROR, "not needed")
    pair.pump()
    assert pair.proxy.events == [
        ResponseReceived(stream, OK),
        DataReceived(stream, b"too large"),
        EndReceived(stream),
        RestUnwanted(stream),
    ]
    assert pair.proxy.connection.send_data(stream, memoryview(b"more")) == 4, "it goes nowhere, and nobody waits"
    assert sent(pair.proxy.connection) == []


def test_a_no_error_in_the_midst_of_a_response_does_not_make_it_whole() -> None:
    pair = ConnectionPair()
    stream = pair.open(ended=True)
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.reset(stream, ErrorCode.NO_ERROR, "?")
    pair.pump()
    assert pair.proxy.events == [
        ResponseReceived(stream, OK),
        StreamEnded(stream, ErrorCode.NO_ERROR, "?", remote=True),
    ]


def test_an_original_peer_is_not_told_that_the_rest_is_not_needed() -> None:
    pair = ConnectionPair(proxy_features=frozenset())
    stream = pair.open(POST)
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.send_end(stream)
    pair.serve.connection.reset(stream, ErrorCode.NO_ERROR, "not needed")
    pair.pump()
    assert pair.proxy.events[-1] == EndReceived(stream)
    pair.send(pair.proxy, stream, b"rest")
    assert pair.serve.body(stream) == b""
    assert pair.proxy.connection.ended is None and pair.serve.connection.ended is None


def test_a_v1_serve_that_breaks_off_says_error_and_then_end() -> None:
    pair = ConnectionPair(proxy_features=frozenset())
    stream = pair.open(ended=True)
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.reset(stream, ErrorCode.UPSTREAM, "gone")
    types = [frame.type for frame in frames_of(sent(pair.serve.connection))]
    assert types == [FrameType.RES_HEADERS, FrameType.ERROR, FrameType.RES_END]


# -- limits


def test_a_proxy_opens_no_more_streams_than_serve_takes() -> None:
    pair = ConnectionPair(limits=Limits(streams=2))
    first = pair.open()
    pair.open()
    with pytest.raises(TooManyStreams):
        pair.proxy.connection.open_stream(GET)
    pair.proxy.connection.reset(first, ErrorCode.CANCELLED, "enough")
    assert pair.open() == 3


@pytest.mark.parametrize("shared", [ALL_FEATURES, frozenset()], ids=["v2", "v1"])
def test_answers_that_the_peer_does_not_take_count_as_streams(shared: Features) -> None:
    pair = ConnectionPair(proxy_features=shared, limits=Limits(streams=4, lanes=1))
    serve = pair.serve.connection
    for stream in range(1, 10):
        head = frames.encode(FrameType.REQ_HEADERS, stream, fields.encode_request(stream, GET, shared))
        events = serve.receive_message(head, 0.0)
        assert bool(events) is (stream <= 4)
        events = serve.receive_message(frames.encode(FrameType.REQ_END, stream, frames.encode_length(0)), 0.0)
        if stream <= 4:
            serve.send_response(stream, OK)
            serve.send_end(stream)
            assert not serve.is_open(stream)
    sent(serve)
    head = frames.encode(FrameType.REQ_HEADERS, 10, fields.encode_request(10, GET, shared))
    assert serve.receive_message(head, 0.0)


@pytest.mark.parametrize("ended", [True, False])
def test_requests_that_are_given_up_before_they_are_sent_leave_nothing_to_send(ended: bool) -> None:
    pair = ConnectionPair()
    proxy = pair.proxy.connection
    for _ in range(3 * Limits().control):
        stream = proxy.open_stream(GET, ended=ended)
        proxy.reset(stream, ErrorCode.CANCELLED, "The client went away.")
    assert not proxy.line.outbox
    assert pair.open(ended=True) == 3 * Limits().control + 1
    pair.pump()
    assert [type(event) for event in pair.serve.events] == [RequestReceived, EndReceived]


def test_a_head_that_fits_no_frame_opens_nothing() -> None:
    pair = ConnectionPair()
    with pytest.raises(ProtocolError) as caught:
        pair.proxy.connection.open_stream(RequestHead(method=b"GET", target=b"/" + b"x" * 70_000))
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert pair.open() == 1
    with pytest.raises(ProtocolError):
        pair.serve.connection.send_response(1, ResponseHead(status=200, fields=((b"x", b"y" * 70_000),)))
    pair.serve.connection.send_response(1, OK)
    pair.pump()
    assert pair.proxy.events == [ResponseReceived(1, OK)]


# -- the session's end


@pytest.mark.parametrize("shared", [ALL_FEATURES, frozenset()], ids=["v2", "v1"])
def test_a_close_tells_the_peer_and_says_nothing_more(shared: Features) -> None:
    pair = ConnectionPair(proxy_features=shared)
    stream = pair.open(POST)
    pair.proxy.connection.send_data(stream, memoryview(bytes(60_000)))
    pair.proxy.connection.close(ErrorCode.NO_ERROR, "The peer stops.")
    pair.proxy.connection.close(ErrorCode.INTERNAL, "again")
    pair.pump()
    code = ErrorCode.NO_ERROR if shared else ErrorCode.INTERNAL
    assert pair.serve.events[-1] == ConnectionEnded(code, "The peer stops.", remote=True)
    assert pair.serve.body(stream) == b""
    assert not pair.serve.connection.is_open(stream)


def test_after_the_end_nothing_means_anything() -> None:
    pair = ConnectionPair()
    stream = pair.open(POST)
    pair.serve.connection.close(ErrorCode.NO_ERROR, "bye")
    sent(pair.serve.connection)
    serve = pair.serve.connection
    for message in (request_frame(9), frames.encode(FrameType.PING, 0), b"\xff" * 50):
        assert serve.receive_message(message, 1.0) == []
    serve.send_response(stream, OK)
    assert serve.send_data(stream, memoryview(b"x")) == 1
    serve.send_end(stream)
    serve.consumed(stream, 5)
    serve.reset(stream, ErrorCode.CANCELLED, "x")
    assert serve.handle_timer(1e9) == []
    assert sent(serve) == []


# -- liveness


@pytest.mark.parametrize("shared", [ALL_FEATURES, ALL_FEATURES - {Feature.RESUME}])
def test_a_silent_peer_is_pinged_then_given_up(shared: Features) -> None:
    pair = ConnectionPair(timeouts=Timeouts(ping_busy=1.0, dead_busy=4.0), proxy_features=shared)
    proxy = pair.proxy.connection
    pair.open()
    assert proxy.next_timer() == 1.0
    assert proxy.handle_timer(1.0) == []
    assert [message[0] for message in sent(proxy)] == [FrameType.PING]
    assert proxy.next_timer() == 4.0
    (event,) = proxy.handle_timer(4.0)
    if Feature.RESUME in shared:
        assert event == PeerSilent() and proxy.ended is None
        assert proxy.next_timer() is None
        assert proxy.receive_message(frames.encode(FrameType.PONG, 0), 9.0) == []
        assert proxy.next_timer() == 10.0
    else:
        assert isinstance(event, ConnectionEnded) and event.remote
    assert sent(proxy) == []


def test_a_ping_is_answered_ahead_of_bodies_and_tells_the_round_trip() -> None:
    pair = ConnectionPair()
    stream = pair.open()
    pair.serve.connection.send_response(stream, OK)
    pair.serve.connection.send_data(stream, memoryview(bytes(60_000)))
    pair.proxy.connection.handle_timer(1.0)
    pair.flush(pair.proxy)
    pair.now = 1.5
    pair.deliver(pair.serve)
    (first, *_) = frames_of(sent(pair.serve.connection))
    assert first.type == FrameType.PONG
    pair.proxy.connection.receive_message(frames.encode(FrameType.PONG, 0), 1.5)
    assert pair.proxy.connection.line.rtt == 0.5


def test_any_message_puts_the_ping_off() -> None:
    pair = ConnectionPair()
    assert pair.proxy.connection.next_timer() == Timeouts().ping_idle
    pair.proxy.connection.receive_message(b"\xff", 3.0)
    assert pair.proxy.connection.next_timer() == 3.0 + Timeouts().ping_idle


def test_a_suspected_peer_has_a_second() -> None:
    pair = ConnectionPair()
    proxy = pair.proxy.connection
    proxy.line.suspect()
    proxy.handle_timer(0.1)
    assert [message[0] for message in sent(proxy)] == [FrameType.PING]
    assert proxy.next_timer() == pytest.approx(1.1)
    assert proxy.handle_timer(1.1) == [PeerSilent()]


# -- frames of the session that have a codec


def with_path(*, agreed: bool) -> ConnectionPair:
    features = ALL_FEATURES | {Feature.PATH}
    return ConnectionPair(proxy_features=features, serve_features=features if agreed else ALL_FEATURES)


ADDRESSES = ("192.168.1.5:40123", "[fd00::5]:40123")


def test_what_one_side_tells_the_other_one_hears_as_it_was() -> None:
    pair = with_path(agreed=True)
    pair.serve.connection.tell(FrameType.PATH, ADDRESSES)
    pair.pump()
    assert pair.proxy.take_events() == [Told(FrameType.PATH, ADDRESSES)]


def test_it_is_not_for_the_wrong_side_to_send_nor_to_be_sent_unless_it_is_agreed_on() -> None:
    with pytest.raises(AssertionError):
        with_path(agreed=True).proxy.connection.tell(FrameType.PATH, ADDRESSES)
    with pytest.raises(AssertionError):
        with_path(agreed=False).serve.connection.tell(FrameType.PATH, ADDRESSES)


@pytest.mark.parametrize("agreed", [True, False])
def test_one_that_its_codec_refuses_ends_the_session_and_one_from_the_wrong_side_is_skipped(agreed: bool) -> None:
    pair = with_path(agreed=agreed)
    message = frames.encode(FrameType.PATH, 7, b"no JSON")
    assert pair.serve.connection.receive_message(message, 0.0) == []
    events = pair.proxy.connection.receive_message(message, 0.0)
    assert [type(event) for event in events] == ([ConnectionEnded] if agreed else [])
