"""Standard output that never blocks on its reader."""

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
"""Writes kept for a slow reader; beyond this, the oldest are dropped."""
RETRY = 0.1
"""Seconds until a full pipe is tried again."""
PIECE: int = getattr(select, "PIPE_BUF", 512)
"""Bytes that a ready pipe accepts without blocking."""
FAREWELL = 0.5
"""Seconds for the reader to take the rest when the program ends."""


class Output:
    """A stream that is written to at once while its reader keeps up, and that never blocks.

    ``on_gone`` is called once, when the reader has gone away; later writes are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        self._stream = stream
        self.gone = False
        """Whether the reader has gone away."""
        self.failed: OSError | None = None
        """Why a write failed, unless the reader has gone away or its terminal has hung up."""
        self._own = _terminal(stream)
        self._descriptor = _descriptor(stream) if self._own is None else self._own
        self.waiting: deque[bytes] = deque(maxlen=BACKLOG)
        """Text that the reader has yet to take, in bytes."""
        self._retry: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether text is waiting for the reader."""
        return bool(self.waiting)

    def write(self, text: str) -> None:
        """Write text now, or as soon as the reader has taken all earlier text."""
        if not self.gone:
            self.waiting.append(text.encode(self._stream.encoding or "utf-8", "replace"))
            if self._retry is None:
                self._drain()

    def close(self) -> None:
        """Give the reader a moment to take the rest, and close."""
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
        """Write what the reader accepts. Returns whether nothing is left."""
        while self.waiting:
            data = self.waiting.popleft()
            rest = self._write_some(data, patience)
            if rest:
                self.waiting.appendleft(rest)
                return False
        return True

    def _write_some(self, data: bytes, patience: float) -> bytes:
        """Write part of the data. Returns the rest."""
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
        with suppress(RuntimeError):  # no loop is running: `close` will try again
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._drain)

    def _stop_retrying(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _give_up(self, exc: OSError) -> None:
        """Drop the waiting text. A full disk may get room again, and a hung-up terminal must not end a tunnel."""
        self.waiting.clear()
        if isinstance(exc, BrokenPipeError):
            self.gone = True
            self.on_gone()
        elif self._own is None:
            self.failed = exc


def _descriptor(stream: TextIO) -> int | None:
    """Return a descriptor to `select` on before a write; None on Windows, or if the stream is not a real file."""
    if os.name != "posix":
        return None
    try:
        return stream.fileno()
    except (io.UnsupportedOperation, AttributeError):
        return None


def _terminal(stream: TextIO) -> int | None:
    """Open a non-blocking descriptor of our own for the stream's terminal; None if it is not a terminal.

    A terminal that is ready for a byte may still block on a page. The stream's own descriptor must stay blocking, since
    it shares that mode with the shell.
    """
    if os.name != "posix" or not stream.isatty():
        return None
    try:
        return os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
