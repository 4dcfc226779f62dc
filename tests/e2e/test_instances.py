"""Tunnels while the instances of their signal server, or its Redis, fail or are replaced: no byte of a stream is lost.

The signal servers are processes behind a load balancer that sends each connection to the next one. The peers are
members of rooms in this process, with real WebRTC and real pipes of the relay, and processes where one is the original.
"""

from __future__ import annotations

import asyncio
import secrets
import signal as signals
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from llmtunnel.protocol.heads import RequestHead
from llmtunnel.status import PeerLostNotice, Role, Suspended

from ..support.balancer import Balancer
from ..support.embedded import quicker, until
from ..support.members import Member
from ..support.ports import free_port
from ..support.processes import Process, Processes, Signal, processes
from ..support.redis_server import RedisServer, needs_redis, redis_server
from .test_recovery import needs_unix

pytestmark = [needs_unix, needs_redis, pytest.mark.within(170), pytest.mark.timeout(180)]

NAMES = ("a", "b", "c")
ORIGINAL = ("original serve", "original proxy")
"""A peer of the original's, and one of ours."""
PATHS = ("direct", "relay", "direct", "relay", *ORIGINAL)


@dataclass
class Server:
    """A signal server of three instances."""

    processes: Processes
    redis: RedisServer
    balancer: Balancer
    instances: dict[str, Signal] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def start(self, name: str) -> None:
        port = self.ports[name]
        flags = ("--instance", name, "--advertise", f"127.0.0.1:{port}", "--drain", "8")
        redis = {"TUNNEL_SIGNAL_REDIS": self.redis.url}
        self.instances[name] = self.processes.signal(*flags, listen=f"127.0.0.1:{port}", environ=redis)

    async def wait_ready(self, *names: str) -> None:
        await asyncio.to_thread(self.balancer.wait_ready, *(("127.0.0.1", self.ports[name]) for name in names))

    async def replace(self, name: str) -> None:
        """As a rolling restart does."""
        process: Process = self.instances[name].process
        process.signal(signals.SIGTERM)
        assert await asyncio.to_thread(process.wait_exit) == 128 + signals.SIGTERM
        await asyncio.to_thread(self.start, name)
        await self.wait_ready(*NAMES)


class Tunnel:
    """Two members, and a stream of which each byte comes back."""

    def __init__(self, url: str, path: str) -> None:
        options = {"room": secrets.token_hex(8), "secret": "s", "path": path, "resume_for": 60.0}
        timeouts = quicker(dead_suspect=1.0)
        self.path = path
        self.serve = Member(Role.SERVE, url, timeouts=timeouts, **options)  # type: ignore[arg-type]
        self.proxy = Member(Role.PROXY, url, timeouts=timeouts, **options)  # type: ignore[arg-type]
        self.came = 0
        """Bytes that have come back."""
        self._stop = asyncio.Event()

    async def start(self) -> None:
        self.serve.start()
        self.proxy.start()
        await self.proxy.heard("peer-connected")
        self._echo = asyncio.create_task(self._run(), name="echo")
        await until(lambda: self.came > 0, "a stream")

    async def flows(self) -> None:
        """Until more bytes have come back than now."""
        before = self.came
        await until(lambda: self.came > before + 10_000, f"bytes over {self.path}")

    @property
    def suspended(self) -> bool:
        """Whether either side's session was suspended."""
        return bool(self.serve.of(Suspended) + self.proxy.of(Suspended))

    async def finish(self) -> None:
        """End the stream. Every byte has come back, in order, and both sides have kept their session."""
        self._stop.set()
        await self._echo
        for side in (self.serve, self.proxy):
            assert side.connections == 1, side.events
            assert not side.of(PeerLostNotice), side.events

    async def stop(self) -> None:
        await self.proxy.stop()
        await self.serve.stop()

    async def _run(self) -> None:
        session = await self.proxy.session()
        stream = await session.open(RequestHead(method=b"POST", target=b"/echo"))
        sending = asyncio.create_task(self._send(stream), name="sending")
        await stream.response()
        digits = b""
        while data := await stream.receive():
            digits += data
            self.came += len(data)
        sent = await sending
        assert digits == b"".join(b"%08d " % number for number in range(sent))

    async def _send(self, stream: object) -> int:
        number = 0
        while not self._stop.is_set():
            await stream.send(b"".join(b"%08d " % each for each in range(number, number + 100)))  # type: ignore[attr-defined]
            number += 100
            await asyncio.sleep(0.02)
        await stream.send_end()  # type: ignore[attr-defined]
        return number


