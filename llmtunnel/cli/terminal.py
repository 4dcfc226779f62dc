"""The terminal that a command runs on: its size, the keys that are hit, and its modes, which are always put back."""

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
"""Columns and rows of a terminal that does not say."""
_KEYS: Final = 64
"""Bytes read at once: what is typed, or pasted by mistake."""


class Terminal:
    """A terminal to draw on, with the keyboard that belongs to it, where there is one. POSIX."""

    def __init__(self, screen: TextIO, keyboard: TextIO | None = None) -> None:
        self._screen = screen.fileno()
        self._keyboard = keyboard.fileno() if keyboard is not None and keyboard.isatty() else None

    @property
    def has_keys(self) -> bool:
        """Whether there is a keyboard."""
        return self._keyboard is not None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, now."""
        try:
            columns, rows = os.get_terminal_size(self._screen)
        except OSError:
            return USUAL
        return (columns, rows) if columns and rows else USUAL

    @property
    def ours(self) -> bool:
        """Whether it is our turn: not while the shell has this process in the background."""
        try:
            return os.tcgetpgrp(self._screen) == os.getpgrp()
        except OSError:  # not the terminal that jobs are controlled by
            return True

    @contextmanager
    def used(
        self, *, on_key: Callable[[str], None], on_change: Callable[[], None], on_suspend: Callable[[], None]
    ) -> Iterator[None]:
        """Inside, keys are heard of as they are hit, and the terminal is in the mode for it.

        ``on_change``: it has another size, or is ours again. ``on_suspend``: the process is about to be stopped.
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
                os.kill(os.getpid(), signal.SIGTSTP)  # as if nobody had caught it
                loop.add_signal_handler(signal.SIGTSTP, suspend)
                changed()  # SIGCONT says so too, but does not come where no shell is there to stop us

            loop = asyncio.get_running_loop()
            handlers = {signal.SIGWINCH: changed, signal.SIGCONT: changed}
            if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:  # whoever started us may not want it stopped
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
            if not keys:  # it hung up
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
    """A keyboard's mode, as it was found and as we need it: keys at once, and not echoed. Signals stay."""

    def __init__(self, keyboard: int | None) -> None:
        import termios

        self._keyboard = keyboard
        self._found = termios.tcgetattr(keyboard) if keyboard is not None else []

    def take(self) -> None:
        import termios
        import tty

        if self._keyboard is not None:
            with suppress(termios.error):  # it hung up
                tty.setcbreak(self._keyboard, termios.TCSANOW)

    def give_back(self) -> None:
        import termios

        if self._keyboard is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._found)


def drawable(stream: TextIO) -> Terminal | None:
    """The terminal that the stream is, or None where it is none to draw on.

    That is so for files and pipes, ``TERM=dumb``, characters other than UTF-8, a process in the background, a
    notebook's cell, and on Windows.
    """
    if in_cell() or os.name != "posix" or not stream.isatty() or stream.encoding.lower().replace("-", "") != "utf8":
        return None
    from rich.console import Console

    terminal = Terminal(stream, sys.stdin)
    return None if Console(file=stream).is_dumb_terminal or not terminal.ours else terminal
