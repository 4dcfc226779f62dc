from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
import textwrap

import pytest

from llmtunnel import descriptors

from .support.processes import address_of, environment, processes

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limit that concerns sockets")

USED_UP = """
    import asyncio, os, resource, sys
    from contextlib import suppress
    from functools import partial

    from llmtunnel import runtime
    from llmtunnel.config import IceServers, Limits, ProxySettings, Settings, Timeouts
    from llmtunnel.doctor import checks
    from llmtunnel.endpoints import discovery
    from llmtunnel.endpoints.listen import open_servers, parse_listen
    from llmtunnel.endpoints.pool import UpstreamPool
    from llmtunnel.errors import TunnelError
    from llmtunnel.signaling.client import SignalClient
    from llmtunnel.transport import relay, servers, tcp
    from llmtunnel.transport.identity import Identity
    from llmtunnel.upstream import Upstream
    import aiohttp, aiohttp.client, encodings.idna

    PLACES = {
        "upstream": lambda: UpstreamPool(Upstream.parse(sys.argv[3]), **BOUNDS).connect(),
        "signal server": lambda: SignalClient.connect(sys.argv[2], **BOUNDS),
        "relay": lambda: relay.open_relay(
            sys.argv[2], "ticket", identity=Identity(), server=True, timeouts=Timeouts(signal=5)
        ),
        "listener": lambda: open_servers(parse_listen("127.0.0.1:0"), asyncio.Protocol),
        "peer near by": lambda: tcp.TcpDialler(Identity(), b"", timeouts=Timeouts(), loopback=True).dial(
            ["127.0.0.1:9999"], own=()
        ),
        "TURN server": lambda: servers.allocate(
            servers.IceServer(url="turn:127.0.0.1:9?transport=tcp", user="u", password="p")
        ),
        "STUN server": lambda: servers.mappings([servers.IceServer(url="stun:127.0.0.1:9")]),
        "model servers": lambda: discovery.discover(ports=[9, 10]),
        "upstream of doctor": lambda: checks._given_upstream(Upstream.parse(sys.argv[3]), Settings(room="r")),
    }
    BOUNDS = {"timeouts": Timeouts(signal=5, upstream_connect=5), "limits": Limits()}

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with suppress(Exception):  # once before, so that all is imported
            await PLACES[sys.argv[1]]()
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        taken = []
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        try:
            found = await PLACES[sys.argv[1]]()
            found = found[0] if isinstance(found, list) else found
            print(getattr(found, "detail", found), getattr(found, "hint", ""))
        except TunnelError as exc:
            print(exc.message, exc.hint)
        finally:
            for each in taken:
                os.close(each)

    if sys.argv[4] == "asyncio":
        runtime.loop_factory = lambda: None
    runtime.run(main())
"""
PLACES = (
    "upstream",
    "signal server",
    "relay",
    "listener",
    "peer near by",
    "TURN server",
    "STUN server",
    "model servers",
    "upstream of doctor",
)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("place", PLACES)
def test_a_process_without_a_descriptor_left_blames_nobody_else(place: str, host: str, loop: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USED_UP), place, f"ws://{host}:9", f"http://{host}:9", loop],
        env=environment({}),
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "this process is out of file descriptors (its limit is 40)" in done.stdout, (done.stdout, done.stderr)
    assert "ulimit -n" in done.stdout or place in ("relay", "peer near by")
    assert "running" not in done.stdout


def test_what_another_machine_says_is_no_shortage() -> None:
    assert descriptors.shortage() == ""
    for exc in (ConnectionRefusedError(errno.ECONNREFUSED, "no"), TimeoutError(), socket.gaierror(-2, "unknown")):
        assert descriptors.shortage(exc) == ""


def test_a_machine_that_has_none_left_is_told_as_one() -> None:
    assert descriptors.shortage(OSError(errno.ENFILE, "")) == "this machine is out of file descriptors"


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(64, 256, 256), (256, 256, 256), (64, 1_000_000, 65_536), (100_000, 1_000_000, 100_000)],
)
def test_the_command_line_raises_its_limit(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int
) -> None:
    limits = {resource.RLIMIT_NOFILE: (soft, hard)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    descriptors.raise_limit()
    assert limits == {resource.RLIMIT_NOFILE: (expected, hard)}


def test_where_no_limit_may_be_set_above_its_own_as_on_macos_that_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (256, resource.RLIM_INFINITY)

    def set_limit(_which: int, wanted: tuple[int, int]) -> None:
        nonlocal limit
        if wanted[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        limit = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _which: limit)
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    descriptors.raise_limit()
    assert limit == (10_240, resource.RLIM_INFINITY)


LIMIT = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 512))
    {act}
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("sys.argv = ['llmtunnel', '--version']; from llmtunnel.cli import main; main()", 512),
        ("from llmtunnel.cli import main; main(['--version'])", 128),
        ("import llmtunnel, llmtunnel.sync, llmtunnel.aio, llmtunnel.tunnel, llmtunnel.notebook.magics", 128),
    ],
)
def test_the_limit_of_a_users_own_process_is_left_alone(act: str, expected: int) -> None:
    program = textwrap.dedent(LIMIT).format(act=act)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment({}), timeout=60, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == str(expected)


SHORT_OF_THEM = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    from llmtunnel.cli import main
    sys.exit(main())
"""


def test_serve_that_runs_out_of_descriptors_says_so_to_its_clients() -> None:
    upstream = socket.create_server(("127.0.0.1", 0), backlog=200)  # takes connections, and never answers
    clients: list[socket.socket] = []
    with upstream, processes() as started:
        signal = started.signal()
        url = f"http://127.0.0.1:{upstream.getsockname()[1]}"
        common = ("--room", "short", "--signal", signal.url, "--stun", "none", "--json")
        started.start("-c", textwrap.dedent(SHORT_OF_THEM), "serve", *common, "--upstream", url, name="serve")
        proxy = started.proxy("short", signal.url)
        proxy.process.wait_event("ready")
        try:
            for _ in range(80):
                client = socket.create_connection(proxy.address, timeout=20)
                clients.append(client)
                client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = clients[-1].recv(10_000).decode()
        finally:
            for client in clients:
                client.close()
    assert answer.startswith("HTTP/1.1 502 ")
    assert "this process is out of file descriptors (its limit is 64)" in answer
    assert "running" not in answer


WITHOUT_UVLOOP = """
    import resource, sys
    sys.modules["uvloop"] = None
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    from llmtunnel.cli import main
    sys.exit(main())
"""


def test_connections_that_cannot_be_accepted_fill_no_log() -> None:
    with processes() as started, contextlib.ExitStack() as clients:
        toy = started.start(
            "-c", textwrap.dedent(WITHOUT_UVLOOP), "toy", "--listen", "127.0.0.1:0", "--json", name="toy"
        )
        address = address_of(toy.wait_event("listening")["url"])
        for _ in range(100):
            clients.enter_context(socket.create_connection(address, timeout=20))
        toy.wait_line("Cannot accept connections: this process is out of file descriptors")
        with pytest.raises(AssertionError):
            toy.wait_line("nothing says this", timeout=2.5)
        assert len(toy.errors) == 1