class OriginalTunnel:
    """The same, where one side is the original's, and the stream is one long answer."""

    def __init__(self, here: Server, path: str) -> None:
        self.path = path
        self.came = 0
        """Bytes of the answer that have come."""
        self._here = here
        self._sent = 0
        """Numbers that the upstream has sent."""
        self._stop = asyncio.Event()

    async def start(self) -> None:
        upstream = web.Application()
        upstream.router.add_get("/", self._count)
        self._runner = web.AppRunner(upstream, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._ours, address = await asyncio.to_thread(self._meet, url)
        self._reading = asyncio.create_task(self._read(address), name="reading")
        await until(lambda: self.came > 0, "an answer")

    def _meet(self, upstream: str) -> tuple[Process, str]:
        """Return the process of ours, and where the proxy listens."""
        started, signal, room = self._here.processes, self._here.balancer.url, secrets.token_hex(8)
        if self.path == "original serve":
            original = started.original_serve(room, upstream, signal)
            original.wait_event("joined")
            proxy = started.proxy(room, signal)
            ours = proxy.process
        else:
            ours = started.serve(room, upstream, signal)
            ours.wait_event("signal-connected")
            proxy = started.original_proxy(room, signal)
            original = proxy.process
        ours.wait_event("peer-connected", version="v1")
        original.wait_event("ready")
        return ours, proxy.url

    async def flows(self) -> None:
        """Until more bytes have come than now."""
        before = self.came
        await until(lambda: self.came > before + 10_000 or self._reading.done(), f"bytes from the {self.path}")
        assert not self._reading.done()

    @property
    def suspended(self) -> bool:
        """Whether our side's session was suspended."""
        return self._ours.count("suspended") > 0

    async def finish(self) -> None:
        """End the answer. All of it has come, in order, and our side has kept its session."""
        self._stop.set()
        assert await self._reading == self._sent
        assert self._ours.count("peer-connected") == 1
        assert not self._ours.count("peer-lost")

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._runner.cleanup()

    async def _count(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not self._stop.is_set():
            await response.write(b"".join(b"%08d " % each for each in range(self._sent, self._sent + 100)))
            self._sent += 100
            await asyncio.sleep(0.02)
        return response

    async def _read(self, address: str) -> int:
        """Return how many numbers have come."""
        rest, number = b"", 0
        async with aiohttp.ClientSession() as http, http.get(address) as response:
            async for piece in response.content.iter_any():
                self.came += len(piece)
                *whole, rest = (rest + piece).split(b" ")
                assert whole == [b"%08d" % each for each in range(number, number + len(whole))]
                number += len(whole)
        assert not rest
        return number


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    with redis_server() as redis, processes() as started:
        ports = {name: free_port() for name in NAMES}
        balancer = Balancer(*(("127.0.0.1", port) for port in ports.values()), in_turn=True)
        here = Server(started, redis, balancer, ports=ports)
        for name in NAMES:
            here.start(name)
        with balancer:
            yield here


@asynccontextmanager
async def tunnels(here: Server, *paths: str) -> AsyncIterator[list[Tunnel | OriginalTunnel]]:
    made = [OriginalTunnel(here, path) if path in ORIGINAL else Tunnel(here.balancer.url, path) for path in paths]
    try:
        await asyncio.gather(*(each.start() for each in made))
        yield made
        await asyncio.gather(*(each.finish() for each in made))
    finally:
        await asyncio.gather(*(each.stop() for each in made))


async def flow(made: list[Tunnel | OriginalTunnel]) -> None:
    await asyncio.gather(*(each.flows() for each in made))


async def test_each_instance_is_killed_in_turn_while_tunnels_stream_through_its_relay() -> None:
    async with server() as here, tunnels(here, *PATHS) as made:
        for name in NAMES:
            here.instances[name].process.kill()
            await flow(made)
            here.start(name)
            await here.wait_ready(*NAMES)
        async with tunnels(here, "direct", *ORIGINAL):  # whoever joins now is not held up by ghosts
            pass


async def test_redis_is_killed_and_starts_again_without_its_data() -> None:
    async with server() as here, tunnels(here, *PATHS) as made:
        here.redis.kill()
        await flow(made)
        here.redis.start()
        await flow(made)
        async with tunnels(here, "relay"):
            pass
        assert not any(each.suspended for each in made)


async def test_all_instances_are_replaced_one_after_the_other() -> None:
    await replace_all(PATHS)


@pytest.mark.long
async def test_all_instances_are_replaced_under_fifty_tunnels() -> None:
    await replace_all((*["direct"] * 40, *["relay"] * 10))


async def replace_all(paths: tuple[str, ...]) -> None:
    async with server() as here, tunnels(here, *paths) as made:
        for name in NAMES:
            await here.replace(name)
            await flow(made)
