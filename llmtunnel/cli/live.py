"""The live view of a running tunnel, drawn on its terminal a few times per second by the tunnel's event loop.

It must not slow the tunnel down. A frame takes about a millisecond. No frame is made until the terminal has taken the
previous one, and its contents are read at that moment instead of being collected all the time.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..status import Phase
from ..summary import Throughput, printable
from . import logs, qr
from .screen import HIDE_CURSOR, SHOW_CURSOR, Screen
from .view import REQUESTS, render

if TYPE_CHECKING:
    from ..tunnel import Tunnel
    from .output import Output
    from .terminal import Terminal

INTERVAL: Final = 0.25
"""Seconds between two frames; people do not read faster."""
ABOVE: Final = 2
"""Lines reserved for text above the view."""
BACKLOG: Final = 2000
"""Lines kept for a terminal that takes none; beyond this, the oldest are dropped."""
QUIT: Final = "qQ"
AGAIN: Final = "iI"
_ENOUGH_COLOURS: Final = ("256", "truecolor")
"""Colour systems of rich that have black and white, whatever the terminal's theme."""
LONGEST_SAID: Final = 1000
"""Maximum length of a line above the view, in characters. The longest command with an invite, which must not be cut,
has 640."""


class Live:
    """A tunnel's view on a terminal. It is also a text file: what is written to it (logs) appears above the view."""

    def __init__(
        self,
        tunnel: Tunnel,
        terminal: Terminal,
        output: Output,
        *,
        on_quit: Callable[[], None],
    ) -> None:
        from rich.console import Console

        self._tunnel = tunnel
        self._terminal = terminal
        self._output = output
        self._on_quit = on_quit
        self._again = self._link = ""
        self._screen = Screen()
        self._throughput = Throughput()
        self._said: deque[str] = deque(maxlen=BACKLOG)
        self._styled = Console(file=io.StringIO(), force_terminal=True, legacy_windows=False)
        self._drawn = False

    def write(self, text: str) -> None:
        """Show text above the view with the next frame. Thread-safe."""
        self._said.extend(printable(line.expandtabs(), LONGEST_SAID) for line in text.splitlines())

    def remember(self, text: str, link: str = "") -> None:
        """Show text now, and again when the user presses a key for it, since it scrolls away.

        ``link``: also show its QR code, if the terminal has the colours and the size for it.
        """
        self._again, self._link = text, link
        self._show_again()

    def _show_again(self) -> None:
        self.write(self._again)
        if self._link and self._styled.color_system in _ENOUGH_COLOURS and not self._styled.no_color:
            self._show_code(qr.lines(self._link))

    def _show_code(self, code: list[str]) -> None:
        columns, rows = self._terminal.size
        wide, high = qr.size(code)
        below = len(self._lines(max(columns - 1, 1), max(rows - 1 - ABOVE, 1), QUIT, False)) + 1
        if wide < columns and high + below <= rows:
            self._said.extend(code)
        else:
            self.write("For a QR code of the link, enlarge the terminal, and press i.")

    def flush(self) -> None:
        """Do nothing; a text file needs this method."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the context, draw the view. Its last state stays on the terminal."""
        with self._terminal.used(on_key=self._key, on_change=self._draw, on_suspend=self._leave), logs.to(self):
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)
            try:
                yield
            finally:
                self._timer.cancel()
                self._leave()

    def _key(self, key: str) -> None:
        if key in QUIT:
            self._on_quit()
        elif key in AGAIN and self._again:
            self._show_again()
            self._draw()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)
        self._throughput = self._throughput.added(self._tunnel.status, now=time.time())
        self._draw()

    def _draw(self) -> None:
        if self._output.busy or not self._terminal.ours:
            return
        self._drawn = True
        keys = "q or Ctrl-C: leave" if self._terminal.has_keys else "Ctrl-C: leave"
        if self._again and self._terminal.has_keys:
            keys += ", i: show the invite again"
        frame = self._frame(keys=keys)
        if frame:
            self._output.write(HIDE_CURSOR + frame)

    def _leave(self) -> None:
        """Draw the view once more, as text that stays: without the keys, and without the error that is shown above."""
        try:
            self._output.write(self._frame(left=True))
        finally:
            self._output.write(SHOW_CURSOR)
        self._screen.forget()

    def _frame(self, *, keys: str = "", left: bool = False) -> str:
        columns, rows = self._terminal.size
        view = self._lines(max(columns - 1, 1), max(rows - 1 - ABOVE, 1), keys, left) if self._drawn else []
        said = [self._said.popleft() for _ in range(len(self._said))]
        return self._screen.show(view, columns=columns, said=said)

    def _lines(self, width: int, height: int, keys: str, left: bool) -> list[str]:
        tunnel, status = self._tunnel, self._tunnel.status
        if left and status.phase is Phase.FAILED:
            status = replace(status, detail="")
        view = render(
            status,
            tunnel.records(REQUESTS),
            tunnel.active_requests(),
            throughput=self._throughput,
            now=time.time(),
            width=width,
            height=height,
            keys=keys,
        )
        with self._styled.capture() as captured:
            self._styled.print(view, end="", soft_wrap=True)
        return captured.get().splitlines()
