from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from llmtunnel.transport import websocket
from llmtunnel.transport.websocket import Redirected, open_websocket
from signal_server.server import SignalServer

from ..signaling.test_client import self_signed
from ..support.embedded import PATIENCE, until


class Gate:
    """In front of a server: of the connections that come, the first few are taken and get no answer."""

    def __init__(self, port: int, *, stuck: int) -> None:
        self.came = 0
        self.left: list[int] = []
        """Numbers of those that were stuck and went, from 1."""
        self._port = port
        self._stuck = stuck

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        number = self.came
        if number <= self._stuck:
            while await reader.read(1000):
                pass
            self.left.append(number)
        else:
            there, out = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(pump(reader, out), pump(there, writer))
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(10_000):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def gated(folder: Path, *, stuck: int, wait: float = 0.0) -> AsyncIterator[tuple[Gate, str]]:
    """A gate, and the address of a TLS server behind it that answers after a while."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(wait)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        await socket.receive()
        return socket

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(self_signed(folder))
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    gate = Gate(runner.addresses[0][1], stuck=stuck)
    try:
        async with await asyncio.start_server(gate.take, "127.0.0.1", 0) as server:
            yield gate, f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


async def greeting(url: str) -> str:
    opened = await open_websocket(url, timeout=PATIENCE, ssl=False)
    try:
        return await opened.socket.receive_str()
    finally:
        await opened.aclose(PATIENCE)


async def test_a_connect_that_is_stuck_gets_company_and_the_first_that_opens_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(websocket, "ANEW", 0.2)

    async with gated(tmp_path, stuck=3) as (gate, url):
        assert await greeting(url) == "hello"
        assert gate.came == 4
        assert sorted(gate.left) == [1, 2, 3]
        assert gate.left[0] == 2, "the first one keeps on"


async def test_one_that_is_through_has_all_the_time_there_is_for_its_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(websocket, "ANEW", 0.3)

    async with gated(tmp_path, stuck=0, wait=1.0) as (gate, url):
        assert await greeting(url) == "hello"
        assert gate.came == 1


async def test_nothing_is_left_of_attempts_that_are_all_stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(websocket, "ANEW", 0.1)

    async with gated(tmp_path, stuck=100) as (gate, url):
        with pytest.raises(TimeoutError):
            await open_websocket(url, timeout=0.5, ssl=False)
        await until(lambda: len(gate.left) == gate.came)
        assert gate.came > 2


async def test_one_that_is_open_as_it_is_given_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[websocket.WebSocket] = []
    race = websocket._race

    async def given_up_at_the_end(*args: Any) -> websocket.WebSocket:
        opened.append(await race(*args))
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return opened[0]

    monkeypatch.setattr(websocket, "_race", given_up_at_the_end)
    async with SignalServer("127.0.0.1", 0) as server:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(open_websocket(server.url, timeout=PATIENCE))
        assert opened[0].socket.closed and opened[0]._http.closed


@asynccontextmanager
async def redirecting(location: str, *, status: int = 302, good: int = 0) -> AsyncIterator[str]:
    """A server that takes the first ``good`` WebSockets and redirects all others; ``{port}`` is its own."""
    taken = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal taken
        taken += 1
        if taken > good:
            own = runner.addresses[0][1]
            return web.Response(status=status, headers={"Location": location.replace("{port}", str(own))})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def victim() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A local service: its port, and what each connection to it said first."""
    heard: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["ws", "wss", "http", "https"])
async def test_a_redirect_is_not_followed_and_names_where_it_leads(status: int, scheme: str) -> None:
    async with victim() as (port, heard):
        location = f"{scheme}://user:word@127.0.0.1:{port}/admin/shutdown?now=1"
        async with redirecting(location, status=status) as url:
            with pytest.raises(Redirected) as caught:
                await open_websocket(url, timeout=PATIENCE, protocols=("llmtunnel-relay", "ticket"))
        assert heard == []
        shown = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        assert caught.value.to == f"{shown}://127.0.0.1:{port}/admin/shutdown"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/elsewhere", "ws://127.0.0.1:{port}/elsewhere"),
        ("//other.example/x", "ws://other.example/x"),
        ("ws://[fe80::1]:9/", "ws://[fe80::1]:9/"),
        ("file:///etc/passwd", "an invalid address"),
        ("http://[::1", "an invalid address"),
        ("http://a:99999/", "an invalid address"),
        ("http://a/\x1b[2Jb", "ws://a/?[2Jb"),
        ("http://a/" + "x" * 5000, "ws://a/" + "x" * 193),
        ("", "ws://127.0.0.1:{port}/"),
    ],
    ids=lambda value: value[:20],
)
async def test_a_redirect_to_anywhere_is_refused_whatever_it_says(location: str, shown: str) -> None:
    """Also to the server itself, or to nothing: what is shown of it is short and printable."""

    async with redirecting("/") as url:
        port = url.rpartition(":")[2]
        assert websocket._target(f"http://127.0.0.1:{port}/", location) == shown.replace("{port}", port)
    if location.isprintable():
        async with redirecting(location) as url:
            with pytest.raises(Redirected):
                await open_websocket(url, timeout=PATIENCE)


async def test_a_redirect_after_a_good_connection_is_not_followed_either() -> None:
    async with victim() as (port, heard), redirecting(f"http://127.0.0.1:{port}/", good=2) as url:
        for _ in range(2):
            await (await open_websocket(url, timeout=PATIENCE)).aclose(PATIENCE)
        for _ in range(3):
            with pytest.raises(Redirected):
                await open_websocket(url, timeout=PATIENCE)
        assert heard == []


@pytest.mark.parametrize("name", ["ws_proxy", "http_proxy", "https_proxy", "all_proxy"])
async def test_no_proxy_of_the_environment_is_asked_for_a_server_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    async with (
        victim() as (port, heard),
        SignalServer("127.0.0.1", 0) as server,
        gated(tmp_path, stuck=0) as (_, tls),
    ):
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        await (await open_websocket(server.url, timeout=PATIENCE)).aclose(PATIENCE)
        assert await greeting(tls) == "hello"
        assert heard == []


async def test_what_netrc_has_for_a_host_is_not_sent_to_the_signal_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr(websocket, "_is_here", lambda url: False)  # as a server elsewhere
    asked: list[dict[str, str]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(dict(request.headers))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
        opened = await open_websocket(f"ws://127.0.0.1:{runner.addresses[0][1]}", timeout=PATIENCE)
        await opened.aclose(PATIENCE)
        await site.stop()
    finally:
        await runner.cleanup()
    [headers] = asked
    assert "Authorization" not in headers
