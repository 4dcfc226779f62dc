"""Clients that wait for events while the upstream says nothing, and what errors become then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from llmtunnel.endpoints.keepalive import COMMENT, LONGEST_BODY, Warmer, error_event, is_event_stream
from llmtunnel.errors import ErrorCode
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.session.stream import Stream

from ..conftest import run
from .tunnel import RawClient, Rig, ok, tunnel

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


async def kept_warm(rig: Rig, gate: asyncio.Event) -> tuple[bytes, bytes]:
    """Ask for events; open the gate after two comments. The head, and the body behind them."""
    async with await rig.connect() as client:
        client.write(request())
        head = await client.head()
        for _ in range(2):
            assert await chunk(client) == COMMENT
        gate.set()
        body = b""
        while data := await chunk(client):
            body += data
        return head, body


def test_comments_come_until_the_model_begins_and_then_its_own_bytes() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with tunnel(later(events, gate), keepalive=SOON) as rig:
            head, body = await kept_warm(rig, gate)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert head.lower().count(b"content-type: text/event-stream") == 1
            assert body.replace(COMMENT, b"") == b"data: one\n\ndata: [DONE]\n\n"
            (record,) = rig.records
            assert (record.status, record.error) == (200, "")

    run(main())


def test_a_model_that_begins_in_time_is_not_touched() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        gate.set()
        async with tunnel(later(events, gate), keepalive=LONG) as rig:
            answer = await rig.ask(request())
            assert b"Content-Type: text/event-stream; charset=utf-8" in answer
            assert COMMENT not in answer

    run(main())


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
def test_who_did_not_ask_for_events_gets_none(asked: bytes) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with tunnel(later(events, gate), keepalive=SOON) as rig:
            async with await rig.connect() as client:
                client.write(asked)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(4 * SOON):
                        await client.head()
            assert rig.records == [] or rig.records[0].status is None

    run(main())


def test_a_body_that_has_not_all_come_asks_for_nothing_yet() -> None:
    warmer = Warmer(RequestHead(method=b"POST", target=b"/v1/chat/completions?x=1"), SOON)
    warmer.feed(ASKS[:-1])
    assert not warmer._asks_for_events()
    warmer.feed(ASKS[-1:])
    assert warmer._asks_for_events()


def test_an_error_that_comes_later_is_an_event_and_the_stream_ends_whole() -> None:
    async def main() -> None:
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

    run(main())


def test_a_stream_that_is_reset_later_ends_with_an_event_that_says_why() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def reset(stream: Stream) -> None:
            stream.reset(ErrorCode.UPSTREAM, "The model server broke off.")

        async with tunnel(later(reset, gate), keepalive=SOON) as rig:
            _, body = await kept_warm(rig, gate)
            error = json.loads(body.replace(COMMENT, b"").removeprefix(b"data: "))["error"]
            assert "broke off" in error["message"]
            assert rig.records[0].error

    run(main())


def test_a_client_that_leaves_meanwhile_cancels_its_request() -> None:
    async def main() -> None:
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

    run(main())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "plain"}', "plain"),
        (b"<html>no</html>", "<html>no</html>"),
        (b"", "The model server answered 500."),
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
        (ResponseHead(status=200, fields=(EVENTS, (b"Content-Encoding", b"gzip"))), False),
    ],
)
def test_only_a_plain_event_stream_goes_on_as_one(head: ResponseHead, yes: bool) -> None:
    assert is_event_stream(head) is yes
