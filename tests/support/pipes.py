"""Pipes for tests: two ends in one loop, and somebody hostile between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from llmtunnel.paths import Path
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.pipe import Form, PipeChannel, TlsChannel
from llmtunnel.transport.sealed import EitherForm, Sealed
from llmtunnel.transport.tls import Welcome, anybody

from .embedded import PATIENCE

LEFT, RIGHT = Identity(), Identity()


class Ear:
    """A receiver that remembers what it was told."""

    patience = PATIENCE

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed: list[str] = []
        self.rooms = 0
        self.news = asyncio.Event()

    def message_received(self, message: bytes) -> None:
        assert not self.closed
        self.messages.append(message)
        self.news.set()

    def room_available(self) -> None:
        self.rooms += 1
        self.news.set()

    def channel_closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.news.set()

    async def until(self, done: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(self.patience):
                while not done():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            sizes = [len(message) for message in self.messages[-20:]]
            told = f"messages: {len(self.messages)}, sizes of the last: {sizes}, closed: {self.closed}"
            raise AssertionError(f"not in {self.patience} s; {told}") from None

    async def send(self, channel: Channel, message: bytes) -> None:
        """When there is room."""
        await self.until(lambda: channel.has_room)
        channel.send(message)


class Wire(asyncio.Transport):
    """One end of a pipe in memory. What is written is handed to ``carry``, in the loop's next round."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.carry: Callable[[bytes], None] = lambda data: None
        self.end: Callable[[], None] = lambda: None
        self.stuck = False
        """Nothing leaves."""
        self.waiting = bytearray()
        self.paused = False
        self._held: list[bytes] = []
        self._limits = (64 * 1024, 32 * 1024)
        self._full = False
        self._eof = False
        self._closed = False

    def arrive(self, data: bytes) -> None:
        """Bytes from the other side."""
        self._held.append(data)
        self._give()

    def arrive_end(self) -> None:
        """The other side has ended its half."""
        if not self._closed and not self.protocol.eof_received():
            self.close()

    def lose(self, exc: Exception | None = None) -> None:
        """The pipe is gone."""
        if not self._closed:
            self._closed = True
            self.protocol.connection_lost(exc)
            self._loop.call_soon(self.end)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None and low is not None
        self._limits = (high, low)

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._eof
        self.waiting += data
        if len(self.waiting) > self._limits[0] and not self._full:
            self._full = True
            self.protocol.pause_writing()
        self._loop.call_soon(self.leave)

    def write_eof(self) -> None:
        self._eof = True
        self._loop.call_soon(self.leave)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._loop.call_soon(self._give)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._loop.call_soon(self.lose)

    def abort(self) -> None:
        self._loop.call_soon(self.lose)

    def _give(self) -> None:
        while self._held and not self.paused and not self._closed:
            self.protocol.data_received(self._held.pop(0))

    def leave(self) -> None:
        """What was written goes on its way."""
        if self.stuck or self._closed:
            return
        data, self.waiting = bytes(self.waiting), bytearray()
        if data:
            self.carry(data)
        if self._full:
            self._full = False
            self.protocol.resume_writing()
        if self._eof:
            self.end()


class Hostile:
    """Has the bytes of one direction in its hands."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self.deliver = deliver
        self.chance = random.Random(11)
        self.seen: list[bytes] = []

    def flip(self, data: bytes) -> None:
        altered = bytearray(data)
        altered[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        self.deliver(bytes(altered))

    def drop(self, data: bytes) -> None:
        self.seen.append(data)
        if len(self.seen) % 2:
            self.deliver(data)

    def truncate(self, data: bytes) -> None:
        self.deliver(data[: self.chance.randrange(len(data))])

    def reorder(self, data: bytes) -> None:
        self.seen.append(data)
        if len(self.seen) == 2:
            self.deliver(self.seen[1])
            self.deliver(self.seen[0])
            self.seen.clear()

    def replay(self, data: bytes) -> None:
        self.deliver(data)
        self.deliver(data)

    def inject(self, data: bytes) -> None:
        self.deliver(b"\x17\x03\x03\x00\x30" + self.chance.randbytes(48))
        self.deliver(data)

    def reflect(self, data: bytes) -> None:
        """What we sent comes back to us in the end, in place of what the peer sends."""
        self.deliver(data[::-1])


ATTACKS = ["flip", "drop", "truncate", "reorder", "replay", "inject", "reflect"]


def pipe_of(channel: Channel) -> asyncio.Transport:
    """What a channel that is a pipe travels over."""
    pipe: asyncio.Transport = channel._pipe  # type: ignore[attr-defined]
    return pipe


def channel(identity: Identity, *, server: bool, welcome: Welcome = anybody) -> tuple[TlsChannel, Wire]:
    """One end, on a wire that leads nowhere yet."""
    end = TlsChannel(identity, server=server, path=Path.RELAY, welcome=welcome)
    return end, Wire(end)


def join(left: PipeChannel, left_wire: Wire, right: PipeChannel, right_wire: Wire) -> None:
    """Let each wire lead to the other end."""
    left_wire.carry, left_wire.end = right_wire.arrive, right_wire.arrive_end
    right_wire.carry, right_wire.end = left_wire.arrive, left_wire.arrive_end
    left.connection_made(left_wire)
    right.connection_made(right_wire)


async def wired(
    left_welcome: Welcome = anybody, right_welcome: Welcome = anybody
) -> tuple[TlsChannel, TlsChannel, Wire, Wire]:
    """A client's and a server's end, connected, TLS not yet through."""
    left, left_wire = channel(LEFT, server=False, welcome=left_welcome)
    right, right_wire = channel(RIGHT, server=True, welcome=right_welcome)
    join(left, left_wire, right, right_wire)
    return left, right, left_wire, right_wire


async def standing() -> tuple[TlsChannel, TlsChannel, Wire, Wire]:
    """The same, open at both ends."""
    left, right, left_wire, right_wire = await wired()
    await left.stand(PATIENCE)
    await right.stand(PATIENCE)
    return left, right, left_wire, right_wire


def sealed_end(form: Form) -> tuple[PipeChannel, Wire]:
    """One end of a pipe of this form, on a wire that leads nowhere yet."""
    end = PipeChannel(form, path=Path.RELAY)
    return end, Wire(end)


async def sealed_wired() -> tuple[PipeChannel, PipeChannel, Wire, Wire]:
    """A page's and serve's end, connected, the handshake not yet through."""
    left, left_wire = sealed_end(Sealed(server=False))
    right, right_wire = sealed_end(EitherForm(RIGHT))
    join(left, left_wire, right, right_wire)
    return left, right, left_wire, right_wire


async def sealed_standing() -> tuple[PipeChannel, PipeChannel, Wire, Wire]:
    """The same, open at both ends."""
    left, right, left_wire, right_wire = await sealed_wired()
    await left.stand(PATIENCE)
    await right.stand(PATIENCE)
    return left, right, left_wire, right_wire


async def close(*channels: Channel) -> None:
    """All at once, as none may wait for another."""
    await asyncio.gather(*(each.aclose() for each in channels))
