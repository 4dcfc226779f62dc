"""What waits for the channel: first the session's own frames, then the streams in turn, a piece of each.

The frames of one stream keep their order. The channel pulls: a frame is cut when there is room for it. So what is
queued behind a slow channel can still be dropped (by a reset) or overtaken (by another stream). Frames of streams are
entered in their lane's journal when they are cut. A new channel gets those again, before everything else of streams.

A channel has one *pipe*, or one for each lane. In the second case, the frames of a lane use its own pipe and wait for
no other lane. Frames of the session use the first pipe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import KeysView, Sequence
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


class _Pipe:
    """What waits for one pipe of the channel."""

    __slots__ = ("again", "control", "next", "turns", "urgent")

    def __init__(self) -> None:
        self.control: deque[bytes] = deque()
        self.again: deque[bytes] = deque()
        """Frames that the last channel may have lost."""
        self.urgent: deque[bytes] = deque()
        self.turns: deque[int] = deque()
        """Streams with something queued, in the order of their turns."""
        self.next: bytes | None = None
        """A frame that did not fit the last bundle."""

    def __bool__(self) -> bool:
        return bool(self.control or self.again or self.urgent or self.turns or self.next)


class Outbox:
    """The frames of all streams, taken one message at a time. ``journals``: one for each lane, or none."""

    def __init__(self, *, bundles: bool = False, journals: Sequence[Journal] = ()) -> None:
        self.bundles = bundles
        """Whether several frames may share a message."""
        self._journals = journals
        self._pipes = [_Pipe()]
        self._queues: dict[int, _Queue] = {}
        self._size = 0
        """Bytes in all of these queues."""
        self._cut: set[int] = set()
        self.paused = False
        """Whether frames of streams wait. Those of the session itself do not."""

    def __bool__(self) -> bool:
        return any(self._pipes)

    @property
    def pipes(self) -> int:
        """The number of pipes of the channel."""
        return len(self._pipes)

    @property
    def ready(self) -> list[int]:
        """The pipes for which something waits, and the first one, which is last."""
        return [number for number, pipe in enumerate(self._pipes) if number and pipe] + [0]

    @property
    def waiting(self) -> int:
        """The number of control frames, and of streams with something queued."""
        return sum([len(pipe.control) + len(pipe.urgent) + len(pipe.turns) for pipe in self._pipes])

    @property
    def held(self) -> bool:
        """Whether only the journal keeps frames of a stream waiting."""
        if self.paused or not any(journal.full for journal in self._journals):
            return False
        waiting = [_stream_of(pipe.urgent[0]) for pipe in self._pipes if pipe.urgent] + list(self._queues)
        return any(self._is_full(stream) for stream in waiting)

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
        self._pipes[0].control.append(frame)

    def add_urgent(self, frame: bytes) -> None:
        """Queue a frame of a stream, ahead of everything that streams of its pipe have queued."""
        self._pipe(_stream_of(frame)).urgent.append(frame)

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
        self._pipe(stream).turns.remove(stream)
        first = queue.items[0]
        return isinstance(first, bytes) and first[0] == FrameType.REQ_HEADERS

    def drop_streams(self) -> None:
        """Drop what all streams have queued."""
        self._queues.clear()
        for pipe in self._pipes:
            for queued in (pipe.turns, pipe.urgent, pipe.again):
                queued.clear()
            pipe.next = None
        self._size = 0

    def split(self, pipes: int) -> None:
        """Use a channel with this many pipes: one, or one for each lane. Nothing has been sent over it yet."""
        assert pipes in (1, max(1, len(self._journals)))
        last, self._pipes = self._pipes, [_Pipe() for _ in range(pipes)]
        for pipe in last:
            self._pipes[0].control += pipe.control
            for frame in pipe.urgent:
                self.add_urgent(frame)
            for stream in pipe.turns:
                self._pipe(stream).turns.append(stream)

    def begin_again(self, firsts: Sequence[bytes], pipes: int) -> None:
        """Start again on a new channel: for each lane, send the first frame, then the contents of its journal."""
        for pipe in self._pipes:
            pipe.control.clear()  # frames of the session were for the other channel
        self.split(pipes)
        for lane, (first, journal) in enumerate(zip(firsts, self._journals, strict=True)):
            pipe = self._pipe(lane)
            pipe.control.append(first)
            pipe.again += journal.kept

    def next_message(self, number: int = 0, *, size: int = MAX_MESSAGE) -> bytes | None:
        """Return one message for a pipe: a frame, or as many as fit if bundles are agreed on.

        A message that has so many bytes gets no further frame.
        """
        pipe = self._pipes[number]
        if not pipe:
            return None
        first = self._take(pipe)
        if first is None or not self.bundles or len(first) > MAX_BUNDLED_FRAME:
            return first
        frames, bundled = [first], HEADER.size + bundled_size(first)
        while bundled < size and (frame := self._take(pipe)) is not None:
            bundled += bundled_size(frame)
            if bundled > MAX_MESSAGE:
                pipe.next = frame
                break
            frames.append(frame)
        return bundle(frames)

    def _pipe(self, stream: int) -> _Pipe:
        """Return the pipe of a stream. Its lane is its number modulo the number of lanes."""
        return self._pipes[stream % len(self._pipes)]

    def _queue(self, stream: int) -> _Queue:
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = _Queue()
            self._pipe(stream).turns.append(stream)
        return queue

    def _take(self, pipe: _Pipe) -> bytes | None:
        if pipe.next is not None:
            held, pipe.next = pipe.next, None
            return held
        if pipe.control:
            return pipe.control.popleft()
        if self.paused:
            return None
        if pipe.again:
            return pipe.again.popleft()
        frame, stream = self._take_new(pipe)
        if frame is not None and self._journals:
            self._journals[stream % len(self._journals)].add(frame)
        return frame

    def _take_new(self, pipe: _Pipe) -> tuple[bytes | None, int]:
        """Return the next frame that its lane's journal has room for, and its stream."""
        if pipe.urgent and not self._is_full(stream := _stream_of(pipe.urgent[0])):
            return pipe.urgent.popleft(), stream
        for stream in pipe.turns:  # those that wait keep their order: a lane's heads go in the order of their numbers
            if not self._is_full(stream):
                return self._take_turn(pipe, stream), stream
            if len(self._pipes) == len(self._journals):
                break  # all of these streams use one lane
        return None, 0

    def _is_full(self, stream: int) -> bool:
        return bool(self._journals) and self._journals[stream % len(self._journals)].full

    def _take_turn(self, pipe: _Pipe, stream: int) -> bytes:
        pipe.turns.remove(stream)
        queue = self._queues[stream]
        size = queue.size
        frame = queue.next_frame(stream)
        self._size += queue.size - size
        if queue.size < size:
            self._cut.add(stream)
        if queue.items:
            pipe.turns.append(stream)
        else:
            del self._queues[stream]
        return frame


def _stream_of(frame: bytes) -> int:
    return int(HEADER.unpack_from(frame)[1])
