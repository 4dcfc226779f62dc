"""What a tunnel needs around it, in this process: an upstream, quick settings, raw members; and what it leaves."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import aiohttp

from llmtunnel.config import IceServers, Limits, ProxySettings, ServeSettings, Settings, Timeouts
from llmtunnel.paths import AUTO
from llmtunnel.status import Health, Notice, Phase
from llmtunnel.tunnel import Proxy, Server, Tunnel
from llmtunnel.upstream import Upstream as Address
from signal_server.server import SignalServer

PATIENCE = 20.0
"""Seconds that anything expected may take on a busy machine."""
QUICK = Timeouts(answer=2.0, offer=2.0, connect=10.0, dead_suspect=0.5, retry_first=0.05, retry_max=0.3)
NO_ICE_SERVERS = IceServers(stun=())


class Upstream:
    """An HTTP server that answers ``/`` with "ok", ``/endless`` without an end, and anything with its path."""

    def __init__(self) -> None:
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nobody is connected."""
        return not self._clients

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def gone(task: asyncio.Task[None]) -> None:
            self._clients.discard(task)
            if task.cancelled():  # before its first step, it may be
                writer.transport.abort()

        task = asyncio.create_task(self._serve(reader, writer), name="a client of the upstream")
        self._clients.add(task)
        task.add_done_callback(gone)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.split(b" ")[1], writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, target: bytes, writer: asyncio.StreamWriter) -> None:
        if target == b"/endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        body = b"ok" if target == b"/" else target
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


async def get(url: str, target: str = "/") -> tuple[int, bytes]:
    """The status and body of one GET on a connection of its own."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ")[1]), await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def settings(
    signal: str,
    *,
    room: str = "r",
    secret: str | None = None,
    timeouts: Timeouts = QUICK,
    limits: Limits | None = None,
    resume_for: float = 1.0,
    path: str = AUTO,
    loopback: bool = True,
    signal_token: str | None = None,
) -> Settings:
    """Peers in this process."""
    return Settings(
        room=room,
        secret=secret,
        signal=signal,
        signal_token=signal_token,
        ice=NO_ICE_SERVERS,
        loopback=loopback,
        timeouts=timeouts,
        limits=limits or Limits(),
        resume_for=resume_for,
        path=path,
    )


def server(signal: str, upstream: str, *, room: str = "r", timeouts: Timeouts = QUICK, seek: bool = False) -> Server:
    """A serve, not started."""
    common = settings(signal, room=room, timeouts=timeouts)
    return Server(ServeSettings(**fields_of(common), upstream=Address.parse(upstream), seek=seek))


def proxy(signal: str, *, room: str = "r", listen: str = "127.0.0.1:0", timeouts: Timeouts = QUICK) -> Proxy:
    """A proxy, not started."""
    return Proxy(ProxySettings(**fields_of(settings(signal, room=room, timeouts=timeouts)), listen=listen))


def fields_of(common: Settings) -> dict[str, Any]:
    """Its fields, as arguments of a subclass."""
    names = ("room", "secret", "signal", "signal_token", "ice", "loopback", "timeouts", "limits", "resume_for", "path")
    return {name: getattr(common, name) for name in names}


@asynccontextmanager
async def started(*tunnels: Tunnel) -> AsyncIterator[None]:
    """Start them, close them at the end, the last first."""
    try:
        for tunnel in tunnels:
            await tunnel.start()
        yield
    finally:
        for tunnel in reversed(tunnels):
            await tunnel.aclose()


@asynccontextmanager
async def world(room: str = "r") -> AsyncIterator[tuple[SignalServer, Server]]:
    """A signal server, an upstream, and a serve that has joined and seen it."""
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        serve = server(signal.url, upstream.url, room=room)
        async with started(serve):
            await serve.wait(Phase.WAITING, timeout=PATIENCE)
            await until(lambda: health(serve) is Health.UP and upstream.idle, "serve has looked at its upstream")
            yield signal, serve


def health(serve: Server) -> Health | None:
    """What a serve has seen of its upstream."""
    upstream = serve.status.upstream
    return upstream.health if upstream else None


class Heard:
    """Notices, as they come."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def __call__(self, notice: Notice) -> None:
        self.notices.append(notice)

    @property
    def events(self) -> list[str]:
        """Their names, in order."""
        return [notice.event for notice in self.notices]

    def of(self, kind: type[Notice]) -> list[Any]:
        """Those of one kind."""
        return [notice for notice in self.notices if isinstance(notice, kind)]


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until it is true."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 (what is waited for has no event)
                await asyncio.sleep(0.001)
    except TimeoutError as exc:
        raise AssertionError(f"{what or condition} did not come true in {PATIENCE} s") from exc


async def settle() -> None:
    """Let what is under way on this loop, and waits for no time and no network, come to its end."""
    for _ in range(10):
        await asyncio.sleep(0)


class RawMember:
    """A member of a room that only does what a test has it do."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._http, self._socket = http, socket

    @classmethod
    async def join(cls, signal: str, *, room: str = "r", role: str | None = None, instance: str = "raw") -> RawMember:
        http = aiohttp.ClientSession()
        member = cls(http, await http.ws_connect(signal))
        await member.say(type="join", room=room, role=role, instance=instance)
        await member.hear("joined")
        return member

    async def say(self, **message: object) -> None:
        await self._socket.send_json({name: value for name, value in message.items() if value is not None})

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of that type; others are skipped."""
        async with asyncio.timeout(PATIENCE):
            while (message := json.loads((await self._socket.receive()).data))["type"] != kind:
                pass
        return dict(message)

    async def aclose(self) -> None:
        await self._socket.close()
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def quicker(**seconds: float) -> Timeouts:
    """`QUICK` with some other waits."""
    return replace(QUICK, **seconds)


def descriptors() -> int | None:
    """Open files and sockets of this process; None where the system does not tell."""
    gc.collect()
    for directory in ("/proc/self/fd", "/dev/fd"):
        if sys.platform != "win32" and os.path.isdir(directory):  # noqa: PTH112
            return len(os.listdir(directory))  # noqa: PTH208
    return None


def timers() -> list[str]:
    """What of ours waits for its time on this loop, asyncio's own."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    told = [repr(handle) for handle in scheduled if not handle.cancelled()]
    return [each for each in told if any(name in each for name in ("llmtunnel", "aioice", "aiortc"))]
