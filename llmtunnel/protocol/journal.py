"""The frames of each direction, numbered, and kept until they are acknowledged. So a session outlives its channels.

Numbers count from 1 on each lane, in the order in which frames appear in messages. Only frames of streams have a number
(README.md section 11). `Journal` is the sender's side of one direction of a lane, `Receipts` the receiver's.
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


_LARGEST: Final = MAX_MESSAGE + OVERHEAD
"""Maximum bytes that one frame may cost."""


class Surplus:
    """Bytes that several journals share, in addition to what each may hold by itself."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Journal:
    """Frames of a lane that were sent and that the peer may not have.

    They have at most ``limit`` bytes, and what is left of a ``surplus`` that other lanes use too.
    """

    def __init__(self, limit: int, surplus: Surplus | None = None) -> None:
        self._limit = limit
        self._surplus = surplus or Surplus(0)
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
        if self._size + _LARGEST <= self._limit:
            return False
        more = self._beyond(self._size + _LARGEST) - self._beyond(self._size)
        return self._surplus.used + more > self._surplus.limit

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
        self._grow(len(frame) + OVERHEAD)
        self._kept.append(frame)

    def acknowledge(self, count: int) -> None:
        """Drop the first ``count`` frames, which the peer has. Raises `ProtocolError` if fewer were sent."""
        if count > self.sent:
            raise ProtocolError("The peer acknowledges what was not sent.")
        for _ in range(count - self.acknowledged):
            self._grow(-len(self._kept.popleft()) - OVERHEAD)

    def _grow(self, size: int) -> None:
        before, self._size = self._size, self._size + size
        if before > self._limit or self._size > self._limit:
            self._surplus.used += self._beyond(self._size) - self._beyond(before)

    def _beyond(self, size: int) -> int:
        return max(0, size - self._limit)


def journals_of(limit: int, lanes: int) -> list[Journal]:
    """Return one for each lane. Together they hold at most ``limit`` bytes.

    A lane may have three quarters of that and its share of the rest: bulk that is not acknowledged leaves every other
    lane something.
    """
    if lanes == 1:
        return [Journal(limit)]
    share = max(0, min(limit // 4, limit - _LARGEST) // lanes)
    surplus = Surplus(limit - share * lanes)
    return [Journal(share, surplus) for _ in range(lanes)]


class Receipts:
    """The frames that have arrived on a lane, and how many of them come again on the next channel."""

    def __init__(self) -> None:
        self.count = 0
        """The number of the last frame that has arrived."""
        self._told = 0
        """The count that was last acknowledged."""
        self.size = 0
        """Bytes that have arrived since."""
        self._again: int | None = 0
        """How many repeated frames are still to come; None until RESUME says so."""

    @property
    def pending(self) -> bool:
        """Whether anything is unacknowledged."""
        return self.count > self._told

    def tell(self) -> int:
        """Return the count to acknowledge."""
        self._told, self.size = self.count, 0
        return self.count

    def take(self, size: int) -> bool:
        """Note a frame, and return whether it is new. Raises `ProtocolError` if RESUME should have preceded it."""
        if self._again == 0:
            self.count += 1
            self.size += size + OVERHEAD
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
