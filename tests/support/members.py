"""Members of a room: real signalling, real WebRTC, without HTTP at either end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from llmtunnel.config import Limits, ServeSettings, Timeouts
from llmtunnel.errors import TunnelError
from llmtunnel.paths import AUTO
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.session.link import Link
from llmtunnel.session.links import Links
from llmtunnel.session.mux import Session
from llmtunnel.session.room import Room
from llmtunnel.session.stream import Stream
from llmtunnel.status import PeerConnected, Role
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.tcp import TcpListener
from llmtunnel.upstream import Upstream

from .embedded import PATIENCE, QUICK, Heard, fields_of, settings, until

NOWHERE = Upstream.parse("http://127.0.0.1:9")


class Member(Heard):
    """One side, which runs from `start` to `stop`; it is called with the notices. ``serve``: what only that has."""

    def __init__(
        self,
        role: Role,
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
        **serve: Any,
    ) -> None:
        super().__init__()
        common = settings(
            signal,
            room=room,
            secret=secret,
            timeouts=timeouts,
            limits=limits,
            resume_for=resume_for,
            path=path,
            loopback=loopback,
            signal_token=signal_token,
        )
        self.room = Room(
            ServeSettings(**fields_of(common), upstream=NOWHERE, **serve) if role is Role.SERVE else common,
            role,
            handler=self._answer if role is Role.SERVE else None,
            notify=self,
        )
        self.task: asyncio.Task[None]
        self.started: list[bytes] = []
        """Targets of requests."""

    async def _answer(self, stream: Stream) -> None:
        self.started.append(stream.request.target)
        if stream.request.target == b"/never":
            await asyncio.Event().wait()
        await stream.send_response(ResponseHead(status=200))
        if stream.request.target == b"/echo":
            while data := await stream.receive():
                await stream.send(data)
            await stream.send_end()
            return
        await stream.send(stream.request.target)
        await stream.send_end()

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self.kept.by_id.values())

    # What tests see of a room, and no user does: here alone stand its private names.

    @property
    def kept(self) -> Links:
        """Its links, with those that are left behind or being closed."""
        return self.room._links

    @property
    def closing(self) -> int:
        """How many links are being closed."""
        return len(self.kept.closing)

    @property
    def left(self) -> int:
        """How many links were left behind by better ones, and are not closed yet."""
        return len(self.kept.left)

    @property
    def alone(self) -> bool:
        """Whether no other member is known."""
        return self.room.alone

    @property
    def known(self) -> int:
        """How many other members are known."""
        return len(self.room._negotiation._members)

    @property
    def listener(self) -> TcpListener | None:
        """Where it listens for peers on local networks; None while it expects nobody there."""
        return self.room._shared_listener._listener

    @property
    def identity(self) -> Identity:
        """Whose certificate it shows."""
        return self.room._identity

    @property
    def instance(self) -> str:
        """What the signal server knows it by."""
        return self.room._instance

    @property
    def better_due(self) -> float | None:
        """When a better path is tried for next."""
        return self.room._retry.better_due

    def move(self) -> None:
        """As when this machine has come to another network."""
        self.room._moved()

    def fail_link(self, reason: TunnelError) -> None:
        """As when its link has ended so."""
        self.room._retry_link(reason)

    def give_up(self, reason: TunnelError) -> None:
        """As when its link has ended so, and there is no sense in another one."""
        self.room._give_up(reason)

    def stir(self) -> None:
        """As when something has happened that its waits may be about."""
        self.room._changed.set()

    async def until_due(self) -> None:
        """Until another link is wanted and due, or there is a failure: as it waits while it is in the room."""
        await self.room._until_due()

    def start(self) -> Self:
        self.task = asyncio.create_task(self.room.run(), name="a member's room")
        return self

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def die(self) -> None:
        """As a process that is killed: its packets end first, then its connection to the signal server."""
        for link in self.links:
            silence(link)
        await self.stop()

    async def session(self) -> Session:
        return await self.room.session(PATIENCE)

    async def ask(self, target: bytes = b"/hello") -> bytes:
        """The body that answers one request, on whatever session there is."""
        session = await self.session()
        stream = await session.open(RequestHead(method=b"GET", target=target), ended=True)
        await stream.response()
        body = b""
        while data := await stream.receive():
            body += data
        return body

    async def reached(self, count: int = 1) -> None:
        """Until so many peers stand."""
        await until(lambda: len(self.room.sessions) == count, f"{count} sessions")

    async def heard(self, event: str, count: int = 1) -> None:
        """Until a notice has come so often."""
        await until(lambda: self.events.count(event) >= count, f"{count} times {event}, {self.events}")

    @property
    def connections(self) -> int:
        """How many peers were ever reached."""
        return len(self.of(PeerConnected))


def channel_of(session: Session) -> Channel:
    """The one that carries it now."""
    return session._carrier.channel


def silence(link: Link) -> None:
    """Nothing goes out, nothing comes in, nobody is told."""
    for protocol in link._direct.peer.agent._protocols:
        protocol.transport.sendto = protocol.transport.send_all = lambda *_: None
        protocol.datagram_received = protocol.datagrams_received = lambda *_: None


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[None]:
    """Start them in this order; stop them, those that stopped before too."""
    try:
        for member in members:
            member.start()
        yield
    finally:
        for member in members:
            await member.stop()


@asynccontextmanager
async def pair(signal: str, *, make: Callable[[Role, str], Member] = Member) -> AsyncIterator[tuple[Member, Member]]:
    """A serve and a proxy that have met."""
    serve, proxy = make(Role.SERVE, signal), make(Role.PROXY, signal)
    async with running(serve, proxy):
        await serve.reached()
        await proxy.reached()
        yield serve, proxy
