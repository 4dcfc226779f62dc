"""A gateway before a scripted peer: a real session over a memory channel, and raw clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from llmtunnel.config import Limits, Timeouts
from llmtunnel.endpoints.clients import Clients
from llmtunnel.endpoints.exchange import SessionSource
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.endpoints.ledger import Ledger
from llmtunnel.errors import PeerNotFound
from llmtunnel.listener import ListenerPolicy
from llmtunnel.protocol.heads import ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Features
from llmtunnel.session.handlers import Handler
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Stream
from llmtunnel.status import RequestRecord, Role
from llmtunnel.transport.memory import linked_pair

from .session_pair import start

CALLED = ListenerPolicy(allow_hosts=("a", "h", "asked"))
"""By the names that clients use in these tests."""


class Rig:
    """What a test holds: the gateway, its records, the streams that serve saw."""

    def __init__(
        self, gateway: Gateway, serve: Session, proxy: Session, ledger: Ledger, records: list[RequestRecord]
    ) -> None:
        self.gateway = gateway
        self.serve = serve
        self.proxy = proxy
        self.ledger = ledger
        self.records = records

    @property
    def clients(self) -> Clients:
        """Those that are connected."""
        return self.gateway._clients

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.gateway.addresses[0].rpartition(":")
        return host, int(port)

    async def connect(self) -> RawClient:
        return RawClient(*await asyncio.open_connection(*self.address))

    async def ask(self, request: bytes) -> bytes:
        """All that one connection answers to these bytes, until it closes."""
        async with await self.connect() as client:
            client.write(request)
            return await client.rest()


class RawClient:
    """Bytes to the gateway, bytes from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.write = writer.write

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        return await self.reader.read()

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


class NoPeer:
    """A source that never has a session."""

    async def session(self, wait: float) -> Session:
        await asyncio.sleep(wait)
        raise PeerNotFound("Nobody is in the room.")


@asynccontextmanager
async def tunnel(
    handler: Handler,
    *,
    features: Features = ALL_FEATURES,
    policy: ListenerPolicy = CALLED,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    keepalive: float | None = None,
    sessions: SessionSource | None = None,
) -> AsyncIterator[Rig]:
    near, far = linked_pair()
    serve, proxy = await asyncio.gather(
        start(far, Role.SERVE, handler=handler, features=features, limits=limits),
        start(near, Role.PROXY, features=features, limits=limits, timeouts=timeouts),
    )

    class Source:
        async def session(self, wait: float) -> Session:
            return proxy

    records: list[RequestRecord] = []
    ledger = Ledger(records.append)
    gateway = Gateway(
        sessions or Source(),
        listen="127.0.0.1:0",
        policy=policy,
        timeouts=timeouts,
        limits=limits,
        ledger=ledger,
        keepalive=keepalive,
    )
    rig = Rig(gateway, serve, proxy, ledger, records)
    await gateway.start()
    try:
        yield rig
    finally:
        await gateway.aclose()
        await proxy.aclose()
        await serve.aclose()


def ok(*fields: tuple[bytes, bytes], status: int = 200, reason: bytes = b"OK") -> ResponseHead:
    return ResponseHead(status=status, reason=reason, fields=fields)


def answering(body: bytes, *fields: tuple[bytes, bytes]) -> Handler:
    """A serve that reads the request and answers with this body, sized."""

    async def handle(stream: Stream) -> None:
        while await stream.receive():
            pass
        await stream.send_response(ok(*fields, (b"Content-Length", b"%d" % len(body))))
        await stream.send(body)
        await stream.send_end()

    return handle
