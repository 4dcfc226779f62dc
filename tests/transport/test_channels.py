"""What holds of every channel, whatever carries it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.errors import ChannelClosed
from llmtunnel.paths import Path
from llmtunnel.transport.base import MAX_MESSAGE, Channel
from llmtunnel.transport.memory import linked_pair
from llmtunnel.transport.tcp import TcpDialler, TcpListener

from ..support.pipes import LEFT, RIGHT, Ear, close, sealed_standing, standing
from ..support.webrtc_ends import End, introduce
from .test_relay import relayed

Pair = tuple[Channel, Channel]


@asynccontextmanager
async def memory() -> AsyncIterator[Pair]:
    yield linked_pair()


@asynccontextmanager
async def wire() -> AsyncIterator[Pair]:
    left, right, *_ = await standing()
    yield left, right


@asynccontextmanager
async def sealed() -> AsyncIterator[Pair]:
    left, right, *_ = await sealed_standing()
    yield left, right


@asynccontextmanager
async def webrtc() -> AsyncIterator[Pair]:
    left, right = End(), End()
    await introduce(left, right)
    yield await left.peer.channel(), await right.peer.channel()


@asynccontextmanager
async def tcp() -> AsyncIterator[Pair]:
    listener = TcpListener(RIGHT, timeouts=Timeouts(), loopback=True)
    await listener.start()
    taken: asyncio.Queue[Channel] = asyncio.Queue()
    listener.expect(LEFT.fingerprint, taken.put_nowait)
    dialler = TcpDialler(LEFT, RIGHT.fingerprint, timeouts=Timeouts(), loopback=True)
    left = await dialler.dial(listener.addresses)
    right = await taken.get()
    await listener.aclose()
    yield left, right


@pytest.fixture(params=[memory, wire, sealed, webrtc, tcp, relayed], ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[Pair]]:
    return request.param  # type: ignore[no-any-return]


Kind = Callable[[], AbstractAsyncContextManager[Pair]]


@pytest.mark.usefixtures("on_each_loop")
async def test_messages_of_every_size_arrive_whole_in_order_and_both_ways(kind: Kind) -> None:
    async def send_all(channel: Channel, ear: Ear, messages: list[bytes]) -> None:
        for message in messages:
            await ear.send(channel, message)

    async with kind() as (left, right):
        near, far = Ear(), Ear()
        for channel, ear in ((left, near), (right, far)):
            channel.attach(ear)
            channel.trust()
        sizes = [1, 2, 1000, 16_384, 65_535, MAX_MESSAGE] * 8
        sent = [bytes([number]) * size for number, size in enumerate(sizes)]
        await asyncio.gather(
            *(send_all(channel, ear, sent) for channel, ear in ((left, near), (right, far))),
            *(ear.until(lambda ear=ear: len(ear.messages) == len(sent)) for ear in (near, far)),
        )
        assert near.messages == far.messages == sent
        await close(left, right)


@pytest.mark.usefixtures("on_each_loop")
async def test_what_came_before_a_receiver_is_kept_for_it(kind: Kind) -> None:
    async with kind() as (left, right):
        left.send(b"early")
        await asyncio.sleep(0.05)
        ear = Ear()
        right.attach(ear)
        assert ear.messages == []
        left.send(b"later")
        await ear.until(lambda: len(ear.messages) == 2)
        assert ear.messages == [b"early", b"later"]
        left.attach(Ear())
        await close(left, right)


@pytest.mark.usefixtures("on_each_loop")
async def test_a_channel_that_is_written_to_without_end_has_no_room_at_some_time_and_then_again(kind: Kind) -> None:
    async with kind() as (left, right):
        near, far = Ear(), Ear()
        left.attach(near)
        right.attach(far)
        right.trust()
        sent = 0
        while left.has_room:  # the loop never turns here
            left.send(bytes(MAX_MESSAGE))
            sent += 1
        assert sent * MAX_MESSAGE < 16 * 1024 * 1024
        assert near.rooms == 0
        await near.until(lambda: near.rooms)
        assert left.has_room
        await far.until(lambda: len(far.messages) == sent)
        await close(left, right)


@pytest.mark.usefixtures("on_each_loop")
async def test_a_close_comes_behind_what_was_sent_and_is_told_once_to_both(kind: Kind) -> None:
    async with kind() as (left, right):
        near, far = Ear(), Ear()
        left.attach(near)
        right.attach(far)
        sent = [bytes([number]) * 1000 for number in range(50)]
        for message in sent:
            left.send(message)
        await left.aclose()
        await left.aclose()
        await far.until(lambda: far.closed)
        await right.aclose()
        assert far.messages == sent
        assert far.closed == ["closed by the peer"]
        assert near.closed in (["closed by us"], ["closed by the peer"])
        for channel in (left, right):
            assert not channel.has_room
            with pytest.raises(ChannelClosed):
                channel.send(b"more")


@pytest.mark.usefixtures("on_each_loop")
async def test_both_may_close_at_once(kind: Kind) -> None:
    async with kind() as (left, right):
        near, far = Ear(), Ear()
        left.attach(near)
        right.attach(far)
        await close(left, right, left, right)
        await near.until(lambda: near.closed)
        await far.until(lambda: far.closed)
        assert len(near.closed) == len(far.closed) == 1


@pytest.mark.usefixtures("on_each_loop")
async def test_each_end_shows_the_other_what_an_authentication_is_bound_to(kind: Kind) -> None:
    async with kind() as (left, right):
        assert left.path is right.path
        if left.path is not Path.UNKNOWN:
            assert left.binding is not None and right.binding is not None
            assert (left.binding.local, left.binding.remote) == (right.binding.remote, right.binding.local)
            assert len(left.binding.local) == 32
        for channel in (left, right):
            channel.attach(Ear())
        await close(left, right)
