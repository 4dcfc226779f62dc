"""Event loops of ours, and the only module that uses threads.

A blocking call runs on one background loop, shared by all tunnels of the process: it starts with the first and stops
with the last, so that a notebook's cell that computes for minutes stalls no tunnel.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed, else None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the fastest loop there is."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


class LoopThread:
    """A loop on a daemon thread of its own, while somebody holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def acquire(self) -> None:
        """Hold the loop: the first holder starts it."""
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._loop, self._thread = _start()

    def release(self) -> None:
        """Let go: after the last holder it stops. Not to be called on the thread itself."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        assert loop is not None and thread is not None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it; an interrupt of the wait cancels it, and nothing else."""
        assert self._loop is not None, "held by the caller"
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, concurrent.futures.CancelledError):
            future.cancel()
            raise

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have a plain function called there, soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(callback)


def _start() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    loop = (loop_factory() or asyncio.new_event_loop)()
    thread = threading.Thread(target=_serve, args=(loop,), name="llmtunnel loop", daemon=True)
    thread.start()
    return loop, thread


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


shared = LoopThread()
"""The one that `llmtunnel.serve` and `llmtunnel.proxy` use."""
