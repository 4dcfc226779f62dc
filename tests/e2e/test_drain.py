"""A signal server that is replaced while tokens stream: nothing is lost, and nobody is told of an error."""

from __future__ import annotations

import signal as signals
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ..support.balancer import Balancer
from ..support.exchanges import request
from ..support.processes import Address, Processes, Tunnel
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
    stopped = threading.Event()
    with Balancer(*addresses) as balancer, ThreadPoolExecutor() as threads:
        tunnels = start(processes, own_upstream, balancer)
        streams: list[Future[object]] = []
        for tunnel in tunnels.values():
            streams += [threads.submit(tokens, tunnel.address), threads.submit(shout, tunnel.address, stopped)]
        try:
            wait_until(lambda: len(own_upstream.requests) == len(streams), "all stream")
            first.process.signal(signals.SIGTERM)
            assert first.process.wait_exit() == 128 + signals.SIGTERM
        finally:
            stopped.set()
        for each in streams:
            each.result()

        balancer.wait_ready(addresses[1])
        first.process.wait_line('"message": "Draining: 6 members are asked to join again, 2 pipes go on')
        for room, tunnel in tunnels.items():
            for side in (tunnel.serve, tunnel.proxy):
                check_untroubled(room, side.wait_event("reconnecting", what="signal server")["reason"], tunnel)
        # Its members have met at the second server: a new proxy finds its serve there.
        late = processes.proxy("relay", balancer.url, *FLAGS, "--path", "relay")
        late.process.wait_event("peer-connected", path="relay")


def start(processes: Processes, upstream: Upstream, balancer: Balancer) -> dict[str, Tunnel]:
    """Start a tunnel in each room, all at the same time."""
    started = {}
    for room, path in PATHS.items():
        started[room] = processes.serve(room, upstream.url, balancer.url, *FLAGS, "--path", path)
    tunnels = {}
    for room, path in PATHS.items():
        proxy = processes.proxy(room, balancer.url, *FLAGS, "--path", path)
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
