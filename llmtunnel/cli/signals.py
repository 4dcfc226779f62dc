"""An orderly end: SIGINT, SIGTERM and SIGHUP cancel the work, which closes what it has open.

A signal that was ignored when the process started stays ignored: a shell without job control starts ``command &`` so,
and ``nohup`` does, so that an interrupt of the foreground, or the end of the terminal, leaves the process alone.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

BY_SIGNAL = 128
"""A process that a signal ended has this and the signal's number as its exit status."""
READER_GONE = BY_SIGNAL + 13
"""The exit status where standard output's reader is gone: SIGPIPE's, which Windows lacks."""

_NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
# A terminal that closes sends it up to twice: by the system, and by its shell.
_REPEATED = (getattr(signal, "SIGHUP", None),)


class Stop:
    """A wish to stop, with the exit status that it leads to; the first one counts."""

    def __init__(self) -> None:
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def request(self, status: int) -> None:
        """Stop, and exit with ``status``."""
        if not self._status.done():
            self._status.set_result(status)

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Run ``work`` to its end, or cancel it when a stop is requested; returns the exit status."""
        task = asyncio.create_task(work, name="command")
        try:
            await asyncio.wait((task, self._status), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.wait((task,))  # the tunnel that it closes bounds each step
        return self._status.result() if self._status.done() else task.result()


@contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """Inside, the first signal requests a stop, and another one ends the process at once (a repeated SIGHUP does not).

    Signals that are ignored already stay so.
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
