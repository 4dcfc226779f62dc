"""The frames of each direction, numbered, and kept until they are acknowledged. So a session outlives its channels.

Numbers count from 1, in the order in which frames appear in messages. Only frames of streams have a number (README.md
section 11). `Journal` is the sender's side of a direction, `Receipts` the receiver's.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..config import KIB
from ..errors import ProtocolError
from .frames import MAX_MESSAGE

ACK_EVERY: Final = 256 * KIB
"""Received bytes that are acknowledged without a request: one small frame per 256 KiB, a sixteenth of a journal."""
OVERHEAD: Final = 64
"""Bytes of memory that a kept frame costs in addition to its own. Tiny frames would otherwise exceed the limit."""


class Journal:
    """Frames that were sent and that the peer may not have, with at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit - MAX_MESSAGE - OVERHEAD
        self._kept: deque[bytes] = deque()
        self._size = 0
        self.sent = 0
        """The number of the last frame that was sent."""

    @property
    def size(self) -> int:
        """The number of bytes that it holds."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether another frame might exceed the limit. Send nothing more until some frames are acknowledged."""
        return self._size > self._limit

    @property
    def acknowledged(self) -> int:
        """The number of the last frame that the peer certainly has."""
        return self.sent - len(self._kept)

    @property
    def kept(self) -> tuple[bytes, ...]:
        """The frames that the peer may not have, in order."""
        return tuple(self._kept)

    def add(self, frame: bytes) -> None:
        """Keep a frame that is being sent."""
        self.sent += 1
        self._size += len(frame) + OVERHEAD
        self._kept.append(frame)

    def acknowledge(self, count: int) -> None:
        """Drop the first ``count`` frames, which the peer has. Raises `ProtocolError` if fewer were sent."""
        if count > self.sent:
            raise ProtocolError("The peer acknowledges what was not sent.")
        for _ in range(count - self.acknowledged):
            self._size -= len(self._kept.popleft()) + OVERHEAD


class Receipts:
    """The frames that have arrived, and how many of them come again on the next channel."""

    def __init__(self) -> None:
        self.count = 0
        """The number of the last frame that has arrived."""
        self._told = 0
        """The count that was last acknowledged."""
        self._size = 0
        """Bytes that have arrived since."""
        self._again: int | None = 0
        """How many repeated frames are still to come; None until RESUME says so."""

    @property
    def pending(self) -> bool:
        """Whether anything is unacknowledged."""
        return self.count > self._told

    @property
    def due(self) -> bool:
        """Whether to acknowledge now, without a request."""
        return self._size >= ACK_EVERY

    def tell(self) -> int:
        """Return the count to acknowledge."""
        self._told, self._size = self.count, 0
        return self.count

    def take(self, size: int) -> bool:
        """Note a frame, and return whether it is new. Raises `ProtocolError` if RESUME should have preceded it."""
        if self._again == 0:
            self.count += 1
            self._size += size + OVERHEAD
            return True
        if self._again is None:
            raise ProtocolError("A stream's frame came before RESUME.")
        self._again -= 1
        return False

    def expect_resume(self) -> None:
        """Require RESUME first, since the channel is a new one."""
        self._again = None

    def resume(self, first: int) -> None:
        """Process RESUME: the next frame has this number. Raises `ProtocolError` if frames would be missing."""
        if self._again is not None:
            raise ProtocolError("A RESUME came on a channel where none was due.")
        if not 0 < first <= self.count + 1:
            raise ProtocolError("The peer cannot go on where this side has got to.")
        self._again = self.count + 1 - first
