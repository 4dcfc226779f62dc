"""WebSocket, and any other upgrade, through the tunnel as without it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from ..conftest import run
from ..support.exchanges import CLIENT_HOST, request
from ..support.processes import PATIENCE, Address, Processes, Signal, Tunnel, processes
from ..support.raw_client import Client
from ..support.upstream import Upstream, wait_until


class WebSocketUpstream:
    """An echo server of the websockets library, on a thread of its own."""

    def __init__(self) -> None:
        self.closed: list[tuple[int | None, str | None]] = []
        self.address: Address = ("", 0)
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),), name="websockets")
        self._thread.start()
        assert self._started.wait(PATIENCE)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        options = {"select_subprotocol": choose, "max_size": 16 << 20, "process_request": refuse, "ping_interval": None}
        async with serve(self._connected, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
            self.address = self._bound(server)
            self._started.set()
            await self._stop.wait()

    @staticmethod
    def _bound(server: Server) -> Address:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        return host, port

    async def _connected(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        if socket.request.path == "/push":
            for number in range(10):
                await socket.send(f"push {number}")
        try:
            async for message in socket:
                if message == "close with 4001":
                    await socket.close(4001, "as you wish")
                elif message == "ping me":
                    await (await socket.ping(b"are you there"))
                    await socket.send("you are")
                else:
                    await socket.send(message)
        except ConnectionClosed:
            pass
        finally:
            await socket.wait_closed()
            self.closed.append((socket.close_code, socket.close_reason))

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def choose(socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The one that both know, if the client asks for any."""
    return Subprotocol("v1.chat") if "v1.chat" in offered else None


def refuse(socket: ServerConnection, asked: Request) -> Response | None:
    """Refuse one path, with a body."""
    if asked.path != "/forbidden":
        return None
    response = socket.respond(HTTPStatus.FORBIDDEN, "not for you\n")
    response.headers["X-Why"] = "because"
    return response


@pytest.fixture(scope="module")
def websockets() -> Iterator[WebSocketUpstream]:
    """A WebSocket server."""
    upstream = WebSocketUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def websocket_tunnel(websockets: WebSocketUpstream, signal: Signal) -> Iterator[Tunnel]:
    """A tunnel to it."""
    with processes() as started:
        host, port = websockets.address
        yield started.tunnel("websockets", f"http://{host}:{port}", signal.url)


@pytest.fixture(params=["direct", "tunnel"])
def url(request: pytest.FixtureRequest, websockets: WebSocketUpstream) -> str:
    """The server's address, both ways: a test passes with either, so they are the same."""
    websockets.closed.clear()
    direct = request.param == "direct"
    host, port = websockets.address if direct else request.getfixturevalue("websocket_tunnel").address
    return f"ws://{host}:{port}"


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[ClientConnection]:
    """A WebSocket that pings only where the test does."""
    async with connect(url, max_size=16 << 20, ping_interval=None, proxy=None, **options) as socket:  # type: ignore[arg-type]
        yield socket


def converse(url: str, talk: Callable[[ClientConnection], Awaitable[None]], **options: object) -> None:
    """Open a WebSocket, talk, close it."""

    async def main() -> None:
        async with opened(url, **options) as socket:
            await talk(socket)

    run(main(), timeout=PATIENCE)


