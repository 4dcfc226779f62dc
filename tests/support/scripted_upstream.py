"""An upstream on raw sockets that does what a test says, and an origin before it, reached through a real session."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llmtunnel.config import Exposure, Limits, Timeouts
from llmtunnel.endpoints.ledger import Ledger
from llmtunnel.endpoints.origin import Origin
from llmtunnel.protocol.heads import Fields, RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Features
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Stream
from llmtunnel.status import RequestRecord, Role
from llmtunnel.transport.memory import linked_pair
from llmtunnel.upstream import Upstream

from .session_pair import read_all, start

PATIENCE = 20.0
"""Seconds that anything expected may take on a busy machine."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def reset_on_close(raw: socket.socket) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0))


def reset(raw: socket.socket) -> None:
    """Break a connection off; what was sent on it has arrived."""
    reset_on_close(raw)
    raw.close()


@dataclass
class Peer:
    """One connection that the upstream accepted."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> bytes:
        """A request's head, with its empty line."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        return await self.reader.readexactly(size)

    async def ended(self) -> bool:
        """Whether the other side ends, whatever it sends before."""
        try:
            async with asyncio.timeout(PATIENCE):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self) -> None:
        self.writer.close()

    def rst(self) -> None:
        """Break the connection off, as a process that is killed with unread data does."""
        reset_on_close(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()


class Scripted:
    """The upstream: takes connections, and does nothing by itself."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Peer] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self.accepted = 0
        self.port = 0

    async def peer(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(PATIENCE):
            return await self._waiting.get()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        self._waiting.put_nowait(Peer(reader, writer))

    @asynccontextmanager
    async def listening(
        self, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, host, port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await server.wait_closed()


@dataclass
class Rig:
    """A proxy's session, whose serve has an origin before a scripted upstream."""

    upstream: Scripted
    origin: Origin
    proxy: Session
    records: asyncio.Queue[RequestRecord]
    ledger: Ledger
    before: Stream | None = None
    """The last request of the client that asks; None: the next request is another client's."""

    async def ask(
        self,
        method: bytes = b"GET",
        target: bytes = b"/",
        fields: Fields = (),
        *,
        ended: bool = True,
        last: bool = False,
    ) -> Stream:
        head = RequestHead(method=method, target=target, fields=fields, last=last)
        self.before = await self.proxy.open(head, ended=ended, after=self.before)
        return self.before

    async def record(self) -> RequestRecord:
        """The next exchange's record, once serve has it."""
        async with asyncio.timeout(PATIENCE):
            return await self.records.get()


@asynccontextmanager
async def rig(
    address: Callable[[int], str] = "http://127.0.0.1:{}".format,
    *,
    features: Features = ALL_FEATURES,
    advertise: str = "/",
    headers: tuple[str, ...] = (),
    exposure: Exposure | None = None,
    clock: Callable[[], float] = time.monotonic,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Rig]:
    scripted, records = Scripted(), asyncio.Queue[RequestRecord]()
    ledger = Ledger(records.put_nowait)
    async with scripted.listening():
        origin = Origin(
            Upstream.parse(address(scripted.port), headers=headers),
            advertise=advertise,
            exposure=exposure,
            clock=clock,
            timeouts=timeouts,
            limits=limits,
            ledger=ledger,
        )
        near, far = linked_pair()
        serve, proxy = await asyncio.gather(
            start(near, Role.SERVE, handler=origin.handle, limits=limits),
            start(far, Role.PROXY, features=features, limits=limits),
        )
        try:
            yield Rig(scripted, origin, proxy, records, ledger)
        finally:
            await proxy.aclose()
            await serve.aclose()
            await origin.aclose()


async def answer(stream: Stream) -> tuple[ResponseHead, bytes]:
    """A response's head and whole body."""
    return await stream.response(), await read_all(stream)
