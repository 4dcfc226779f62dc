"""A pair of channels inside one event loop, for tests: a network as slow, full, silent or dead as a test needs."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from ..config import KIB
from ..errors import ChannelClosed
from ..paths import Path
from .base import MAX_MESSAGE, Channel, Receiver


def linked_pair(
    *, room: int = 256 * KIB, delay: float = 0.0, splits: bool = False
) -> tuple[MemoryChannel, MemoryChannel]:
    """Return two open channels, each the far end of the other. Needs a running loop.

    ``room``: bytes that may be under way in each direction of a pipe before `Channel.has_room` becomes false.
    ``delay``: seconds that each message travels. ``splits``: whether `Channel.split` makes more pipes.
    """
    left, right = MemoryChannel(room, delay, splits), MemoryChannel(room, delay, splits)
    left.far, right.far = right, left
    return left, right


class MemoryChannel(Channel):
    """One end of a pair made by `linked_pair`. Its receiver is called by the loop, and never from within `send`."""

    far: MemoryChannel
    """The other end."""

    def __init__(self, room: int, delay: float, splits: bool) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self.room = room
        """Bytes that may be under way."""
        self._delay: Final = delay
        self._splits: Final = splits
        self._receiver: Receiver | None = None
        self._queued = [0]
        """Bytes sent that the far receiver has not accepted yet, for each pipe."""
        self.travelling: deque[tuple[bytes | None, int]] = deque()
        """What was sent and has not arrived, in order, with its pipe; timers of one moment do not keep the order. None
        is a close."""
        self._stalled: dict[int, deque[tuple[bytes | None, int]]] = {}
        self._arrived: deque[tuple[bytes, int]] = deque()
        self._silent = False
        self._closed: str | None = None

    def attach(self, receiver: Receiver) -> None:
        """As `Channel.attach`. What has already arrived follows in the loop's next turn."""
        self._receiver = receiver
        self._loop.call_soon(self._deliver)

    @property
    def has_room(self) -> bool:
        """As `Channel.has_room`."""
        return self.takes(0)

    def takes(self, pipe: int) -> bool:
        """As `Channel.takes`."""
        return self._closed is None and self._queued[pipe] < self.room

    def split(self, lanes: int, *, opens: bool) -> int:
        """As `Channel.split`."""
        if self._splits:
            self._queued += [0] * (lanes - 1)
        return len(self._queued)

    def send(self, message: bytes, pipe: int = 0) -> None:
        """As `Channel.send`."""
        if self._closed is not None:
            raise ChannelClosed(self._closed)
        assert 0 < len(message) <= MAX_MESSAGE
        self._queued[pipe] += len(message)
        self._post(message, pipe)

    async def aclose(self) -> None:
        """As `Channel.aclose`. The far end learns of it after everything that was sent."""
        if self._closed is None:
            self._close("closed by us")
            self._post(None, 0)
        await asyncio.sleep(0)  # after the call to the receiver

    @property
    def path(self) -> Path:
        """`Path.UNKNOWN`, since its messages do not leave the process."""
        return Path.UNKNOWN

    def cut(self) -> None:
        """Kill the link silently: nothing arrives any more in either direction, and neither end is told."""
        self._silent = self.far._silent = True

    def mend(self) -> None:
        """Undo `cut`: what was sent meanwhile arrives now, as when a network comes back."""
        for end in (self, self.far):
            end._silent = False
            while end.travelling:
                end._land()

    def stall(self, pipe: int) -> None:
        """Hold back what this end sends through a pipe, as if a packet of it was lost."""
        self._stalled[pipe] = deque()

    def go_on(self, pipe: int) -> None:
        """Deliver what was held back."""
        for item in self._stalled.pop(pipe):
            self._post(*item)

    def kill(self, reason: str = "killed") -> None:
        """Break the link: everything in transit is lost, and both receivers learn of it at once."""
        for end in (self, self.far):
            end.travelling.clear()
            end._close(reason)

    def _post(self, item: bytes | None, pipe: int) -> None:
        if pipe in self._stalled:
            self._stalled[pipe].append((item, pipe))
            return
        self.travelling.append((item, pipe))
        if self._delay:
            self._loop.call_later(self._delay, self._land)
        else:
            self._loop.call_soon(self._land)

    def _land(self) -> None:
        if self._silent or not self.travelling:
            return
        item, pipe = self.travelling.popleft()
        if item is None:
            self.far._close("closed by the peer")
        elif self.far._closed is None:
            self.far._arrived.append((item, pipe))
            self.far._deliver()

    def _deliver(self) -> None:
        if self._receiver is None:
            return
        while self._arrived:
            message, pipe = self._arrived.popleft()
            self.far._taken(len(message), pipe)
            self._receiver.message_received(message)
        if self._closed is not None:
            receiver, self._receiver = self._receiver, None
            receiver.channel_closed(self._closed)

    def _taken(self, size: int, pipe: int) -> None:
        had_room = self.takes(pipe)
        self._queued[pipe] -= size
        if self.takes(pipe) and not had_room:
            self._loop.call_soon(self._tell_room, pipe)

    def _tell_room(self, pipe: int) -> None:
        if self._receiver is not None and self.takes(pipe):
            self._receiver.room_available()

    def _close(self, reason: str) -> None:
        if self._closed is None:
            self._closed = reason
            self._loop.call_soon(self._deliver)
