"""Receiving: TSNs, fragments and messages; what is acknowledged, and when (RFC 9260 sections 6.2 and 6.9, RFC 8260).

The fragments of a message have consecutive numbers: their TSNs in DATA, numbers of their own in I-DATA. Either way they
are assembled by message, and all that is incomplete, or waits for an earlier message, counts against one window.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .packet import FIRST, IMMEDIATE, LAST, UNORDERED, Malformed, Sack, absolute

DELAY: Final = 0.02
"""Seconds that an acknowledgement waits for another packet. RFC 9260 permits 0.5, but senders measure by it."""
EVERY: Final = 2
"""Packets per acknowledgement, if they carry `ENOUGH`."""
ENOUGH: Final = 2_000
"""Bytes of data, fewer than two full packets carry. Small packets wait for `DELAY` instead, as TCP's small segments do
(RFC 5681 section 4.2). Otherwise every second packet of tokens would cost another one that only acknowledges."""
_OVERHEAD: Final = 256
"""Bytes that a fragment counts in addition to its own, so that a flood of tiny ones is limited too."""
_DUPLICATES: Final = 16
"""Maximum number of repeated TSNs that one acknowledgement names."""


class Message(NamedTuple):
    """A complete message of a stream. The messages of one stream arrive in order."""

    stream: int
    protocol: int
    data: bytes


@dataclass(slots=True)
class _Partial:
    """The fragments of one message."""

    fragments: dict[int, bytes] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None
    protocol: int = 0

    def join(self) -> bytes | None:
        """Return the message if it is complete, and None otherwise."""
        if self.first is None or self.last is None or len(self.fragments) <= self.last - self.first:
            return None
        return b"".join([self.fragments[number] for number in range(self.first, self.last + 1)])


@dataclass(slots=True)
class _Stream:
    next: int = 0
    """The sequence number of the message to deliver next."""
    partial: dict[int, _Partial] = field(default_factory=dict)
    whole: dict[int, Message] = field(default_factory=dict)
    """Messages that wait for an earlier one."""


class Inbound:
    """The receiving half.

    ``tsn``: the peer's first; ``window``: bytes of incomplete messages that may wait; ``interleaved``: whether the peer
    sends I-DATA, with message identifiers of 32 bits, instead of DATA.
    """

    def __init__(self, tsn: int, *, window: int, streams: int, interleaved: bool = False) -> None:
        self._bits = 32 if interleaved else 16
        self.cumulative = tsn - 1
        """Everything up to this TSN has arrived. TSNs are not cut to 32 bits here."""
        self.window = window
        self._most_streams = streams
        self._starts: list[int] = []
        self._ends: list[int] = []
        """Blocks that have arrived beyond that. Both ends are inclusive."""
        self._streams: dict[int, _Stream] = {}
        self._held = 0
        self._duplicates: list[int] = []
        self._packets = 0
        """Packets with DATA that are not acknowledged."""
        self._size = 0
        """Bytes of their data."""
        self._at_once = False
        self._fresh = False
        """Whether this packet contains something new."""
        self._due: float | None = None

    @property
    def due(self) -> float | None:
        """When to send an acknowledgement; None if none is due."""
        return self._due

    def open_window(self, window: int) -> None:
        """Enlarge the window, and tell the peer."""
        self.window = window
        self._at_once = True

    def receive_data(
        self, flags: int, tsn: int, stream: int, sequence: int, protocol: int, data: bytes, *, number: int | None = None
    ) -> list[Message]:
        """Process a DATA or I-DATA chunk, and return the messages that it completes, in order. Raises `Malformed`.

        ``sequence``: which message of the stream; ``number``: which fragment of it, for I-DATA.
        """
        if not data:
            raise Malformed("a DATA chunk is empty")
        if stream >= self._most_streams:
            raise Malformed(f"it sends on stream {stream}")
        if flags & IMMEDIATE:
            self._at_once = True
        tsn = absolute(tsn, self.cumulative)
        beyond = tsn - self.cumulative
        if beyond <= 0 or (beyond > 1 and self._has(tsn)):
            if len(self._duplicates) < _DUPLICATES:
                self._duplicates.append(tsn & 0xFFFFFFFF)
            return []
        self._fresh = True
        if beyond != 1 or self._starts:
            self._at_once = True
        if beyond > 1 and (self._held + len(data) + _OVERHEAD > self.window or beyond > 0xFFFF):
            return []
        # The next TSN is accepted beyond the window, since the others wait for it.
        if self._held > 2 * self.window:
            raise Malformed("its fragments never become messages")
        self._mark(tsn)
        self._size += len(data)
        if flags & UNORDERED:
            return []  # of a channel that is not the tunnel's
        return self._assemble(flags, tsn if number is None else number, stream, sequence, protocol, data)

    def packet_ended(self, now: float) -> None:
        """Note the end of a packet with DATA."""
        self._packets += 1
        # Acknowledge a packet without anything new at once (RFC 9260 section 6.2). Copies next to new data are no sign
        # of loss.
        many = self._packets >= EVERY and self._size >= ENOUGH
        if many or self._at_once or not self._fresh:
            self._due = now
        elif self._due is None:
            self._due = now + DELAY
        self._fresh = False

    def take_sack(self, most: int) -> Sack:
        """Return the acknowledgement to send now, with at most ``most`` blocks and duplicates."""
        self._due, self._packets, self._size, self._at_once = None, 0, 0, False
        base = self.cumulative
        gaps = [
            (start - base, end - base)
            for start, end in zip(self._starts[: max(0, most)], self._ends[: max(0, most)], strict=True)
        ]
        duplicates, self._duplicates = self._duplicates[: max(0, most - len(gaps))], []
        return Sack(base & 0xFFFFFFFF, max(0, self.window - self._held), gaps, duplicates)

    def has_all(self, tsn: int) -> bool:
        """Return whether everything up to this TSN of 32 bits has arrived."""
        return absolute(tsn, self.cumulative) <= self.cumulative

    def reset_stream(self, stream: int) -> None:
        """Start the stream's sequence numbers again (RFC 6525 section 4.1)."""
        if gone := self._streams.pop(stream, None):
            fragments = [piece for partial in gone.partial.values() for piece in partial.fragments.values()]
            whole = [message.data for message in gone.whole.values()]
            self._held -= sum(len(piece) + _OVERHEAD for piece in fragments + whole)

    # -- TSNs

    def _has(self, tsn: int) -> bool:
        at = bisect_right(self._starts, tsn) - 1
        return at >= 0 and tsn <= self._ends[at]

    def _mark(self, tsn: int) -> None:
        if tsn == self.cumulative + 1:
            self.cumulative = tsn
            if self._starts and self._starts[0] == tsn + 1:
                self.cumulative = self._ends.pop(0)
                del self._starts[0]
            return
        at = bisect_right(self._starts, tsn)
        joins_before = at > 0 and self._ends[at - 1] == tsn - 1
        joins_after = at < len(self._starts) and self._starts[at] == tsn + 1
        if joins_before and joins_after:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif joins_before:
            self._ends[at - 1] = tsn
        elif joins_after:
            self._starts[at] = tsn
        else:
            self._starts.insert(at, tsn)
            self._ends.insert(at, tsn)

    # -- messages

    def _assemble(
        self, flags: int, number: int, stream_number: int, sequence: int, protocol: int, data: bytes
    ) -> list[Message]:
        stream = self._streams.get(stream_number)
        if stream is None:
            stream = self._streams[stream_number] = _Stream()
        sequence = absolute(sequence, stream.next, bits=self._bits)
        if sequence < stream.next or sequence in stream.whole:
            raise Malformed("a message comes twice")
        if flags & FIRST and flags & LAST:
            if sequence in stream.partial:
                raise Malformed("a message is whole, and in pieces")
            return self._deliver(stream, sequence, Message(stream_number, protocol, data), held=0)
        partial = stream.partial.get(sequence)
        if partial is None:
            partial = stream.partial[sequence] = _Partial()
        if number in partial.fragments:
            raise Malformed("a message's piece comes twice")
        partial.fragments[number] = data
        self._held += len(data) + _OVERHEAD
        if flags & FIRST:
            partial.first, partial.protocol = number, protocol
        elif flags & LAST:
            partial.last = number
        try:
            whole = partial.join()
        except KeyError:
            raise Malformed("a message's pieces do not follow each other") from None
        if whole is None:
            return []
        del stream.partial[sequence]
        held = len(whole) + _OVERHEAD * len(partial.fragments)
        return self._deliver(stream, sequence, Message(stream_number, partial.protocol, whole), held=held)

    def _deliver(self, stream: _Stream, sequence: int, message: Message, *, held: int) -> list[Message]:
        self._held -= held
        if sequence != stream.next:
            stream.whole[sequence] = message
            self._held += len(message.data) + _OVERHEAD
            return []
        delivered = [message]
        stream.next += 1
        while (after := stream.whole.pop(stream.next, None)) is not None:
            self._held -= len(after.data) + _OVERHEAD
            delivered.append(after)
            stream.next += 1
        return delivered
