"""Clients of the signal server that say exactly what they are told to, right or wrong; and what its rooms count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, cast

import aiohttp

from signal_server.limits import Limits
from signal_server.server import SignalServer

PATIENCE = 10.0
"""Seconds that an expected message may take."""
Json = dict[str, Any]

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
"""What opens a WebSocket, by hand."""


def cut(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Break the connection off, without a goodbye."""
    connection = socket._response.connection
    assert connection is not None and connection.transport is not None
    connection.transport.abort()


class Peer:
    """One WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.id = ""
        self.token = ""

    async def say(self, kind: str, **members: object) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **members}))

    async def hear(self, *kinds: str) -> Json:
        """The next message, which must be of one of these types."""
        async with asyncio.timeout(PATIENCE):
            raw = await self.socket.receive()
        assert raw.type is aiohttp.WSMsgType.TEXT, raw
        message = cast(Json, json.loads(raw.data))
        assert not kinds or message["type"] in kinds, message
        return message

    async def join(self, room: str = "R", **members: object) -> Json:
        await self.say("join", room=room, **members)
        joined = await self.hear("joined")
        self.id, self.token = joined["peerId"], joined.get("token", "")
        return joined

    async def refused(self, kind: str, **members: object) -> Json:
        """Say something that is refused, and what the server says of it."""
        await self.say(kind, **members)
        return await self.hear("error")

    async def hears_nothing(self) -> None:
        """Whatever is on its way to it would have come before the answer to this."""
        assert (await self.refused("no such type"))["code"] == "unknown-type"

    async def closed(self) -> int | None:
        """Wait until the server has closed the socket; the code it gave."""
        async with asyncio.timeout(PATIENCE):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code


class Meeting:
    """A server, and clients that come to it."""

    def __init__(self, server: SignalServer, stack: AsyncExitStack, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.http = http
        self.stack = stack

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.server.url.removeprefix("ws://").rpartition(":")
        return host, int(port)

    async def peer(self, path: str = "/", *, address: str = "") -> Peer:
        """A client; ``address``: where a proxy on this machine says that it is."""
        fields = {"X-Forwarded-For": address} if address else {}
        return Peer(await self.stack.enter_async_context(self.http.ws_connect(self.server.url + path, headers=fields)))

    async def member(self, role: str | None = None, *, room: str = "R", address: str = "") -> Peer:
        peer = await self.peer(address=address)
        await peer.join(room, **({"role": role} if role else {}))
        return peer

    async def members(self, *roles: str | None) -> list[Peer]:
        """Members that have heard of each other."""
        peers = [await self.member(role) for role in roles]
        for index, peer in enumerate(peers):
            for role in roles[index + 1 :]:
                if roles[index] is None or role != roles[index]:
                    await peer.hear("peer-joined")
        return peers


@asynccontextmanager
async def meeting(limits: Limits | None = None, *, port: int = 0, **options: Any) -> AsyncIterator[Meeting]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(SignalServer("127.0.0.1", port, limits=limits, **options))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Meeting(server, stack, http)


def masked(first: int, payload: bytes = b"") -> bytes:
    """A frame of less than 126 bytes, as a client sends it."""
    return bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def pour_raw(writer: asyncio.StreamWriter, begin: bytes, flood: bytes) -> None:
    with suppress(ConnectionError):
        writer.write(begin)
        while True:
            writer.write(flood)
            await writer.drain()
