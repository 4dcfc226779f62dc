"""Orderly shutdown: SIGINT, SIGTERM and SIGHUP cancel the work, which then closes what it has open.

A signal that was ignored when the process started stays ignored. A shell without job control starts ``command &`` that
way, and so does ``nohup``: an interrupt in the foreground, or the end of the terminal, then leaves the process running.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

BY_SIGNAL = 128
"""Base of the exit status of a process that a signal ended; the signal's number is added."""
READER_GONE = BY_SIGNAL + 13
"""Exit status when the reader of standard output has gone away: that of SIGPIPE, which Windows lacks."""

_NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
# A closing terminal sends it up to twice: from the system, and from its shell.
_REPEATED = (getattr(signal, "SIGHUP", None),)


class Stop:
    """A request to stop, with its exit status. The first one counts."""

    def __init__(self) -> None:
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def request(self, status: int) -> None:
        """Request a stop with exit status ``status``."""
        if not self._status.done():
            self._status.set_result(status)

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Run ``work`` to its end, or cancel it when a stop is requested. Returns the exit status."""
        task = asyncio.create_task(work, name="command")
        try:
            await asyncio.wait((task, self._status), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.wait((task,))  # the tunnel that it closes limits the time of each step
        return self._status.result() if self._status.done() else task.result()


@contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """Within the context, the first signal requests a stop, and a second one ends the process at once.

    A repeated SIGHUP does not end it. Signals that are already ignored stay ignored.
    """
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in _NUMBERS}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def stop_once(number: int) -> None:
        for each in before:
            _forget(loop, each)
            signal.signal(each, signal.SIG_IGN if each in _REPEATED else signal.SIG_DFL)
        stop.request(BY_SIGNAL + number)

    for number in before:
        _watch(loop, number, stop_once)
    try:
        yield
    finally:
        for number, handler in before.items():
            _forget(loop, number)
            signal.signal(number, handler)


def _watch(loop: asyncio.AbstractEventLoop, number: int, callback: Callable[[int], None]) -> None:
    try:
        loop.add_signal_handler(number, callback, number)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda number, _frame: loop.call_soon_threadsafe(callback, number))


def _forget(loop: asyncio.AbstractEventLoop, number: int) -> None:
    with suppress(NotImplementedError):
        loop.remove_signal_handler(number)
