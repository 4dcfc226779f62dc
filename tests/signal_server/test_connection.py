"""One client's connection at the signal server, where the server itself is at fault."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from signal_server.connection import SignalConnection
from signal_server.server import SignalServer


async def test_a_client_that_cannot_be_sent_anything_is_cut_off_and_the_defect_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: SignalConnection) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(SignalConnection, "_write", fail)
    async with SignalServer("127.0.0.1", 0) as server, aiohttp.ClientSession() as http:
        async with http.ws_connect(server.url) as socket, asyncio.timeout(5):
            await socket.send_str("garbage, which gets an answer")
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
    assert any(record.exc_info and "a defect" in str(record.exc_info[1]) for record in caplog.records)
