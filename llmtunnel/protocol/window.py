"""Credit of one direction of one stream (README.md section 6): what may be sent, and what may still come."""

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
    """

    __slots__ = ("consumed", "size", "unread")

    def __init__(self, size: int) -> None:
        self.size = size
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
        return grant


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
