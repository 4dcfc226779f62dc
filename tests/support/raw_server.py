"""An HTTP server that normalises nothing: it keeps the bytes that it received, and answers with bytes it was given."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import parse_qs

from llmtunnel.endpoints.probe import PROBE_FIELD

from .processes import Address

Fields = tuple[tuple[bytes, bytes], ...]
PIECE = 65_536
KEPT = 1 << 20
"""Body bytes kept of one request; of longer ones only length and digest are."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Do(Enum):
    """What an answer does beside writing bytes and waiting."""

    READ_BODY = auto()
    CLOSE = auto()
    RESET = auto()


Step = bytes | float | Do
Answer = tuple[Step, ...]


def reply(*steps: Step) -> Answer:
    """The usual answer: the request's body is read first."""
    return (Do.READ_BODY, *steps)


@dataclass(slots=True, kw_only=True)
class Request:
    """What came, byte for byte."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes = b""
    length: int = 0
    digest: str = ""
    whole: bool = False
    """Whether its body came to its end."""
    left: float | None = None
    """When the client went away in the middle of the answer (`time.monotonic`)."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields of that name (in lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def chunked(self) -> bool:
        """Whether its body has no length of its own."""
        return b"chunked" in b",".join(self.values(b"transfer-encoding")).lower()

    @property
    def persistent(self) -> bool:
        """Whether the client expects the connection to go on (RFC 9112 section 9.3)."""
        closes = b"close" in b",".join(self.values(b"connection")).lower()
        return self.version == b"HTTP/1.1" and not closes

    @property
    def query(self) -> dict[str, str]:
        """The target's query, the last of each name."""
        parsed = parse_qs(self.target.partition(b"?")[2].decode("latin-1"))
        return {name: values[-1] for name, values in parsed.items()}


class Connection:
    """One client; reads requests and writes answers until either side ends it."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.site = site
        self.reader = reader
        self.writer = writer

    async def serve(self) -> None:
        """Answer one request after the other."""
        try:
            while await self._exchange():
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writer.close()
            with suppress(ConnectionError):
                await self.writer.wait_closed()

    async def _exchange(self) -> bool:
        request = await self._head()
        if not request.values(PROBE_FIELD.lower()):  # serve's own look at its upstream is nobody's request
            self.site.requests.append(request)
        return await self._answer(request) and request.persistent

    async def _answer(self, request: Request) -> bool:
        page = self.site.pages.get(request.target.partition(b"?")[0])
        answer = self.site.answers.get(request.target)
        try:
            if answer is None and page is not None:
                return await page(self, request)
            return await self._follow(request, answer or reply(OK if request.method != b"HEAD" else OK[:-2]))
        except (ConnectionError, asyncio.IncompleteReadError):
            request.left = request.left or time.monotonic()
            raise

    async def _follow(self, request: Request, answer: Answer) -> bool:
        for step in answer:
            match step:
                case bytes():
                    self.writer.write(step)
                    await self.writer.drain()
                case float():
                    await asyncio.sleep(step)
                case Do.READ_BODY:
                    await self.read_body(request)
                case Do.CLOSE:
                    return False
                case Do.RESET:
                    self.reset()
                    return False
        if not request.whole:
            await self._linger()
        return request.whole

    async def _head(self) -> Request:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].lstrip(b"\r\n").split(b"\r\n")
        method, target, version = first.split(b" ")
        parts = [line.partition(b":") for line in lines]
        fields = tuple((name, value.strip(b" \t")) for name, _, value in parts)
        return Request(method=method, target=target, version=version, fields=fields)

    async def read_body(self, request: Request) -> None:
        """Take the request's body to its end."""
        digest = hashlib.sha256()
        async for piece in self.body_of(request):
            digest.update(piece)
            request.length += len(piece)
            if request.length <= KEPT:
                request.body += piece
        request.digest = digest.hexdigest()
        request.whole = True

    async def body_of(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body as it comes."""
        if request.chunked:
            while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                async for piece in self._sized(size):
                    yield piece
                await self.reader.readexactly(2)
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
        elif lengths := request.values(b"content-length"):
            async for piece in self._sized(int(lengths[0])):
                yield piece

    async def _sized(self, left: int) -> AsyncIterator[bytes]:
        while left:
            piece = await self.reader.read(min(left, PIECE))
            if not piece:
                raise ConnectionResetError("the client left in the middle of its body")
            left -= len(piece)
            yield piece

    async def _linger(self) -> None:
        """End our half, and let the client read it before a reset for its unread bytes can reach it."""
        self.writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while await self.reader.read(PIECE):
                    pass

    def reset(self) -> None:
        """End the connection as a crashed process behind a router would: RST."""
        endpoint: socket.socket = self.writer.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def write(self, data: bytes) -> None:
        """Send, at the speed that the client reads."""
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send one chunk, in one write."""
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def watch(self, request: Request, answer: Awaitable[None]) -> bool:
        """Run an answer until it is done or the client leaves; when that was stands in ``request.left``."""
        sending = asyncio.ensure_future(answer)
        leaving = asyncio.ensure_future(self.reader.read(1))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() or sending.exception():
                request.left = time.monotonic()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        return False


Page = Callable[[Connection, Request], Awaitable[bool]]
"""Answers one request; says whether the connection goes on."""


@dataclass(slots=True)
class Site:
    """What all connections of one upstream share."""

    pages: dict[bytes, Page]
    """Answers that need more than a list of steps, by path."""
    answers: dict[bytes, Answer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    acknowledged: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    hearing: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client came: the callback of `asyncio.start_server`."""

        def gone(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            if task.cancelled():  # before its first step, it may be
                writer.transport.abort()

        task = asyncio.create_task(Connection(self, reader, writer).serve(), name="a client of the upstream")
        self._connections.add(task)
        task.add_done_callback(gone)

    async def end(self) -> None:
        """Cut every connection."""
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def serve(site: Site, port: int, ready: Callable[[Address], None], stop: asyncio.Event) -> None:
    """Answer on loopback until ``stop``."""
    server = await asyncio.start_server(site.connected, "127.0.0.1", port, limit=1 << 20)
    ready(server.sockets[0].getsockname())
    await stop.wait()
    server.close()
    await site.end()
