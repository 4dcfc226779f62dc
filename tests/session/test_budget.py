"""How much a peer may make the other side hold, and that it all comes free again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llmtunnel.config import KIB, Limits
from llmtunnel.errors import ErrorCode, StreamReset
from llmtunnel.protocol import frames
from llmtunnel.protocol.fields import MAX_FIELDS
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import RequestHead, ResponseHead, cost
from llmtunnel.session.stream import Stream
from tests.support.core_pair import request_frame

from ..support.embedded import until
from ..support.session_pair import GET, OK, POST, Pair, echo, handling, linked, read_all

SMALL = Limits(held=256 * KIB, held_in_all=256 * KIB, window=64 * KIB, streams=64)
LARGE = RequestHead(method=b"GET", target=b"/", fields=((b"x-large", b"x" * 30 * KIB),))


@asynccontextmanager
async def pair_of(handler: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[Pair]:
    """Two sessions; whatever was held is free when they have ended."""
    async with linked(handler, limits=SMALL) as pair:
        yield pair
    assert pair.serve.budget.used == 0


async def deaf(stream: Stream) -> None:
    """A handler that reads nothing."""
    await asyncio.Event().wait()


async def codes(streams: list[Stream]) -> list[ErrorCode]:
    """How those of the streams have ended that have."""
    ended = []
    for stream in streams:
        try:
            async with asyncio.timeout(0.01):
                await stream.response()
        except StreamReset as exc:
            ended.append(exc.code)
        except TimeoutError:
            pass
    return ended


async def test_requests_whose_heads_do_not_fit_are_refused_and_others_go_on() -> None:
    async with pair_of(deaf) as pair:
        streams = [await pair.proxy.open(LARGE, ended=True) for _ in range(40)]
        room = SMALL.held // 2 // cost(LARGE)
        await until(lambda: pair.serve.active == pair.proxy.active == room)
        assert await codes(streams[room:]) == [ErrorCode.REFUSED] * (40 - room)
        for stream in streams[:room]:
            stream.reset(ErrorCode.CANCELLED, "Enough.")
        await until(lambda: pair.serve.budget.used == 0)
        await pair.proxy.open(LARGE, ended=True)
        await until(lambda: pair.serve.active == 1)


async def test_a_head_that_is_taken_back_before_it_is_looked_at_holds_nothing() -> None:
    async with pair_of(deaf) as pair:
        for _ in range(50):
            stream = await pair.proxy.open(LARGE)
            await asyncio.sleep(0)  # the head is on its way
            stream.reset(ErrorCode.CANCELLED, "Never mind.")
            await until(lambda: pair.serve.budget.used == 0)
            await until(lambda: not handling(pair.serve))


async def test_bodies_that_nobody_reads_end_their_streams_where_all_of_them_are_too_much() -> None:
    async with pair_of(deaf) as pair:
        streams = [await pair.proxy.open(POST) for _ in range(10)]
        await until(lambda: pair.serve.active == 10)
        sending = [asyncio.create_task(stream.send(bytes(SMALL.window))) for stream in streams]
        await asyncio.gather(*sending, return_exceptions=True)
        await until(lambda: pair.serve.active < 10)
        await pair.proxy.open(GET)
        assert pair.serve.budget.used <= SMALL.held
        ended = await codes(streams)
        assert set(ended) == {ErrorCode.FLOW_CONTROL} and len(ended) >= 6


async def test_what_is_read_is_held_no_more() -> None:
    async with pair_of(echo) as pair:
        for _ in range(3):
            stream = await pair.proxy.open(POST)
            reading = asyncio.create_task(read_all(stream))
            for _ in range(30):
                await stream.send(bytes(50 * KIB))
            await stream.send_end()
            await stream.response()
            assert len(await reading) == 30 * 50 * KIB > 3 * SMALL.held
        await until(lambda: pair.serve.budget.used == pair.proxy.budget.used == 0)


async def test_answers_that_a_peer_does_not_take_end_where_all_of_them_are_too_much() -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_response(OK)
        await stream.send(bytes(SMALL.window + 100 * KIB))
        await stream.send_end()

    async with pair_of(answer) as pair:
        streams = [await pair.proxy.open(GET, ended=True) for _ in range(10)]
        await until(lambda: pair.proxy.active < 10)
        assert pair.serve.budget.used <= SMALL.held
        read = [stream for stream in streams if stream._error is None]
        assert read
        pair.proxy.budget.limit = 1 << 30
        assert len(await read_all(read[0])) == SMALL.window + 100 * KIB


async def test_a_proxy_holds_no_more_for_a_serve_and_its_client_is_not_told_that_a_body_is_whole() -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_response(OK)
        for _ in range(4):
            await stream.send(bytes(SMALL.window // 4))
        await stream.send_end()

    async with pair_of(answer) as pair:
        streams = [await pair.proxy.open(GET, ended=True) for _ in range(10)]
        await until(lambda: pair.proxy.active == 0)
        assert pair.proxy.budget.used <= SMALL.held
        lengths = []
        for stream in streams:
            await stream.response()
            try:
                lengths.append(len(await read_all(stream)))
            except StreamReset as exc:
                assert exc.code is ErrorCode.FLOW_CONTROL
            stream.reset(ErrorCode.CANCELLED, "The response is whole.")
        assert set(lengths) == {SMALL.window} and len(lengths) < 10
        assert pair.proxy.budget.used == 0


async def test_interim_heads_count_too() -> None:
    async def hint(stream: Stream) -> None:
        head = ResponseHead(status=103, fields=((b"link", b"x" * 30 * KIB),))
        for _ in range(10):
            await stream.send_response(head)
            await asyncio.sleep(0)
        await stream.send_response(OK)
        await stream.send_end()

    async with pair_of(hint) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await until(lambda: pair.proxy.active == 0)
        assert pair.proxy.budget.used <= SMALL.held
        for _ in range(8):
            assert (await stream.response()).status == 103
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.code is ErrorCode.FLOW_CONTROL


async def test_heads_of_very_many_fields_cost_serve_nothing_but_a_look() -> None:
    fields = [[f"{number}", ""] for number in range(3_000)]
    assert len(fields) > MAX_FIELDS
    async with pair_of(deaf) as pair:
        sent: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pair.network.far, "send", lambda message, pipe: sent.append(message))
            for number in range(1, 100):
                pair.serve.message_received(request_frame(number, fields=fields))
            assert pair.serve.active == pair.serve.budget.used == 0
            assert pair.serve.error is None
            await asyncio.sleep(0)
        assert sent
        told = [frames.decode(message) for message in sent]
        assert {frame.type for frame in told if frame} <= {FrameType.RESET, FrameType.BUNDLE, FrameType.ACK}
