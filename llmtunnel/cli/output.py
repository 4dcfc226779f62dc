"""Standard output for a program that must not wait for whoever reads it."""

from __future__ import annotations

import asyncio
import io
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

BACKLOG = 2000
"""Writes kept for a reader that does not read; beyond them the oldest are dropped."""
RETRY = 0.1
"""Seconds until a full pipe is tried again."""
PIECE: int = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe which is ready takes without a wait."""
FAREWELL = 0.5
"""Seconds that a reader has to take what is left when the program ends."""


class Output:
    """A stream that is written to at once where its reader keeps up, and never waited for.

    ``on_gone`` is called once, when the reader is found to be gone; what is written after that is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        self._stream = stream
        self.gone = False
        """Whether its reader is."""
        self.failed: OSError | None = None
        """Why it could not be written, unless its reader is gone or its terminal has hung up."""
        self._own = _terminal(stream)
        self._descriptor = _descriptor(stream) if self._own is None else self._own
        self.waiting: deque[bytes] = deque(maxlen=BACKLOG)
        """What the reader has yet to take."""
        self._retry: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether the reader has yet to take something."""
        return bool(self.waiting)

    def write(self, text: str) -> None:
        """Write text, now or as soon as the reader has taken what came before it."""
        if not self.gone:
            self.waiting.append(text.encode(self._stream.encoding or "utf-8", "replace"))
            if self._retry is None:
                self._drain()

    def close(self) -> None:
        """Give the reader a moment for what is left."""
        self._stop_retrying()
        try:
            self._write_waiting(patience=FAREWELL)
        except OSError as exc:
            self._give_up(exc)
        if self._own is not None:
            os.close(self._own)
            self._own = None
            self._descriptor = _descriptor(self._stream)

    def _drain(self) -> None:
        self._retry = None
        try:
            done = self._write_waiting()
        except OSError as exc:
            self._give_up(exc)
        else:
            if not done:
                self._retry_later()

    def _write_waiting(self, *, patience: float = 0.0) -> bool:
        """Write what the reader takes; whether that was all."""
        while self.waiting:
            data = self.waiting.popleft()
            rest = self._write_some(data, patience)
            if rest:
                self.waiting.appendleft(rest)
                return False
        return True

    def _write_some(self, data: bytes, patience: float) -> bytes:
        """Write one piece; what is left of it."""
        if self._descriptor is None:
            self._stream.write(data.decode(self._stream.encoding or "utf-8"))
            self._stream.flush()
            return b""
        while data and select.select([], [self._descriptor], [], patience)[1]:
            try:
                data = data[os.write(self._descriptor, data[:PIECE]) :]
            except BlockingIOError:
                break
        return data

    def _retry_later(self) -> None:
        with suppress(RuntimeError):  # no loop runs: `close` will try again
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._drain)

    def _stop_retrying(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _give_up(self, exc: OSError) -> None:
        """Drop what waits. A full disk may have room again; a terminal that hung up is no reason to end a tunnel."""
        self.waiting.clear()
        if isinstance(exc, BrokenPipeError):
            self.gone = True
            self.on_gone()
        elif self._own is None:
            self.failed = exc


def _descriptor(stream: TextIO) -> int | None:
    """What `select` can ask whether a write would wait; None where it cannot: Windows, or no real file."""
    if os.name != "posix":
        return None
    try:
        return stream.fileno()
    except (io.UnsupportedOperation, AttributeError):
        return None


def _terminal(stream: TextIO) -> int | None:
    """A descriptor of our own for the stream's terminal, which never blocks; None where it is no terminal.

    A terminal that is ready for a byte may still wait before it takes a page, and to set the stream's own descriptor
    to not block would set it for the shell too.
    """
    if os.name != "posix" or not stream.isatty():
        return None
    try:
        return os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
