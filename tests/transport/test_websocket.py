from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from llmtunnel.transport import websocket
from llmtunnel.transport.websocket import open_websocket
from signal_server.server import SignalServer

from ..embedded import until
from ..signaling.test_client import self_signed

Run = Callable[..., Any]
PATIENCE = 20.0


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


def test_a_connect_that_is_stuck_gets_company_and_the_first_that_opens_counts(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(websocket, "ANEW", 0.2)

    async def main() -> None:
        async with gated(tmp_path, stuck=3) as (gate, url):
            assert await greeting(url) == "hello"
            assert gate.came == 4
            assert sorted(gate.left) == [1, 2, 3]
            assert gate.left[0] == 2, "the first one keeps on"

    run(main())


def test_one_that_is_through_has_all_the_time_there_is_for_its_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(websocket, "ANEW", 0.3)

    async def main() -> None:
        async with gated(tmp_path, stuck=0, wait=1.0) as (gate, url):
            assert await greeting(url) == "hello"
            assert gate.came == 1

    run(main())


def test_nothing_is_left_of_attempts_that_are_all_stuck(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(websocket, "ANEW", 0.1)

    async def main() -> None:
        async with gated(tmp_path, stuck=100) as (gate, url):
            with pytest.raises(TimeoutError):
                await open_websocket(url, timeout=0.5, ssl=False)
            await until(lambda: len(gate.left) == gate.came)
            assert gate.came > 2

    run(main())


def test_one_that_is_open_as_it_is_given_up_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[websocket.WebSocket] = []
    race = websocket._race

    async def given_up_at_the_end(*args: Any) -> websocket.WebSocket:
        opened.append(await race(*args))
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return opened[0]

    async def main() -> None:
        async with SignalServer("127.0.0.1", 0) as server:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(open_websocket(server.url, timeout=PATIENCE))
            assert opened[0].socket.closed and opened[0]._http.closed

    monkeypatch.setattr(websocket, "_race", given_up_at_the_end)
    run(main())
