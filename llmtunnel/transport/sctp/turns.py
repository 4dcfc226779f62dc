"""Which message is sent next: the streams take turns, so that each gets as many bytes as any other. Pure.

Fragments of one message follow each other (RFC 9260 section 6.9), so streams change only between messages. A stream
that had nothing to send is next when it has. So a short message waits only for the end of the current message, however
much other streams have queued. (Start-time fair queueing, Goyal et al. 1996.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Queued:
    """A message, of which `sent` bytes have been sent."""

    stream: int
    sequence: int
    protocol: int
    data: bytes
    sent: int = 0


class Turns:
    """Messages of several streams. Those of each stream stay in order."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[Queued]] = {}
        """The queues of the streams that have something queued."""
        self._starts: dict[int, int] = {}
        """The byte count at which each stream's next message begins. The stream with the lowest is next."""
        self._clock = 0
        """Where the current message began. A stream that returns begins there, and saves up no turns."""
        self._next: Queued | None = None

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, message: Queued) -> None:
        """Queue a message behind those of its stream."""
        queue = self._queues.get(message.stream)
        if queue is not None:
            queue.append(message)
            return
        self._queues[message.stream] = deque((message,))
        self._starts[message.stream] = max(self._clock, self._starts.get(message.stream, 0))
        if self._next is not None and not self._next.sent:
            self._next = None

    @property
    def next(self) -> Queued:
        """The message to send; there must be one. It stays the same until `finish`, once some of it was sent."""
        if self._next is None:
            stream = min(self._queues, key=self._starts.__getitem__)
            self._next = self._queues[stream][0]
        return self._next

    def finish(self) -> None:
        """Note that all of the next message has been sent."""
        message, self._next = self.next, None
        queue = self._queues[message.stream]
        queue.popleft()
        self._clock = self._starts[message.stream]
        self._starts[message.stream] += len(message.data)
        if not queue:
            del self._queues[message.stream]

    def forget(self, stream: int) -> None:
        """Note that the stream has ended. What it has queued is still sent."""
        if stream not in self._queues:
            self._starts.pop(stream, None)
