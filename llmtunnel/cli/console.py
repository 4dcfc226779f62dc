"""Standard output for a program that must not wait for whoever reads it."""

from __future__ import annotations

import asyncio
import io
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from .. import descriptors
from ..errors import TunnelError
from ..platforms import in_cell
from ..status import ErrorNotice, Notice, RequestFinished, Role
from .lines import HumanLines, complaint, json_line, unwritten
from .signals import READER_GONE

if TYPE_CHECKING:
    from ..tunnel import Tunnel
    from .live import Live

BACKLOG = 2000
"""Writes kept for a reader that does not read; beyond them the oldest are dropped."""
RETRY = 0.1
"""Seconds until a full pipe is tried again."""
PIECE: int = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe which is ready takes without a wait."""
FAREWELL = 0.5
"""Seconds that a reader has to take what is left when the program ends."""


class Console:
    """Says what happens: sentences for people, or JSON objects (``json``) and nothing else.

    On a terminal, people see a tunnel drawn, below the sentences; not so with ``plain``.

    Output that cannot be written, as on a full disk, is an error where it matters: objects for programs always do,
    sentences where all of them are what the command is for (``vital``), or the one that is said. A tunnel whose other
    sentences are lost goes on.
    """

    def __init__(
        self, *, json: bool = False, plain: bool = False, vital: bool = False, stream: TextIO | None = None
    ) -> None:
        self.on_quit: Callable[[], None] = lambda: None
        """Called when the user has asked for the end, by a key."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, when output that matters cannot be written."""
        self.output = Output(sys.stdout if stream is None else stream)
        self._vital = json or vital
        self._lost = False
        self._stream = sys.stdout if stream is None else stream
        self._json = json
        self._plain = plain
        self._live: Live | None = None
        self._human = HumanLines()
        self._last_error = ""

    def tell(self, notice: Notice) -> None:
        """One line for a notice, or none where it was just said."""
        if isinstance(notice, ErrorNotice):
            self._last_error = notice.message
        line = json_line(notice) if self._json else self._human.line(notice)
        if line is not None and not (self._live and isinstance(notice, RequestFinished)):  # the view has those
            self.write(line + "\n")

    def say(self, text: str, *, vital: bool = False) -> None:
        """Text for people only, written as it is. ``vital``: without it the command is of no use."""
        if not self._json:
            self.write(text)
            self._check(vital)

    @property
    def saved(self) -> bool:
        """Whether what is said to people becomes the output of a notebook's cell, without their having asked for it."""
        return in_cell() and self._stream.isatty() and not (self._json or self._plain)

    @property
    def draws(self) -> bool:
        """Whether a tunnel is drawn now."""
        return self._live is not None

    @contextmanager
    def watching(self, tunnel: Tunnel, *, invite: str = "") -> Iterator[None]:
        """Inside, the tunnel is drawn, where there is a terminal for it; with the invite's code, if one is given."""
        from .terminal import drawable

        terminal = None if self._json or self._plain else drawable(self._stream)
        if terminal is None:
            yield
            return
        from .live import Live

        self._live = Live(tunnel, terminal, self.output, invite=invite, on_quit=lambda: self.on_quit())
        try:
            with self._live.shown():
                yield
        finally:
            self._live = None

    def write(self, text: str) -> None:
        """Text for whoever reads, people or programs."""
        (self._live or self.output).write(text)
        self._check()

    def _check(self, vital: bool = False) -> None:
        failed = self.output.failed
        if failed is not None and (vital or self._vital) and not self._lost:
            self._lost = True
            descriptors.write(sys.stderr, unwritten(failed))
            self.on_lost()

    def end(self, status: int) -> int:
        """Write what is left; the command's exit status, in place of ``status`` where its output is lost."""
        self.output.close()
        self._check()
        if self._lost:
            return status or 1
        return READER_GONE if self.output.gone and not status else status

    def warn(self, text: str) -> None:
        """A line on standard error, for people and beside JSON."""
        descriptors.write(sys.stderr, f"warning: {text}\n")

    def record(self, notice: Notice, *, role: Role | None = None) -> None:
        """A notice for programs only; ``role`` tells whose it is where one process has both."""
        if self._json:
            self.write(json_line(notice, role) + "\n")

    def fail(self, error: TunnelError) -> int:
        """Say why the command ends, to programs where a notice has not; returns its exit status."""
        if self._json and error.message != self._last_error:
            self.tell(ErrorNotice(message=error.message, hint=error.hint))
        if not self._json or self._lost:
            descriptors.write(sys.stderr, complaint(error))
        return error.exit_code


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
        self._waiting: deque[bytes] = deque(maxlen=BACKLOG)
        self._retry: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether the reader has yet to take something."""
        return bool(self._waiting)

    def write(self, text: str) -> None:
        """Write text, now or as soon as the reader has taken what came before it."""
        if not self.gone:
            self._waiting.append(text.encode(self._stream.encoding or "utf-8", "replace"))
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
        while self._waiting:
            data = self._waiting.popleft()
            rest = self._write_some(data, patience)
            if rest:
                self._waiting.appendleft(rest)
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
        self._waiting.clear()
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
