"""A member of a room: stays in it, connects to the other side, and does both again after whatever happens.

The signal server and the links fail apart from each other: links outlive the signal server's loss, and a proxy that
has lost its link leaves the room and joins again, as another member, so that serve offers anew
(signaling/negotiation.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..config import Settings
from ..errors import PeerNotFound, SignalError, TunnelError, VersionMismatch
from ..signaling.client import SignalClient
from ..signaling.messages import Joined, Member, PeerLeft, ServerError
from ..signaling.negotiation import (
    Instruction,
    MakeAnswer,
    MakeOffer,
    Negotiation,
    Rename,
    Suspect,
    TakeAnswer,
    TakeCandidate,
)
from ..status import (
    ErrorNotice,
    Notice,
    PeerConnected,
    PeerLostNotice,
    Reconnecting,
    Role,
    SignalConnected,
    Waiting,
)
from .backoff import Backoff
from .link import Link
from .mux import Handler, Session

logger = logging.getLogger(__name__)

OUTGOING = 256
"""Signalling messages that may wait for the socket; an exchange has about twenty."""


class Room:
    """`run` it as a task; `notify` hears what happens. Serve gives a ``handler`` for its peers' requests."""

    def __init__(
        self,
        settings: Settings,
        role: Role,
        *,
        handler: Handler | None = None,
        notify: Callable[[Notice], None] = lambda notice: None,
    ) -> None:
        self._settings = settings
        self._role = role
        self._handler = handler
        self._notify = notify
        self._negotiation = Negotiation(role)
        self._instance = _new_instance()
        self._token: str | None = None
        self._addressed = False
        self._links: dict[str, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._outgoing: asyncio.Queue[str] = asyncio.Queue(OUTGOING)
        self._rejoin = asyncio.Event()
        self._up = asyncio.Event()
        self._retry_signal = Backoff(settings.timeouts)
        self._retry_link = Backoff(settings.timeouts)
        self._failure: TunnelError | None = None
        self._stopping = False

    @property
    def sessions(self) -> list[Session]:
        """The sessions that stand."""
        return [link.session for link in self._links.values() if link.session and link.session.error is None]

    @property
    def connecting(self) -> bool:
        """Whether a link is being made."""
        return len(self.sessions) < len(self._links)

    async def session(self, wait: float) -> Session:
        """Proxy: the session with serve. Raises `PeerNotFound` where none stands within ``wait`` seconds."""
        if sessions := self.sessions:
            return sessions[-1]
        try:
            async with asyncio.timeout(wait):
                while not self.sessions:
                    self._up.clear()
                    await self._up.wait()
        except TimeoutError:
            raise PeerNotFound(
                "No serve is reached through this room.", hint="Is `llmtunnel serve` running, with the same --room?"
            ) from None
        return self.sessions[-1]

    async def run(self) -> None:
        """Stay in the room until cancelled. Raises what cannot be mended: `VersionMismatch` at a proxy."""
        try:
            while self._failure is None:
                try:
                    await self._visit()
                except SignalError as exc:
                    await self._pause("signal server", exc, self._retry_signal.next())
            raise self._failure
        finally:
            await self._close_links()

    # -- the signal server

    async def _visit(self) -> None:
        """One connection to the signal server, until it is lost or another one is wanted."""
        settings = self._settings
        self._rejoin.clear()
        self._outgoing = asyncio.Queue(OUTGOING)
        if self._role is Role.PROXY and not self.sessions:
            self._instance = _new_instance()
        async with await SignalClient.connect(
            settings.signal, timeouts=settings.timeouts, limits=settings.limits
        ) as client:
            joined = await client.join(settings.room, role=self._role, instance=self._instance, token=self._token)
            await self._enter(joined)
            await _first_of(self._send_outgoing(client), self._receive(client), self._until_rejoin())

    async def _enter(self, joined: Joined) -> None:
        self._retry_signal.reset()
        self._token = joined.token or self._token
        self._addressed = joined.role is not None
        self._notify(SignalConnected(signal=self._settings.signal, room=self._settings.room))
        for instruction in self._negotiation.joined(joined):
            await self._act(instruction)
        self._tell_if_alone()

    async def _send_outgoing(self, client: SignalClient) -> None:
        while True:
            await client.send(await self._outgoing.get())

    async def _receive(self, client: SignalClient) -> None:
        while True:
            message = await client.receive()
            if isinstance(message, ServerError):
                logger.warning("the signal server says: %s", message.message)
            for instruction in self._negotiation.receive(message):
                await self._act(instruction)
            if isinstance(message, PeerLeft):
                self._tell_if_alone()

    async def _until_rejoin(self) -> None:
        """Until we want to come in anew: a lost link, or somebody is there who does not offer."""
        if self._role is Role.PROXY and not self._negotiation.alone:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timeouts.offer):
                    await self._rejoin.wait()
                return
            if not self._links:
                logger.info("nobody has offered a connection: joining again")
                return
        await self._rejoin.wait()

    def _tx(self, message: str) -> None:
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            logger.warning("the signal server takes no messages: one is dropped")

    def _tell_if_alone(self) -> None:
        if self._negotiation.alone and not self._links:
            self._notify(Waiting(room=self._settings.room))

    # -- links

    async def _act(self, instruction: Instruction) -> None:
        match instruction:
            case MakeOffer(member):
                if link := self._new_link(member):
                    link.offer()
            case MakeAnswer(member, sdp):
                if link := self._new_link(member):
                    link.answer(sdp)
            case TakeAnswer(peer_id, sdp):
                await self._links[peer_id].take_answer(sdp)
            case TakeCandidate(peer_id, candidate):
                self._links[peer_id].take_candidate(candidate)
            case Suspect(peer_id):
                self._links[peer_id].suspect()
            case Rename(old, new):
                link = self._links[new] = self._links.pop(old)
                link.member = replace(link.member, peer_id=new)

    def _new_link(self, member: Member) -> Link | None:
        if len(self._links) >= self._settings.limits.peers:
            logger.warning("%s is left out: %d peers are connected", member.peer_id[:6], len(self._links))
            return None
        if old := self._links.pop(member.peer_id, None):
            self._dismiss(old)
        self._negotiation.linked(member)
        link = self._links[member.peer_id] = Link(
            member,
            self._role,
            self._settings,
            handler=self._handler,
            send=self._tx,
            addressed=self._addressed,
            up=self._link_up,
            down=self._link_down,
        )
        return link

    def _link_up(self, link: Link) -> None:
        assert link.session is not None, "it stands"
        self._negotiation.established(link.member.peer_id)
        self._retry_link.reset()
        if self._role is Role.PROXY:
            # One serve at a time: this one came after whatever there was.
            for other in list(self._links.values()):
                if other is not link:
                    self._dismiss(other)
        self._notify(PeerConnected(peer=link.name, path=link.session.path, version=link.session.version))
        self._up.set()

    def _link_down(self, link: Link, reason: TunnelError) -> None:
        if self._links.get(link.member.peer_id) is link:
            del self._links[link.member.peer_id]
            self._negotiation.unlinked(link.member.peer_id)
        if self._stopping:
            return
        if link.session is not None:
            self._notify(PeerLostNotice(peer=link.name, reason=str(reason)))
        else:
            self._notify(ErrorNotice(message=str(reason), hint=reason.hint))
        if self._role is Role.PROXY:
            self._come_again(link, reason)

    def _come_again(self, link: Link, reason: TunnelError) -> None:
        """A proxy without a link leaves and joins: at once after a session, later after a failure."""
        if isinstance(reason, VersionMismatch):
            self._failure = reason
            self._rejoin.set()
        elif not self._links:
            delay = 0.0 if link.session is not None else self._retry_link.next()
            self._notify(Reconnecting(what="peer", reason=str(reason), delay=round(delay, 3)))
            asyncio.get_running_loop().call_later(delay, self._rejoin.set)

    def _dismiss(self, link: Link) -> None:
        task = asyncio.create_task(link.aclose(), name=f"closing {link.name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_links(self) -> None:
        self._stopping = True
        for link in list(self._links.values()):
            self._dismiss(link)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _pause(self, what: str, exc: TunnelError, delay: float) -> None:
        self._notify(Reconnecting(what=what, reason=str(exc), delay=round(delay, 3)))
        await asyncio.sleep(delay)


async def _first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one returns or raises, which counts; the others are cancelled."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _new_instance() -> str:
    return secrets.token_hex(8)
