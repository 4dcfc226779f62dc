"""The signal server: how many members it holds, how fast they meet, and what its relay carries.

One instance, and two with Redis where the two members of a room are at different ones. The server's processes are
real, and so are the clients' sockets; a client is a few hundred bytes of Python, so that 15,000 fit beside the server.
``ORIGINAL_SIGNAL`` in the environment is the path of the original server's ``index.js``, which Node then runs beside
ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import aiohttp

from ..support.ports import free_port
from ..support.redis_server import redis_server
from .client import Failed
from .harness import Process
from .report import Row, ms, percentile

MEMBERS: Final = 15_000
"""Idle members of one instance; with the clients' own, near the usual limit of 20,000 open files of a process."""
MEETINGS: Final = 300
LOAD: Final = 1_000
"""Joins per second beside the meetings that are timed."""
LOADERS: Final = 200
IDLE: Final = 12.0
"""Seconds: each member is pinged once, and pings once."""
AT_ONCE: Final = 100
PATIENCE: Final = 60.0
FLAGS: Final = (
    *("--max-members", "16000", "--max-rooms", "16000", "--max-connections", "18800"),
    *("--members-per-address", "999999", "--rooms-per-address", "999999", "--joins-per-minute", "99999999"),
    *("--messages-per-address", "999999", "--messages-per-room", "999999", "--log-level", "warning"),
    *("--relay-rate", "10GiB", "--relay-rate-all", "10GiB", "--relay-total", "900GiB", "--relay-total-all", "900GiB"),
)
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
OFFER: Final = "v=0\r\n" + "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n" * 20


class Client(asyncio.Protocol):
    """A WebSocket by hand: RFC 6455, section 5.2. It answers pings."""

    __slots__ = ("_data", "_heard", "_open", "_transport", "_waiting")

    def __init__(self) -> None:
        self._data = b""
        self._open = False
        self._heard: list[dict[str, Any]] = []
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Client:
        """Connect, and open the WebSocket."""
        _, client = await asyncio.get_running_loop().create_connection(cls, *address)
        client._transport.write(HANDSHAKE)
        await client._until(lambda: client._open)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        if not self._open:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._data = head
                return
            self._open = True
        while len(data) >= 2:
            size, at = data[1] & 127, 2
            if size == 126:
                size, at = int.from_bytes(data[2:4]), 4
            elif size == 127:
                size, at = int.from_bytes(data[2:10]), 10
            if len(data) < at + size:
                break
            opcode, payload, data = data[0] & 15, data[at : at + size], data[at + size :]
            if opcode == 1:
                self._heard.append(json.loads(payload))
            elif opcode == 9:
                self._write(0x8A, payload)
        self._data = data
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Failed(f"the server has closed: {exc}"))

    def say(self, **message: object) -> None:
        """Send a message."""
        self._write(0x81, json.dumps(message).encode())

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of this type; others are skipped."""

        def come() -> bool:
            while self._heard and self._heard[0]["type"] != kind:
                if (said := self._heard.pop(0))["type"] == "error":
                    raise Failed(str(said))
            return bool(self._heard)

        await self._until(come)
        return self._heard.pop(0)

    def close(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _write(self, first: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes([first, 0x80 | size]) if size < 126 else bytes([first, 0xFE]) + size.to_bytes(2)
        self._transport.write(head + b"\0\0\0\0" + payload)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
        self._waiting = None


@dataclass
class Server:
    """Where the members of a room come to: the first and the second of each room."""

    processes: list[Process]
    first: tuple[str, int]
    second: tuple[str, int]
    roles: bool = True
    """Whether it knows roles, as ours does."""

    @property
    def memory(self) -> float:
        """MB of the first process."""
        return self.processes[0].memory() or 0.0

    @property
    def processor(self) -> float:
        """Seconds of the first process."""
        return self.processes[0].processor() or 0.0

    async def member(self, client: Client, room: str, role: str) -> dict[str, Any]:
        """Have a client join."""
        client.say(type="join", room=room, **({"role": role} if self.roles else {}))
        return await client.hear("joined")


async def signal(quick: bool) -> list[Row]:
    """All figures, of one instance, of two, and of the original."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    rows = []
    async with _one() as server:
        rows += await _figures(server, "one instance", quick)
    if shutil.which("redis-server"):
        async with _two() as server:
            rows += await _figures(server, "two instances and Redis", quick)
    if path := os.environ.get("ORIGINAL_SIGNAL"):
        async with _original(path) as server:
            rows += await _figures(server, "the original's server", quick)
    return rows


