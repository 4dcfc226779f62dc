"""A command's output: for people or for programs, as lines or as a view."""

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
    """Reports what happens: sentences for people, or only JSON objects (``json``).

    On a terminal, a view of the tunnel is drawn below the sentences, unless ``plain`` is true.

    A failed write, for example on a full disk, is an error where the output matters. It always does for JSON objects,
    for a command whose purpose is its text (``vital``), and for a single text marked so. Without its other sentences,
    a tunnel goes on.
    """

    def __init__(
        self, *, json: bool = False, plain: bool = False, vital: bool = False, stream: TextIO | None = None
    ) -> None:
        self.on_quit: Callable[[], None] = lambda: None
        """Called when the user presses a key to quit."""
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
        """Write a line for a notice, unless it would be a repetition."""
        if isinstance(notice, ErrorNotice):
            self._last_error = notice.message
        line = json_line(notice) if self._json else self._human.line(notice)
        drawn = self._live is not None and isinstance(notice, RequestFinished | Waiting)
        if line is not None and not drawn:
            self.write(line + "\n")

    def say(self, text: str, *, vital: bool = False) -> None:
        """Write text for people only, unchanged. ``vital``: the command is useless without it."""
        if not self._json:
            self.write(text)
            self._check(vital)

    @property
    def saved(self) -> bool:
        """Whether text for people becomes the output of a notebook's cell without an explicit request for that."""
        return in_cell() and self._stream.isatty() and not (self._json or self._plain)

    def show_invite(self, text: str, link: str = "") -> None:
        """Display a new invite, which serve needs, to people. A view displays it again on request.

        ``link``: a link in the text, whose QR code a view displays as well.
        """
        if self._live is not None:
            self._live.remember(text, link)
        else:
            self.say(text, vital=True)

    @contextmanager
    def watching(self, tunnel: Tunnel) -> Iterator[None]:
        """Within the context, draw the tunnel if there is a terminal for it."""
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
        """Write text for the reader, a person or a program."""
        (self._live or self.output).write(text)
        self._check()

    def _check(self, vital: bool = False) -> None:
        failed = self.output.failed
        if failed is not None and (vital or self._vital) and not self._lost:
            self._lost = True
            descriptors.write(sys.stderr, unwritten(failed))
            self.on_lost()

    def end(self, status: int) -> int:
        """Write what is left. Returns the exit status: ``status``, or another one if output was lost."""
        self.output.close()
        self._check()
        if self._lost:
            return status or 1
        return READER_GONE if self.output.gone and not status else status

    def warn(self, text: str) -> None:
        """Write a warning to standard error, beside JSON as well."""
        descriptors.write(sys.stderr, f"warning: {text}\n")

    def record(self, notice: Notice, *, role: Role | None = None) -> None:
        """Write a notice for programs only. ``role`` says whose it is, if one process has both sides."""
        if self._json:
            self.write(json_line(notice, role) + "\n")

    def fail(self, error: TunnelError) -> int:
        """Say why the command ends, unless a notice already told programs so. Returns the exit status."""
        if self._json and error.message != self._last_error:
            self.tell(ErrorNotice(message=error.message, hint=error.hint))
        if not self._json or self._lost:
            said = not self._lost and self._human.has_said(error.message)
            seen = said and descriptors.same(self._stream, sys.stderr)
            descriptors.write(sys.stderr, GIVING_UP if seen else complaint(error))
        return error.exit_code
