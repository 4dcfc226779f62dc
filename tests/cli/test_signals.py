from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from llmtunnel.cli.signals import Stop

from ..support.processes import environment


async def answer(status: int) -> int:
    return status


async def test_work_that_ends_by_itself_gives_its_own_status() -> None:
    assert await Stop().run(answer(7)) == 7


async def test_a_stop_cancels_the_work_waits_for_its_end_and_the_first_status_counts() -> None:
    closed = []

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)
        return 0

    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, stop.request, 130)
    loop.call_later(0.011, stop.request, 143)
    assert await stop.run(work()) == 130
    assert closed == [True]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await Stop().run(work())


async def test_a_cancelled_caller_ends_the_work_too() -> None:
    ended = []

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)
        return 0

    task = asyncio.create_task(Stop().run(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


PROGRAM = """
    import asyncio, sys
    from llmtunnel import runtime
    from llmtunnel.cli.signals import Stop, on_signals

    {prelude}

    if "ignored" in sys.argv:
        import signal
        for name in sys.argv[2:]:
            assert signal.getsignal(getattr(signal, name)) is signal.SIG_IGN, "inherited"

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


NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def program(
    *, closing: float, prelude: str = "", runner: str = "runtime.run", ignored: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """A process that works until a signal ends it, started with some signals ignored, as a shell or nohup does it."""
    source = textwrap.dedent(PROGRAM).format(closing=closing, prelude=prelude, runner=runner)
    traps = "".join(f"trap '' {name.removeprefix('SIG')}; " for name in ignored)
    arguments = [sys.executable, "-c", source, "ignored", *ignored]
    if os.name == "posix":
        arguments = ["/bin/sh", "-c", f'{traps}exec "$@"', "sh", *arguments]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


posix = pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")


@posix
@pytest.mark.parametrize("kind", ["usual", "without the loop's signal handlers"])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_closes_in_order(kind: str, name: str, status: int) -> None:
    number = getattr(signal, name)
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


@posix
@pytest.mark.parametrize("kind", ["usual", "without the loop's signal handlers"])
@pytest.mark.parametrize("ignored", NAMES)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(kind: str, ignored: str) -> None:
    other = {} if kind == "usual" else {"prelude": WITHOUT_LOOP_SIGNALS, "runner": "asyncio.run"}
    last = next(name for name in NAMES if name != ignored)
    with program(closing=0, ignored=(ignored,), **other) as process:
        process.send_signal(getattr(signal, ignored))
        process.send_signal(getattr(signal, last))
        assert process.communicate(timeout=20)[0] == "closing\nclosed\n"
    assert process.returncode == 128 + getattr(signal, last)


@posix
def test_a_terminal_that_closes_may_say_so_twice() -> None:
    with program(closing=0.5) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert process.stdout.readline() == "closing\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=20)[0] == "closed\n"
    assert process.returncode == 129


MEETING = ("--room", "r", "--secret", "a long secret", "--signal", "ws://127.0.0.1:9", "--stun", "none")
COMMANDS = {
    "serve": ("serve", "http://127.0.0.1:9", *MEETING),
    "proxy": ("proxy", "--listen", "127.0.0.1:0", *MEETING),
    "toy": ("toy", "--listen", "127.0.0.1:0"),
    "demo": ("demo", "--stay"),
    "signal": ("signal", "--listen", "127.0.0.1:0"),
}
BEGUN = {
    "serve": "serving|signal",
    "proxy": "listen",
    "toy": "toy model server",
    "demo": "serve and",
    "signal": "listening",
}


@posix
@pytest.mark.parametrize("ignored", [None, "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_in_order_and_heeds_what_was_ignored(command: str, ignored: str | None) -> None:
    arguments = [sys.executable, "-m", "llmtunnel", *COMMANDS[command]]
    trap = f"trap '' {ignored.removeprefix('SIG')}; " if ignored else ""
    shell = ["/bin/sh", "-c", f'{trap}exec "$@"', "sh", *arguments]
    with subprocess.Popen(
        shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment({})
    ) as process:
        assert process.stdout is not None
        while not re.search(BEGUN[command], line := process.stdout.readline()):
            assert line, "it has ended"
        if ignored:
            process.send_signal(getattr(signal, ignored))
        last = signal.SIGTERM if ignored else signal.SIGHUP
        process.send_signal(last)
        said = process.communicate(timeout=30)[0]
    assert (process.returncode, "Traceback" in said) == (128 + last, False), said


ON_ITS_TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); from llmtunnel.cli import main; sys.exit(main())"
)


@posix
@pytest.mark.parametrize("command", ["proxy", "toy"])
def test_a_terminal_that_closes_ends_the_command_in_order(command: str) -> None:
    """With the view on it (proxy), and without."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ON_ITS_TERMINAL, *COMMANDS[command]],
        env=environment({"TERM": "xterm"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        while not re.search(rb"Ctrl-C: leave|toy model server on .*\n", seen):
            seen += os.read(ours, 10_000)
        os.close(ours)
        assert process.wait(30) == 129
