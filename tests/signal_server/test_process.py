from __future__ import annotations

import asyncio
import json
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from signal_server.limits import Limits

from ..conftest import run
from ..support.signal_clients import HANDSHAKE, masked

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process that gets these at once")
LISTENING = re.compile(r"signal server listening on (ws://(\S+):(\d+))\n")


@contextmanager
def server(
    *flags: str, files: str = "", run: Sequence[str] = ("-m", "signal_server")
) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, killed at the end if it still runs; ``files``: arguments of ulimit."""
    command = [sys.executable, *run, *flags]
    if files:
        command = ["sh", "-c", f'ulimit {files} && exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command,
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


async def member_until_told(url: str, joined: Callable[[], None]) -> int | None:
    """Join, call ``joined``, and return the code with which the server closes."""
    async with aiohttp.ClientSession() as http, http.ws_connect(url) as peer:
        await peer.send_str('{"type":"join","room":"R","role":"serve"}')
        assert (await peer.receive_json())["type"] == "joined"
        joined()
        async with asyncio.timeout(20):
            await peer.receive()
        return peer.close_code


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_it_and_it_ends_when_the_last_member_has_gone(number: signal.Signals) -> None:
    with server("--listen", "127.0.0.1:0", "--drain", "3600") as process:
        there = url(process)
        assert asyncio.run(member_until_told(there, lambda: process.send_signal(number))) == 1012
        _, errors = process.communicate(timeout=20)
    assert "Draining: 1 members are asked to join again, 0 pipes go on for up to 3600 s" in errors
    assert process.returncode == 128 + number


@posix
def test_a_second_signal_ends_the_drain() -> None:
    async def main(there: str) -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(there, autoclose=False) as peer:
            await peer.send_str('{"type":"join","room":"R","role":"serve"}')
            await peer.receive_json()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                while (await refusal(http, there)) != "draining":
                    pass
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 143

    code = (
        "import sys\nfrom signal_server import server\nserver.NOTICE = 3600\n"
        "from signal_server.cli import main\nsys.exit(main(['--listen', '127.0.0.1:0', '--drain', '36000']))"
    )
    with server(run=("-c", code)) as process:
        asyncio.run(main(url(process)))


async def refusal(http: aiohttp.ClientSession, there: str) -> str:
    """The code with which a join is refused; empty if it is not."""
    async with http.ws_connect(there) as peer:
        await peer.send_str('{"type":"join","room":"S","role":"serve"}')
        return str((await peer.receive_json()).get("code", ""))


@posix
def test_with_a_drain_of_0_it_ends_at_once() -> None:
    with server("--listen", "127.0.0.1:0", "--drain", "0") as process:
        there = url(process)
        assert asyncio.run(member_until_told(there, process.terminate)) == aiohttp.WSCloseCode.GOING_AWAY
        _, errors = process.communicate(timeout=20)
    assert "Draining" not in errors
    assert process.returncode == 143


def test_metrics_are_answered_where_the_flag_says_and_logs_are_json() -> None:
    with ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        stack.close()
        flags = ("--metrics-listen", f"127.0.0.1:{port}", "--log-format", "json")
        process = stack.enter_context(server("--listen", "127.0.0.1:0", *flags))
        run(join_twice(url(process)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            assert b"llmtunnel_signal_joins_total 2.0" in response.read()
        process.terminate()
        _, errors = process.communicate(timeout=10)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["message"].partition(": ")[2] for line in lines[:2]] == [
        "original peer joined, 1 inside",
        "original peer joined, 2 inside",
    ]


def test_a_port_of_metrics_in_use_is_one_clear_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with server("--listen", "127.0.0.1:0", "--metrics-listen", address) as process:
            said, errors = process.communicate(timeout=10)
    reason = "it is in use by another program; choose another with --metrics-listen"
    assert (said, errors, process.returncode) == ("", f"Cannot listen on {address}: {reason}.\n", 2)


def test_metrics_without_their_package_are_one_clear_line_and_exit_2() -> None:
    code = (
        "import sys, importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'prometheus_client' else found(name)\n"
        "from signal_server.cli import main\n"
        "sys.exit(main(['--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0']))"
    )
    with server(run=("-c", code)) as process:
        said, errors = process.communicate(timeout=10)
    assert (said, process.returncode) == ("", 2)
    assert errors.startswith("--metrics-listen needs the package prometheus-client.")
    assert "llmtunnel[metrics]" in errors and errors.count("\n") == 1


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


def crowd(stack: ExitStack, url: str, count: int, said: bytes = b"") -> list[socket.socket]:
    """So many connections that say this and no more."""
    host, _, port = url.removeprefix("ws://").rpartition(":")
    sockets = []
    for _ in range(count):
        sockets.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=5)))
        with suppress(ConnectionError):  # it may have had to make room already
            sockets[-1].sendall(said)
    return sockets


@posix
@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\nX: ", HANDSHAKE, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=repr
)
def test_connections_that_only_sit_there_keep_no_newcomer_out(said: bytes) -> None:
    with server("--listen", "127.0.0.1:0", files="-n 256") as process, ExitStack() as stack:
        there = url(process)
        crowd(stack, there, 400, said)
        begun = time.monotonic()
        run(join_twice(there))
        assert time.monotonic() - begun < Limits().join / 2
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert "Traceback" not in errors
    assert len(errors) < 2000


@posix
def test_members_stay_whoever_comes() -> None:
    async def main(there: str) -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(there) as first, http.ws_connect(there) as second:
            await first.send_str('{"type":"join","room":"R"}')
            await first.receive_json()
            with ExitStack() as stack:
                await asyncio.to_thread(crowd, stack, there, 400)
                await second.close()
            async with http.ws_connect(there) as third:
                await third.send_str('{"type":"join","room":"R"}')
                assert len((await third.receive_json())["peers"]) == 1
                assert (await first.receive_json())["type"] == "peer-joined"

    with server("--listen", "127.0.0.1:0", files="-n 256") as process:
        asyncio.run(main(url(process)))


def healthy(there: str) -> bool:
    """Ask for the health of the server, by hand."""
    host, _, port = there.removeprefix("ws://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while data := client.recv(4096):
            said += data
    return said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(b"\r\n\r\nok\n")


@posix
@pytest.mark.parametrize("files", ["-n 96", "-n 256"])
def test_a_health_check_is_answered_when_all_places_are_taken_and_others_keep_coming(files: str) -> None:
    with server("--listen", "127.0.0.1:0", files=files) as process, ExitStack() as stack:
        there = url(process)
        for number in range(200):
            join = masked(0x81, b'{"type":"join","room":"%d"}' % number)
            [client] = crowd(stack, there, 1, HANDSHAKE + join)
            heard = b""
            while b'"type"' not in heard:
                heard += client.recv(4096)
            if b"server-full" in heard:
                break
        assert b"server-full" in heard, "members have all of their places"
        crowd(stack, there, 300)
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                with ExitStack() as few, suppress(OSError):
                    crowd(few, there, 30, b"GET /healthz HTTP/1.1\r\n")

        with ThreadPoolExecutor() as pool:
            flooding = [pool.submit(flood) for _ in range(3)]
            try:
                assert [healthy(there) for _ in range(50)] == [True] * 50
            finally:
                stop.set()
            for each in flooding:
                each.result()
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert "Cannot accept" not in errors and "Traceback" not in errors


NOT_COUNTING_FILES = (
    "import sys\nfrom signal_server import server\nserver.open_files = lambda: 10**6\n"
    "from signal_server.cli import main\nsys.exit(main(['--listen', '127.0.0.1:0', *sys.argv[1:]]))"
)
"""A signal server that accepts more connections than it has files for."""


@posix
def test_a_server_without_a_file_left_says_so_in_few_lines_and_goes_on() -> None:
    with server(files="-n 64", run=("-c", NOT_COUNTING_FILES)) as process, ExitStack() as stack:
        there = url(process)
        crowd(stack, there, 150)
        begun = time.monotonic()
        run(join_twice(there))
        assert time.monotonic() - begun < Limits().join / 2
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert "Cannot accept connections: Too many open files" in errors
    assert "Traceback" not in errors
    assert errors.count("Cannot accept connections") <= 4


def joins(client: socket.socket, process: subprocess.Popen[str]) -> bool:
    """Whether the server lets it join, instead of reporting an error."""
    heard = b""
    while b'"joined"' not in heard:
        ready, _, _ = select.select([client, process.stderr], [], [], 10)
        assert ready
        if process.stderr in ready:
            return False
        heard += client.recv(4096)
    return True


@posix
def test_a_server_that_stops_without_a_file_left_prints_no_traceback() -> None:
    """asyncio tries to accept again each second, once more after the listening socket has closed.

    Members hold all files, so that the shortage lasts until the end. They do not answer the server's Close, so it is
    still waiting for them when that attempt comes.
    """
    flags = "--log-level", "error"
    with server(*flags, files="-n 64", run=("-c", NOT_COUNTING_FILES)) as process, ExitStack() as stack:
        there = url(process)
        for number in range(64):
            join = masked(0x81, b'{"type":"join","room":"%d"}' % number)
            (client,) = crowd(stack, there, 1, HANDSHAKE + join)
            if not joins(client, process):
                break
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert "Cannot accept connections: Too many open files" in errors
    assert "Traceback" not in errors


@posix
def test_it_asks_for_as_many_files_as_it_may_have() -> None:
    code = (
        "import resource, sys\nfrom signal_server.process import raise_open_files\n"
        "for _ in range(2):\n    raise_open_files(16_384)\nprint(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    for files, expected in (("-n 1024 && ulimit -Sn 64", "1024 1024"), ("-n 300", "300 300")):
        with server(files=files, run=("-c", code)) as process:
            assert process.communicate(timeout=10)[0].strip() == expected
