from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from ..conftest import run

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process that gets these at once")
LISTENING = re.compile(r"signal server listening on (ws://(\S+):(\d+))\n")


@contextmanager
def server(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "signal_server", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = LISTENING.fullmatch(line)
    assert found, line
    assert int(found[3]) > 0
    return found[1]


def test_it_says_where_it_listens_and_serves_there() -> None:
    with server("--listen", "127.0.0.1:0") as process:
        run(join_twice(url(process)))


async def join_twice(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(url) as first, http.ws_connect(url) as second:
            for each in (first, second):
                await each.send_str('{"type":"join","room":"room-secret"}')
                assert (await each.receive_json())["type"] == "joined"
            assert (await first.receive_json())["type"] == "peer-joined"


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order_with_their_exit_status(number: signal.Signals) -> None:
    with server("--port", "0") as process:
        assert url(process).startswith("ws://0.0.0.0:")
        process.send_signal(number)
        said, errors = process.communicate(timeout=10)
        assert (said, errors, process.returncode) == ("", "", 128 + number)


def test_a_port_in_use_is_one_clear_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with server("--listen", address) as process:
            said, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert said == ""
    reason = "it is in use by another program; choose another with --listen"
    assert errors == f"Cannot listen on {address}: {reason}.\n"


def test_an_address_that_is_not_this_machines_is_one_clear_line_and_exit_2() -> None:
    address = "192.0.2.1:0"
    with server("--listen", address) as process:
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said == ""
    assert errors == f"Cannot listen on {address}: this machine has no such address.\n"


def test_it_logs_who_comes_and_goes_to_standard_error_without_the_rooms_name() -> None:
    with server("--listen", "127.0.0.1:0", "--max-proxies", "3") as process:
        run(join_twice(url(process)))
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert "original peer joined, 2 inside" in errors
    assert "secret" not in errors


@posix
def test_a_process_on_windows_which_lacks_signal_handlers_on_loops_ends_the_same_way() -> None:
    code = (
        "import asyncio, sys\n"
        "def missing(*args): raise NotImplementedError\n"
        "asyncio.SelectorEventLoop.add_signal_handler = missing\n"
        "from signal_server.cli import main\n"
        "sys.exit(main(['--listen', '127.0.0.1:0']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        url(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
