"""What is under way goes on where it was, after whatever happened to the path, byte for byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ..support.exchanges import request
from ..support.processes import Address, Processes, Tunnel
from ..support.raw_client import Client, fetch
from ..support.upstream import Upstream, pattern, wait_until
from .test_recovery import begin, needs_unix

STREAMS = 20
EVENTS = 150
BIG = 20 << 20
FROZEN = 5.0
"""Seconds that a process is stopped: it is noticed after 3."""
KNOWN = 60.0
"""Seconds within which a killed peer is known to be gone: far over what it takes, far under what is asked for."""


class Load:
    """Exchanges of every kind, each on a thread, which must come whole; ``pauses``: the longest of each stream."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._failures: list[str] = []
        self.pauses: list[float] = []
        work: list[Callable[[], None]] = [lambda name=name: self._events(name) for name in range(STREAMS)]  # type: ignore[misc]
        work += [self._download, self._upload, self._shout]
        self._threads = [threading.Thread(target=self._checked, args=(each,), name="load") for each in work]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Until all is done; all must be whole."""
        for thread in self._threads:
            thread.join()
        assert not self._failures, self._failures

    def _checked(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as exc:
            self._failures.append(repr(exc))

    def _events(self, name: int) -> None:
        with Client(self._address, timeout=60) as client:
            client.send(request(b"GET", b"/tokens?name=s%d&count=%d&pause=0.05" % (name, EVENTS)))
            head, body, last, pause = client.head(), b"", time.monotonic(), 0.0
            for piece in client.body(head, b"GET"):
                pause, last = max(pause, time.monotonic() - last), time.monotonic()
                body += piece
        assert body == b"".join(b"data: s%d %d\n\n" % (name, number) for number in range(EVENTS)), body[-50:]
        self.pauses.append(pause)

    def _download(self) -> None:
        got = fetch(self._address, request(b"GET", b"/big?size=%d" % BIG), timeout=60)
        assert got.whole and got.body == (pattern(0, 1 << 16) * (BIG >> 16))[:BIG]

    def _upload(self) -> None:
        body = pattern(0, BIG)
        fields = b"Content-Length: %d" % len(body)
        with Client(self._address, timeout=60) as client:
            sender = threading.Thread(
                target=client.socket.sendall, args=(request(b"POST", b"/echo", fields, body=body),)
            )
            sender.start()
            got = client.response(b"POST")
            sender.join()
        assert got.whole and got.body == body

    def _shout(self) -> None:
        """What a WebSocket is to the tunnel: an upgrade, and lines both ways."""
        with Client(self._address, timeout=60) as client:
            client.send(request(b"GET", b"/shout", b"Connection: Upgrade", b"Upgrade: shout/1"))
            assert client.head().status == 101
            assert client.exactly(8) == b"WELCOME\n"
            for number in range(EVENTS):
                client.send(b"line %d\n" % number)
                expected = b"LINE %d\n" % number
                assert client.exactly(len(expected)) == expected
                time.sleep(0.05)


@contextmanager
def tunnel(processes: Processes, upstream: Upstream, room: str) -> Iterator[tuple[Tunnel, Load]]:
    """A tunnel whose signal server is killed once it stands; at the end all that was begun is whole."""
    signal = processes.signal()
    made = processes.tunnel(room, upstream.url, signal.url, "--resume-for", "60")
    load = Load(made.address)
    wait_until(lambda: len(upstream.requests) == STREAMS + 3, "all is under way")
    signal.process.kill()
    yield made, load
    load.join()
    for side in (made.serve, made.proxy):
        assert side.count("peer-lost") == 0


@needs_unix
@pytest.mark.parametrize("who", ["serve", "proxy"])
def test_streams_outlive_a_stop_of_either_side_without_a_signal_server(
    who: str, processes: Processes, own_upstream: Upstream
) -> None:
    with tunnel(processes, own_upstream, f"{who} stopped") as (made, load):
        stopped, other = (made.serve, made.proxy) if who == "serve" else (made.proxy, made.serve)
        stopped.freeze()
        frozen = time.monotonic()
        other.wait_event("suspended", timeout=FROZEN)
        assert time.monotonic() - frozen < FROZEN
        time.sleep(max(0.0, frozen + FROZEN - time.monotonic()))
        stopped.thaw()
        gap = other.wait_event("resumed")["gap_ms"]
    print(f"{who} stopped for {FROZEN} s: gap {gap:.0f} ms, worst pause of a stream {max(load.pauses):.2f} s")


@needs_unix
def test_a_serve_that_is_killed_ends_its_streams_loudly_when_another_is_there(
    processes: Processes, own_upstream: Upstream
) -> None:
    signal = processes.signal()
    made = processes.tunnel("killed", own_upstream.url, signal.url, "--resume-for", "60")
    client = begin(made.address, b"/endless")
    made.serve.kill()
    processes.serve("killed", own_upstream.url, signal.url)
    client.check_broken()
    made.proxy.wait_event("peer-lost")


def test_a_serve_that_is_killed_ends_its_streams_soon_where_nobody_takes_its_place(
    processes: Processes, own_upstream: Upstream
) -> None:
    made = processes.tunnel("killed alone", own_upstream.url, processes.signal().url, "--resume-for", "600")
    client = begin(made.address, b"/endless")
    made.serve.kill()
    lost = made.proxy.wait_event("peer-lost", timeout=KNOWN)
    assert "did not come back" in lost["reason"]
    client.check_broken()
