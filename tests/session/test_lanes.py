"""Sessions over a channel with a pipe for each lane: what is lost on one holds up nobody else."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmtunnel.config import KIB, Limits
from llmtunnel.errors import ErrorCode, PeerLost
from llmtunnel.session.stream import Stream

from ..support.embedded import until
from ..support.session_pair import GET, OK, POST, echo, exchange, linked, read_all

pytestmark = pytest.mark.usefixtures("in_virtual_time")


async def answer_much(stream: Stream) -> None:
    await stream.send_response(OK)
    while True:
        await stream.send(bytes(16 * KIB))


async def test_a_lane_that_is_held_up_delays_only_its_own_streams() -> None:
    async with linked(echo, splits=True, delay=0.01) as pair:
        held = await pair.proxy.open(POST)
        await held.response()
        pair.network.stall(held.id % 8)
        await held.send(b"late")
        for _ in range(20):
            assert await exchange(pair.proxy) == b"hello"
        assert not held._chunks
        pair.network.go_on(held.id % 8)
        assert await held.receive() == b"late"


async def test_bulk_on_one_lane_fills_no_other_ones_queue() -> None:
    async with linked(answer_much, splits=True, delay=0.01, room=64 * KIB) as pair:
        bulk = await pair.proxy.open(GET, ended=True)
        await bulk.response()
        far = pair.network.far
        await until(lambda: not far.takes(bulk.id % 8))
        assert [far.takes(lane) for lane in range(8)].count(True) == 7
        other = await pair.proxy.open(GET, ended=True)
        assert other.id % 8 != bulk.id % 8
        loop = asyncio.get_running_loop()
        asked = loop.time()
        await other.response()
        assert loop.time() - asked == pytest.approx(0.02)


async def test_a_client_keeps_its_lane_and_another_one_takes_a_lane_with_less_on_it() -> None:
    async with linked(echo, splits=True) as pair:
        first = await pair.proxy.open(POST)
        await first.response()
        await first.send(bytes(100_000))
        assert await first.receive()
        others = [await pair.proxy.open(POST) for _ in range(40)]
        assert first.id % 8 not in {stream.id % 8 for stream in others}, "it has carried more than all the others"
        again = await pair.proxy.open(POST, after=first)
        assert again.id % 8 == first.id % 8 and again.id > first.id
        for stream in (first, again, *others):
            stream.reset(ErrorCode.CANCELLED, "enough")


@pytest.mark.parametrize("splits", [True, False])
async def test_an_orderly_end_comes_after_what_was_sent_on_each_lane(splits: bool) -> None:
    """The session's last word does not overtake the end of a response that is late."""
    async with linked(echo, splits=splits, delay=0.01) as pair:
        body = random.randbytes(30_000)
        stream = await pair.proxy.open(POST)
        await stream.send(body)
        await stream.send_end()
        await stream.response()
        lane = stream.id % 8 if splits else 0
        pair.network.far.stall(lane)
        await until(lambda: not pair.serve.active)
        closing = asyncio.create_task(pair.serve.aclose(), name="closing")
        await asyncio.sleep(0.3)
        pair.network.far.go_on(lane)
        assert await read_all(stream) == body
        await closing
        await until(lambda: pair.proxy.error is not None)


async def test_an_orderly_end_does_not_wait_for_a_peer_that_says_nothing() -> None:
    async with linked(echo, splits=True) as pair:
        stream = await pair.proxy.open(POST)
        await stream.response()
        pair.network.cut()
        await stream.send(b"lost")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await pair.proxy.aclose()
        assert loop.time() - began < 2
        with pytest.raises(PeerLost):
            await stream.receive()


async def test_with_one_lane_all_is_as_before() -> None:
    async with linked(echo, splits=True, limits=Limits(lanes=1)) as pair:
        assert pair.proxy.line.outbox.pipes == 1
        streams = [await pair.proxy.open(POST) for _ in range(3)]
        assert [stream.id for stream in streams] == [1, 2, 3]
        assert await exchange(pair.proxy) == b"hello"
        for stream in streams:
            await stream.response()
            await stream.send_end()
            assert await read_all(stream) == b""
