"""All connections to one member of the room, from the first offer to the end: ways to it side by side, and what is said
on the channels that they open.

The first channel that stands carries the session. One that comes later takes it over where it is better, and is closed
where it is not: the proxy judges, serve answers on each. It has to be the same peer's, which its certificate tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from ..bucket import Bucket
from ..config import AUTO, Settings
from ..errors import (
    AuthenticationFailed,
    ConnectFailed,
    PeerError,
    PeerLost,
    TunnelError,
    Unwelcome,
    VersionMismatch,
)
from ..protocol.greeting import Greeting
from ..protocol.handshake import Agreement
from ..protocol.hello import Feature
from ..signaling import messages
from ..signaling.messages import IceCandidate, Member
from ..status import Path, Role
from ..transport.base import Channel
from ..transport.identity import Identity
from ..transport.tcp import TcpDialler
from .carrier import Carrier
from .mux import Session
from .nearby import DialWay, ListenWay, Nearby
from .ways import AskedRelayWay, DirectWay, RelayWay, Send, Way

logger = logging.getLogger(__name__)

OVERLAP: Final = 2.0
"""Seconds for which the channel that a session has left stays open."""
TURN: Final = 3.0
"""Seconds that a channel waits for what is being said on another one, before that is given up for it."""
Wanted = Callable[[Path, bytes], bool]
"""Whether a channel over a path is of use, where it shows this certificate: see `Peers.wanted`."""
_PIPES: Final = 4
"""Pipes that a member may have serve open at once, and then one every `_PIPE` s."""
_PIPE: Final = 3.0
_DIALS: Final = 8
"""Times that serve may have a proxy dial it at once, and then one more every `_DIAL` s.

