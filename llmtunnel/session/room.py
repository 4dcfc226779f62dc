"""A member of a room: stays in it, connects to the other side, and repeats both after any failure.

The signal server and the links fail independently. Links outlive the loss of the signal server. A proxy that wants
another link leaves the room and joins again as another member, so that serve makes a new offer
(signaling/negotiation.py). Its existing link stays until the session has moved to the new one (peers.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..bucket import Bucket
from ..config import Settings
from ..errors import AccessDenied, SignalError, SignalRestarting, TunnelError
from ..paths import Path
from ..protocol.greeting import Greeting
from ..protocol.handshake import Agreement
from ..protocol.hello import Feature
from ..signaling import messages
from ..signaling.client import SignalClient
from ..signaling.messages import IceOffer, IceTold, Joined, Member, PeerLeft, ServerError
from ..signaling.negotiation import (
    Instruction,
    MakeAnswer,
    MakeOffer,
    Negotiation,
    Rename,
    Suspect,
    TakeAnswer,
    TakeCandidate,
    TakeTicket,
)
from ..status import ErrorNotice, Notice, Reconnecting, Role, SignalConnected, TurnSource, Waiting
from ..transport.alarm import Alarm
from ..transport.base import Channel
from ..transport.identity import Identity
from ..transport.networks import Reach
from ..transport.tasks import ended, finish, first_of, report, stop
from .access import Access, ProxyAccess, ServeAccess
from .carrier import Carrier
from .handlers import Handler
from .ice import IceBook
from .link import Link, Side
from .links import Links
from .local_tcp import SharedListener
from .mux import Session
from .peers import Peers
from .retry import Retry
from .watch import watch

logger = logging.getLogger(__name__)

NO_PIPE = ("no-relay", "relay-limit")
"""The signal server's error codes for a pipe that it does not open."""
OUTGOING = 256
"""Signalling messages that may wait for the socket. An exchange has about twenty."""
COMPLAINT_EVERY = 10.0
"""Seconds between two notices that a peer was rejected, while nobody waits for it, and between two errors of the
signal server. Strangers must not fill the screen."""


