"""The attacker: a signal server that does what it likes, with real WebSockets, and with WebRTC of its own."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, cast

from aiohttp import WSMsgType, web

from llmtunnel.config import Limits
from llmtunnel.errors import ConnectFailed
from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import Frame, FrameType
from llmtunnel.status import Role
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.webrtc import WebRtcPeer

from ..embedded import NO_ICE_SERVERS, PATIENCE, QUICK

Json = dict[str, Any]
Tamper = Callable[["Guest", Json], "list[Json | str | bytes]"]
"""What a guest gets in place of a message that another one has sent to it."""
Script = Callable[["Wire"], Awaitable[None]]
"""What is done with a channel to a guest; it is closed at the end."""
Greet = Callable[["Guest"], Awaitable[object]]
"""What is done when a guest has joined."""

HTTP: Final = frozenset(
    each for each in FrameType if each.name.startswith(("REQ_", "RES_")) or each is FrameType.CREDIT
)


class Guest:
    """A member of the room, as the server sees it."""

    def __init__(self, socket: web.WebSocketResponse, join: Json) -> None:
        self.id = secrets.token_hex(8)
        self.role = Role(join["role"])
        self.instance = str(join["instance"])
        self.socket = socket

    async def tell(self, type_: str, **members: object) -> None:
        await self.send({"type": type_, **members})

    async def send(self, message: Json | str | bytes) -> None:
        """Anything: JSON, text that is none, binary."""
        with suppress(ConnectionError, RuntimeError):  # it has gone
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
            else:
                await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))


class Wire:
    """The attacker's end of a channel: it sends what it likes, and keeps what comes."""

    def __init__(self, channel: Channel, seen: list[bytes]) -> None:
        self.channel = channel
        self._seen = seen
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        channel.attach(self)

    def send(self, message: bytes) -> None:
        self.channel.send(message)

    async def receive(self) -> bytes | None:
        """The next message; None at the end."""
        return await self._arrived.get()

    async def hear(self, type_: FrameType) -> bytes:
        """The payload of the next frame, which must be of this type."""
        message = await self.receive()
        frame = frames.decode(message) if message is not None else None
        assert frame is not None and frame.type == type_, frame
        return frame.payload

    async def until_closed(self) -> None:
        while await self.receive() is not None:
            pass

    def message_received(self, message: bytes) -> None:
        self._seen.append(message)
        self._arrived.put_nowait(message)

    def room_available(self) -> None:
        return

    def channel_closed(self, reason: str) -> None:
        self._arrived.put_nowait(None)


