"""A minimal HTTP client, since it shares a processor with what it measures: one connection, no retries."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from ..config import KIB
from ..endpoints.duplex import beside
from ..endpoints.encoding import LAST_CHUNK, encode_chunk
from ..endpoints.forwarding import response_events
from ..endpoints.http1 import END, ResponseReader
from ..endpoints.upstream_connection import UpstreamConnection, connect
from ..errors import TunnelError, UpstreamBroken
from ..protocol.heads import ResponseHead

MOST_TOLD: Final = 64 * KIB
"""Maximum bytes kept of a response; longer ones use a sink."""

Sink = Callable[[bytes], None]


class Address(NamedTuple):
    """Address and key for requests."""

    host: str
    port: int
    key: str = ""


class Declined(TunnelError):
    """A request got a ``status`` other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One connection, with one exchange at a time."""

    def __init__(self, address: Address, connection: UpstreamConnection) -> None:
        self._connection = connection
        key = f"Authorization: Bearer {address.key}\r\n" if address.key else ""
        self._fields = f"Host: {address.host}:{address.port}\r\n{key}".encode()

    async def get(self, target: str, sink: Sink | None = None) -> bytes:
        """Send a GET, and return the response's body; with ``sink``, pass it the bytes as they arrive instead.

        Raises `Declined`, or `UpstreamBroken` if the connection broke.
        """
        self._connection.write_now(b"GET %b HTTP/1.1\r\n%b\r\n" % (target.encode(), self._fields))
        return await self._answer(b"GET", sink)

    async def post(self, target: str, body: AsyncIterator[bytes]) -> bytes:
        """Send a body of unknown length, and return the response's body, which may arrive before the end."""
        head = b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (target.encode(), self._fields)
        self._connection.write_now(head)
        async with beside(self._send(body), "what measures an upload"):
            return await self._answer(b"POST", None)

    async def _send(self, body: AsyncIterator[bytes]) -> None:
        async for data in body:
            await self._connection.write(encode_chunk(data))
        await self._connection.write(LAST_CHUNK)

    async def _answer(self, method: bytes, sink: Sink | None) -> bytes:
        reader, status, kept = ResponseReader(method), 0, b""
        while True:
            for event in response_events(reader, await self._connection.read()):
                if isinstance(event, ResponseHead):
                    status = event.status
                elif event is END:
                    if status != 200:
                        raise Declined(status, _said(kept, status))
                    return kept
                elif sink and status == 200:
                    sink(event)
                elif len(kept) + len(event) > MOST_TOLD:
                    raise UpstreamBroken("The answer to a measurement is too long.")
                else:
                    kept += event


@asynccontextmanager
async def client(address: Address) -> AsyncIterator[Client]:
    """Open a connection for the context, and close it at the end even during an exchange. Raises `OSError`."""
    connection = await connect(address.host, address.port, tls=None, on_lost=lambda _: None)
    try:
        yield Client(address, connection)
    finally:
        connection.abort()
        await connection.lost.wait()


def _said(body: bytes, status: int) -> str:
    """Return the message of an error in llmtunnel's format."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        message = ""
    return message[:500] if isinstance(message, str) and message else f"It was answered with HTTP status {status}."
