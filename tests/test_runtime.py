from __future__ import annotations

import _thread
import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from llmtunnel import runtime
from llmtunnel.errors import TunnelError
from llmtunnel.runtime import LoopThread

from .support.processes import environment

NAME = "llmtunnel loop"


@pytest.fixture(params=["installed", "absent"])
def uvloop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tests hold with uvloop and without it."""
    if request.param == "absent":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    else:
        pytest.importorskip("uvloop", reason="there is none for this system")
    return str(request.param)


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.close()
    assert not running()


def running() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == NAME]


async def loop_module() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


async def current(thread: LoopThread) -> bool:
    return thread.current


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)
        ended.append("in order")


def interrupt_soon(seconds: float = 0.2) -> threading.Timer:
    timer = threading.Timer(seconds, _thread.interrupt_main)
    timer.start()
    return timer


def test_loops_of_ours_are_uvloops_where_it_is_installed(uvloop: str, thread: LoopThread) -> None:
    expected = "uvloop" if uvloop == "installed" else "asyncio"
    hold = thread.hold()
    assert hold.call(loop_module()) == expected
    hold.close()
    assert runtime.run(loop_module()) == expected


def test_run_passes_exceptions_through() -> None:
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        runtime.run(fails())


@pytest.mark.usefixtures("uvloop")
def test_the_thread_is_there_from_the_first_hold_to_the_last(thread: LoopThread) -> None:
    assert not running()
    first, second = thread.hold(), thread.hold()
    [alive] = running()
    assert alive.daemon
    first.close()
    first.close()
    assert running() == [alive]
    assert second.call(current(thread))
    assert not thread.current
    second.close()
    assert not running()
    third = thread.hold()
    assert running() != [alive]
    third.close()


def test_results_and_exceptions_pass_through(thread: LoopThread) -> None:
    async def fails(error: BaseException) -> None:
        raise error

    async def gives() -> list[int]:
        return [1]

    hold = thread.hold()
    assert hold.call(gives()) == [1]
    for error in (TunnelError("no"), TimeoutError("late"), ValueError("odd")):
        with pytest.raises(type(error)) as caught:
            hold.call(fails(error))
        assert caught.value is error
    assert hold.call(gives()) == [1]


def test_two_threads_call_at_once(thread: LoopThread) -> None:
    hold, meeting, met = thread.hold(), asyncio.Event(), []

    async def first() -> None:
        await meeting.wait()
        met.append("first")

    async def second() -> None:
        meeting.set()

    other = threading.Thread(target=lambda: hold.call(first()))
    other.start()
    hold.call(second())
    other.join(10)
    assert met == ["first"]


@pytest.mark.usefixtures("uvloop")
def test_an_interrupt_cancels_what_was_waited_for_and_nothing_else_and_waits_for_its_end(thread: LoopThread) -> None:
    hold = thread.hold()
    ended: list[str] = []
    others: list[str] = []

    async def start_another() -> asyncio.Task[None]:
        return asyncio.create_task(forever(others))

    another = hold.call(start_another())
    timer = interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        hold.call(forever(ended))
    timer.join()
    assert ended == ["in order"]
    assert not another.done()
    hold.close()
    assert others == ["in order"], "the last to let go sees all end"


def test_after_the_last_hold_nothing_can_be_called(thread: LoopThread) -> None:
    hold = thread.hold()
    hold.close()
    with pytest.raises(TunnelError, match="closed"):
        hold.call(asyncio.sleep(0))


def test_closing_runs_the_last_work_once_whoever_closes(thread: LoopThread) -> None:
    hold, done = thread.hold(), []

    async def last() -> None:
        await asyncio.sleep(0.05)
        done.append("closed")

    hold.last = last
    other = threading.Thread(target=hold.close)
    other.start()
    other.join(10)
    hold.close()
    assert done == ["closed"]
    assert hold.released


def test_last_work_that_fails_lets_go_all_the_same(thread: LoopThread) -> None:
    hold = thread.hold()

    async def fails() -> None:
        raise ValueError("odd")

    hold.last = fails
    with pytest.raises(ValueError, match="odd"):
        hold.close()
    assert not running()


def test_who_waits_while_the_loop_ends_is_told(thread: LoopThread) -> None:
    hold, told = thread.hold(), []

    def wait() -> None:
        try:
            hold.call(asyncio.Event().wait())
        except TunnelError as exc:
            told.append(str(exc))

    other = threading.Thread(target=wait)
    other.start()
    time.sleep(0.1)
    hold.close()
    other.join(10)
    assert told == ["The tunnel was closed during the call."]


def test_holding_and_letting_go_from_many_threads_at_once_ends_with_none(thread: LoopThread) -> None:
    failed: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(20):
                hold = thread.hold()
                assert hold.call(asyncio.sleep(0, "x")) == "x"
                hold.close()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert not failed
    assert not running()


def test_a_thread_that_died_is_replaced(thread: LoopThread) -> None:
    """As in a forked process, which has the object and not the thread."""
    hold = thread.hold()
    running = thread._running
    assert running is not None
    running.loop.call_soon_threadsafe(running.loop.stop)
    running.thread.join(10)
    with pytest.raises(TunnelError, match="closed"):
        hold.call(asyncio.sleep(0))
    hold.close()
    again = thread.hold()
    assert again.call(asyncio.sleep(0, "x")) == "x"


PATCHED = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "gevent's threads": "import gevent.monkey; gevent.monkey.patch_thread()",
    "gevent's queues": "import gevent.monkey; gevent.monkey.patch_queue()",
    "gevent without threads": "import gevent.monkey; gevent.monkey.patch_all(thread=False)",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "eventlet's threads": "import eventlet; eventlet.monkey_patch(all=False, thread=True)",
}
CALLS = {
    "blocking": "llmtunnel.proxy(room='r')",
    "diagnosis": "llmtunnel.sync.diagnose(None, upstream=None, address='')",
    "on asyncio's loop": "asyncio.run(opened())",
    "on the fastest loop": "runtime.run(opened())",
    "started": "runtime.run(started())",
}
PROGRAM = """
    import asyncio, llmtunnel, llmtunnel.aio, llmtunnel.sync
    from llmtunnel import runtime
    from llmtunnel.config import ProxySettings

    async def opened():
        await llmtunnel.aio.serve(room="r")

    async def started():
        await llmtunnel.aio.Proxy(ProxySettings(room="r")).start()

    try:
        {call}
    except llmtunnel.TunnelError as exc:
        print(exc.message, exc.hint)