async def _figures(server: Server, name: str, quick: bool) -> list[Row]:
    count = MEETINGS // 10 if quick else MEETINGS
    rows = [await _meet(server, f"{name}: from a join to the offer, idle", count)]
    async with _load(server, load := LOAD // 10 if quick else LOAD) as joined:
        beside = await _meet(server, f"{name}: the same beside {load:,} joins/s", count // 3)
        rows.append(Row(figure=beside.figure, result=f"{beside.result} ({joined():,.0f} joins/s came)"))
    if server.roles:
        rows += await _relay(server, name, 0.5 if quick else 5.0)
    rows += await _hold(server, name, MEMBERS // 50 if quick else MEMBERS)
    return rows


async def _hold(server: Server, name: str, count: int) -> list[Row]:
    """Idle members, each in a room of its own, and how fast they have come."""
    memory, processor, begun = server.memory, server.processor, time.perf_counter()
    places = asyncio.Semaphore(AT_ONCE)
    clients: list[Client] = []

    async def come(number: int) -> None:
        async with places:
            client = await Client.connect(server.first)
            clients.append(client)
            await server.member(client, f"idle {number}", "serve")

    try:
        await asyncio.gather(*(come(number) for number in range(count)))
        seconds, spent = time.perf_counter() - begun, server.processor - processor
        await asyncio.sleep(1)
        each = (server.memory - memory) * 1000 / count
        processor = server.processor
        await asyncio.sleep(IDLE)
        idle = (server.processor - processor) / IDLE
    finally:
        for client in clients:
            client.close()
    return [
        Row(figure=f"{name}: {count:,} idle members, memory for each", result=f"{each:.1f} KB"),
        Row(figure=f"{name}: the same, processor", result=f"{idle:.1%} of a core"),
        Row(
            figure=f"{name}: connections that join, per second",
            result=f"{count / seconds:,.0f} ({spent / count * 1000:.2f} ms of processor each)",
        ),
    ]


async def _meet(server: Server, figure: str, count: int) -> Row:
    """From the second member's join to the arrival of the first one's offer."""
    delays = []
    for _ in range(count):
        room = f"room {random.random()}"
        first, second = await Client.connect(server.first), await Client.connect(server.second)
        await server.member(first, room, "serve")
        begun = time.perf_counter()
        second.say(type="join", room=room, **({"role": "proxy"} if server.roles else {}))
        peer = (await first.hear("peer-joined"))["peerId"]
        first.say(type="offer", sdp=OFFER, **({"to": peer} if server.roles else {}))
        await second.hear("offer")
        delays.append(time.perf_counter() - begun)
        first.close()
        second.close()
    return Row(figure=figure, result=f"p50 {ms(percentile(delays, 0.5))}, p99 {ms(percentile(delays, 0.99))}")


@asynccontextmanager
async def _load(server: Server, rate: int) -> AsyncIterator[Callable[[], float]]:
    """Join and leave so often per second; yields how often it really was."""
    clients = [await Client.connect(server.first if number % 2 else server.second) for number in range(LOADERS)]
    joins, begun = 0, time.perf_counter()

    async def churn(client: Client, number: int) -> None:
        nonlocal joins
        due = time.perf_counter() + random.random() * LOADERS / rate
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += LOADERS / rate
            await server.member(client, f"load {number}", "serve")
            client.say(type="bye")
            joins += 1

    tasks = [asyncio.create_task(churn(client, number), name="load") for number, client in enumerate(clients)]
    try:
        await asyncio.sleep(1)
        yield lambda: joins / (time.perf_counter() - begun)
    finally:
        for task in tasks:
            task.cancel()
        failed = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(each, Failed)]
        for client in clients:
            client.close()
    if failed:
        raise failed[0]


async def _relay(server: Server, name: str, seconds: float) -> list[Row]:
    """What a pipe carries, and what it adds to a message's way there and back."""
    room = f"pipe {random.random()}"
    serve, proxy = await Client.connect(server.first), await Client.connect(server.second)
    there = (await server.member(serve, room, "serve"))["peerId"]
    await server.member(proxy, room, "proxy")
    proxy.say(type="pipe", to=there)
    tickets = (await serve.hear("pipe"))["ticket"], (await proxy.hear("pipe"))["ticket"]
    async with aiohttp.ClientSession() as http:
        # Without a path that names an instance, so that one end is passed on where there are two.
        left, right = [
            await http.ws_connect(f"ws://{at[0]}:{at[1]}/", protocols=("llmtunnel-relay", ticket), max_msg_size=0)
            for at, ticket in zip((server.first, server.second), tickets, strict=True)
        ]
        echoing = asyncio.create_task(_echo(right, 300), name="echo")
        delays = []
        for _ in range(300):
            begun = time.perf_counter()
            await left.send_bytes(bytes(1000))
            await left.receive_bytes()
            delays.append(time.perf_counter() - begun)
        await echoing
        pouring = asyncio.create_task(_pour(left), name="pour")
        begun, came = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            came += len(await right.receive_bytes())
        rate = came / (time.perf_counter() - begun) / 1e6
        pouring.cancel()
        await asyncio.wait([pouring])
    serve.close()
    proxy.close()
    return [
        Row(figure=f"{name}: relay, one pipe", result=f"{rate:.0f} MB/s"),
        Row(
            figure=f"{name}: relay, 1 kB there and back",
            result=f"p50 {ms(percentile(delays, 0.5))}, p99 {ms(percentile(delays, 0.99))}",
        ),
    ]


async def _echo(end: aiohttp.ClientWebSocketResponse, count: int) -> None:
    for _ in range(count):
        await end.send_bytes(await end.receive_bytes())


async def _pour(end: aiohttp.ClientWebSocketResponse) -> None:
    with suppress(ConnectionError):
        while True:
            await end.send_bytes(bytes(65_536))


@asynccontextmanager
async def _one() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process = await _start(Path(folder), port)
        try:
            yield Server([process], ("127.0.0.1", port), ("127.0.0.1", port))
        finally:
            process.kill()


@asynccontextmanager
async def _two() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder, redis_server() as redis:
        ports, sharing = (free_port(), free_port()), ("--redis", redis.url)
        processes = [
            await _start(Path(folder), port, *sharing, "--instance", name, "--advertise", f"127.0.0.1:{port}")
            for name, port in zip("ab", ports, strict=True)
        ]
        try:
            await asyncio.gather(*(_ready(port) for port in ports))
            yield Server(processes, ("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]))
        finally:
            for process in processes:
                process.kill()


async def _start(folder: Path, port: int, *flags: str) -> Process:
    process = Process(
        *("llmtunnel", "signal", "--listen", f"127.0.0.1:{port}", *FLAGS, *flags), name="signal", folder=folder
    )
    await process.line("listening on")
    return process


async def _ready(port: int) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"http://127.0.0.1:{port}/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _original(path: str) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process = Process(path, name="original", folder=Path(folder), program=("node",), environ={"PORT": str(port)})
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with suppress(OSError):
                        (await Client.connect(("127.0.0.1", port))).close()
                        break
                    await asyncio.sleep(0.05)
            yield Server([process], ("127.0.0.1", port), ("127.0.0.1", port), roles=False)
        finally:
            process.kill()
