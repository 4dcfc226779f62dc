"""llmtunnel's event loops. This is the only module that uses threads.

Blocking calls run on one background loop, which all tunnels of the process share. It starts with the first tunnel and
stops with the last one. So a notebook's cell that computes for minutes does not stall a tunnel.

A forked process does not inherit tunnels (`descriptors` takes their sockets away). There, their handles can be closed,
which does nothing, and any other call fails.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, Protocol, TypeVar

from . import descriptors
from .errors import TunnelError

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

INTERRUPTIBLE: Final = 0.5
"""Maximum length of one wait, in seconds: on Windows, Ctrl-C only takes effect between waits."""
REPEATED: Final = 60.0
"""Minimum time between two equal log lines about a loop, in seconds."""
JOIN: Final = 10.0
"""Maximum time for a loop thread to end, in seconds. A subscriber that blocks it must not block the whole process."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory if it is installed, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `asyncio.run` on the fastest available loop."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.get_loop().set_exception_handler(_Trouble())
        return runner.run(main)


class _Trouble:
    """Exception handler of our loops, which limits the rate of some log lines.

    If descriptors are used up, asyncio's own handler logs hundreds of times per second that it cannot accept.
    """

    def __init__(self) -> None:
        self._told = -REPEATED

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        none_left = descriptors.shortage(exc) if isinstance(exc, OSError) else ""
        if not none_left:
            loop.default_exception_handler(context)
        elif loop.time() - self._told >= REPEATED:
            self._told = loop.time()
            logger.error("Cannot accept connections: %s. %s", none_left, descriptors.RAISE_IT)


class Hold(ABC):
    """A blocking handle's share of a loop: `call` runs a coroutine there, until `close`."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.released = False
        self.last: Callable[[], Coroutine[Any, Any, object]] | None = None
        """Coroutine function that `close` runs before it releases the loop."""

    @property
    @abstractmethod
    def stuck(self) -> bool:
        """Whether `call` from here would block the very loop that it waits for."""

    @abstractmethod
    def begin(self, work: Coroutine[Any, Any, T]) -> Begun[T] | None:
        """Start the coroutine on the loop; return None if the loop has been released."""

    @abstractmethod
    def release(self) -> None:
        """Release the loop, and set `released`."""

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it. An interrupt of the wait cancels the coroutine, and only that.

        Raises `TunnelError` if the loop has been released, or in a forked process.
        """
        if elsewhere(self.process):
            work.close()
            raise parents_own(self.process)
        begun = self.begin(work)
        if begun is None:
            raise TunnelError("This tunnel is closed.", hint="Start a new one.")
        return begun.wait()

    def close(self) -> None:
        """Run `last` on the loop, then release it. Does nothing if that is done, or in a forked process."""
        if elsewhere(self.process):
            self.released = True
            return
        try:
            if self.last is not None and (begun := self.begin(self.last())):
                begun.wait()
        finally:
            self.release()


def elsewhere(process: int) -> bool:
    """Whether this process was forked from that one."""
    return os.getpid() != process


def parents_own(process: int) -> TunnelError:
    """Return the error for a call in a forked process on something that belongs to its parent."""
    return TunnelError(
        f"This tunnel belongs to process {process}, from which this process ({os.getpid()}) was forked.",
        hint="Use it there, or start a new one here.",
    )


