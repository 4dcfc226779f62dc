from __future__ import annotations

import asyncio

import pytest

from llmtunnel.config import Limits
from llmtunnel.errors import ErrorCode, PeerLost, ProtocolError, StreamReset
from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import ResponseHead
from llmtunnel.session.stream import MAX_HEADS, SMALL, Stream
from tests.conftest import raised

from ..support.embedded import until
from ..support.session_pair import GET, OK, POST, echo, linked, over, read_all


async def test_a_body_of_any_length_passes_through_a_small_window() -> None:
    async with linked(echo, limits=Limits(window=1024)) as pair:
        stream = await pair.proxy.open(POST)
        await stream.response()
        body = bytes(range(256)) * 400
        sending = asyncio.create_task(stream.send(body), name="sender")
        got = bytearray()
        while len(got) < len(body):
            got += await stream.receive()
        await sending
        assert got == body
        await stream.send_end()
        assert await stream.receive() == b""
        assert await stream.receive() == b"", "an end stays one"


async def test_interim_heads_come_first_each_by_a_call_of_its_own() -> None:
    async def answer(stream: Stream) -> None:
        for status in (100, 103, 200):
            await stream.send_response(ResponseHead(status=status))
        await stream.send_end()

    async with linked(answer) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        assert [(await stream.response()).status for _ in range(3)] == [100, 103, 200]
        assert await stream.receive() == b""


async def test_a_peer_that_floods_with_interim_heads_loses_the_stream() -> None:
    async def flood(stream: Stream) -> None:
        while True:
            await stream.send_response(ResponseHead(status=103))
            await asyncio.sleep(0)

    async with linked(flood) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await until(lambda: pair.proxy.active == 0)
        for _ in range(MAX_HEADS):
            assert (await stream.response()).status == 103
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.code is ErrorCode.FLOW_CONTROL
        assert pair.proxy.error is None


async def test_chunks_of_a_byte_take_no_more_memory_than_their_bytes() -> None:
    async with linked(echo) as pair:
        stream = await pair.proxy.open(POST)
        for number in range(20_000):
            stream.rx_data(bytes([number % 256]))
        assert len(stream._chunks) <= 20_000 / SMALL + 1
        assert await stream.receive() == bytes(number % 256 for number in range(20_000))


@pytest.mark.usefixtures("in_virtual_time")
async def test_what_came_before_a_reset_is_read_first() -> None:
    async def break_off(stream: Stream) -> None:
        await stream.send_response(OK)
        await stream.send(b"one")
        await asyncio.sleep(0.005)
        await stream.send(b"two")
        await asyncio.sleep(0.005)
        stream.reset(ErrorCode.INTERNAL, "gone")

    async with linked(break_off) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await until(lambda: pair.proxy.active == 0)
        assert (await stream.response()).status == 200
        assert await stream.receive() == b"onetwo"
        for call in (stream.receive, stream.response, stream.send_end, lambda: stream.send(b"x")):
            [error, *_] = await raised(call)
            assert isinstance(error, StreamReset) and error.code is ErrorCode.INTERNAL


async def test_a_response_that_came_whole_stays_readable_after_the_session_is_lost() -> None:
    async def answer(stream: Stream) -> None:
        if stream.request == POST:
            await asyncio.Event().wait()
        await stream.send_response(OK)
        await stream.send(b"whole")
        await stream.send_end()

    async with linked(answer) as pair:
        whole = await pair.proxy.open(GET, ended=True)
        unanswered = await pair.proxy.open(POST)
        await until(lambda: pair.proxy.active == 1)
        pair.network.kill()
        await over(pair.proxy)
        assert (await whole.response()).status == 200
        assert await read_all(whole) == b"whole"
        with pytest.raises(PeerLost):
            await unanswered.send(b"x")


async def test_a_body_that_is_shorter_than_its_end_tells_is_no_whole_one() -> None:
    async def lie(stream: Stream) -> None:
        await stream.send_response(OK)
        await stream.send(b"short")
        outbox = stream._session._connection._outbox
        outbox.add_frame(stream.id, frames.encode(FrameType.RES_END, stream.id, frames.encode_length(6)))
        await asyncio.Event().wait()

    async with linked(lie) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await stream.response()
        assert await stream.receive() == b"short"
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert (caught.value.code, caught.value.remote) == (ErrorCode.TRUNCATED, False)


async def test_a_response_head_that_is_too_large_sends_nothing_and_another_may_follow() -> None:
    async def answer(stream: Stream) -> None:
        with pytest.raises(ProtocolError) as caught:
            await stream.send_response(ResponseHead(status=200, fields=((b"x", b"y" * 70_000),)))
        assert caught.value.code is ErrorCode.TOO_LARGE
        await stream.send_response(ResponseHead(status=502))
        await stream.send_end()

    async with linked(answer) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        assert (await stream.response()).status == 502


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_wait_that_is_cancelled_can_be_made_again() -> None:
    async def answer(stream: Stream) -> None:
        await asyncio.sleep(0.02)
        await echo(stream)

    async with linked(answer, limits=Limits(window=1024)) as pair:
        stream = await pair.proxy.open(POST)
        for wait in (stream.response, lambda: stream.send(bytes(4096))):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await wait()
        assert (await stream.response()).status == 200
        got = 0
        while got < 1024:
            got += len(await stream.receive())
        await stream.send_end()
        await read_all(stream)


async def test_giving_up_a_finished_stream_is_nothing() -> None:
    async with linked(echo) as pair:
        stream = await pair.proxy.open(POST)
        await stream.send_end()
        await stream.response()
        assert await read_all(stream) == b""
        stream.reset(ErrorCode.CANCELLED, "too late")
        assert await stream.receive() == b""
        assert pair.proxy.error is None


async def test_a_stream_tells_of_its_peer_and_what_was_agreed() -> None:
    async with linked(echo) as pair:
        stream = await pair.proxy.open(GET)
        assert (stream.peer, stream.features, stream.request) == ("serve", pair.proxy.features, GET)
