"""Credit of one direction of one stream (README.md section 6): what may be sent, and what may still arrive.

`Budget` limits all streams of a peer together, whatever the credit of each.
"""

from __future__ import annotations

from ..errors import ErrorCode, ProtocolError
from .hello import UNLIMITED


class SendWindow:
    """What the peer permits us to send."""

    __slots__ = ("available",)

    def __init__(self, window: int) -> None:
        self.available = window

    def spend(self, size: int) -> None:
        """Account for body bytes that were queued, at most `available`."""
        assert size <= self.available, "the sender asks first"
        self.available -= size

    def add(self, amount: int) -> None:
        """Add the amount of a CREDIT. Raises `ProtocolError` above 2^31-1."""
        if self.available + amount > UNLIMITED:
            raise ProtocolError("Credit grew past 2^31-1.")
        self.available += amount


class Unmetered(SendWindow):
    """The window towards a peer that gives no credit. Any number of bytes may be sent, in portions."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(UNLIMITED)

    def spend(self, size: int) -> None:
        """Use up nothing."""


class ReceiveWindow:
    """What we permit the peer to send.

    The peer may have at most `size` bytes under way or unread. Consumed bytes are collected until they are half of the
    window, and then granted again at once. That costs two CREDIT frames per window, and the peer never has to stop.

    A window that is consumed within a round trip or so limits its sender, and may `grow`. It returns to its first size
    if the application falls behind.
    """

    __slots__ = ("_first", "_granted_at", "consumed", "size", "unread")

    def __init__(self, size: int) -> None:
        self.size = self._first = size
        self._granted_at = 0.0
        self.unread = 0
        """Bytes received and not granted again: unread by the application, or read and collected."""
        self.consumed = 0

    def receive(self, size: int) -> None:
        """Account for received body bytes. Raises `ProtocolError` of code FLOW_CONTROL beyond the window."""
        self.unread += size
        if self.unread > self.size:
            raise ProtocolError("The peer sent past its credit.", code=ErrorCode.FLOW_CONTROL)

    def consume(self, size: int) -> int:
        """Note consumed bytes, and return how many to grant now: 0 if that is not worth a frame yet."""
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
        """Whether a quarter of the window is still unread, after a grant."""
        return self.unread * 4 > self.size

    @property
    def grown(self) -> int:
        """Bytes by which the window has grown."""
        return self.size - self._first

    def is_short(self, now: float, rtt: float) -> bool:
        """Return, after a grant, whether half the window took less than two round trips and the reader keeps up."""
        took, self._granted_at = now - self._granted_at, now
        return took < 2 * rtt and not self._is_behind

    def grow(self, size: int) -> None:
        """Grant this many bytes more."""
        self.size += size


class Backlog(ReceiveWindow):
    """The limit for a v1 stream, which has no credit: unread bytes, released as the application consumes them."""

    __slots__ = ()

    def receive(self, size: int) -> None:
        """Account for received body bytes. Raises `ProtocolError` of code FLOW_CONTROL beyond the limit."""
        self.unread += size
        if self.unread > self.size:
            raise ProtocolError("The reader lags too far behind.", code=ErrorCode.FLOW_CONTROL)

    def consume(self, size: int) -> int:
        """Release consumed bytes. Nothing is granted."""
        self.unread -= size
        return 0


class Budget:
    """How many bytes a peer may make this side hold: what has arrived unread, and what waits to be sent to the peer.

    At most ``limit``. What exceeds the peer's ``share`` has to fit ``others``, which all peers have in common. So no
    peer can take the share of another.
    """

    def __init__(self, limit: int, *, share: int = 0, others: Budget | None = None) -> None:
        self.used = 0
        """Bytes that are held."""
        self.limit = limit
        self._share = share
        self._others = others

    def take(self, size: int, *, new: bool = False) -> bool:
        """Hold this many more bytes, if they fit. ``new``: for a new stream, which must leave half to existing ones."""
        used = self.used + size
        if used > (self.limit // 2 if new else self.limit):
            return False
        if self._others is not None and not self._others.take(self._beyond(used) - self._beyond(self.used)):
            return False
        self.used = used
        return True

    def give(self, size: int) -> None:
        """Release this many bytes."""
        used = self.used - size
        assert used >= 0, "what is given back was taken"
        if self._others is not None:
            self._others.give(self._beyond(self.used) - self._beyond(used))
        self.used = used

    def _beyond(self, used: int) -> int:
        return max(0, used - self._share)
