"""Connections to the upstream belong to one client each: what a real upstream sees, directly and through the tunnel.

Every upstream here is one that exists, or behaves like one, and that suffers where a proxy shares connections.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from queue import SimpleQueue
from typing import Any

import pytest

from llmtunnel.endpoints.probe import PROBE_FIELD

from ..support.exchanges import request, sized, streamed
from ..support.processes import PATIENCE, Address, Processes, Signal, address_of
from ..support.raw_client import Client, Response
from ..support.upstream import wait_until

Serve = Callable[[socket.socket, int], None]
"""Answers on one accepted connection, which has this number."""


def ok(body: bytes, *fields: bytes) -> bytes:
    return b"".join([b"HTTP/1.1 200 OK\r\n", *(field + b"\r\n" for field in fields)]) + (
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def read_head(connection: socket.socket) -> bytes:
    """A request's head; empty where the client has ended."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


class Threaded:
    """An upstream with so many threads, each for one connection at a time; the other connections wait."""

    def __init__(self, serve: Serve, *, workers: int = 64) -> None:
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._accepted: SimpleQueue[tuple[socket.socket, int] | None] = SimpleQueue()
        self._open: set[socket.socket] = set()
        self.used: list[int] = []
        """The connections that requests of clients came on; serve looks at the upstream on others."""
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, name="accepting")]
        self._threads += [threading.Thread(target=self._work, name="worker") for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            for number in count():
                connection, _ = self._listening.accept()
                self._open.add(connection)
                self._accepted.put((connection, number))

    def _work(self) -> None:
        while (taken := self._accepted.get()) is not None:
            connection, number = taken
            with connection, suppress(OSError):
                first = connection.recv(65_536, socket.MSG_PEEK)
                if PROBE_FIELD in first:
                    connection.sendall(ok(b"{}"))
                elif first:
                    self.used.append(number)
                    self._serve(connection, number)
            self._open.discard(connection)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for _ in self._threads:
            self._accepted.put(None)
        for thread in self._threads:
            thread.join()


@contextmanager
def threaded(serve: Serve, *, workers: int = 64) -> Iterator[Threaded]:
    upstream = Threaded(serve, workers=workers)
    try:
        yield upstream
    finally:
        upstream.close()


def tunnel_to(processes: Processes, signal: Signal, room: str, url: str, *flags: str) -> Address:
    """Where a proxy listens whose serve has that upstream; ``flags`` are serve's."""
    processes.serve(room, url, signal.url, *flags)
    proxy = processes.proxy(room, signal.url)
    proxy.process.wait_event("ready")
    return proxy.address


def ask(client: Client, asked: bytes) -> Response:
    client.send(asked)
    return client.responses(asked.partition(b" ")[0])[-1]


# -- an upstream that answers without reading the body


class Library(ThreadingHTTPServer):
    """Python's own server, by HTTP/1.1: its handlers leave unread what they do not ask for."""

    block_on_close = True

    def __init__(self) -> None:
        self.done: list[str] = []
        """The request lines of all that it has executed."""
        self.ended = 0
        """Connections of clients that have ended; serve looks at the upstream on others."""
        self.probed: set[socket.socket] = set()
        self._sockets: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), Unauthorized)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._sockets.discard(request)
        super().shutdown_request(request)
        self.ended += request not in self.probed

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke; nothing is printed."""

    def close(self) -> None:
        self.shutdown()
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Unauthorized(BaseHTTPRequestHandler):
    """GET is answered, whatever comes with a body is not even read."""

    protocol_version = "HTTP/1.1"
    server: Library

    def parse_request(self) -> bool:
        self.server.done.append(self.raw_requestline.decode("latin-1").strip())
        return super().parse_request()

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_GET(self) -> None:
        if self.headers[PROBE_FIELD.decode()]:
            self.server.probed.add(self.connection)
        self._answer(200)

    def do_POST(self) -> None:
        self._answer(401)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def library() -> Iterator[Library]:
    server = Library()
    thread = threading.Thread(target=server.serve_forever, name="http.server")
    thread.start()
    yield server
    server.close()
    thread.join()


SMUGGLED = b"POST /api/pull HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
BODIES = {
    "sized": sized(b"POST", b"/v1/chat/completions", SMUGGLED),
    "chunked": streamed(b"POST", b"/v1/chat/completions", SMUGGLED, SMUGGLED),
    "of a GET": sized(b"GET", b"/v1/models", SMUGGLED),
    "large": sized(b"POST", b"/v1/chat/completions", SMUGGLED * 1000),
}


@pytest.mark.parametrize("policy", [(), ("--policy", "openai")], ids=["open", "policy"])
def test_the_unread_body_of_a_request_is_never_a_request(
    library: Library, processes: Processes, signal: Signal, policy: tuple[str, ...]
) -> None:
    url = f"http://127.0.0.1:{library.server_port}"
    address = tunnel_to(processes, signal, f"unread {policy}", url, *policy)
    for name, body in BODIES.items():
        with Client(address) as client, Client(address) as other:
            assert ask(client, request(b"GET", b"/v1/models")).status == 200
            assert ask(client, body).status == (200 if name == "of a GET" else 401), name
            for _ in range(3):
                assert ask(other, request(b"GET", b"/v1/models")).status == 200, name
                assert ask(client, request(b"GET", b"/v1/models")).status == 200, name
    opened = len(BODIES) * 4  # before the body, with it, after it; the other client's
    wait_until(lambda: library.ended >= opened, "all connections end with their clients")
    assert not [line for line in library.done if "pull" in line]
    assert library.ended == opened


# -- an upstream whose connections have a state


def test_no_two_clients_ever_share_a_connection(processes: Processes, signal: Signal) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            connection.sendall(ok(b"%d" % number))

    with threaded(serve) as upstream:
        address = tunnel_to(processes, signal, "identity", upstream.url)

        def work(_: int) -> set[bytes]:
            with Client(address) as client:
                return {ask(client, request(b"GET", b"/")).body for _ in range(20)}

        with ThreadPoolExecutor(8) as pool:
            seen = [*pool.map(work, range(8)), *pool.map(work, range(8))]
        every = [number for numbers in seen for number in numbers]
        assert len(every) == len(set(every)) == 16, "each client has one of its own, and keeps it"


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["at once", "late"])
@pytest.mark.parametrize("more", [ok(b"another's secret"), b"HTTP/1.1 103 Early Hints\r\n\r\n", b"rubbish"])
def test_what_an_upstream_says_too_much_reaches_no_client(
    processes: Processes, signal: Signal, pause: float, more: bytes
) -> None:
    said: SimpleQueue[None] = SimpleQueue()

    def serve(connection: socket.socket, number: int) -> None:
        while head := read_head(connection):
            connection.sendall(ok(head.split()[1]))
            time.sleep(pause)
            connection.sendall(more)
            said.put(None)

    with threaded(serve) as upstream:
        address = tunnel_to(processes, signal, f"late {pause} {len(more)}", upstream.url)
        with Client(address) as client, Client(address) as other:
            for number in range(10):
                for each, name in ((client, b"mine"), (other, b"other")):
                    target = b"/%b/%d" % (name, number)
                    got = ask(each, request(b"GET", target))
                    assert (got.status, got.body) == (200, target)
                    said.get(timeout=PATIENCE)
                    time.sleep(0.01)  # as a client that reads what it got, so that the rest has come
        assert len(upstream.used) == 20


# -- an upstream with few workers


class Workers:
    """As cpp-httplib serves (llama.cpp): a worker is a connection's until that ends, or is idle for 5 s."""

    IDLE = 5.0

    def __init__(self) -> None:
        self.longest_idle = 0.0
        """Seconds for which a worker sat on a connection without a request, at most."""
        self.closing = 0
        """Requests that said ``Connection: close``."""

    def __call__(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(self.IDLE)
        began = time.monotonic()
        try:
            while head := read_head(connection):
                time.sleep(0.2)
                closes = b"\r\nconnection: close\r\n" in head.lower()
                self.closing += closes
                connection.sendall(ok(b"ok", *([b"Connection: close"] if closes else [])))
                began = time.monotonic()
                if closes:
                    return
        finally:
            self.longest_idle = max(self.longest_idle, time.monotonic() - began)


@pytest.mark.parametrize("last", [True, False], ids=["close", "keep-alive"])
def test_clients_that_are_done_hold_no_worker_of_the_upstream(processes: Processes, signal: Signal, last: bool) -> None:
    workers = Workers()
    asked = request(b"GET", b"/", *([b"Connection: close"] if last else []))

    def work(address: Address) -> bytes:
        with Client(address, timeout=60) as client:
            return ask(client, asked).body

    with threaded(workers, workers=8) as upstream:
        tunnel = tunnel_to(processes, signal, f"workers {last}", upstream.url)
        for address in (address_of(upstream.url), tunnel):
            workers.closing = 0
            upstream.used.clear()
            with ThreadPoolExecutor(48) as pool:
                assert list(pool.map(work, [address] * 48)) == [b"ok"] * 48
            assert len(upstream.used) == 48
            assert workers.closing == (48 if last else 0)
            assert workers.longest_idle < 3.5, "a connection has closed with its client, not after its time"


def test_a_client_that_posts_holds_one_worker_and_not_two(processes: Processes, signal: Signal) -> None:
    """With a connection kept for the next GET beside the one of the POST, two such clients would wait for ever."""
    ended: list[float] = []

    def serve(connection: socket.socket, number: int) -> None:
        while head := read_head(connection):
            if head.startswith(b"POST"):
                connection.recv(3, socket.MSG_WAITALL)
            connection.sendall(ok(b"ok"))
            if b"\r\nConnection: close\r\n" in head:
                break
        ended.append(time.monotonic())

    with threaded(serve, workers=1) as upstream:
        address = tunnel_to(processes, signal, "one worker", upstream.url)
        with Client(address) as client:
            for _ in range(3):
                began = time.monotonic()
                assert ask(client, request(b"GET", b"/")).body == b"ok"
                assert ask(client, sized(b"POST", b"/", b"abc")).body == b"ok"
                assert time.monotonic() - began < 3, "an idle connection is kept for 4 s"
        wait_until(lambda: len(ended) == len(upstream.used) == 6, "all connections end")


# -- an upstream that closes idle connections without a word


@pytest.mark.parametrize("idle", [0.005, None], ids=["after some milliseconds", "as the next request arrives"])
def test_no_request_fails_since_the_upstream_closes_idle_connections(
    processes: Processes, signal: Signal, idle: float | None
) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        while head := read_head(connection):
            if head.startswith(b"POST"):
                connection.recv(3, socket.MSG_WAITALL)
            connection.sendall(ok(head.split()[0]))
            if not select.select([connection], [], [], idle)[0] or idle is None:
                return

    with threaded(serve) as upstream:
        address = tunnel_to(processes, signal, f"impatient {idle}", upstream.url)
        with Client(address) as client:
            for number in range(40):
                for asked in (request(b"GET", b"/"), sized(b"POST", b"/", b"abc"), request(b"DELETE", b"/")):
                    got = ask(client, asked)
                    assert (got.status, got.body) == (200, asked.split()[0])
                    time.sleep(number % 10 / 1000)
