"""Event loops of ours, and the only module that uses threads.

A blocking call runs on one background loop, shared by all tunnels of the process: it starts with the first and stops
with the last, so that a notebook's cell that computes for minutes stalls no tunnel.

A process that is forked from one with tunnels has none of them (`descriptors` takes their sockets from it). Their
handles can be closed there, which does nothing, and fail otherwise.
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
"""Seconds of one wait: on Windows, Ctrl-C is heard of only between waits."""
REPEATED: Final = 60.0
"""Seconds between two lines of log that say the same of a loop."""
JOIN: Final = 10.0
"""Seconds that a loop thread has to end: a subscriber that blocks it must not block the whole process."""


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
        runner.get_loop().set_exception_handler(_Trouble())
        return runner.run(main)


class _Trouble:
    """Told by a loop of ours what goes wrong in it.

    asyncio's own tells hundreds of times a second that it cannot accept, where descriptors are used up.
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
    """What a handle whose calls block has of a loop: `call` runs a coroutine there, until `close`."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.released = False
        self.last: Callable[[], Coroutine[Any, Any, object]] | None = None
        """What `close` runs before it lets go."""

    @property
    @abstractmethod
    def stuck(self) -> bool:
        """Whether `call`, here, would block the very loop that it waits for."""

    @abstractmethod
    def begin(self, work: Coroutine[Any, Any, T]) -> Begun[T] | None:
        """Begin it there; None where the loop is held no more."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the loop, and set `released`."""

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for its end. What interrupts the wait cancels it, and nothing else.

        Raises `TunnelError` where the loop is held no more, or in a process that was forked meanwhile.
        """
        if elsewhere(self.process):
            work.close()
            raise parents_own(self.process)
        begun = self.begin(work)
        if begun is None:
            raise TunnelError("This tunnel is closed.", hint="Start a new one.")
        return begun.wait()

    def close(self) -> None:
        """Run `last` there, then let go; nothing where that is done, or in a forked process."""
        if elsewhere(self.process):
            self.released = True
            return
        try:
            if self.last is not None and (begun := self.begin(self.last())):
                begun.wait()
        finally:
            self.release()


def elsewhere(process: int) -> bool:
    """Whether this is another process than that one, from which it was forked."""
    return os.getpid() != process


def parents_own(process: int) -> TunnelError:
    """For a call on what belongs to the process that this one was forked from."""
    return TunnelError(
        f"This tunnel belongs to process {process}, from which this process ({os.getpid()}) was forked.",
        hint="Use it there, or start a new one here.",
    )


def refuse_green_threads() -> None:
    """Raise `TunnelError` where gevent or eventlet have replaced threads or queues: loops stand still then, unseen."""
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
    """Work that has begun."""

    def wait(self) -> T_co:
        """Its result, or what it raises."""


class LoopThread:
    """A loop on a daemon thread of its own, while somebody holds it."""

    def __init__(self) -> None:
        self._parents: list[_Running] = []
        """Of the processes that this one was forked from. Kept, since the end of an open loop is not silent."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._holds: set[ThreadHold] = set()
        self._running: _Running | None = None

    def forget(self) -> None:
        """In a forked process, which has neither the thread nor whoever may hold the lock: begin anew."""
        if self._running is not None:
            self._parents.append(self._running)
        self._begin()

    @property
    def current(self) -> bool:
        """Whether the caller is on this thread."""
        return self._running is not None and threading.current_thread() is self._running.thread

    def hold(self) -> ThreadHold:
        """Hold the loop: the first holder starts it. Raises `TunnelError` where no thread can be had for it."""
        refuse_green_threads()
        with self._lock:
            if self._running is None or not self._running.alive:
                self._holds.clear()
                self._running = _Running()
            hold = ThreadHold(self, self._running, self._lock)
            self._holds.add(hold)
            return hold

    def release(self, hold: ThreadHold) -> None:
        """Let go: after the last holder the thread ends. Not to be called on the thread itself."""
        with self._lock:
            self._holds.discard(hold)
            hold.released = True
            if self._holds or self._running is None:
                return
            running, self._running = self._running, None
        running.stop()

    def close(self) -> None:
        """Close every hold, as the process ends."""
        for hold in tuple(self._holds):
            hold.close()


class ThreadHold(Hold):
    """One holder's part in a `LoopThread`."""

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
        with self._lock:  # so that the loop is not stopped before the work has begun
            if self.released or not self._running.alive:
                work.close()
                return None
            return Call(self._running.loop, work)


class Call(Generic[T]):
    """A coroutine on the loop, for a thread that waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._ended = threading.Event()
        loop.call_soon_threadsafe(self._start)

    def wait(self) -> T:
        """Its result, or what it raises."""
        try:
            self._wait_ended()
        except BaseException:  # KeyboardInterrupt, or whatever a handler of the program's raises
            self._loop.call_soon_threadsafe(self._cancel)
            self._wait_ended()
            raise
        assert self._task is not None, "it has ended"
        if self._task.cancelled():
            raise TunnelError("The tunnel was closed in the meantime.")
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
        """Whether it runs: in a forked process it does not."""
        return self.thread.is_alive()

    def stop(self) -> None:
        """Cancel all that runs there, and wait for its end."""
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
    """Cancel every task but this one, and see it end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)  # `_Running.stop` waits for `JOIN` s at most
    await asyncio.get_running_loop().shutdown_asyncgens()


shared = LoopThread()
"""The one that `llmtunnel.serve` and `llmtunnel.proxy` use."""
atexit.register(shared.close)


def _end_forked() -> None:
    """Have libuv start the threads again that it lost by the fork: when the process ends it waits for theirs.

    It would crash otherwise, where uvloop has resolved a name before the fork.
    """
    loop = loop_factory()
    if loop is not None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(runner.get_loop().getaddrinfo(None, 9))  # no name, and no address that uvloop reads by itself


def _after_fork() -> None:
    shared.forget()
    if "uvloop" in sys.modules:
        atexit.register(_end_forked)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
