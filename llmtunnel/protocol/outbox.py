"""What waits for the channel: first the session's own frames, then the streams in turn, a piece of each.

The frames of one stream keep their order. The channel pulls: a frame is cut when there is room for it. So what is
queued behind a slow channel can still be dropped (by a reset) or overtaken (by another stream). Frames of streams are
entered in the journal when they are cut. A new channel gets those again, before everything else of streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import KeysView
from typing import Final

from .frames import HEADER, MAX_BUNDLED_FRAME, MAX_MESSAGE, FrameType, bundle, bundled_size, encode
from .journal import Journal

QUANTUM: Final = 16_384
"""Body bytes that a stream sends in its turn. At 10 MB/s that is 1.6 ms, by which each bulk stream delays another."""

STREAM_ROOM: Final = 65_536
"""Bytes that a stream may have waiting here. More would only lie idle, since the channel has a queue of its own. A head
is accepted whole if there is any room, so there may be one more frame."""

SHARED_ROOM: Final = 8 * 1024 * 1024
"""Bytes of all streams that may wait here before each may have no more than `QUANTUM`. So a peer that does not read
makes us hold 16 MiB of 512 answers. This does not slow a fast peer, since few streams have their room full."""


class _Queue:
    """One stream's frames: encoded ones, and bodies that are still to be cut."""

    __slots__ = ("items", "size")

    def __init__(self) -> None:
        self.items: deque[bytes | tuple[FrameType, memoryview]] = deque()
        self.size = 0

    def next_frame(self, stream: int) -> bytes:
        item = self.items.popleft()
        if isinstance(item, bytes):
            self.size -= len(item)
            return item
        type_, data = item
        if len(data) > QUANTUM:
            self.items.appendleft((type_, data[QUANTUM:]))
            data = data[:QUANTUM]
        self.size -= len(data)
        return encode(type_, stream, data)


class Outbox:
    """The frames of all streams, taken one message at a time."""

    def __init__(self, *, bundles: bool = False, journal: Journal | None = None) -> None:
        self.bundles = bundles
        """Whether several frames may share a message."""
        self._journal = journal
        self._control: deque[bytes] = deque()
        self._again: deque[bytes] = deque()
        """Frames that the last channel may have lost."""
        self._urgent: deque[bytes] = deque()
        self._queues: dict[int, _Queue] = {}
        self._size = 0
        """Bytes in all of these queues."""
        self._turns: deque[int] = deque()
        """Streams with something queued, in the order of their turns."""
        self._next: bytes | None = None
        """A frame that did not fit the last bundle."""
        self._cut: set[int] = set()
        self.paused = False
        """Whether frames of streams wait. Those of the session itself do not."""

    def __bool__(self) -> bool:
        return bool(self._control or self._again or self._urgent or self._turns or self._next)

    @property
    def waiting(self) -> int:
        """The number of control frames, and of streams with something queued."""
        return len(self._control) + len(self._urgent) + len(self._turns)

    @property
    def held(self) -> bool:
        """Whether only the journal keeps frames of streams waiting."""
        return self._is_full and not self.paused and bool(self._urgent or self._turns)

    @property
    def streams(self) -> KeysView[int]:
        """Streams with something queued, including those that have ended."""
        return self._queues.keys()

    def take_cut(self) -> set[int]:
        """Return the streams of which body bytes have left since the last call, so that there is room again."""
        cut, self._cut = self._cut, set()
        return cut

    def room(self, stream: int) -> int:
        """Return how many body bytes of a stream may be queued now. At 0, a head has to wait too."""
        queue = self._queues.get(stream)
        most = STREAM_ROOM if self._size < SHARED_ROOM else QUANTUM
        return max(0, most - queue.size) if queue else most

    def add_control(self, frame: bytes) -> None:
        """Queue a frame of the session, ahead of all streams."""
        self._control.append(frame)

    def add_urgent(self, frame: bytes) -> None:
        """Queue a frame of a stream, ahead of everything that streams have queued."""
        self._urgent.append(frame)

    def add_frame(self, stream: int, frame: bytes) -> None:
        """Queue a head or an end, behind what the stream has queued."""
        queue = self._queue(stream)
        queue.items.append(frame)
        queue.size += len(frame)
        self._size += len(frame)

    def add_body(self, stream: int, type: FrameType, data: memoryview) -> None:
        """Queue body bytes, at most `room`."""
        queue = self._queue(stream)
        queue.items.append((type, data))
        queue.size += len(data)
        self._size += len(data)

    def drop(self, stream: int) -> bool:
        """Drop what a stream has queued.

        Return whether that included its request, of which the peer then never hears.
        """
        queue = self._queues.pop(stream, None)
        if queue is None:
            return False
        self._size -= queue.size
        self._turns.remove(stream)
        first = queue.items[0]
        return isinstance(first, bytes) and first[0] == FrameType.REQ_HEADERS

    def drop_streams(self) -> None:
        """Drop what all streams have queued."""
        for queued in (self._queues, self._turns, self._urgent, self._again):
            queued.clear()
        self._size = 0
        self._next = None

    def begin_again(self, first: bytes) -> None:
        """Start again on a new channel: send ``first``, then the contents of the journal."""
        assert self._journal is not None
        self._next = None  # a stream's frame is in the journal; one of the session was for the other channel
        self._control.clear()
        self._control.append(first)
        self._again = deque(self._journal.kept)

    def next_message(self) -> bytes | None:
        """Return one message: a frame, or as many as fit if bundles are agreed on."""
        first = self._take()
        if first is None or not self.bundles or len(first) > MAX_BUNDLED_FRAME:
            return first
        frames, size = [first], HEADER.size + bundled_size(first)
        while (frame := self._take()) is not None:
            size += bundled_size(frame)
            if size > MAX_MESSAGE:
                self._next = frame
                break
            frames.append(frame)
        return bundle(frames)

    def _queue(self, stream: int) -> _Queue:
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = _Queue()
            self._turns.append(stream)
        return queue

    def _take(self) -> bytes | None:
        if self._next is not None:
            held, self._next = self._next, None
            return held
        if self._control:
            return self._control.popleft()
        if self.paused:
            return None
        if self._again:
            return self._again.popleft()
        if self._is_full:
            return None
        frame = self._urgent.popleft() if self._urgent else self._take_turn()
        if frame is not None and self._journal is not None:
            self._journal.add(frame)
        return frame

    @property
    def _is_full(self) -> bool:
        return self._journal is not None and self._journal.full

    def _take_turn(self) -> bytes | None:
        if not self._turns:
            return None
        stream = self._turns.popleft()
        queue = self._queues[stream]
        size = queue.size
        frame = queue.next_frame(stream)
        self._size += queue.size - size
        if queue.size < size:
            self._cut.add(stream)
        if queue.items:
            self._turns.append(stream)
        else:
            del self._queues[stream]
        return frame
