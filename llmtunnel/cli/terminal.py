"""The terminal that a command runs on: its size, its keys, and its modes, which are always restored."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from ..platforms import in_cell

USUAL: Final = (80, 24)
"""Columns and rows of a terminal that does not report its size."""
_KEYS: Final = 64
"""Bytes read at once: typed keys, or text pasted by mistake."""


class Terminal:
    """A terminal to draw on, with its keyboard if it has one. POSIX only."""

    def __init__(self, screen: TextIO, keyboard: TextIO | None = None) -> None:
        self._screen = screen.fileno()
        self._keyboard = keyboard.fileno() if keyboard is not None and keyboard.isatty() else None

    @property
    def has_keys(self) -> bool:
        """Whether the terminal has a keyboard."""
        return self._keyboard is not None

    @property
    def size(self) -> tuple[int, int]:
        """Current columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._screen)
        except OSError:
            return USUAL
        return (columns, rows) if columns and rows else USUAL

    @property
    def ours(self) -> bool:
        """Whether this process is in the foreground, so that it may use the terminal."""
        try:
            return os.tcgetpgrp(self._screen) == os.getpgrp()
        except OSError:  # it is not the controlling terminal
            return True

    @contextmanager
    def used(
        self, *, on_key: Callable[[str], None], on_change: Callable[[], None], on_suspend: Callable[[], None]
    ) -> Iterator[None]:
        """Within the context, the terminal reports single keys as they are pressed.

        ``on_change`` is called when the size changes, or when the process returns to the foreground. ``on_suspend`` is
        called just before the process is stopped.
        """
        with self._single_keys(on_key) as mode:

            def changed() -> None:
                if self.ours:
                    mode.take()
                    on_change()

            def suspend() -> None:
                on_suspend()
                mode.give_back()
                loop.remove_signal_handler(signal.SIGTSTP)
                os.kill(os.getpid(), signal.SIGTSTP)  # now with the default action
                loop.add_signal_handler(signal.SIGTSTP, suspend)
                changed()  # SIGCONT reports this too, but does not arrive if no shell stopped us

            loop = asyncio.get_running_loop()
            handlers = {signal.SIGWINCH: changed, signal.SIGCONT: changed}
            if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:  # the parent process may have disabled it
                handlers[signal.SIGTSTP] = suspend
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
            try:
                yield
            finally:
                for number in handlers:
                    loop.remove_signal_handler(number)

    @contextmanager
    def _single_keys(self, on_key: Callable[[str], None]) -> Iterator[_Mode]:
        mode = _Mode(self._keyboard)
        keyboard = self._keyboard
        if keyboard is None:
            yield mode
            return
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                keys = os.read(keyboard, _KEYS)
            except OSError:
                keys = b""
            if not keys:  # the terminal hung up
                loop.remove_reader(keyboard)
            for key in keys.decode("ascii", "replace"):
                on_key(key)

        mode.take()
        loop.add_reader(keyboard, read)
        try:
            yield mode
        finally:
            loop.remove_reader(keyboard)
            if self.ours:
                mode.give_back()


class _Mode:
    """A keyboard's mode: the original one, and ours, which delivers keys at once and without echo. Signals stay on."""

    def __init__(self, keyboard: int | None) -> None:
        import termios

        self._keyboard = keyboard
        self._found = termios.tcgetattr(keyboard) if keyboard is not None else []

    def take(self) -> None:
        import termios
        import tty

        if self._keyboard is not None:
            with suppress(termios.error):  # the terminal hung up
                tty.setcbreak(self._keyboard, termios.TCSANOW)

    def give_back(self) -> None:
        import termios

        if self._keyboard is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._found)


def drawable(stream: TextIO) -> Terminal | None:
    """Return the stream's terminal, or None if a view cannot be drawn on it.

    That is the case for files and pipes, ``TERM=dumb``, encodings other than UTF-8, a process in the background, a
    notebook's cell, and Windows.
    """
    if in_cell() or os.name != "posix" or not stream.isatty() or stream.encoding.lower().replace("-", "") != "utf8":
        return None
    from rich.console import Console

    terminal = Terminal(stream, sys.stdin)
    return None if Console(file=stream).is_dumb_terminal or not terminal.ours else terminal