def refuse_green_threads() -> None:
    """Raise `TunnelError` if gevent or eventlet have replaced threads or queues, since a loop would hang silently."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and any(map(gevent.is_module_patched, ("threading", "_thread", "queue"))):
        by, harmless = "gevent.monkey", "gevent.monkey.patch_socket()"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        by, harmless = "eventlet", "eventlet.monkey_patch(all=False, socket=True)"
    else:
        return
    raise TunnelError(
        f"{by} has replaced the threads of this process, so a tunnel would hang.",
        hint=f"Run it in a process of its own, as `llmtunnel proxy CODE` does, or patch no more than {harmless}.",
    )


class Begun(Protocol[T_co]):
    """Work that has started."""

    def wait(self) -> T_co:
        """Return its result, or raise its exception."""


class LoopThread:
    """An event loop on a daemon thread of its own, which runs while somebody holds it."""

    def __init__(self) -> None:
        self._parents: list[_Running] = []
        """Loops of the processes that this one was forked from. Kept, since the deletion of an open loop warns."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._holds: set[ThreadHold] = set()
        self._running: _Running | None = None

    def forget(self) -> None:
        """Start anew in a forked process, which has neither the thread nor the owner of the lock."""
        if self._running is not None:
            self._parents.append(self._running)
        self._begin()

    @property
    def current(self) -> bool:
        """Whether the caller runs on this thread."""
        return self._running is not None and threading.current_thread() is self._running.thread

    def hold(self) -> ThreadHold:
        """Hold the loop. The first holder starts it. Raises `TunnelError` if threads were replaced."""
        refuse_green_threads()
        with self._lock:
            if self._running is None or not self._running.alive:
                self._holds.clear()
                self._running = _Running()
            hold = ThreadHold(self, self._running, self._lock)
            self._holds.add(hold)
            return hold

    def release(self, hold: ThreadHold) -> None:
        """Release the loop. After the last holder, the thread ends. Must not be called on the thread itself."""
        with self._lock:
            self._holds.discard(hold)
            hold.released = True
            if self._holds or self._running is None:
                return
            running, self._running = self._running, None
        running.stop()

    def close(self) -> None:
        """Close every hold when the process ends."""
        for hold in tuple(self._holds):
            hold.close()


class ThreadHold(Hold):
    """One holder's share of a `LoopThread`."""

    def __init__(self, thread: LoopThread, running: _Running, lock: threading.Lock) -> None:
        super().__init__()
        self._thread = thread
        self._running = running
        self._lock = lock

    @property
    def stuck(self) -> bool:
        """See `Hold.stuck`."""
        return threading.current_thread() is self._running.thread

    def release(self) -> None:
        """See `Hold.release`."""
        self._thread.release(self)

    def begin(self, work: Coroutine[Any, Any, T]) -> Call[T] | None:
        """See `Hold.begin`."""
        with self._lock:  # so that the loop cannot stop before the work has started
            if self.released or not self._running.alive:
                work.close()
                return None
            return Call(self._running.loop, work)


class Call(Generic[T]):
    """A coroutine on the loop, and a thread that waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._ended = threading.Event()
        loop.call_soon_threadsafe(self._start)

    def wait(self) -> T:
        """Return its result, or raise its exception."""
        try:
            self._wait_ended()
        except BaseException:  # KeyboardInterrupt, or an exception of the program's signal handler
            self._loop.call_soon_threadsafe(self._cancel)
            self._wait_ended()
            raise
        assert self._task is not None, "it has ended"
        if self._task.cancelled():
            raise TunnelError("The tunnel was closed during the call.")
        return self._task.result()

    def _wait_ended(self) -> None:
        while not self._ended.wait(INTERRUPTIBLE):
            pass

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work, name="llmtunnel call")
        self._task.add_done_callback(lambda _: self._ended.set())

    def _cancel(self) -> None:
        assert self._task is not None, "it has started"
        self._task.cancel()


class _Running:
    """A loop, and the thread that runs it."""

    def __init__(self) -> None:
        self.loop = (loop_factory() or asyncio.new_event_loop)()
        self.loop.set_exception_handler(_Trouble())
        self.thread = threading.Thread(target=self._run, name="llmtunnel loop", daemon=True)
        self.thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs. In a forked process it does not."""
        return self.thread.is_alive()

    def stop(self) -> None:
        """Cancel everything that runs on the loop, and wait for its end."""
        if self.alive:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(JOIN)

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_end_all())
            self.loop.close()


async def _end_all() -> None:
    """Cancel every other task, and wait for its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)  # `_Running.stop` waits at most `JOIN` seconds
    await asyncio.get_running_loop().shutdown_asyncgens()


shared = LoopThread()
"""The loop thread that `llmtunnel.serve` and `llmtunnel.proxy` use."""
atexit.register(shared.close)


def _end_forked() -> None:
    """Make libuv restart the threads that the fork lost, since it waits for its threads when the process ends.

    Otherwise it would crash if uvloop has resolved a name before the fork.
    """
    loop = loop_factory()
    if loop is not None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(runner.get_loop().getaddrinfo(None, 9))  # without a name or address that uvloop parses itself


def _after_fork() -> None:
    shared.forget()
    if "uvloop" in sys.modules:
        atexit.register(_end_forked)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
