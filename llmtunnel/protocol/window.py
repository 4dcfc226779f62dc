"""Credit of one direction of one stream (README.md section 6): what may be sent, and what may still come.

`Budget` is what bounds all streams of a peer together, whatever the credit of each.
"""

from __future__ import annotations

from ..errors import ErrorCode, ProtocolError
from .hello import UNLIMITED


class SendWindow:
    """What the peer lets us send."""

    __slots__ = ("available",)

    def __init__(self, window: int) -> None:
        self.available = window

    def spend(self, size: int) -> None:
        """Account for body bytes that were queued; never more than `available`."""
        assert size <= self.available, "the sender asks first"
        self.available -= size

    def add(self, amount: int) -> None:
        """Take CREDIT. Raises `ProtocolError` above 2^31-1."""
        if self.available + amount > UNLIMITED:
            raise ProtocolError("Credit grew past 2^31-1.")
        self.available += amount


class Unmetered(SendWindow):
    """Towards a peer that gives no credit: any length may be sent, in portions."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(UNLIMITED)

    def spend(self, size: int) -> None:
        """Nothing is used up."""


class ReceiveWindow:
    """What we let the peer send.

    The peer may have at most `size` bytes on their way or unread. As the application consumes them, they are gathered
    until they are half of the window, and granted again at once: two CREDIT frames a window, and the pipe never dry.

    A window that is consumed within a round trip or so holds its sender up: it may `grow`. Where the application falls
    behind, it becomes what it was at first again.
    """

    __slots__ = ("_first", "_granted_at", "consumed", "size", "unread")

    def __init__(self, size: int) -> None:
        self.size = self._first = size
        self._granted_at = 0.0
        self.unread = 0
        """Bytes received and not yet granted again: unread by the application, or read and gathered."""
        self.consumed = 0

    def receive(self, size: int) -> None:
        """Account for body bytes that came. Raises `ProtocolError` of code FLOW_CONTROL past the window."""
        self.unread += size
        if self.unread > self.size:
            raise ProtocolError("The peer sent past its credit.", code=ErrorCode.FLOW_CONTROL)

    def consume(self, size: int) -> int:
        """The application took bytes; what to grant now, 0 where it is not worth a frame yet."""
        self.consumed += size
        if self.consumed * 2 < self.size:
            return 0
        grant, self.consumed = self.consumed, 0
        self.unread -= grant
        if self._is_behind:
            taken_back = min(grant, self.grown)
            self.size -= taken_back
            grant -= taken_back
        return grant

    @property
    def _is_behind(self) -> bool:
        """After a grant: whether a quarter of the window is still unread."""
        return self.unread * 4 > self.size

    @property
    def grown(self) -> int:
        """Bytes that it has beyond what it had at first."""
        return self.size - self._first

    def is_short(self, now: float, rtt: float) -> bool:
        """After a grant: whether half the window took less than two round trips, and the reader keeps up."""
        took, self._granted_at = now - self._granted_at, now
        return took < 2 * rtt and not self._is_behind

    def grow(self, size: int) -> None:
        """So much more is granted."""
        self.size += size


class Backlog(ReceiveWindow):
    """The bound for a v1 stream, which has no credit: unread bytes, freed as the application consumes."""

    __slots__ = ()

    def receive(self, size: int) -> None:
        """Account for body bytes that came. Raises `ProtocolError` of code FLOW_CONTROL past the cap."""
        self.unread += size
        if self.unread > self.size:
            raise ProtocolError("The reader lags too far behind.", code=ErrorCode.FLOW_CONTROL)

    def consume(self, size: int) -> int:
        """Nothing is granted."""
        self.unread -= size
        return 0


class Budget:
    """How many bytes a peer may make this side hold: what has come and is not read, and what waits to be sent to it.

    At most ``limit``. What it holds beyond its ``share`` has to fit ``others``, which all peers have in common, so that
    one of them leaves every other its share.
    """

    def __init__(self, limit: int, *, share: int = 0, others: Budget | None = None) -> None:
        self.used = 0
        """Bytes that are held."""
        self._limit = limit
        self._share = share
        self._others = others

    def take(self, size: int, *, new: bool = False) -> bool:
        """Hold so many bytes more, if they fit; ``new``: for a new stream, which leaves half to those under way."""
        used = self.used + size
        if used > (self._limit // 2 if new else self._limit):
            return False
        if self._others is not None and not self._others.take(self._beyond(used) - self._beyond(self.used)):
            return False
        self.used = used
        return True

    def give(self, size: int) -> None:
        """So many bytes are held no more."""
        used = self.used - size
        assert used >= 0, "what is given back was taken"
        if self._others is not None:
            self._others.give(self._beyond(self.used) - self._beyond(used))
        self.used = used

    def _beyond(self, used: int) -> int:
        return max(0, used - self._share)
