"""Clients that wait for events while the upstream says nothing, and what errors become then."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable

import pytest

from llmtunnel.endpoints.keepalive import COMMENT, LONGEST_BODY, Decoder, Warmer, error_event, is_event_stream, may_ask
from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.listener import ListenerPolicy
from llmtunnel.protocol.heads import Fields, RequestHead, ResponseHead, get_all
from llmtunnel.session.stream import Stream

from ..support.gateway_rig import RawClient, Rig, ok, tunnel

EVENTS = (b"Content-Type", b"text/event-stream; charset=utf-8")
ASKS = b'{"model": "m", "stream": true}'
SOON, LONG = 0.05, 30.0


def request(body: bytes = ASKS, *, path: str = "/v1/chat/completions", method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def later(answer: Callable[[Stream], Awaitable[None]], gate: asyncio.Event) -> Callable[[Stream], Awaitable[None]]:
    """A serve that takes the request, and answers when the gate opens."""

    async def handle(stream: Stream) -> None:
        while await stream.receive():
            pass
        await gate.wait()
        await answer(stream)

    return handle


async def events(stream: Stream) -> None:
    await stream.send_response(ok(EVENTS))
    await stream.send(b"data: one\n\ndata: [DONE]\n\n")
    await stream.send_end()


async def chunk(client: RawClient) -> bytes:
    """The next chunk of a chunked body."""
    size = int(await client.reader.readline(), 16)
    data = await client.reader.readexactly(size + 2)
    return data[:-2]


async def kept_warm(rig: Rig, gate: asyncio.Event, asked: bytes = request()) -> tuple[bytes, bytes]:
    """Ask for events; open the gate after two comments. The head, and the body behind them."""
    async with await rig.connect() as client:
        client.write(asked)
        head = await client.head()
        for _ in range(2):
            assert await chunk(client) == COMMENT
        gate.set()
        body = b""
        while data := await chunk(client):
            body += data
        return head, body


async def test_comments_come_until_the_model_begins_and_then_its_own_bytes() -> None:
    gate = asyncio.Event()
    async with tunnel(later(events, gate), keepalive=SOON) as rig:
        head, body = await kept_warm(rig, gate)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.lower().count(b"content-type: text/event-stream") == 1
        assert body.replace(COMMENT, b"") == b"data: one\n\ndata: [DONE]\n\n"
        (record,) = rig.records
        assert (record.status, record.error) == (200, "")


async def test_a_model_that_begins_in_time_is_not_touched() -> None:
    gate = asyncio.Event()
    gate.set()
    async with tunnel(later(events, gate), keepalive=LONG) as rig:
        answer = await rig.ask(request())
        assert b"Content-Type: text/event-stream; charset=utf-8" in answer
        assert COMMENT not in answer


@pytest.mark.parametrize(
    "asked",
    [
        request(b'{"model": "m"}'),
        request(b'{"model": "m", "stream": false}'),
        request(b'{"messages": [{"content": "\\"stream\\": true"}]}'),
        request(b'{"tool": {"stream": true}}'),
        request(b"no json"),
        request(b"[" * 100_000),
        request(path="/api/chat"),
        request(path="/api/generate"),
        request(b'{"stream": true, "prompt": "' + b"x" * LONGEST_BODY + b'"}'),
        request(method="PUT"),
    ],
)
async def test_who_did_not_ask_for_events_gets_none(asked: bytes) -> None:
    gate = asyncio.Event()
    async with tunnel(later(events, gate), keepalive=SOON) as rig:
        async with await rig.connect() as client:
            client.write(asked)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4 * SOON):
                    await client.head()
        assert rig.records == [] or rig.records[0].status is None


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_body_that_has_not_all_come_asks_for_nothing_yet() -> None:
    warmer, comments = Warmer(SOON), 0

    def tell() -> bool:
        nonlocal comments
        comments += 1
        return True

    for part, count in ((ASKS[:-1], 0), (ASKS[-1:], 2)):
        warmer.feed(part)
        await warmer.wait(asyncio.sleep(2.5 * SOON, ok()), tell)
        assert comments == count


async def test_an_error_that_comes_later_is_an_event_and_the_stream_ends_whole() -> None:
    gate = asyncio.Event()
    told = b'{"error": {"message": "too long", "code": 7}}'

    async def refuse(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Type", b"application/json"), status=400, reason=b"Bad Request"))
        await stream.send(told)
        await stream.send_end()

    async with tunnel(later(refuse, gate), keepalive=SOON) as rig:
        _, body = await kept_warm(rig, gate)
        event = body.replace(COMMENT, b"")
        assert event.startswith(b"data: ") and event.endswith(b"\n\n")
        assert json.loads(event.removeprefix(b"data: ")) == json.loads(told)
        assert rig.records[0].status == 400


async def test_a_stream_that_is_reset_later_ends_with_an_event_that_says_why() -> None:
    gate = asyncio.Event()

    async def reset(stream: Stream) -> None:
        stream.reset(ErrorCode.UPSTREAM, "The model server broke off.")

    async with tunnel(later(reset, gate), keepalive=SOON) as rig:
        _, body = await kept_warm(rig, gate)
        error = json.loads(body.replace(COMMENT, b"").removeprefix(b"data: "))["error"]
        assert "broke off" in error["message"]
        assert rig.records[0].error


async def test_a_client_that_leaves_meanwhile_cancels_its_request() -> None:
    cancelled = asyncio.Event()

    async def never(stream: Stream) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with tunnel(never, keepalive=SOON) as rig:
        async with await rig.connect() as client:
            client.write(request())
            await client.head()
            assert await chunk(client) == COMMENT
        async with asyncio.timeout(10):
            await cancelled.wait()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "plain"}', "plain"),
        (b"<html>no</html>", "<html>no</html>"),
        (b"", "The model server answered with HTTP status 500."),
        (b"\xff", "\ufffd"),
        (b"[" * 60_000, None),
    ],
)
def test_an_error_event_is_one_line_of_json_whatever_the_error_is(body: bytes, message: str | None) -> None:
    event = error_event(500, body)
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    error = json.loads(event.removeprefix(b"data: "))["error"]
    assert message is None or message == (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(
    ("head", "yes"),
    [
        (ResponseHead(status=200, fields=(EVENTS,)), True),
        (ResponseHead(status=500, fields=(EVENTS,)), False),
        (ResponseHead(status=200, fields=((b"Content-Type", b"application/json"),)), False),
        (ResponseHead(status=200), False),
        (ResponseHead(status=200, fields=(EVENTS, (b"Content-Encoding", b"gzip"))), True),
        (ResponseHead(status=200, fields=(EVENTS, (b"Content-Encoding", b"identity"))), True),
        (ResponseHead(status=200, fields=(EVENTS, (b"Content-Encoding", b"br"))), False),
        (ResponseHead(status=200, fields=(EVENTS, (b"Content-Encoding", b"gzip, gzip"))), False),
    ],
)
def test_only_an_event_stream_that_can_be_read_goes_on_as_one(head: ResponseHead, yes: bool) -> None:
    assert is_event_stream(head) is yes


# -- content codings


def with_fields(*fields: bytes) -> bytes:
    """The request, with more fields."""
    return request().replace(b"\r\nHost: a\r\n", b"\r\nHost: a\r\n" + b"".join(each + b"\r\n" for each in fields), 1)


def deflated(data: bytes, *, raw: bool) -> bytes:
    packer = zlib.compressobj(wbits=-15 if raw else 15)
    return packer.compress(data) + packer.flush()


TEXT = b"data: " + b"x" * 200_000 + b"\n\ndata: [DONE]\n\n"
CODED = {
    "gzip": (b"gzip", gzip.compress(TEXT)),
    "x-gzip, two members": (b"X-GZIP", gzip.compress(TEXT[:10]) + gzip.compress(TEXT[10:])),
    "deflate": (b"deflate", deflated(TEXT, raw=False)),
    "deflate, raw": (b"deflate", deflated(TEXT, raw=True)),
    "identity": (b"identity", TEXT),
}


@pytest.mark.parametrize("accepts", [b"gzip, deflate, br, zstd", b"br", b"*", b"gzip;q=1.0, *;q=0.5", b""])
async def test_the_upstream_is_asked_not_to_compress_what_an_early_head_may_be_told_of(accepts: bytes) -> None:
    seen: list[Fields] = []

    gate = asyncio.Event()

    async def answer(stream: Stream) -> None:
        seen.append(stream.request.fields)
        await events(stream)

    async with tunnel(later(answer, gate), keepalive=SOON) as rig:
        _, body = await kept_warm(rig, gate, with_fields(b"Accept-Encoding: " + accepts))
        assert body.replace(COMMENT, b"") == b"data: one\n\ndata: [DONE]\n\n"
    assert get_all(seen[0], b"accept-encoding") == [b"identity"]


@pytest.mark.parametrize("keepalive", [None, LONG])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
async def test_other_requests_keep_what_they_accept(keepalive: float | None, path: str) -> None:
    seen: list[Fields] = []

    async def answer(stream: Stream) -> None:
        seen.append(stream.request.fields)
        await events(stream)

    async with tunnel(answer, keepalive=keepalive) as rig:
        asked = with_fields(b"Accept-Encoding: gzip").replace(b"/v1/chat/completions", path.encode())
        await rig.ask(asked)
        watched = keepalive is not None and path == "/v1/chat/completions"
        assert get_all(seen[0], b"accept-encoding") == [b"identity" if watched else b"gzip"]


@pytest.mark.parametrize("piece", [1, 100, 1_000_000])
@pytest.mark.parametrize("name", CODED)
async def test_events_that_are_compressed_all_the_same_are_decoded(name: str, piece: int) -> None:
    coding, coded = CODED[name]

    async def answer(stream: Stream) -> None:
        await stream.send_response(ok(EVENTS, (b"Content-Encoding", coding)))
        for start in range(0, len(coded), piece if len(coded) < 10_000 else max(piece, 1000)):
            await stream.send(coded[start : start + (piece if len(coded) < 10_000 else max(piece, 1000))])
        await stream.send_end()

    gate = asyncio.Event()
    async with tunnel(later(answer, gate), keepalive=SOON) as rig:
        _, body = await kept_warm(rig, gate)
        assert body.replace(COMMENT, b"") == TEXT


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, br"])
async def test_an_error_is_readable_text_however_it_is_compressed(status: int, coding: bytes) -> None:
    told = b'{"error": {"message": "the prompt is too long", "code": 7}}'
    packed = {b"gzip": gzip.compress, b"deflate": zlib.compress}.get(coding, lambda data: b"\x8b\x00\xff" + data)(told)

    async def refuse(stream: Stream) -> None:
        kind = EVENTS if status == 200 and coding in (b"br", b"zstd", b"gzip, br") else (b"Content-Type", b"text/json")
        await stream.send_response(ok(kind, (b"Content-Encoding", coding), status=status))
        await stream.send(packed)
        await stream.send_end()

    gate = asyncio.Event()
    async with tunnel(later(refuse, gate), keepalive=SOON) as rig:
        _, body = await kept_warm(rig, gate)
        error = json.loads(body.replace(COMMENT, b"").removeprefix(b"data: "))["error"]
        if coding in (b"gzip", b"deflate"):
            assert error == json.loads(told)["error"]
        else:
            assert coding.decode() in error["message"] and str(status) in error["message"]
            assert error["message"].isprintable()


def test_a_small_body_that_becomes_a_huge_one_is_never_held_whole() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    sizes = [
        len(piece)
        for piece in Decoder(ResponseHead(status=200, fields=((b"Content-Encoding", b"deflate"),))).decode(bomb)
    ]
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= 65_536


def test_bytes_that_are_not_compressed_as_told_are_an_error() -> None:
    for coding in (b"gzip", b"deflate"):
        with pytest.raises(ProtocolError):
            [*Decoder(ResponseHead(status=200, fields=((b"Content-Encoding", coding),))).decode(b"\x01rubbish")]


@pytest.mark.parametrize(
    ("fields", "cors", "may"),
    [
        ((), (), True),
        (((b"Accept-Encoding", b"gzip"),), (), True),
        (((b"Accept-Encoding", b"identity;q=0"),), (), False),
        (((b"Accept-Encoding", b"gzip, Identity ; Q=0.000"),), (), False),
        (((b"Accept-Encoding", b"gzip"), (b"Accept-Encoding", b"*;q=0")), (), False),
        (((b"Accept-Encoding", b"identity, *;q=0"),), (), True),
        (((b"Accept-Encoding", b"identity;q=0.1"),), (), True),
        (((b"Content-Encoding", b"gzip"),), (), False),
        (((b"Origin", b"http://A:8000"),), (), True),
        (((b"Origin", b"http://localhost:3000"),), (), False),
        (((b"Origin", b"null"),), (), False),
        (((b"Origin", b"http://localhost:3000"),), ((b"Access-Control-Allow-Origin", b"http://localhost:3000"),), True),
    ],
)
def test_an_early_head_is_for_clients_that_can_read_what_follows(fields: Fields, cors: Fields, may: bool) -> None:
    head = RequestHead(method=b"POST", target=b"/v1/chat/completions", fields=fields)
    assert may_ask(head, b"a:8000", cors) is may


async def test_a_page_that_only_the_upstream_lets_read_gets_its_head() -> None:
    gate = asyncio.Event()

    async def answer(stream: Stream) -> None:
        await stream.send_response(ok(EVENTS, (b"Access-Control-Allow-Origin", b"*")))
        await stream.send_end()

    async with tunnel(later(answer, gate), keepalive=SOON) as rig, await rig.connect() as client:
        client.write(with_fields(b"Origin: http://localhost:3000"))
        asyncio.get_running_loop().call_later(5 * SOON, gate.set)
        assert b"Access-Control-Allow-Origin: *" in await client.head()


async def test_an_early_head_for_a_page_that_was_allowed_lets_it_read() -> None:
    gate = asyncio.Event()
    policy = ListenerPolicy(allow_hosts=("a",), allow_origins=("https://x.example",))
    async with tunnel(later(events, gate), keepalive=SOON, policy=policy) as rig:
        head, _ = await kept_warm(rig, gate, with_fields(b"Origin: https://x.example"))
        assert b"Access-Control-Allow-Origin: https://x.example" in head
