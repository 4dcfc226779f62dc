"""Blocking calls on a loop that already runs in the caller's thread, such as a notebook's: ``in_loop=True``.

A call runs that loop until its work is done (nest-asyncio2). So one thread is enough, but the tunnel only progresses
while the loop runs: a cell that computes, or that waits for anything but the loop, stalls it.
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
    "Remove in_loop: the tunnel then has a thread of its own. Or use llmtunnel.aio: `await llmtunnel.aio.{name}(…)`."
)


def hold(name: str) -> NestedHold:
    """Hold the running loop for the blocking call ``name``. Raises `SettingError` if that is impossible."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SettingError(
            "in_loop=True needs an event loop that already runs in this thread.",
            hint=_OTHER_WAYS.format(name=name),
        ) from None
    if not hasattr(loop, "_nest_patched"):  # patched by us, by the notebook, or by the older nest_asyncio
        _patch(loop, name)
    return NestedHold(loop)


def _patch(loop: asyncio.AbstractEventLoop, name: str) -> None:
    import nest_asyncio2  # type: ignore[import-untyped]

    # Checked first, since nest_asyncio2 would patch all of asyncio before it raises.
    if not isinstance(loop, asyncio.BaseEventLoop):
        kind = type(loop).__module__.partition(".")[0]
        raise SettingError(
            f"in_loop=True does not work here: the running event loop is {kind}'s, which cannot be nested.",
            hint=_OTHER_WAYS.format(name=name),
        )
    nest_asyncio2.apply(loop)


class NestedHold(Hold):
    """One handle's share of a loop that is not ours, so closing it stops nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        atexit.register(self.close)  # at exit, the loop has stopped and may be closed

    @property
    def stuck(self) -> bool:
        """See `Hold.stuck`. A nested call never blocks its loop."""
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
    """A coroutine on the loop of this thread. `wait` runs the loop until the coroutine has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._task = loop.create_task(work, name="llmtunnel call")

    def wait(self) -> T:
        """Return its result, or raise its exception."""
        with _interrupts_cancel(self._task):
            self._loop.run_until_complete(asyncio.wait((self._task,)))
        if self._task.cancelled():
            raise TunnelError("The tunnel was closed during the call.")
        return self._task.result()


@contextmanager
def _interrupts_cancel(task: asyncio.Task[Any]) -> Iterator[None]:
    """Within the context, Ctrl-C cancels the task, waits for its end, and then raises `KeyboardInterrupt`.

    Otherwise, it would be raised in whatever code the loop runs, and end unrelated work.
    """
    heard: list[int] = []

    def cancel(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        task.get_loop().call_soon_threadsafe(task.cancel)

    before = signal.getsignal(signal.SIGINT)
    try:
        if callable(before):
            signal.signal(signal.SIGINT, cancel)
    except ValueError:  # not the main thread, which alone receives signals
        before = None
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
    if heard:
        if not task.cancelled():
            task.exception()  # retrieve it, so that asyncio does not warn
        raise KeyboardInterrupt
