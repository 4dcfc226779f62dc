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

from ..bucket import Bucket
from ..config import Settings
from ..errors import ErrorCode, PeerNotFound, SignalError, TunnelError
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
from ..transport.identity import Identity
from .access import Access, ProxyAccess, ServeAccess
from .backoff import Backoff
from .link import Link
from .mux import FAREWELL, Handler, Session

logger = logging.getLogger(__name__)

OUTGOING = 256
"""Signalling messages that may wait for the socket; an exchange has about twenty."""
ARRIVALS = 16
"""Members that may connect at once: all of a room, when serve is started again."""
ARRIVAL_EVERY = 0.125
"""Seconds until one more may: a connection costs some 30 ms of computing, for a stranger too."""
COMPLAINT_EVERY = 10.0
"""Seconds between two notices that somebody did not come in, where nobody waits for it, and between two errors of the
signal server: strangers must not fill the screen."""


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
        self._identity = Identity()
        now = asyncio.get_running_loop().time()
        self._access: Access = ServeAccess(settings, now) if role is Role.SERVE else ProxyAccess(settings)
        self._arrivals = Bucket(ARRIVALS, every=ARRIVAL_EVERY)
        self._complaints = Bucket(1, every=COMPLAINT_EVERY)
        self._warnings = Bucket(3, every=COMPLAINT_EVERY)
        self._instance = _new_instance()
        self._token: str | None = None
        self._addressed = False
        self._links: dict[str, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._outgoing: asyncio.Queue[str] = asyncio.Queue(OUTGOING)
        self._lost = asyncio.Event()
        self._rejoin_delay = 0.0
        self._reached_at = 0.0
        self._up = asyncio.Event()
        self._retry_signal = Backoff(settings.timeouts)
        self._retry_link = Backoff(settings.timeouts)
        self._failure: TunnelError | None = None

    @property
    def sessions(self) -> list[Session]:
        """The sessions that stand."""
        # A copy first: other threads ask too, and the loop goes on meanwhile.
        return [link.session for link in tuple(self._links.values()) if link.session and link.session.error is None]

    @property
    def connecting(self) -> bool:
        """Whether a link is being made."""
        return len(self.sessions) < len(self._links)

    @property
    def access(self) -> Access:
        """Who may be a peer."""
        return self._access

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
                "No serve is reached through this room.",
                hint="Is `llmtunnel serve` running, with the same invite or room?",
            ) from None
        return self.sessions[-1]

    async def run(self) -> None:
        """Stay in the room until cancelled. Raises what cannot be mended, at a proxy: see `ProxyAccess.is_final`."""
        try:
            while self._failure is None:
                try:
                    await self._visit()
                except SignalError as exc:
                    await self._pause(exc)
            raise self._failure
        finally:
            await self._close_links()

    def renew_secret(self, secret: str) -> None:
        """Serve: strangers have to know this one from now on."""
        assert isinstance(self._access, ServeAccess)
        self._access.door.renew(secret)

    def put_out(self, name: str) -> bool:
        """Serve: end the session with the peer of this name, and keep it out; whether there was one."""
        assert isinstance(self._access, ServeAccess)
        # All of the name: it is short enough for somebody to make a certificate that has another's.
        links = [link for link in self._links.values() if link.name == name]
        if not any(link.session for link in links):
            return False
        for link in links:
            self._access.door.put_out(link.certificate)
            self._part(link, "it was put out", code=ErrorCode.UNWELCOME, told="Serve has put this proxy out.")
        return True

    def reconnect(self) -> None:
        """Drop the links and the signal server, and come again at once."""
        self._retry_signal.reset()
        self._retry_link.reset()
        self._rejoin_delay = 0.0
        for link in tuple(self._links.values()):
            self._part(link, "connecting anew")
        self._notify(Reconnecting(what="signal server", reason="Connecting anew, as asked.", delay=0.0))
        self._lost.set()

    # -- the signal server

    async def _pause(self, exc: SignalError) -> None:
        """Wait before the signal server is tried again; a lost link ends that, as it may be the end of all."""
        delay = self._retry_signal.next()
        self._notify(Reconnecting(what="signal server", reason=str(exc), hint=exc.hint, delay=round(delay, 3)))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._lost.wait()

    async def _visit(self) -> None:
        """One connection to the signal server, until it is lost or another one is wanted."""
        settings = self._settings
        self._lost.clear()
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
            if isinstance(message, ServerError) and self._warnings.take(asyncio.get_running_loop().time()):
                logger.warning("the signal server says: %s", message.message)
            for instruction in self._negotiation.receive(message):
                await self._act(instruction)
            if isinstance(message, PeerLeft):
                self._tell_if_alone()

    async def _until_rejoin(self) -> None:
        """Until a proxy wants to come in anew: it has lost its link, or somebody is there who does not offer."""
        expected = self._role is Role.PROXY and not self._negotiation.alone
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.timeouts.offer if expected else None):
                await self._until_lost()
                return
        if self._links or self._negotiation.alone:
            await self._until_lost()
        else:
            logger.info("nobody has offered a connection: joining again")

    async def _until_lost(self) -> None:
        """Until a link is lost, and none has come in its place when it is time to try again."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            if self._failure is not None:
                return
            await asyncio.sleep(self._rejoin_delay)
            if not self._links:
                return

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
                self._rename(old, new)

    def _rename(self, old: str, new: str) -> None:
        link = self._links.pop(old)
        if stray := self._links.pop(new, None):
            self._close(stray)
        link.member = replace(link.member, peer_id=new)
        self._links[new] = link

    def _new_link(self, member: Member) -> Link | None:
        if old := self._links.get(member.peer_id):
            self._part(old, "it connects anew")
        if not self._has_place():
            logger.info("%s is left out: too many connect, or are connected", member.peer_id[:6])
            return None
        self._negotiation.linked(member)
        link = self._links[member.peer_id] = Link(
            member,
            self._role,
            self._settings,
            identity=self._identity,
            access=self._access,
            handler=self._handler,
            send=self._tx,
            addressed=self._addressed,
            up=self._link_up,
            down=self._link_down,
        )
        return link

    def _has_place(self) -> bool:
        """Whether one more link may be made; of too many that are being made, the oldest is given up for it."""
        limits = self._settings.limits
        strangers = [link for link in self._links.values() if link.session is None]
        full = len(self._links) - len(strangers) >= limits.peers or len(self._closing) >= 2 * limits.strangers
        if full or not self._arrivals.take(asyncio.get_running_loop().time()):
            return False
        if len(strangers) >= limits.strangers:
            self._part(strangers[0], "others want to connect")
        return True

    def _link_up(self, link: Link) -> None:
        if not self._has(link):
            return
        session = link.session
        assert session is not None, "it stands"
        self._access.established(session)
        self._negotiation.established(link.member.peer_id)
        self._reached_at = asyncio.get_running_loop().time()
        for other in tuple(self._links.values()):
            if other is not link and self._role is Role.PROXY:
                self._part(other, "another serve took its place")
            elif other is not link and other.certificate == link.certificate:
                self._part(other, "it has connected anew")
        self._notify(
            PeerConnected(
                peer=link.name,
                path=session.path,
                version=session.version,
                address=session.address,
                fingerprint=session.certificate.hex(),
                authenticated=session.authenticated,
            )
        )
        self._up.set()

    def _link_down(self, link: Link, reason: TunnelError) -> None:
        if not self._has(link):
            return
        self._part(link, str(reason))
        final = self._access.is_final(reason, asyncio.get_running_loop().time(), stood=link.session is not None)
        if self._role is Role.SERVE:
            self._tell_failure(link, reason)
            self._tell_if_alone()
        elif final and not self._links:
            self._failure = reason
            self._lost.set()
        else:
            self._tell_failure(link, reason)
            self._come_again(link, reason)

    def _tell_failure(self, link: Link, reason: TunnelError) -> None:
        if link.session is not None:
            return
        unasked = self._role is Role.SERVE or bool(self.sessions)
        if unasked and not self._complaints.take(asyncio.get_running_loop().time()):
            logger.info("%s did not come in: %s", link.name, reason)
            return
        self._notify(ErrorNotice(message=str(reason), hint=reason.hint))

    def _come_again(self, link: Link, reason: TunnelError) -> None:
        """A proxy without a link leaves and joins: at once after a session that lasted, later after a failure."""
        if self._links:
            return
        lasted = asyncio.get_running_loop().time() - self._reached_at
        if link.session is not None and lasted > self._settings.timeouts.retry_max:
            self._retry_link.reset()
            self._rejoin_delay = 0.0
        else:
            self._rejoin_delay = self._retry_link.next()
        self._notify(
            Reconnecting(what="peer", reason=str(reason), hint=reason.hint, delay=round(self._rejoin_delay, 3))
        )
        self._lost.set()

    # -- the end of a link: it leaves `_links` first, and is closed then, so that nothing waits for that

    def _has(self, link: Link) -> bool:
        """Whether we have not parted from it: until it is closed it may still call."""
        return self._links.get(link.member.peer_id) is link

    def _part(self, link: Link, reason: str, *, code: ErrorCode = ErrorCode.NO_ERROR, told: str = FAREWELL) -> None:
        del self._links[link.member.peer_id]
        self._negotiation.unlinked(link.member.peer_id)
        self._close(link, code, told)
        if link.session is not None:
            self._notify(PeerLostNotice(peer=link.name, reason=reason))

    def _close(self, link: Link, code: ErrorCode = ErrorCode.NO_ERROR, told: str = FAREWELL) -> None:
        task = asyncio.create_task(link.aclose(code, told), name=f"closing {link.name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_links(self) -> None:
        while self._links:
            self._close(self._links.popitem()[1])
        if self._closing:
            await asyncio.wait(self._closing)


async def _first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one returns or raises, which counts; the others are cancelled."""
    tasks = [asyncio.create_task(each, name="in the room") for each in work]
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
