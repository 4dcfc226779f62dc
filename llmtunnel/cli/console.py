"""What a command says: to people or to programs, in lines or as a view."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from .. import descriptors
from ..errors import TunnelError
from ..platforms import in_cell
from ..status import ErrorNotice, Notice, RequestFinished, Role, Waiting
from .lines import HumanLines, complaint, json_line, unwritten
from .output import Output
from .signals import READER_GONE

if TYPE_CHECKING:
    from ..tunnel import Tunnel
    from .live import Live


GIVING_UP: Final = "error: Giving up, for the reason above.\n"


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
        drawn = self._live is not None and isinstance(notice, RequestFinished | Waiting)
        if line is not None and not drawn:
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

    def show_invite(self, text: str) -> None:
        """Say a new invite, without which serve is of no use, to people. A view says it again when it is asked to."""
        if self._live is not None:
            self._live.remember(text)
        else:
            self.say(text, vital=True)

    @contextmanager
    def watching(self, tunnel: Tunnel) -> Iterator[None]:
        """Inside, the tunnel is drawn, where there is a terminal for it."""
        from .terminal import drawable

        terminal = None if self._json or self._plain else drawable(self._stream)
        if terminal is None:
            yield
            return
        from .live import Live

        self._live = Live(tunnel, terminal, self.output, on_quit=lambda: self.on_quit())
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
            said = not self._lost and self._human.has_said(error.message)
            seen = said and descriptors.same(self._stream, sys.stderr)
            descriptors.write(sys.stderr, GIVING_UP if seen else complaint(error))
        return error.exit_code