class Room:
    """A member of a room. Run it as a task (`run`); ``notify`` receives what happens.

    ``handler``: serve's, for its peers' requests. ``access``: who may be a peer, if the settings do not decide that.
    """

    def __init__(
        self,
        settings: Settings,
        role: Role,
        *,
        handler: Handler | None = None,
        access: Access | None = None,
        notify: Callable[[Notice], None] = lambda notice: None,
    ) -> None:
        self._settings = settings
        self._role = role
        self._notify = notify
        self._negotiation = Negotiation(role)
        self._identity = Identity()
        self._shared_listener = SharedListener(settings, self._identity)
        self._ice = IceBook(settings)
        self._side = Side(
            role=role, settings=settings, identity=self._identity, listener=self._shared_listener, ice=self._ice
        )
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._access = access or (ServeAccess(settings, now) if role is Role.SERVE else ProxyAccess(settings))
        self._complaints = Bucket(1, every=COMPLAINT_EVERY)
        self._warnings = Bucket(3, every=COMPLAINT_EVERY)
        self._instance = _new_instance()
        self.met = False
        """Whether a member of the other side is, or was, in the room."""
        self._admitted = False
        """Whether the signal server has ever let us in."""
        self._token: str | None = None
        self._addressed = False
        self._relay = False
        """Whether the signal server has a relay that we may use."""
        self._peers = Peers(
            role,
            settings,
            access=self._access,
            handler=handler,
            notify=notify,
            disturbed=self._disturbed,
            restored=self._restored,
        )
        self._links = Links(settings.limits, self._negotiation)
        self._leaving: set[asyncio.Task[None]] = set()
        """Tasks that close connections to the signal server."""
        self._outgoing: asyncio.Queue[str] = asyncio.Queue(OUTGOING)
        self._retry = Retry(settings.timeouts)
        self._changed = asyncio.Event()
        """Set when something ends a wait. The waiting task then checks what is due."""
        self._better = Alarm(lambda: self._retry.better_due, self._seek_better)
        self._renewal = Alarm(lambda: self._ice.renewal, self._renew_ice)

    @property
    def sessions(self) -> list[Session]:
        """The sessions that have not ended, including those that wait for their peer."""
        return list(self._peers.sessions)

    @property
    def standing(self) -> list[Session]:
        """The sessions whose peer is reached."""
        return self._peers.standing

    @property
    def connecting(self) -> bool:
        """Whether a link is being made."""
        return self._links.making

    @property
    def alone(self) -> bool:
        """Whether the signal server knows of no possible peer in the room. Meaningless before it has let us in."""
        return self._negotiation.alone

    @property
    def turn(self) -> tuple[tuple[str, ...], TurnSource | None]:
        """The URLs of the TURN servers that a new connection uses, and who has named them."""
        return self._ice.turn(self._loop.time())

    @property
    def access(self) -> Access:
        """Who may be a peer."""
        return self._access

    async def session(self, wait: float) -> Session:
        """Proxy: return the session with serve. Raises `PeerNotFound` if none stands within ``wait`` seconds."""
        return await self._peers.session(wait)

    async def run(self) -> None:
        """Stay in the room until cancelled.

        Raises `AccessDenied` if the signal server refuses us from the beginning. At a proxy, also raises other failures
        that no retry can fix, see `ProxyAccess.is_final`.
        """
        watching = asyncio.create_task(watch(self._moved), name="watching the network")
        watching.add_done_callback(report)
        try:
            while self._retry.failure is None:
                try:
                    await self._visit()
                except AccessDenied as exc:
                    if not self._admitted:
                        raise
                    await self._pause(self._no_longer(exc), denied=True)
                except SignalError as exc:
                    if isinstance(exc, SignalRestarting):
                        self._move_pipe()
                    await self._pause(exc)
            raise self._retry.failure.again()
        finally:
            await finish(
                watching.cancel,
                self._better.stop,
                self._renewal.stop,
                self._peers.aclose,
                self._links.aclose,
                self._shared_listener.aclose,
                self._until_left,
                partial(stop, watching),
            )

    async def _until_left(self) -> None:
        await ended(*self._leaving)

    def renew_secret(self, secret: str) -> None:
        """Serve: require this secret from strangers from now on."""
        assert isinstance(self._access, ServeAccess)
        self._access.door.renew(secret)

    def put_out(self, name: str) -> bool:
        """Serve: end the session with the peer of this name, and block it. Return whether there was one."""
        assert isinstance(self._access, ServeAccess)
        # Block all peers of this name. It is so short that an attacker could make a certificate with another peer's
        # name.
        certificates = {session.certificate for session in self.sessions if session.peer == name}
        if not certificates:
            return False
        certificates |= {link.certificate for link in self._links.by_id.values() if link.name == name}
        for certificate in certificates:
            self._access.door.put_out(certificate)
            self._peers.put_out(certificate)
        return True

    def reconnect(self) -> None:
        """Connect again at once, to the signal server and, as a proxy, to serve.

        Existing sessions move to the new link.
        """
        for link in [link for link in self._links.by_id.values() if link.session is None]:
            self._links.leave(link)
        self._notify(Reconnecting(what="signal server", reason="Reconnecting, as requested.", delay=0.0))
        self._peers.suspect()
        self._retry.hurry()
        self._want_link()

    # -- the signal server

    async def _visit(self) -> None:
        """Hold one connection to the signal server, until it is lost or another one is wanted."""
        settings = self._settings
        self._changed.clear()  # this visit satisfies every earlier request
        self._outgoing = asyncio.Queue(OUTGOING)
        if self._role is Role.SERVE:
            self._retry.link_wanted = False  # serve connects for the signal server alone
        elif self._retry.link_wanted:
            self._instance = _new_instance()
            for link in tuple(self._links.by_id.values()):
                self._links.leave(link)
        client = await SignalClient.connect(settings.signal, timeouts=settings.timeouts, limits=settings.limits)
        try:
            joined = await client.join(
                settings.room,
                role=self._role,
                instance=self._instance,
                token=self._token,
                access=settings.signal_token,
            )
            self._take_ice(joined.ice if joined.role is not None else None, client.reach)
            await self._enter(joined)
            await first_of(self._send_outgoing(client), self._receive(client), self._until_rejoin(), name="in the room")
        finally:
            leaving = asyncio.create_task(finish(client.aclose), name="leaving the signal server")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            leaving.add_done_callback(report)
            if not self._addressed:  # an original server has no place for us twice
                await asyncio.shield(leaving)  # at most `Timeouts.close` s

    async def _enter(self, joined: Joined) -> None:
        self._retry.joined()
        self._admitted = True
        self._token = joined.token or self._token
        self._addressed = joined.role is not None
        turn, turn_from = self.turn
        self._notify(
            SignalConnected(
                signal=self._settings.signal,
                room=self._settings.room,
                turn=turn,
                turn_from=turn_from,
                web=joined.web,
            )
        )
        if self._settings.carriers == {Path.TURN} and not turn:
            self._miss_turn()
        self._relay = self._may_relay(joined)
        for instruction in self._negotiation.joined(joined):
            await self._act(instruction)
        self._tell_if_alone()

    def _may_relay(self, joined: Joined) -> bool:
        """Return whether we may use a relay. Without a secret, nobody could prove who is at a pipe's other end."""
        settings = self._settings
        offered = self._addressed and joined.relay is not None
        if settings.carriers == {Path.RELAY} and not offered:
            hint = "Use another signal server (`llmtunnel signal` runs one with a relay), or another --path."
            self._notify(ErrorNotice(message=f"The signal server {settings.signal} has no relay.", hint=hint))
        return offered and settings.secret is not None and Path.RELAY in settings.tried

    def _miss_turn(self) -> None:
        """Report that the only path that may be used does not exist."""
        self._notify(
            ErrorNotice(
                message=f"--path turn needs a TURN server, and {self._settings.signal} hands out none.",
                hint="Use --turn URL, or another --path.",
            )
        )

    def _take_ice(self, offer: IceOffer | None, within: Reach) -> None:
        """Note the STUN and TURN servers that the signal server hands out."""
        if offer is not None and offer.skipped and self._warnings.take(self._loop.time()):
            logger.info("the signal server names %d STUN or TURN servers that are not used", offer.skipped)
        self._ice.told(offer, within=within, now=self._loop.time())
        self._renewal.set()

    def _renew_ice(self) -> None:
        """When due, ask the signal server for new credentials."""
        if self._ice.take_renewal(self._loop.time()):
            self.send_signal(messages.ask_ice())

    async def _send_outgoing(self, client: SignalClient) -> None:
        while True:
            await client.send(await self._outgoing.get())

    async def _receive(self, client: SignalClient) -> None:
        while True:
            message = await client.receive()
            if isinstance(message, ServerError):
                self._take_error(message)
            elif isinstance(message, IceTold):
                self._take_ice(message.ice, client.reach)
            for instruction in self._negotiation.receive(message):
                await self._act(instruction)
            if isinstance(message, PeerLeft):
                self._tell_if_alone()

    def _take_error(self, error: ServerError) -> None:
        if error.code in NO_PIPE:
            for link in self._links.by_id.values():
                link.refuse_relay(error.message)
        if self._warnings.take(asyncio.get_running_loop().time()):
            logger.warning("the signal server says: %s", error.message)

    async def _until_rejoin(self) -> None:
        """Wait until a proxy wants to rejoin: it has lost its link, or the member in the room makes no offer."""
        expected = self._role is Role.PROXY and not self._negotiation.alone
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.timeouts.offer if expected else None):
                await self._until_due()
                return
        if self.connecting or not self._retry.link_wanted or self._negotiation.alone:
            await self._until_due()
        else:
            logger.info("no peer has offered a connection: joining again")

    async def _until_due(self) -> None:
        """Wait until another link is wanted and due while none is being made, or until there is a final failure."""
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()  # for as long as all is well
            self._changed.clear()
            while delay := self._retry.link_delay(loop.time()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._changed.wait()
                self._changed.clear()
            if self._retry.failure is not None or (self._retry.link_wanted and not self.connecting):
                return

    async def _pause(self, exc: SignalError, *, denied: bool = False) -> None:
        """Wait before the next try of the signal server. ``denied``: it does not accept our access token."""
        delay = self._retry.signal_delay(soon=self._peers.waiting, denied=denied)
        self._notify(Reconnecting(what="signal server", reason=str(exc), hint=exc.hint, delay=round(delay, 3)))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._changed.wait()

    def _no_longer(self, exc: AccessDenied) -> AccessDenied:
        """Return the error for a side that had been admitted before."""
        what = "clients without an access token" if self._settings.signal_token is None else "this access token"
        return AccessDenied(
            f"The signal server {self._settings.signal} no longer accepts {what}.",
            hint="Connected peers stay connected, but no new ones arrive. " + exc.hint,
        )

    def send_signal(self, message: str) -> None:
        """See `LinkOwner`."""
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            logger.warning("the signal server accepts no messages: one was dropped")

    def _tell_if_alone(self) -> None:
        if self._negotiation.alone and not self._links.by_id and not self._peers.sessions:
            self._notify(Waiting(room=self._settings.room, role=self._role))

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
                await self._links.by_id[peer_id].take_answer(sdp)
            case TakeCandidate(peer_id, candidate):
                self._links.by_id[peer_id].take_candidate(candidate)
            case TakeTicket(peer_id, ticket):
                self._links.by_id[peer_id].take_ticket(ticket)
            case Suspect(peer_id, gone):
                self._links.by_id[peer_id].suspect(gone=gone)
            case Rename(old, new):
                self._links.rename(old, new)

    def _new_link(self, member: Member, *, spare: bool = False) -> Link | None:
        self.met = True
        if old := self._links.by_id.get(member.peer_id):
            self._links.leave(old)
        if not self._links.make_place(len(self.standing)):
            logger.info("%s was rejected: too many peers are connecting or connected", member.peer_id[:6])
            return None
        relay = self._peers.head_start() if self._relay and member.role and not spare else None
        return self._links.add(Link(member, self._side, self, relay=relay, addressed=self._addressed, spare=spare))

    def greeting(self, channel: Channel) -> Greeting:
        """See `LinkOwner`."""
        return self._peers.greeting(channel)

    def is_of_use(self, link: Link, path: Path, certificate: bytes) -> bool:
        """See `LinkOwner`."""
        if self._peers.closed:
            return False
        if link.spare:
            return self._peers.is_better(path, certificate)
        return self._retry.link_wanted or self._peers.wanted(path, certificate)

    def link_agreed(self, link: Link, carrier: Carrier, agreement: Agreement) -> Session | None:
        """See `LinkOwner`."""
        if not self._links.holds(link):
            if agreement.received is not None:  # the session itself lives, and continues over another link
                carrier.leave("The connection was abandoned.")
            return None
        if link not in self._links.left:
            self._negotiation.established(link.member.peer_id)
        return self._peers.agreed(carrier, agreement, name=link.name)

    def link_over(self, link: Link, reason: TunnelError) -> None:
        """See `LinkOwner`."""
        if not self._links.forget(link):
            return
        self._links.close(link)
        if link.spare and link.session is None:
            logger.info("%s cannot be reached over a better path: %s", link.name, reason)
        elif self._role is Role.SERVE:
            self._tell_failure(link, reason)
            self._tell_if_alone()
        elif link.session is not None:
            return  # `_disturbed` learns what happens to it
        elif self._is_final(reason, stood=False) and not self.connecting and not self.standing:
            self._give_up(reason)
        else:
            self._tell_failure(link, reason)
            if self._retry.link_wanted and not self.connecting:
                self._retry_link(reason)

    def _is_final(self, reason: TunnelError, *, stood: bool) -> bool:
        return self._access.is_final(reason, asyncio.get_running_loop().time(), stood=stood)

    def _tell_failure(self, link: Link, reason: TunnelError) -> None:
        if link.session is not None or self._links.reaches(link):
            return
        unasked = self._role is Role.SERVE or bool(self.standing)
        if unasked and not self._complaints.take(asyncio.get_running_loop().time()):
            logger.info("%s was not accepted: %s", link.name, reason)
            return
        self._notify(ErrorNotice(message=str(reason), hint=reason.hint))

    # -- what happens to sessions

    def _restored(self) -> None:
        now = asyncio.get_running_loop().time()
        self._retry.reached(now)
        if len(self._settings.carriers) > 1 and self._role is Role.PROXY:
            self._retry.carries(self.standing[-1].path, now)
            self._better.set()

    def _disturbed(self, reason: TunnelError | None) -> None:
        """React to a session that is suspended or, with a reason, has ended."""
        self._retry.disturbed()
        if self._role is Role.SERVE:
            self._retry.hurry()  # the room may be waiting for a signal server, and is now in a hurry
            self._changed.set()
            if reason is not None:
                self._tell_if_alone()
        elif reason is not None and self._is_final(reason, stood=True):
            self._give_up(reason)
        elif reason is not None:
            self._retry_link(reason)
        else:
            for link in self._links.by_id.values():
                link.look()
            self._want_link()

    def _want_link(self) -> None:
        self._retry.want_link()
        self._changed.set()

    def _retry_link(self, reason: TunnelError) -> None:
        delay = self._retry.link_failed(asyncio.get_running_loop().time())
        self._notify(Reconnecting(what="peer", reason=str(reason), hint=reason.hint, delay=round(delay, 3)))
        self._changed.set()

    def _give_up(self, failure: TunnelError) -> None:
        self._retry.failure = failure
        self._changed.set()

    def _seek_better(self) -> None:
        """Proxy: when due, offer serve a direct link next to the one that carries."""
        standing = self._links.standing
        if not self._retry.take_better(asyncio.get_running_loop().time()):
            return
        if not (standing and self._addressed) or self._retry.link_wanted or any(link.tries_direct for link in standing):
            return
        if not all(link.session and link.session.line.resumable for link in standing):
            return  # a session on the better path would be another one, and end the requests of this one
        member = self._negotiation.present(standing[0].member)
        if member and (spare := self._new_link(member, spare=True)):
            spare.offer()

    def _move_pipe(self) -> None:
        """Proxy: move the session from a pipe, which a signal server that stops will close, to a new link."""
        if any(each.path is Path.RELAY and Feature.RESUME in each.features for each in self._peers.standing):
            self._retry.want_link()  # without `_changed`, so that the pause before the next try stays

    def _moved(self) -> None:
        """Ping all peers and ask for another link: our network path has changed, or we slept, and links may be dead."""
        if self._peers.sessions:
            self._peers.suspect()
            self._want_link()


def _new_instance() -> str:
    return secrets.token_hex(8)
