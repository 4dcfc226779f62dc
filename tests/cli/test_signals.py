from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from llmtunnel.cli.signals import Stop

from ..conftest import run


async def answer(status: int) -> int:
    return status


def test_work_that_ends_by_itself_gives_its_own_status() -> None:
    async def main() -> int:
        return await Stop().run(answer(7))

    assert run(main()) == 7


def test_a_stop_cancels_the_work_waits_for_its_end_and_the_first_status_counts() -> None:
    closed = []

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)
        return 0

    async def main() -> int:
        stop = Stop()
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, stop.request, 130)
        loop.call_later(0.011, stop.request, 143)
        return await stop.run(work())

    assert run(main()) == 130
    assert closed == [True]


def test_what_the_work_raises_is_raised() -> None:
    async def work() -> int:
        raise ValueError("broken")

    async def main() -> int:
        return await Stop().run(work())

    with pytest.raises(ValueError, match="broken"):
        run(main())


def test_a_cancelled_caller_ends_the_work_too() -> None:
    ended = []

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)
        return 0

    async def main() -> None:
        task = asyncio.create_task(Stop().run(work()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert ended == [True]


PROGRAM = """
    import asyncio, sys
    from llmtunnel import runtime
    from llmtunnel.cli.signals import Stop, on_signals

    {prelude}

    async def work():
        print("working", flush=True)
        try:
            await asyncio.sleep(60)
        finally:
            print("closing", flush=True)
            await asyncio.sleep({closing})
            print("closed", flush=True)
        return 0

    async def main():
        stop = Stop()
        with on_signals(stop):
            return await stop.run(work())

    sys.exit({runner}(main()))
"""
WITHOUT_LOOP_SIGNALS = """
def missing(self, *args):
    raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = missing
asyncio.SelectorEventLoop.remove_signal_handler = missing
"""


def program(*, closing: float, prelude: str = "", runner: str = "runtime.run") -> subprocess.Popen[str]:
    source = textwrap.dedent(PROGRAM).format(closing=closing, prelude=prelude, runner=runner)
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


posix = pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")


@posix
@pytest.mark.parametrize("kind", ["usual", "without the loop's signal handlers"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_in_order(kind: str, number: signal.Signals, status: int) -> None:
    other = {} if kind == "usual" else {"prelude": WITHOUT_LOOP_SIGNALS, "runner": "asyncio.run"}
    with program(closing=0.05, **other) as process:
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "closing\nclosed\n"
    assert process.returncode == status


@posix
@pytest.mark.parametrize("kind", ["usual", "without the loop's signal handlers"])
def test_a_second_signal_ends_the_process_at_once(kind: str) -> None:
    other = {} if kind == "usual" else {"prelude": WITHOUT_LOOP_SIGNALS, "runner": "asyncio.run"}
    with program(closing=60, **other) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "closing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == -signal.SIGINT
