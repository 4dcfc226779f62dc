"""Standard input, output and error that are closed, full, or read by nobody: what each command does then."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmtunnel.cli.commands import LOOKING

from ..support.processes import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a shell that closes descriptors, and /proc")

FULL_DISK = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL_DISK.exists(), reason="a device that only Linux has")

MEETING = ("--room", "r", "--secret", "a long secret", "--signal", "ws://127.0.0.1:9", "--stun", "none")
CODE = re.compile(r"\d{7}(-[a-z]+){5}")
ENDING = {
    "help": ("--help",),
    "help of a command": ("proxy", "--help"),
    "help of the signal server": ("signal", "--help"),
    "version": ("--version",),
    "invite": ("invite",),
    "invite in JSON": ("invite", "--json"),
    "doctor": ("doctor", "--signal", "ws://127.0.0.1:9", "--stun", "none", "--listen", "127.0.0.1:0"),
    "doctor in JSON": ("doctor", "--json", "--signal", "ws://127.0.0.1:9", "--stun", "none", "--listen", "127.0.0.1:0"),
}
"""Commands that end by themselves, and whose output is what they are for."""
RUNNING = {
    "serve": ("serve", "http://127.0.0.1:9", *MEETING),
    "proxy": ("proxy", "--listen", "127.0.0.1:0", *MEETING),
    "toy": ("toy", "--listen", "127.0.0.1:0"),
    "signal": ("signal", "--listen", "127.0.0.1:0"),
}
"""Commands that run until they are stopped, whether anybody reads what they say or not."""
WRONG = ("proxy", "--room", "r", "--listen", "nowhere:x")


def shell(redirections: str, arguments: tuple[str, ...], *, module: str = "llmtunnel") -> subprocess.Popen[str]:
    """A command with redirections as a shell does them."""
    command = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment({}),
    )


def ended(redirections: str, arguments: tuple[str, ...], **options: str) -> tuple[int, str, str]:
    with shell(redirections, arguments, **options) as process:
        said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained


CLOSED = ["".join(each) for each in itertools.product(("", "<&- "), ("", ">&- "), ("", "2>&-"))]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("command", ["help", "invite", "help of the signal server", "doctor in JSON"])
def test_a_command_whose_output_matters_fails_where_it_is_closed_and_works_otherwise(command: str, closed: str) -> None:
    status, said, complained = ended(closed, ENDING[command])
    assert "Traceback" not in complained
    if ">&- " in closed:
        assert (status, said) == (1, "")
        assert "2>&-" in closed or complained.startswith("error: Cannot write to standard output:")
    else:
        assert (status in (0, 1) if "doctor" in command else status == 0, bool(said), complained) == (True, True, "")


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("command", RUNNING)
def test_a_command_that_runs_on_does_so_with_closed_streams(command: str, closed: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with shell(closed, RUNNING[command]) as process:
        wait_until_it_runs(process.pid)
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=30)
    assert process.returncode == 143, (said, complained, log)
    assert "Traceback" not in said + complained


@pytest.mark.parametrize("closed", CLOSED)
def test_a_mistake_has_its_status_with_closed_streams(closed: str) -> None:
    status, said, complained = ended(closed, WRONG)
    assert (status, said) == (2, "")
    assert bool(complained) is ("2>&-" not in closed)


@pytest.mark.parametrize("closed", CLOSED)
def test_the_signal_server_alone_runs_with_closed_streams_too(closed: str) -> None:
    with shell(closed, ("--port", "0"), module="signal_server") as process:
        wait_until_it_runs(process.pid)
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.communicate(timeout=30)[1]
    assert process.returncode == 143


def test_a_code_that_is_read_from_a_closed_standard_input_is_missing() -> None:
    status, _, complained = ended("<&-", ("proxy", "-"))
    assert status == 2
    assert complained.startswith("error: Standard input is empty, and '-' reads the code from it.")


def test_a_new_code_that_nobody_gets_ends_serve_at_once() -> None:
    status, said, complained = with_signal_server(">&-")
    assert (status, said) == (1, "")
    assert complained.startswith("error: Cannot write to standard output: it is closed.")


@needs_full
@pytest.mark.parametrize("command", ENDING)
def test_output_that_matters_and_does_not_fit_is_an_error(command: str) -> None:
    status, said, complained = ended("> /dev/full", ENDING[command])
    assert (status, said) == (1, "")
    assert complained.startswith("error: Cannot write to standard output: No space left on device.")
    assert "Exception ignored" not in complained


@needs_full
@pytest.mark.parametrize("command", ["serve", "proxy", "toy", "demo"])
def test_json_that_does_not_fit_ends_the_command(command: str) -> None:
    arguments = RUNNING.get(command, (command,))
    status, _, complained = ended("> /dev/full", (*arguments, "--json"))
    assert (status, complained.splitlines()[0]) == (
        1,
        "error: Cannot write to standard output: No space left on device.",
    )


@needs_full
@pytest.mark.parametrize("command", RUNNING)
def test_sentences_that_do_not_fit_end_nothing(command: str) -> None:
    with shell("> /dev/full", RUNNING[command]) as process:
        wait_until_it_runs(process.pid)
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=30)
    assert (process.returncode, said, "Traceback" in complained) == (143, "", False)


@needs_full
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_new_code_that_does_not_fit_ends_serve(flags: tuple[str, ...]) -> None:
    status, _, complained = with_signal_server("> /dev/full", *flags)
    assert status == 1
    assert complained.startswith("error: Cannot write to standard output: No space left on device.")
    assert not CODE.search(complained)


@needs_full
@pytest.mark.parametrize("arguments", [WRONG, ("signal", "--bogus"), ("bogus",)])
def test_a_complaint_that_does_not_fit_changes_no_status(arguments: tuple[str, ...]) -> None:
    assert ended("2> /dev/full", arguments) == (2, "", "")


@pytest.mark.parametrize(
    ("command", "status"), [("invite", 141), ("invite in JSON", 141), ("help", 0), ("doctor", 141)]
)
def test_a_reader_that_has_left_is_told_by_the_status(command: str, status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "llmtunnel", *ENDING[command]]
    done = subprocess.run(
        arguments, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False, env=environment({})
    )
    os.close(writer)
    # A machine that takes its time is told what a doctor does.
    assert (done.returncode, done.stderr.replace(LOOKING.encode(), b"")) == (status, b"")


def with_signal_server(redirections: str, *flags: str) -> tuple[int, str, str]:
    """A serve that makes a code, and a signal server for it."""
    server = [sys.executable, "-m", "signal_server", "--port", "0"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as signals:
        assert signals.stdout is not None
        url = signals.stdout.readline().split()[-1].replace("0.0.0.0", "127.0.0.1")
        try:
            return ended(redirections, ("serve", "http://127.0.0.1:9", "--signal", url, "--stun", "none", *flags))
        finally:
            signals.terminate()


def wait_until_it_runs(pid: int) -> None:
    """Until the process catches SIGTERM: it says nothing that could be waited for."""
    caught = 1 << (signal.SIGTERM - 1)
    while True:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        found = re.search(r"SigCgt:\t([0-9a-f]+)", status)
        assert found is not None, "it has ended"
        if int(found[1], 16) & caught:
            return