@pytest.mark.parametrize(
    "message", ["text ü", "", b"", b"\x00\xff" * 100, "x" * 126, b"y" * 65_536], ids=lambda message: str(len(message))
)
def test_messages_are_echoed(message: str | bytes, url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        await socket.send(message)
        assert await socket.recv() == message

    converse(url, talk)


def test_messages_of_5_mb_are_echoed(url: str) -> None:
    big = bytes(range(256)) * 20_480

    async def talk(socket: ClientConnection) -> None:
        await socket.send(big)
        assert await socket.recv() == big

    converse(url, talk, compression=None)


def test_compression_is_negotiated_between_client_and_upstream(url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        assert socket.response is not None
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
        await socket.send("again and " * 1000)
        assert await socket.recv() == "again and " * 1000

    converse(url, talk, compression="deflate")


def test_a_subprotocol_is_agreed_on(url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        assert socket.subprotocol == "v1.chat"

    converse(url, talk, subprotocols=["v1.chat"])


def test_pings_pass_in_both_directions(url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        await (await socket.ping(b"payload"))
        await socket.send("ping me")
        assert await socket.recv() == "you are"

    converse(url, talk)


def test_what_the_server_pushes_arrives(url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        assert [await socket.recv() for _ in range(10)] == [f"push {number}" for number in range(10)]

    converse(f"{url}/push", talk)


def test_many_small_messages_keep_their_order(url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        async def send() -> None:
            for number in range(500):
                await socket.send(str(number))

        sending = asyncio.create_task(send())
        assert [await socket.recv() for _ in range(500)] == [str(number) for number in range(500)]
        await sending

    converse(url, talk)


def test_the_servers_close_code_and_reason_reach_the_client(url: str) -> None:
    async def talk(socket: ClientConnection) -> None:
        await socket.send("close with 4001")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")

    converse(url, talk)


def test_the_clients_close_code_and_reason_reach_the_server(url: str, websockets: WebSocketUpstream) -> None:
    async def talk(socket: ClientConnection) -> None:
        await socket.close(4002, "enough")

    converse(url, talk)
    wait_until(lambda: (4002, "enough") in websockets.closed, "the server sees the close")


def test_a_client_that_vanishes_ends_the_servers_socket(url: str, websockets: WebSocketUpstream) -> None:
    async def talk(socket: ClientConnection) -> None:
        await socket.send("here")
        await socket.recv()
        socket.transport.abort()

    converse(url, talk)
    wait_until(lambda: 1006 in [code for code, _ in websockets.closed], "the server sees the end", timeout=5)


@pytest.mark.within(PATIENCE)
async def test_a_refused_handshake_passes_with_its_status_fields_and_body(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(f"{url}/forbidden"):
            pass
    response = refused.value.response
    assert (response.status_code, response.reason_phrase) == (403, "Forbidden")
    assert response.headers["X-Why"] == "because"
    assert response.body == b"not for you\n"


@pytest.mark.within(PATIENCE)
async def test_many_websockets_are_open_at_once(url: str) -> None:
    async def talk(number: int) -> None:
        async with opened(url) as socket:
            for message in range(5):
                await socket.send(f"{number} {message}")
                assert await socket.recv() == f"{number} {message}"

    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(talk(number))


SHOUT = request(b"GET", b"/shout", b"Connection: keep-alive, Upgrade", b"Upgrade: shout/1")


@pytest.fixture(params=["direct", "tunnel"])
def address(request: pytest.FixtureRequest, upstream: Upstream) -> Address:
    """The raw upstream, both ways."""
    address: Address = (upstream if request.param == "direct" else request.getfixturevalue("tunnel")).address
    return address


def test_another_protocol_passes_as_bytes_both_ways(address: Address, upstream: Upstream) -> None:
    with Client(address) as client:
        client.send(SHOUT)
        head = client.head()
        assert (head.status, head.reason, head.values(b"upgrade")) == (101, b"Now Shouting", [b"shout/1"])
        assert head.values(b"connection") == [b"Upgrade"]
        assert client.exactly(8) == b"WELCOME\n"
        client.send(b"\xff\x00 hello\n")
        assert client.exactly(9) == b"\xff\x00 HELLO\n"
        client.send(b"a" * 100_000 + b"\n")
        assert client.exactly(100_001) == b"A" * 100_000 + b"\n"
        client.send(b"bye\n")
        assert client.exactly(4) == b"BYE\n"
        assert client.ended()
    assert upstream.requests[0].values(b"upgrade") == [b"shout/1"]


def test_bytes_sent_right_behind_the_upgrade_request_are_not_lost(address: Address, upstream: Upstream) -> None:
    with Client(address) as client:
        client.send(SHOUT + b"early\n")
        assert client.head().status == 101
        assert client.exactly(14) == b"WELCOME\nEARLY\n"


def test_an_upgrade_that_the_upstream_ignores_is_an_ordinary_answer(address: Address, upstream: Upstream) -> None:
    asked = request(b"GET", b"/ordinary", b"Connection: Upgrade", b"Upgrade: shout/9")
    with Client(address) as client:
        client.send(asked)
        assert client.response(b"GET").body == b"ok"
        client.send(request(b"GET", b"/next"))
        assert client.response(b"GET").body == b"ok"


def test_an_upgraded_client_that_leaves_ends_the_upstreams_connection(address: Address, upstream: Upstream) -> None:
    with Client(address) as client:
        client.send(SHOUT)
        assert client.head().status == 101
    wait_until(lambda: upstream.requests[0].left, "the upstream notices", timeout=5)
    assert upstream.requests[0].values(b"host") != [CLIENT_HOST] or address == upstream.address


def test_a_websocket_ends_with_an_error_when_its_serve_is_killed(
    processes: Processes, signal: Signal, websockets: WebSocketUpstream
) -> None:
    host, port = websockets.address
    tunnel = processes.tunnel("websocket killed", f"http://{host}:{port}", signal.url)

    async def talk(socket: ClientConnection) -> None:
        await socket.send("here")
        assert await socket.recv() == "here"
        tunnel.serve.kill()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is None

    converse(tunnel.url.replace("http", "ws"), talk)
