"""The wire: both roles of the core, heads and hellos."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final

from llmtunnel.config import Limits
from llmtunnel.errors import ErrorCode, ProtocolError, TooManyStreams
from llmtunnel.protocol import fields, frames
from llmtunnel.protocol.events import DataReceived, Event, RequestReceived, ResponseReceived
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Agree, Feature, Features, Hello, ResumeOffer
from llmtunnel.status import Role

from ..support.core_pair import Core
from . import mutations

REQUEST: Final = RequestHead(
    method=b"POST",
    target=b"/v1/chat?x=%2F",
    fields=((b"Host", b"h"), (b"Content-Length", b"5"), (b"X-A", b"\xfc")),
    client=1,
    last=True,
)
RESPONSE: Final = ResponseHead(status=200, reason=b"OK", fields=((b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")))
SMALL: Final = Limits(window=2000, streams=2, v1_backlog=5000, control=50, lanes=3)
VERSIONS: Final[list[Features]] = [ALL_FEATURES, frozenset(), frozenset({Feature.SSE}), ALL_FEATURES - {Feature.BUNDLE}]


def _messages(role: Role, features: Features) -> list[bytes]:
    """What an honest peer of that role says, hello and all, a frame each."""
    if role is Role.PROXY:
        first = frames.encode(FrameType.HELLO, 0, Hello(features=features, window=2000, lanes=3).encode())
        head, body, end = FrameType.REQ_HEADERS, FrameType.REQ_BODY, FrameType.REQ_END
        payload = fields.encode_request(1, REQUEST, features)
    else:
        lanes = 3 if {Feature.LANES, Feature.RESUME} <= features else 1
        agree = Agree(features=features, window=2000, session=b"s", lanes=lanes)
        first = frames.encode(FrameType.AGREE, 0, agree.encode())
        head, body, end = FrameType.RES_HEADERS, FrameType.RES_BODY, FrameType.RES_END
        payload = fields.encode_response(1, RESPONSE, features)
    length = frames.encode_length(5) if Feature.LENGTH in features else b""
    streams = [
        message
        for stream in (1, 2, 3)
        for message in (
            frames.encode(head, stream, payload),
            frames.encode(body, stream, b"hello"),
            frames.encode(FrameType.CREDIT, stream, frames.encode_credit(100)),
            frames.encode(end, stream, length),
            frames.encode(FrameType.RESET, stream, frames.encode_reset(ErrorCode.CANCELLED, "enough")),
            frames.encode(FrameType.ERROR, stream, b"enough"),
            frames.encode(FrameType.CLIENT_CLOSED, stream),
            frames.encode(FrameType.ACK, stream % 3, frames.encode_count(0)),
        )
    ]
    return [first, frames.encode(FrameType.PING, 0), *streams, frames.encode(FrameType.PONG, 0)]


def spoil_message(rng: Random, message: bytes) -> bytes:
    """A message with its header or payload changed."""
    if not frames.HEADER.size <= len(message) <= frames.MAX_MESSAGE or rng.random() < 0.3:
        return mutations.of_bytes(rng, message)
    (type_, stream), payload = frames.HEADER.unpack_from(message), message[frames.HEADER.size :]
    match rng.randrange(5):
        case 0:
            type_ = rng.choice([*FrameType, rng.randrange(256)])
        case 1:
            stream = rng.choice([0, 1, 2, 3, 4, 9, 2**31 - 1, 2**31, 2**32 - 1])
        case 2:
            payload = bytes(rng.choice([0, 1, 4, 8, 2000, 65_408, 65_409, 65_531, 65_532]))
        case _:
            payload = mutations.of_json(rng, payload) if payload[:1] == b"{" else mutations.of_bytes(rng, payload)
    return frames.HEADER.pack(type_, stream) + payload


def _bundled(rng: Random, said: list[bytes]) -> list[bytes]:
    """The same, some of it in bundles."""
    out: list[bytes] = []
    while said:
        count = rng.choice([1, 1, 2, 5])
        part, said = said[:count], said[count:]
        fits = all(len(each) < 10_000 for each in part)
        out += [frames.bundle(part)] if fits else part
    return out


def connection(rng: Random) -> None:
    """Either role, before and after the hello: `receive_message` and its answers never raise, and stay bounded."""
    role, features = rng.choice(list(Role)), rng.choice(VERSIONS)
    core = Core(role, now=0.0, limits=SMALL, features=rng.choice(VERSIONS))
    hello, *said = _messages(role.other, features)
    if rng.random() < 0.3:
        said.sort(key=lambda message: message[0])  # all heads first, and so on: the streams run side by side
    said = said[: rng.randrange(len(said) + 1)]
    if rng.random() < 0.5:
        said = mutations.of_sequence(rng, [hello, *said], lambda message: spoil_message(rng, message))
    else:
        said = [hello, *mutations.of_sequence(rng, said, lambda message: spoil_message(rng, message))]
    now = 0.0
    for message in _bundled(rng, said):
        now += rng.choice([0.0, 0.0, 0.5, 5.0])
        for event in core.receive_message(message, now):
            _react(rng, core, event)
        if core.established and core.pipes == 1 and rng.random() < 0.2:
            core.line.outbox.split(core.line.lanes)
        if core.established and core.ended is None and role is Role.PROXY and len(core.streams) < 2:
            with suppress(TooManyStreams):
                core.open_stream(REQUEST, ended=rng.random() < 0.5)
        core.handle_timer(now)
        _check_core(core, rng)


def _react(rng: Random, core: Core, event: Event) -> None:
    """What an application may do next."""
    match event:
        case DataReceived(stream, data):
            core.consumed(stream, len(data))
        case RequestReceived(stream, head):
            check_clean(head)
            assert 0 <= head.client < stream
            core.send_response(stream, RESPONSE)
            core.send_data(stream, memoryview(bytes(rng.choice([1, 100, 5000]))))
            if rng.random() < 0.5:
                core.send_end(stream)
            if rng.random() < 0.3:
                core.reset(stream, rng.choice(list(ErrorCode)), "enough")
        case ResponseReceived(_, head):
            check_clean(head)


def _check_core(core: Core, rng: Random) -> None:
    lanes = core.line.lanes if core.established else 1
    assert len(core.streams) <= SMALL.streams * (1 if lanes == 1 else 2)
    sent = 0
    while rng.random() < 0.9 and (message := core.message_to_send(rng.randrange(core.pipes))) is not None:
        assert 0 < len(message) <= frames.MAX_MESSAGE
        sent += 1
    assert sent <= 2 * SMALL.control + 100
    if core.ended is not None:
        assert core.next_timer() is None
        assert not core.streams


def check_clean(head: RequestHead | ResponseHead) -> None:
    """Written on an HTTP connection, it is one head, with the fields that it says."""
    lines = [text for field in head.fields for text in field]
    lines += [head.method, head.target] if isinstance(head, RequestHead) else [head.reason]
    assert not any(set(line) & set(b"\r\n\0") for line in lines)
    assert all(name and b":" not in name and b" " not in name for name, _ in head.fields)


def heads(rng: Random) -> None:
    """A head that is taken is clean, and comes back from its own encoding."""
    features = rng.choice(VERSIONS)
    request = rng.random() < 0.5
    payload = fields.encode_request(1, REQUEST, features) if request else fields.encode_response(1, RESPONSE, features)
    payload = mutations.of_json(rng, payload)
    try:
        head = fields.decode_request(payload, features) if request else fields.decode_response(payload, features)
    except ProtocolError:
        return
    check_clean(head)
    if Feature.FIELDS not in features:
        return
    if isinstance(head, RequestHead):
        assert fields.decode_request(fields.encode_request(1, head, features), features) == head
    else:
        assert fields.decode_response(fields.encode_response(1, head, features), features) == head


def hello(rng: Random) -> None:
    """HELLO and AGREE: what is taken comes back from its own encoding."""
    resume = ResumeOffer(session=b"s", received=(1, 2))
    said: list[Hello | Agree] = [
        Hello(agent="x/1", window=5000, lanes=2, resume=resume, identity=b"\4" + bytes(64)),
        Agree(agent="x/1", streams=9, lanes=2, received=(1, 2)),
    ]
    read: Callable[[bytes], Hello | Agree] = Hello.decode if rng.random() < 0.5 else Agree.decode
    try:
        taken = read(mutations.of_json(rng, rng.choice(said).encode()))
    except ProtocolError:
        return
    assert read(taken.encode()) == taken
