"""How tests meet asyncio: an ``async def`` test runs on a fresh loop, by `run`, and must leave nothing behind.

``@pytest.mark.within(10)`` bounds such a test to 10 s. ``@pytest.mark.usefixtures("on_each_loop")`` runs it on
asyncio's loop and on uvloop's; ``usefixtures("in_virtual_time")`` runs it on a loop whose waits cost nothing, for
tests of time that need no socket. A blocking test calls `run` itself: where only one step of it needs a loop, or where
each example of hypothesis needs a fresh one.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import functools
import gc
import inspect
import logging
import selectors
import signal
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any, TypeVar

import aioice
import pytest
from hypothesis import HealthCheck, settings

# A shared or slow machine must not fail a property that holds.
settings.register_profile("llmtunnel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("llmtunnel")

try:
    from uvloop import new_event_loop as uvloop
except ImportError:  # Windows
    LOOPS = [asyncio.new_event_loop]
else:
    LOOPS = [asyncio.new_event_loop, uvloop]

# In the background of a shell, or under nohup, the processes that the tests start and signal would ignore the signal.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGTERM", signal.SIG_DFL), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), usual)


def _close_what_asyncio_forgets(transport: Any) -> None:
    """Some versions of asyncio leave a connection open if its server closes while accepting it
    (https://github.com/python/cpython/issues/109564). A later, unrelated test would fail when it is collected.
    """
    begin = transport.__init__

    @functools.wraps(begin)
    def begin_or_close(self: Any, loop: Any, sock: Any, *arguments: Any, **named: Any) -> None:
        try:
            begin(self, loop, sock, *arguments, **named)
        except AssertionError:  # raised by Server._attach: the server is closed
            self._sock = None
            sock.close()
            raise

    transport.__init__ = begin_or_close


_close_what_asyncio_forgets(asyncio.selector_events._SelectorTransport)

T = TypeVar("T")
LONGEST = 60.0  # for one loop of a test, in seconds: below pytest's own timeout, which cannot say what was awaited


FIRST = "lab"
"""Group of the tests that take longest, and mostly wait."""
HEAVY = ("tests/web/", "tests/e2e/", "tests/notebooks/")
"""How the names of groups begin whose tests start programs, such as browsers, which make a machine busy."""


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest. By itself, xdist begins with the groups of many tests, which are the quickest ones."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """If several processes share the tests (``-n 2 --dist loadgroup``), one process runs all tests of a module.

    Heavy groups and others begin by turns, so that the machine is never busier than it must be. The heavy ones are done
    first: at the end, no process waits for another.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    if hasattr(config, "workerinput"):
        groups = list(dict.fromkeys(map(_group, items)))
        heavy = [each for each in groups if each.startswith(HEAVY)]
        others = [each for each in groups if each != FIRST and not each.startswith(HEAVY)]
        place = {each: number / len(heavy) * 0.8 for number, each in enumerate(heavy)}
        place |= {each: number / len(others) for number, each in enumerate(others)}
        items.sort(key=lambda item: place.get(_group(item), -1.0))


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


def pytest_collection_finish() -> None:
    """What is loaded by now stays: tests that look for what is left behind need not go through it each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have pytest call an ``async def`` test as a blocking one that `run` runs."""
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test):
        fixtures = pyfuncitem.funcargs
        on_loop = fixtures.get("on_each_loop") or fixtures.get("in_virtual_time") or run
        within = pyfuncitem.get_closest_marker("within")
        timeout = within.args[0] if within else LONGEST
        pyfuncitem.obj = lambda **arguments: on_loop(test(**arguments), timeout=timeout)
    return (yield)


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """A command that a test has run in this process leaves its log level to no other test."""
    loggers = [logging.getLogger(name) for name in ("llmtunnel", "signal_server", "aiortc", "aioice")]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


def run(
    main: Coroutine[Any, Any, T],
    *,
    timeout: float = LONGEST,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run ``main`` on a fresh loop; fails where it leaves a task or thread behind, or needs over ``timeout`` s."""
    threads = set(threading.enumerate())
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        result = runner.run(_alone(main, timeout))
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    assert not left, f"threads left behind: {left}"
    return result


async def _alone(main: Coroutine[Any, Any, T], timeout: float) -> T:
    async with asyncio.timeout(timeout):
        result = await main
    for _ in range(3):  # a task that was just cancelled, or a transport just closed, ends in the next rounds
        await asyncio.sleep(0)
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left behind: {left}"
    return result


async def raised(call: Callable[[], Coroutine[Any, Any, object]], times: int = 5) -> list[Exception]:
    """What a call that fails for one kept reason raises each time: the tracebacks must not grow."""
    errors: list[Exception] = []
    for _ in range(times):
        try:
            await call()
        except Exception as exc:
            errors.append(exc)
    assert len({id(error) for error in errors}) == times, "one exception is raised again and again"
    assert len({len([*traceback.walk_tb(error.__traceback__)]) for error in errors}) == 1, "tracebacks grow"
    return errors


@pytest.fixture
def an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain aiortc peer has none on a machine with nothing but the loopback."""
    if not aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True):
        monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: ["127.0.0.1"])


@pytest.fixture(name="run")
def run_fixture() -> Callable[..., Any]:
    """`run`, for tests that rather take it as an argument."""
    return run


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__module__)
def on_each_loop(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`run` on asyncio's loop and on uvloop's: their sockets differ in what they forgive."""
    return partial(run, loop_factory=request.param)


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop that never waits: where nothing is ready, its clock moves on to the next timer at once.

    So a test of time takes none, does not depend on the machine's speed, and a wait for what never comes fails at once.
    Only for tests within one process and thread, and without sockets: the clock would run ahead of the network.
    """

    now = 1000.0

    def __init__(self) -> None:
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self._loop.now += timeout + 1e-9  # rounded sums of times must not fall short of a timer's time
        return ready


@pytest.fixture
def in_virtual_time() -> Callable[..., Any]:
    """`run` on a `VirtualTime`."""
    return partial(run, loop_factory=VirtualTime)