class HostileSignal:
    """Relays between its guests what `tamper` makes of it, unless ``greet`` does something else with who joins.

    `pose` puts a member of its own before a guest, which connects to it. ``seen``: all that guests say to such members.
    """

    def __init__(self) -> None:
        self.tamper: Tamper = lambda guest, message: [message]
        self.greet: Greet = self.introduce
        self.mixes = False
        """Whether it tells everybody that all others are of the other role."""
        self.guests: dict[str, Guest] = {}
        self.seen: list[bytes] = []
        self.relayed: list[Json] = []
        """What guests have said to each other."""
        self._identity = Identity()
        self._poses: dict[str, Script] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/", self._connected)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"ws://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()

    def the(self, role: Role) -> Guest:
        """The one guest of this role that came last."""
        return [guest for guest in self.guests.values() if guest.role is role][-1]

    async def introduce(self, guest: Guest) -> None:
        """As an honest server does: everybody of the other role hears of it."""
        for other in self._others(guest):
            await other.tell("peer-joined", peerId=guest.id, role=other.role.other, instance=guest.instance)

    async def pose(self, guest: Guest, script: Script, *, role: Role | None = None) -> str:
        """A member that is not there joins: the guest offers to it, connects, and ``script`` is played."""
        id_ = secrets.token_hex(8)
        self._poses[id_] = script
        await guest.tell("peer-joined", peerId=id_, role=role or guest.role.other, instance=id_)
        return id_

    async def _connected(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        guest = Guest(socket, await socket.receive_json())
        others = self._others(guest) if self.greet == self.introduce else []
        members = [{"peerId": each.id, "role": guest.role.other, "instance": each.instance} for each in others]
        peers = [each.id for each in others]
        await guest.tell("joined", peerId=guest.id, peers=peers, members=members, role=guest.role, token="t")
        self.guests[guest.id] = guest
        try:
            await self.greet(guest)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._received(guest, json.loads(message.data))
        finally:
            self.guests.pop(guest.id, None)
            for other in self._others(guest):
                await other.tell("peer-left", peerId=guest.id)
        return socket

    async def _received(self, guest: Guest, message: Json) -> None:
        to = message.pop("to", "")
        if to in self.guests:
            message["peerId"] = guest.id
            self.relayed.append(dict(message))
            for each in self.tamper(self.guests[to], message):
                await self.guests[to].send(each)
        elif to in self._poses and message["type"] == "offer":
            task = asyncio.create_task(self._play(guest, to, message["sdp"]), name="an impostor")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _play(self, guest: Guest, id_: str, sdp: str) -> None:
        peer = WebRtcPeer(
            ice=NO_ICE_SERVERS,
            timeouts=QUICK,
            limits=Limits(),
            identity=self._identity,
            on_candidate=lambda _: None,
            loopback=True,
        )
        try:
            await guest.tell("answer", peerId=id_, sdp=await peer.answer(sdp))
            wire = Wire(await peer.channel(), self.seen)
            async with asyncio.timeout(PATIENCE):
                await self._poses[id_](wire)
            await wire.channel.aclose()
        except ConnectFailed:
            pass  # the guest has given up
        finally:
            await peer.aclose()

    def _others(self, guest: Guest) -> list[Guest]:
        return [
            each for each in self.guests.values() if each is not guest and (self.mixes or each.role is not guest.role)
        ]


class Middle:
    """The script of one in the middle: of two channels, what comes on one goes out on the other."""

    def __init__(self) -> None:
        self._wires: list[Wire] = []
        self._both = asyncio.Event()

    async def __call__(self, wire: Wire) -> None:
        self._wires.append(wire)
        if len(self._wires) == 2:
            self._both.set()
        await self._both.wait()
        [other] = [each for each in self._wires if each is not wire]
        with suppress(Exception):  # the other one has closed
            while (message := await wire.receive()) is not None:
                other.send(message)
        await other.channel.aclose()


class Detour:
    """Two UDP ports between two peers, each of which takes one of them for the other peer; ``seen``: all packets."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self._ends: list[_End] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            end = _End(self)
            await loop.create_datagram_endpoint(lambda end=end: end, local_addr=("127.0.0.1", 0))  # type: ignore[misc]
            self._ends.append(end)
        first, second = self._ends
        first.other, second.other = second, first
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.transport.close()

    def __call__(self, guest: Guest, message: Json) -> list[Json | str | bytes]:
        """As `HostileSignal.tamper`: candidates are the detour's, and nobody's else."""
        if message["type"] not in ("offer", "answer"):
            return []
        end = self._ends[message["type"] == "answer"]
        candidates = r"a=candidate:.*127\.0\.0\.1 (\d+) typ host.*\r\n"
        match = re.search(candidates, message["sdp"])
        assert match is not None
        end.behind = int(match[1])
        rest = re.sub(r"a=candidate:.*\r\n", "", message["sdp"])
        own = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {end.port} typ host\r\n"
        return [{**message, "sdp": rest + own}]


class _End(asyncio.DatagramProtocol):
    other: _End
    behind = 0
    """The port of the peer that this one stands for."""

    def __init__(self, detour: Detour) -> None:
        self._detour = detour

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._detour.seen.append(data)
        if self.behind:
            self.other.transport.sendto(data, ("127.0.0.1", self.behind))

    @property
    def port(self) -> int:
        return int(self.transport.get_extra_info("sockname")[1])


def http_in(messages: Iterable[bytes]) -> list[Frame]:
    """The frames that carry anything of HTTP."""
    found: list[Frame] = []
    for message in messages:
        frame = frames.decode(message)
        if frame is not None:
            found += frames.unbundle(frame.payload) if frame.type == FrameType.BUNDLE else [frame]
    return [frame for frame in found if frame.type in HTTP]