"""


@pytest.mark.parametrize(
    ("by", "call"),
    [
        *((by, call) for by in PATCHED for call in ("blocking", "on asyncio's loop")),
        *(("gevent", call) for call in ("diagnosis", "on the fastest loop", "started")),
    ],
)
def test_a_process_whose_threads_are_replaced_gets_an_error(by: str, call: str) -> None:
    pytest.importorskip(by.partition("'")[0].partition(" ")[0])
    program = PATCHED[by] + textwrap.dedent(PROGRAM).format(call=CALLS[call])
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment({}), timeout=30, check=False, capture_output=True, text=True
    )
    assert "has replaced the threads of this process, so a tunnel would hang." in done.stdout, done.stderr


@pytest.mark.parametrize(
    "patch",
    [
        "import gevent.monkey; gevent.monkey.patch_socket(); gevent.monkey.patch_select()",
        "import eventlet; eventlet.monkey_patch(all=False, socket=True)",
        "import gevent.monkey, eventlet",
    ],
)
def test_a_process_with_threads_of_its_own_is_let_in(patch: str) -> None:
    pytest.importorskip("gevent")
    pytest.importorskip("eventlet")
    program = f"{patch}\nfrom llmtunnel import runtime; runtime.refuse_green_threads()"
    subprocess.run([sys.executable, "-c", program], env=environment({}), timeout=30, check=True)
