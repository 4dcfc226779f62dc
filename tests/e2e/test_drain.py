"""A signal server that is replaced while tokens stream: nothing is lost, and nobody is told of an error."""

from __future__ import annotations

import os
import shutil
import signal as signals
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support.balancer import Balancer
from ..support.exchanges import request
from ..support.ports import free_port
from ..support.processes import ROOT, Address, Processes, Signal, Tunnel
from ..support.raw_client import Client
from ..support.upstream import Upstream, wait_until
from .test_recovery import needs_unix

PATHS = {"direct": "direct", "relay": "relay", "second relay": "relay"}
"""The path of the tunnel in each room."""
FLAGS = ("--secret", "a secret that nobody guesses", "--resume-for", "60")
EVENTS = 150


def tokens(address: Address) -> None:
    """Read a stream of tokens for some seconds."""
    with Client(address, timeout=60) as client:
        client.send(request(b"GET", b"/tokens?name=t&count=%d&pause=0.05" % EVENTS))
        head = client.head()
        body = b"".join(client.body(head, b"GET"))
    assert body == b"".join(b"data: t %d\n\n" % number for number in range(EVENTS)), body[-50:]


def shout(address: Address, stopped: threading.Event) -> int:
    """Send lines, and read their answers, until the server has stopped and for some more."""
    with Client(address, timeout=60) as client:
        client.send(request(b"GET", b"/shout", b"Connection: Upgrade", b"Upgrade: shout/1"))
        assert client.head().status == 101
        assert client.exactly(8) == b"WELCOME\n"
        number = more = 0
        while more < 20:
            client.send(b"line %d\n" % number)
            expected = b"LINE %d\n" % number
            assert client.exactly(len(expected)) == expected
            number, more = number + 1, more + stopped.wait(0.02)
    return number


@needs_unix
@pytest.mark.timeout(180)  # eight processes, on a busy machine
def test_a_server_that_is_replaced_loses_no_byte_of_streams_over_direct_paths_and_the_relay(
    processes: Processes, own_upstream: Upstream
) -> None:
    first, second = processes.signal("--log-format", "json"), processes.signal()
    addresses = [("127.0.0.1", each.port) for each in (first, second)]
    with Balancer(*addresses) as balancer:
        replace(processes, own_upstream, balancer.url, lambda: first)
        balancer.wait_ready(addresses[1])


@needs_unix
@pytest.mark.skipif(shutil.which("caddy") is None, reason="needs caddy")
@pytest.mark.timeout(180)
def test_the_same_behind_caddy_with_the_file_of_deploy(
    processes: Processes, own_upstream: Upstream, tmp_path: Path
) -> None:
    first, port = processes.signal("--log-format", "json"), free_port()

    def second_listens() -> Signal:
        processes.signal(listen=f"127.0.0.1:{port}")
        return first

    with caddy(tmp_path, [first.port, port]) as url:
        replace(processes, own_upstream, url, second_listens)


def replace(processes: Processes, upstream: Upstream, url: str, which: Callable[[], Signal]) -> None:
    """Start tunnels by the signal server at the URL, and end the process behind it that has their members."""
    stopped = threading.Event()
    tunnels = start(processes, upstream, url)
    with ThreadPoolExecutor() as threads:
        streams: list[Future[object]] = []
        for tunnel in tunnels.values():
            streams += [threads.submit(tokens, tunnel.address), threads.submit(shout, tunnel.address, stopped)]
        try:
            wait_until(lambda: len(upstream.requests) == len(streams), "all stream")
            first = which()
            first.process.signal(signals.SIGTERM)
            assert first.process.wait_exit() == 128 + signals.SIGTERM
        finally:
            stopped.set()
        broken = [repr(error) for each in streams if (error := each.exception()) is not None]
        assert broken == [], "\n".join([*broken, *(each.report() for each in processes.started)])

    first.process.wait_line('"message": "Draining: 6 members are asked to join again, 2 pipes go on')
    for room, tunnel in tunnels.items():
        for side in (tunnel.serve, tunnel.proxy):
            check_untroubled(room, side.wait_event("reconnecting", what="signal server")["reason"], tunnel)
    # Its members have met at the other server: a new proxy finds its serve there.
    late = processes.proxy("relay", url, *FLAGS, "--path", "relay")
    late.process.wait_event("peer-connected", path="relay")


@contextmanager
def caddy(folder: Path, ports: list[int], *, host: str = "", app: str = "") -> Iterator[str]:
    """Caddy with the file of deploy/, and two servers on these ports. The URL at which it listens, without TLS.

    ``host``, ``app``: the hosts of the page and of web apps, with their port.
    """
    text = (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8")
    for number, port in enumerate(ports, start=1):
        assert f"signal-{number}:8787" in text
        text = text.replace(f"signal-{number}:8787", f"127.0.0.1:{port}")
    file = folder / "Caddyfile"
    file.write_text("{\n\tadmin off\n}\n" + text, encoding="utf-8")
    own = f"http://{host or f'127.0.0.1:{free_port()}'}"
    domains = {"SIGNAL_DOMAIN": own, "APP_DOMAIN": app and f"http://{app}"}
    environ = os.environ | domains | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    command = ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environ, stderr=log) as process:

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            try:
                with urllib.request.urlopen(f"{own}/readyz", timeout=5) as response:
                    return bool(response.status == 200)
            except OSError:
                return False

        try:
            wait_until(ready, "Caddy has found the first server")
            yield own.replace("http", "ws", 1)
        finally:
            process.terminate()


def start(processes: Processes, upstream: Upstream, url: str) -> dict[str, Tunnel]:
    """Start a tunnel in each room, all at the same time."""
    started = {}
    for room, path in PATHS.items():
        started[room] = processes.serve(room, upstream.url, url, *FLAGS, "--path", path)
    tunnels = {}
    for room, path in PATHS.items():
        proxy = processes.proxy(room, url, *FLAGS, "--path", path)
        tunnels[room] = Tunnel(started[room], proxy.process, proxy.url)
    for room, path in PATHS.items():
        tunnels[room].proxy.wait_event("peer-connected", path=path)
    return tunnels


def check_untroubled(room: str, reason: object, tunnel: Tunnel) -> None:
    """Both sides have changed the server, and nothing else has happened to them."""
    assert "restarts, and has asked this side to connect again" in str(reason)
    for side in (tunnel.serve, tunnel.proxy):
        side.wait_event("signal-connected", after=1)
        for event in ("suspended", "peer-lost", "error"):
            assert side.count(event) == 0, (room, event, side.report())
