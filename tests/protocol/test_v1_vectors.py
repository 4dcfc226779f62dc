"""Wire v1, byte for byte: each frame as the original tunnel writes it, and a whole conversation from each side.

The bytes are written out from the description of the original's wire, not made by our codec.
"""

from __future__ import annotations

import json

import pytest

from llmtunnel.errors import ErrorCode
from llmtunnel.protocol import frames
from llmtunnel.protocol.events import (
    ConnectionEnded,
    DataReceived,
    EndReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import Feature
from llmtunnel.status import Role

from ..support.core_pair import Core, Established

HELLO = bytes.fromhex("0100000000") + (b'{"proto":"httptunnel","min_version":1,"max_version":1,"features":["sse"]}')
AGREE = bytes.fromhex("0200000000") + b'{"version":1,"features":["sse"]}'
PING = bytes.fromhex("0300000000")
PONG = bytes.fromhex("0400000000")
REQ_HEADERS = bytes.fromhex("0a00000001") + (
    b'{"stream_id":1,"method":"POST","path":"/v1/chat?x=%2F","headers":{"content-type":"text/plain","x-a":"1, 2"}}'
)
REQ_BODY = bytes.fromhex("0b00000001 68656c6c6f")
REQ_END = bytes.fromhex("0c00000001")
RES_HEADERS = bytes.fromhex("1400000001") + b'{"stream_id":1,"status":201,"headers":{"content-length":"2"}}'
RES_BODY = bytes.fromhex("1500000001 6f6b")
RES_END = bytes.fromhex("1600000001")
ERROR = bytes.fromhex("6300000001 757073747265616d20646965643a20c3bc")

VECTORS = {
    "HELLO": (HELLO, FrameType.HELLO, 0, HELLO[5:]),
    "AGREE": (AGREE, FrameType.AGREE, 0, AGREE[5:]),
    "PING": (PING, FrameType.PING, 0, b""),
    "PONG": (PONG, FrameType.PONG, 0, b""),
    "REQ_HEADERS": (REQ_HEADERS, FrameType.REQ_HEADERS, 1, REQ_HEADERS[5:]),
    "REQ_BODY": (REQ_BODY, FrameType.REQ_BODY, 1, b"hello"),
    "REQ_END": (REQ_END, FrameType.REQ_END, 1, b""),
    "RES_HEADERS": (RES_HEADERS, FrameType.RES_HEADERS, 1, RES_HEADERS[5:]),
    "RES_BODY": (RES_BODY, FrameType.RES_BODY, 1, b"ok"),
    "RES_END": (RES_END, FrameType.RES_END, 1, b""),
    "ERROR": (ERROR, FrameType.ERROR, 1, "upstream died: ü".encode()),
    "the highest stream": (bytes.fromhex("0c ffffffff"), FrameType.REQ_END, 2**32 - 1, b""),
    "a stream in network order": (bytes.fromhex("15 01020304 00ff"), FrameType.RES_BODY, 0x01020304, b"\x00\xff"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_frame_is_written_as_the_original_writes_it(name: str) -> None:
    message, type_, stream, payload = VECTORS[name]
    assert frames.encode(type_, stream, payload) == message


@pytest.mark.parametrize("name", VECTORS)
def test_a_frame_is_read_as_the_original_reads_it(name: str) -> None:
    message, type_, stream, payload = VECTORS[name]
    assert frames.decode(message) == (type_, stream, payload)


@pytest.mark.parametrize("message", [b"", b"\x03", bytes.fromhex("03000000")])
def test_a_frame_under_five_bytes_is_skipped(message: bytes) -> None:
    serve = established(Role.SERVE)
    assert serve.receive_message(message, 0.0) == []
    assert sent(serve) == []


@pytest.mark.parametrize("type_", [0, 13, 23, 40, 98, 100, 255])
def test_a_frame_of_unknown_type_is_skipped(type_: int) -> None:
    serve = established(Role.SERVE)
    assert serve.receive_message(bytes([type_]) + bytes.fromhex("00000001 616263"), 0.0) == []
    assert sent(serve) == []


def sent(connection: Core) -> list[bytes]:
    """What the connection wants to send, one message each."""
    messages = []
    while (message := connection.message_to_send()) is not None:
        messages.append(message)
    return messages


def established(role: Role) -> Core:
    """A connection whose peer is an original one."""
    connection = Core(role, now=0.0)
    events = connection.receive_message(HELLO if role is Role.SERVE else AGREE, 0.0)
    assert [type(event) for event in events] == [Established]
    assert connection.features == {Feature.SSE}
    sent(connection)
    return connection


def json_of(message: bytes, header: str) -> dict[str, object]:
    """The JSON of a frame with that header."""
    assert message[:5] == bytes.fromhex(header)
    value = json.loads(message[5:])
    assert isinstance(value, dict)
    return value


def test_our_hello_is_one_that_the_original_serve_accepts() -> None:
    (message,) = sent(Core(Role.PROXY, now=0.0))
    hello = json_of(message, "0100000000")
    assert (hello["proto"], hello["min_version"], hello["max_version"]) == ("httptunnel", 1, 1)
    assert isinstance(hello["features"], list)
    assert "sse" in hello["features"]


def test_our_agree_is_one_that_the_original_proxy_accepts() -> None:
    serve = Core(Role.SERVE, now=0.0)
    serve.receive_message(HELLO, 0.0)
    (message,) = sent(serve)
    agree = json_of(message, "0200000000")
    assert (agree["version"], agree["features"]) == (1, ["sse"])


def test_a_request_to_our_serve_is_answered_in_the_originals_frames() -> None:
    serve = established(Role.SERVE)
    events: list[Event] = []
    for message in (REQ_HEADERS, REQ_BODY, REQ_END):
        events += serve.receive_message(message, 0.0)
    fields = ((b"content-type", b"text/plain"), (b"x-a", b"1, 2"))
    head = RequestHead(method=b"POST", target=b"/v1/chat?x=%2F", fields=fields)
    assert events == [RequestReceived(1, head), DataReceived(1, b"hello"), EndReceived(1)]

    serve.send_response(1, ResponseHead(status=201, reason=b"Made", fields=((b"content-length", b"2"),)))
    assert serve.send_data(1, memoryview(b"ok")) == 2
    serve.send_end(1)
    head_message, *rest = sent(serve)
    assert json_of(head_message, "1400000001") == json.loads(RES_HEADERS[5:])
    assert rest == [RES_BODY, RES_END]


def test_a_request_of_our_proxy_is_one_that_the_original_serve_reads() -> None:
    proxy = established(Role.PROXY)
    fields = ((b"content-type", b"text/plain"), (b"x-a", b"1"), (b"x-a", b"2"))
    stream = proxy.open_stream(RequestHead(method=b"POST", target=b"/v1/chat?x=%2F", fields=fields))
    assert proxy.send_data(stream, memoryview(b"hello")) == 5
    proxy.send_end(stream)
    head_message, *rest = sent(proxy)
    assert json_of(head_message, "0a00000001") == json.loads(REQ_HEADERS[5:])
    assert rest == [REQ_BODY, REQ_END]

    events: list[Event] = []
    for message in (RES_HEADERS, RES_BODY, RES_END):
        events += proxy.receive_message(message, 0.0)
    head = ResponseHead(status=201, fields=((b"content-length", b"2"),))
    assert events == [ResponseReceived(1, head), DataReceived(1, b"ok"), EndReceived(1)]


def test_streams_are_numbered_from_one() -> None:
    proxy = established(Role.PROXY)
    head = RequestHead(method=b"GET", target=b"/")
    assert [proxy.open_stream(head, ended=True) for _ in range(3)] == [1, 2, 3]


def test_a_long_body_goes_in_frames_that_the_original_takes() -> None:
    serve = established(Role.SERVE)
    serve.receive_message(REQ_HEADERS, 0.0)
    serve.send_response(1, ResponseHead(status=200))
    body, taken, messages = bytes(200_000), 0, []
    while taken < len(body):
        taken += serve.send_data(1, memoryview(body)[taken:])
        messages += sent(serve)
    pieces = [message[5:] for message in messages if message[0] == 21]
    assert all(0 < len(piece) <= 65_408 for piece in pieces)
    assert b"".join(pieces) == body


def test_an_error_ends_the_stream_and_the_end_that_follows_it_is_nothing() -> None:
    proxy = established(Role.PROXY)
    proxy.open_stream(RequestHead(method=b"GET", target=b"/"), ended=True)
    proxy.receive_message(RES_HEADERS, 0.0)
    (ended,) = proxy.receive_message(ERROR, 0.0)
    assert ended == StreamEnded(1, ErrorCode.INTERNAL, "upstream died: ü", remote=True)
    assert proxy.receive_message(RES_END, 0.0) == []
    assert proxy.ended is None


def test_a_stream_that_we_give_up_ends_with_error_and_no_frame_that_v1_lacks() -> None:
    serve = established(Role.SERVE)
    serve.receive_message(REQ_HEADERS, 0.0)
    serve.send_response(1, ResponseHead(status=200))
    serve.reset(1, ErrorCode.UPSTREAM, "gone")
    messages = sent(serve)
    assert {message[0] for message in messages} <= {20, 99, 22}
    assert bytes.fromhex("6300000001 676f6e65") in messages


def test_a_ping_is_answered_with_a_pong() -> None:
    for role in Role:
        connection = established(role)
        assert connection.receive_message(PING, 0.0) == []
        assert sent(connection) == [PONG]


def test_unknown_members_of_json_are_ignored() -> None:
    serve = Core(Role.SERVE, now=0.0)
    hello = HELLO[:-1] + b',"colour":"blue","features":["sse","telepathy"]}'
    (event,) = serve.receive_message(hello, 0.0)
    assert event == Established(frozenset({Feature.SSE}), "")
    (request,) = serve.receive_message(REQ_HEADERS[:-1] + b',"colour":null}', 0.0)
    assert isinstance(request, RequestReceived)


@pytest.mark.parametrize(
    "hello",
    [
        b'{"proto":"other","min_version":1,"max_version":1,"features":[]}',
        b'{"proto":"httptunnel","min_version":2,"max_version":9,"features":[]}',
        b'{"proto":"httptunnel","min_version":0,"max_version":0,"features":[]}',
    ],
)
def test_a_hello_of_no_common_version_ends_the_session(hello: bytes) -> None:
    serve = Core(Role.SERVE, now=0.0)
    (event,) = serve.receive_message(bytes.fromhex("0100000000") + hello, 0.0)
    assert isinstance(event, ConnectionEnded)
    assert event.code is ErrorCode.VERSION
    (message,) = sent(serve)
    assert message.startswith(bytes.fromhex("6300000000") + b"version:")
