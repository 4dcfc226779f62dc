"""Blocking calls on a loop that runs in the caller's own thread, such as a notebook's: ``in_loop=True``.

A call runs that loop further until its work is done (nest-asyncio2). So one thread is enough, and the tunnel lives only
while the loop runs: a cell that computes, or that waits for something else than the loop, stalls it.
"""

from __future__ import annotations

import asyncio
import atexit
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Generic, TypeVar

from .errors import SettingError, TunnelError
from .runtime import Begun, Call, Hold

T = TypeVar("T")

_OTHER_WAYS: Final = (
    "Leave in_loop out: the tunnel then has a thread of its own. Or use llmtunnel.aio: `await llmtunnel.aio.{name}(…)`."
)


def hold(name: str) -> NestedHold:
    """Hold the running loop, for the blocking call of this name. Raises `SettingError` where that cannot be."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SettingError(
            "in_loop=True needs an event loop that runs in this thread.",
            hint=_OTHER_WAYS.format(name=name),
        ) from None
    if not hasattr(loop, "_nest_patched"):  # by us, by the notebook, or by the older nest_asyncio
        _patch(loop, name)
    return NestedHold(loop)


def _patch(loop: asyncio.AbstractEventLoop, name: str) -> None:
    import nest_asyncio2  # type: ignore[import-untyped]

    # Asked first: it would patch all of asyncio, and find out then.
    if not isinstance(loop, asyncio.BaseEventLoop):
        kind = type(loop).__module__.partition(".")[0]
        raise SettingError(
            f"in_loop=True does not work here: the running event loop is {kind}'s, which cannot be nested.",
            hint=_OTHER_WAYS.format(name=name),
        )
    nest_asyncio2.apply(loop)


class NestedHold(Hold):
    """One handle's part in a loop that is not ours: nothing of it is to be stopped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        atexit.register(self.close)  # the loop has been stopped then, and may be closed

    @property
    def stuck(self) -> bool:
        """See `Hold.stuck`: never, that is the point."""
        return False

    def begin(self, work: Coroutine[Any, Any, T]) -> Begun[T] | None:
        """See `Hold.begin`."""
        if self.released or self._loop.is_closed():
            work.close()
            return None
        elsewhere = self._loop.is_running() and asyncio._get_running_loop() is not self._loop
        return Call(self._loop, work) if elsewhere else _NestedCall(self._loop, work)

    def release(self) -> None:
        """See `Hold.release`."""
        self.released = True
        atexit.unregister(self.close)


class _NestedCall(Generic[T]):
    """A coroutine on the loop of this thread, which is run until that has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._task = loop.create_task(work, name="llmtunnel call")

    def wait(self) -> T:
        """Its result, or what it raises."""
        with _interrupts_cancel(self._task):
            self._loop.run_until_complete(asyncio.wait((self._task,)))
        if self._task.cancelled():
            raise TunnelError("The tunnel was closed in the meantime.")
        return self._task.result()


@contextmanager
def _interrupts_cancel(task: asyncio.Task[Any]) -> Iterator[None]:
    """Inside, Ctrl-C cancels the task, whose end is awaited, and is raised then.

    Left to itself it would be raised in whatever the loop is at, and end somebody else's work.
    """
    heard: list[int] = []

    def cancel(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        task.get_loop().call_soon_threadsafe(task.cancel)

    before = signal.getsignal(signal.SIGINT)
    try:
        if callable(before):
            signal.signal(signal.SIGINT, cancel)
    except ValueError:  # another thread than the main one, which hears of no signal
        before = None
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
    if heard:
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not complain: nobody else will
        raise KeyboardInterrupt
