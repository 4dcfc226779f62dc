"""Which message is sent next: the streams take turns, so that each gets as many bytes as any other. Pure.

A stream that had nothing to send is next when it has. So a short message does not wait for what other streams have
queued. (Start-time fair queueing, Goyal et al. 1996.) Where the peer understands I-DATA, streams change after each
fragment (RFC 8260). Otherwise the fragments of a message follow each other (RFC 9260 section 6.9), and the short
message waits for the end of the one under way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Queued:
    """A message, of which `sent` bytes have been sent, in `fragments`."""

    stream: int
    sequence: int
    protocol: int
    data: bytes
    sent: int = 0
    fragments: int = 0


class Turns:
    """Messages of several streams. Those of each stream stay in order. ``interleave``: change after each fragment."""

    def __init__(self, *, interleave: bool = False) -> None:
        self._interleave = interleave
        self._queues: dict[int, deque[Queued]] = {}
        """The queues of the streams that have something queued."""
        self._starts: dict[int, int] = {}
        """The byte count at which each stream's next turn begins. The stream with the lowest is next."""
        self._clock = 0
        """Where the last turn began. A stream that returns begins there, and saves up no turns."""
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
        """The message to send; there must be one. It stays the same until `take`."""
        if self._next is None:
            stream = min(self._queues, key=self._starts.__getitem__)
            self._next = self._queues[stream][0]
        return self._next

    def take(self, size: int) -> None:
        """Note that so many bytes more of the next message have been sent, as one fragment."""
        message = self.next
        stream = message.stream
        message.sent += size
        message.fragments += 1
        self._starts[stream] += size
        is_whole = message.sent == len(message.data)
        if is_whole or self._interleave:
            self._next = None
            self._clock = self._starts[stream] - (size if self._interleave else message.sent)
        if is_whole:
            queue = self._queues[stream]
            queue.popleft()
            if not queue:
                del self._queues[stream]

    def forget(self, stream: int) -> None:
        """Note that the stream has ended. What it has queued is still sent."""
        if stream not in self._queues:
            self._starts.pop(stream, None)
