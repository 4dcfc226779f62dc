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
from llmtunnel.protocol.frames import HEADER, Frame, FrameType
from llmtunnel.protocol.hello import Agree
from llmtunnel.status import Role
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.webrtc import WebRtcPeer
from signal_server.relay import PROTOCOL, offered_ticket

from .embedded import PATIENCE, QUICK
from .pipes import Hostile

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


class Pipe:
    """A pipe through the hostile relay: each message passes as ``attack``, one of `ATTACKS`, makes it, where it is set.

    ``opened``: how many ends it has ever had.
    """

    def __init__(self, attack: str | None = None) -> None:
        self.attack = attack
        self.opened = 0
        self._ends: list[web.WebSocketResponse] = []
        self._met = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether an end is connected."""
        return bool(self._ends)

    async def run(self, socket: web.WebSocketResponse) -> None:
        """Be one end's until it closes, and the other end with it."""
        self._ends.append(socket)
        self.opened += 1
        if self.opened == 2:
            self._met.set()
        try:
            await self._carry(socket)
        finally:
            self._ends.remove(socket)
            await self.cut()

    async def cut(self) -> None:
        """Close both ends in order, wherever they are at."""
        self._met.set()
        await asyncio.gather(*(end.close() for end in self._ends))

    async def _carry(self, socket: web.WebSocketResponse) -> None:
        await self._met.wait()
        tampered: list[bytes] = []
        hostile = Hostile(tampered.append)
        async for message in socket:
            others = [each for each in self._ends if each is not socket]
            if self.attack is None:
                tampered.append(message.data)
            else:
                getattr(hostile, self.attack)(message.data)
            for data in tampered:
                for other in others:
                    with suppress(ConnectionError):
                        await other.send_bytes(data)
            tampered.clear()


class HostileSignal:
    """Relays between its guests what `tamper` makes of it, unless ``greet`` does something else with who joins.

    `pose` puts a member of its own before a guest, which connects to it. ``seen``: all that guests say to such members.
    Where it ``relays``, who asks for a pipe to another guest gets one; ``keeps``: whose tickets it tells to nobody.
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
        self.relays = False
        self.keeps: Role | None = None
        self.kept: asyncio.Queue[str] = asyncio.Queue()
        """The tickets that it has told to nobody."""
        self.attack: str | None = None
        """What further pipes begin with."""
        self.pipes: list[Pipe] = []
        """All that there have been."""
        self._tickets: dict[str, Pipe] = {}
        self.identity = Identity()
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
        await asyncio.gather(*(pipe.cut() for pipe in self.pipes))
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

    def ticket(self, pipe: Pipe | None = None) -> str:
        """One for a pipe, or for one to whose other end nobody comes."""
        if pipe is None:
            pipe = Pipe(self.attack)
        if pipe not in self.pipes:
            self.pipes.append(pipe)
        ticket = secrets.token_urlsafe(8)
        self._tickets[ticket] = pipe
        return ticket

    async def _give_pipe(self, guest: Guest, other: Guest) -> None:
        pipe = Pipe(self.attack)
        for each, peer in ((guest, other), (other, guest)):
            ticket = self.ticket(pipe)
            if each.role is self.keeps:
                self.kept.put_nowait(ticket)
            else:
                await each.tell("pipe", peerId=peer.id, ticket=ticket)

    async def _connected(self, request: web.Request) -> web.WebSocketResponse:
        ticket = offered_ticket(request)
        socket = web.WebSocketResponse(protocols=(PROTOCOL,), timeout=0.2)
        await socket.prepare(request)
        if ticket is not None:
            await self._tickets[ticket].run(socket)
            return socket
        guest = Guest(socket, await socket.receive_json())
        others = self._others(guest) if self.greet == self.introduce else []
        members = [{"peerId": each.id, "role": guest.role.other, "instance": each.instance} for each in others]
        peers = [each.id for each in others]
        more = {"relay": {}} if self.relays else {}
        await guest.tell("joined", peerId=guest.id, peers=peers, members=members, role=guest.role, token="t", **more)
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
        if to in self.guests and message["type"] == "pipe":
            await self._give_pipe(guest, self.guests[to])
        elif to in self.guests:
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
            servers=(),
            timeouts=QUICK,
            limits=Limits(),
            identity=self.identity,
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
                if message[0] == FrameType.AGREE:
                    self._split(Agree.decode(message[HEADER.size :]), wire, other)
                other.send(message)
        await other.channel.aclose()

    def _split(self, agree: Agree, serve: Wire, proxy: Wire) -> None:
        """Play the other one's part in opening lanes, where this was the last of the greeting."""
        if agree.lanes > 1 and agree.auth is None:
            serve.channel.split(agree.lanes, opens=True)
            proxy.channel.split(agree.lanes, opens=False)


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