It says where it listens once on each channel.
"""
_DIAL: Final = 3.0


class Link:
    """Make with a member, start with `offer` or `answer`, feed what the member signals, end with `aclose`.

    ``relay``: how many seconds the relay is asked for after the direct way, by a proxy; None where there is none for us
    and this member. ``nearby``: serve's listener. ``spare``: what there is goes on without it, too. ``greeting`` says
    what to say on a channel, and ``wanted`` whether one over such a path would be of use. ``up`` is called with what
    was agreed on there, and gives the session that it carries from then on; ``down`` once when the link is over, with
    the reason. It is to be closed then too.
    """

    def __init__(
        self,
        member: Member,
        settings: Settings,
        *,
        role: Role,
        identity: Identity,
        greeting: Callable[[Channel], Greeting],
        wanted: Wanted,
        send: Send,
        addressed: bool,
        relay: float | None,
        nearby: Nearby,
        spare: bool,
        up: Callable[[Link, Carrier, Agreement], Session | None],
        down: Callable[[Link, TunnelError], None],
    ) -> None:
        self.member = member
        self.spare = spare
        self.name = f"{member.role or 'peer'}-{member.peer_id[:6]}"
        """Short, for people: of its id in the room, then of its certificate, which stays when it comes back."""
        self.certificate = b""
        """SHA-256 of the one that the member showed; empty until a channel is open."""
        self.session: Session | None = None
        """The one that it carries, or has carried; None before there is an agreement."""
        self._settings = settings
        self._role = role
        self._identity = identity
        self._greeting = greeting
        self._wanted = wanted
        self._send = send
        self._relay = relay
        self._nearby = nearby
        self._dialler: TcpDialler | None = None
        """Proxy: for the peer that was found."""
        self._up, self._down = up, down
        to = member.peer_id if addressed else None
        self._direct = DirectWay(
            settings, server=role is Role.SERVE, identity=identity, send=send, to=to, peer=self.name
        )
        self._asked: AskedRelayWay | None = None
        self._pipes = Bucket(_PIPES, every=_PIPE)
        self._running: dict[Way, asyncio.Task[TunnelError]] = {}
        """Ways that are not over."""
        self._carriers: dict[Way, Carrier] = {}
        self._latest: Carrier | None = None
        """The one that has begun to greet last."""
        self._dials = Bucket(_DIALS, every=_DIAL)
        self._failures: dict[Way, TunnelError] = {}
        """Why ways that run are given up, and why the last one of each kind is over; the latest failure is last."""
        self._closing: dict[Way, asyncio.Task[None]] = {}
        """Ways that are over, until all of theirs is closed."""
        self._stopping = asyncio.Event()
        self._reason: TunnelError = PeerError("The connection was given up.")

    @property
    def carries(self) -> bool:
        """Whether it has a session that is not over."""
        return self.session is not None and self.session.error is None

    @property
    def networks(self) -> tuple[str, ...]:
        """Where the member is, see `Channel.networks`; empty before a channel is open."""
        return self._latest.channel.networks if self._latest else ()

    @property
    def tries_direct(self) -> bool:
        """Whether a direct path may still come up on it."""
        return self._direct in self._running and self._direct not in self._carriers

    # -- what the member signals

    def offer(self) -> None:
        """Connect: we offer."""
        self._start()

    def answer(self, sdp: str) -> None:
        """Connect: the member offers."""
        self._direct.answer(sdp)
        self._start()

    async def take_answer(self, sdp: str) -> None:
        """The member's answer came."""
        try:
            await self._direct.take_answer(sdp)
        except ConnectFailed as exc:
            self._give_up_way(self._direct, exc)

    def take_candidate(self, candidate: IceCandidate) -> None:
        """A candidate of the member's came."""
        self._direct.peer.add_candidate(candidate)

    def take_ticket(self, ticket: str) -> None:
        """One for a pipe to the member came: a proxy has asked for it, serve opens its end."""
        if self._asked is not None:
            self._asked.take_ticket(ticket)
        elif (
            self._relay is not None and self._role is Role.SERVE and self._pipes.take(asyncio.get_running_loop().time())
        ):
            for way in [way for way in self._running if isinstance(way, RelayWay) and way not in self._carriers]:
                self._give_up_way(way, ConnectFailed("The peer has asked for another pipe."))
            pipe = RelayWay(self._settings, identity=self._identity, server=True, welcome=self._is_welcome)
            pipe.take_ticket(ticket)
            self._try(pipe)

    def refuse_relay(self, reason: str) -> None:
        """The signal server opens no pipe."""
        if self._asked is not None:
            self._asked.refuse(reason)

    def look(self) -> None:
        """What carries has failed: a path that was not wanted may be."""
        if self._asked is not None:
            self._asked.look()

    def suspect(self, *, gone: bool = False) -> None:
        """The member is said to be gone: find out soon, or give up at once where nothing stands yet.

        ``gone``: its process seems to have ended, and is waited for less long.
        """
        if self.session is not None:
            self.session.suspect(gone=gone)
        else:
            self._give_up(PeerLost(f"{self.name} left before it was reached."))

    def settle(self) -> None:
        """Open nothing more."""
        for way in [way for way in self._running if way not in self._carriers]:
            self._give_up_way(way, PeerError("Another connection is made."))

    async def overlap(self, stopping: asyncio.Event) -> None:
        """A while where its session goes on elsewhere: the peer is to hear that there, before it hears of an end here.

        ``stopping`` cuts it short.
        """
        if self.carries:
            with suppress(TimeoutError):
                async with asyncio.timeout(OVERLAP):
                    await stopping.wait()

    async def aclose(self, *, stopping: bool) -> None:
        """Close the channels in order, and all else; to be called once, also of a link that is over.

        ``stopping``: the room closes, and its sessions with it.
        """
        self._stopping.set()
        await asyncio.gather(*(carrier.aclose(stopping=stopping) for carrier in self._carriers.values()))
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)  # each closes what it has when it is over
        await asyncio.gather(*self._closing.values())

    # -- the ways

    def _start(self) -> None:
        self._try(self._direct)
        if self._relay is not None and self._role is Role.PROXY:
            self._asked = AskedRelayWay(
                self._settings,
                identity=self._identity,
                welcome=self._is_welcome,
                told=self._direct.told,
                head_start=self._relay,
                ask=self._ask_for_pipe,
                wanted=self._wants_relay,
            )
            self._try(self._asked)

    def _wants_relay(self) -> bool:
        introduced = self.session is not None and self.session.introduced
        return not introduced and self._wanted(Path.RELAY, b"")

    def _ask_for_pipe(self) -> None:
        self._send(messages.pipe(self.member.peer_id))

    def _try(self, way: Way) -> None:
        task = self._running[way] = asyncio.create_task(self._use(way), name=f"{way.name} link to {self.name}")
        # Not from within the task: one that is cancelled before its first step never runs.
        task.add_done_callback(partial(self._way_over, way))

    async def _use(self, way: Way) -> TunnelError:
        """Connect, then stay until the channel is over; returns why it is."""
        try:
            channel = await way.open()
            return await (await self._greet(way, channel)).wait_over()
        except TunnelError as exc:
            return exc.again()
        except Exception as exc:
            logger.exception("a defect ended the connection to %s", self.name)
            return PeerError(f"A defect ended the connection to {self.name}: {exc!r}.", hint="Please report it.")

    def _give_up(self, reason: TunnelError) -> None:
        self._reason = reason
        for task in self._running.values():
            task.cancel()

    def _give_up_way(self, way: Way, reason: TunnelError) -> None:
        self._failures[way] = reason
        if way in self._running:
            self._running[way].cancel()

    def _way_over(self, way: Way, task: asyncio.Task[TunnelError]) -> None:
        del self._running[way]
        reason = self._given_up(way) if task.cancelled() else task.result()
        for last in [each for each in self._failures if each not in self._running and each.name == way.name]:
            del self._failures[last]
        self._failures[way] = reason
        logger.info("%s: the way %s is over: %s", self.name, way.name, reason)
        if self.session is not None and isinstance(way, DialWay) and way not in self._carriers:
            self.session.miss(reason.message)
        self._close(way)
        if not self._running:
            self._down(self, self._verdict())
        elif self._is_final(reason):
            self._give_up(reason)
        else:
            self._explain()
            if self._asked is not None and set(self._running) == {self._asked}:
                self._asked.look(last=True)

    def _is_final(self, reason: TunnelError) -> bool:
        """Whether no other way would do better."""
        if self.session is not None:
            return self.session.error is not None
        refused = isinstance(reason, AuthenticationFailed | Unwelcome | VersionMismatch)
        return refused and not (self._latest and not self._latest.settled.is_set())

    def _given_up(self, way: Way) -> TunnelError:
        """Why; who gives the link up, as the signal server may, does not hide that a guess was made on it."""
        reason = self._failures.get(way, self._reason)
        carrier = self._carriers.get(way)
        if carrier is None:
            return reason
        carrier.leave(reason.message)
        error = carrier.error
        return reason if error is None or isinstance(error, PeerLost) else error

    def _verdict(self) -> TunnelError:
        """Of all failures the one to be told: what was said on a channel, else why there is no direct one."""
        said = [each for each in self._failures.values() if not isinstance(each, ConnectFailed)]
        return said[-1] if said else self._failures[self._direct]

    def _close(self, way: Way) -> None:
        """Close a way that is over, in the background; then nothing is kept of it."""
        task = asyncio.create_task(self._close_later(way), name=f"closing the way {way.name} to {self.name}")
        self._closing[way] = task
        task.add_done_callback(lambda _: self._closing.pop(way))

    async def _close_later(self, way: Way) -> None:
        await self.overlap(self._stopping)
        if carrier := self._carriers.get(way):
            await carrier.aclose()
        await way.aclose()
        self._carriers.pop(way, None)

    # -- the channels

    async def _greet(self, way: Way, channel: Channel) -> Carrier:
        """Begin on a channel that is open. Raises `ConnectFailed` where it is of no use."""
        certificate = channel.binding.remote if channel.binding is not None else b""
        if self._role is Role.PROXY:
            await self._take_turn()
            if not self._wanted(channel.path, certificate):
                raise ConnectFailed("A better path carries.")
        if self.session is not None and not (self.session.suspended or self.session.line.resumable):
            raise ConnectFailed("The session that stands cannot change its path.")
        if certificate and not self._is_welcome(certificate):
            raise ConnectFailed("Somebody else's certificate is shown on it.")
        self._name(channel)
        carrier = Carrier(channel, self._greeting(channel), agreed=self._begin)
        self._latest = self._carriers[way] = carrier
        carrier.start()
        return carrier

    async def _take_turn(self) -> None:
        """A proxy greets on one channel after the other: there is one session, and each greeting would begin one."""
        while (before := self._latest) is not None and not before.settled.is_set():
            try:
                async with asyncio.timeout(TURN):
                    await before.settled.wait()
            except TimeoutError:
                before.leave("Another path came up meanwhile.")

    def _begin(self, carrier: Carrier, agreement: Agreement) -> None:
        self._name(carrier.channel)
        session = self._up(self, carrier, agreement)
        if session is None:
            if carrier.error is None:
                carrier.refuse()
            return
        self.session = session
        self._explain()
        if session.path is not Path.TCP:
            self._come_nearer(session)

    def _come_nearer(self, session: Session) -> None:
        """Try local TCP too, now that it is known who may come, and who may be dialled."""
        if not session.features >= {Feature.PATH, Feature.AUTH}:
            session.miss("Only local TCP is to be used, and the other side does not do that.")
        elif self._role is Role.PROXY:
            session.addresses_came = self._dial
        elif listening := next((way for way in self._running if isinstance(way, ListenWay)), None):
            listening.tell_again(session.tell_addresses)
        else:
            self._try(ListenWay(self._nearby, self.certificate, tell=session.tell_addresses))

    def _dial(self, addresses: tuple[str, ...]) -> None:
        """Serve says where it listens; once at a time."""
        dialling = any(isinstance(way, DialWay) for way in self._running)
        if dialling or not self._wanted(Path.TCP, self.certificate):
            return
        if not self._dials.take(asyncio.get_running_loop().time()):
            return
        if self._dialler is None:
            timeouts, loopback = self._settings.timeouts, self._settings.loopback
            self._dialler = TcpDialler(self._identity, self.certificate, timeouts=timeouts, loopback=loopback)
        self._try(DialWay(self._dialler, addresses))

    def _is_welcome(self, fingerprint: bytes) -> bool:
        """Whether a peer may be the one that we have found, where we have."""
        return self.session is None or fingerprint == self.certificate

    def _name(self, channel: Channel) -> None:
        if channel.binding is not None:
            self.certificate = channel.binding.remote
            self.name = f"{self.member.role or 'peer'}-{self.certificate.hex()[:8]}"

    def _explain(self) -> None:
        """Say why it is not on a better path."""
        if self.session is None:
            return
        path, failure = self.session.path, self._failures.get(self._direct)
        if path is Path.TURN and self._settings.path == AUTO:
            self.session.detail = "direct: nothing passes straight between the two networks"
        elif path is not Path.RELAY:
            self.session.detail = ""
        elif failure is None:
            self.session.detail = "direct: is being tried"
        elif isinstance(failure, ConnectFailed):
            self.session.detail = f"direct: {failure.message}"
