"""What makes a session outlive its channels: each direction's frames, numbered, and kept until they are acknowledged.

Numbers count from 1, in the order in which frames stand in messages; only frames of streams have one (README.md
section 11). `Journal` is the sender's side of a direction, `Receipts` the receiver's.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..config import KIB
from ..errors import ProtocolError
from .frames import MAX_MESSAGE

ACK_EVERY: Final = 256 * KIB
"""Bytes received until they are acknowledged unasked: a sixteenth of a journal, and one small frame in 256 KiB."""
OVERHEAD: Final = 64
"""Bytes that keeping a frame costs beside its own: of tiny ones, the bound would allow many times its memory."""


class Journal:
    """Frames that were sent and that the peer may not have; at most ``limit`` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit - MAX_MESSAGE - OVERHEAD
        self._kept: deque[bytes] = deque()
        self._size = 0
        self.sent = 0
        """The number of the last frame that was sent."""

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether another frame might go past the limit: nothing more is to be sent before some are acknowledged."""
        return self._size > self._limit

    @property
    def acknowledged(self) -> int:
        """The number of the last frame that the peer certainly has."""
        return self.sent - len(self._kept)

    @property
    def kept(self) -> tuple[bytes, ...]:
        """The frames that it may not have, in order."""
        return tuple(self._kept)

    def add(self, frame: bytes) -> None:
        """A frame is sent."""
        self.sent += 1
        self._size += len(frame) + OVERHEAD
        self._kept.append(frame)

    def acknowledge(self, count: int) -> None:
        """The peer has the first ``count`` frames. Raises `ProtocolError` where there were not so many."""
        if count > self.sent:
            raise ProtocolError("The peer acknowledges what was not sent.")
        for _ in range(count - self.acknowledged):
            self._size -= len(self._kept.popleft()) + OVERHEAD


class Receipts:
    """What has come, and what of it comes again on the next channel."""

    def __init__(self) -> None:
        self.count = 0
        """The number of the last frame that has come."""
        self._told = 0
        """The count that was last acknowledged."""
        self._size = 0
        """Bytes that came since."""
        self._again: int | None = 0
        """How many frames are still to come that have come before; None before RESUME has told."""

    @property
    def pending(self) -> bool:
        """Whether anything is not acknowledged."""
        return self.count > self._told

    @property
    def due(self) -> bool:
        """Whether to acknowledge now, unasked."""
        return self._size >= ACK_EVERY

    def tell(self) -> int:
        """The count to acknowledge."""
        self._told, self._size = self.count, 0
        return self.count

    def take(self, size: int) -> bool:
        """A frame came; whether it is new. Raises `ProtocolError` where RESUME should have come before it."""
        if self._again == 0:
            self.count += 1
            self._size += size + OVERHEAD
            return True
        if self._again is None:
            raise ProtocolError("A stream's frame came before RESUME.")
        self._again -= 1
        return False

    def expect_resume(self) -> None:
        """The channel is another one: RESUME comes first."""
        self._again = None

    def resume(self, first: int) -> None:
        """RESUME came: the next frame has that number. Raises `ProtocolError` where frames would be missing."""
        if self._again is not None:
            raise ProtocolError("A RESUME came on a channel where none was due.")
        if not 0 < first <= self.count + 1:
            raise ProtocolError("The peer cannot go on where this side has got to.")
        self._again = self.count + 1 - first
