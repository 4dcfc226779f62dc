"""All connections to one member of the room: the ways to it, tried side by side, and the sessions on their channels.

The first channel that opens carries the session. A later one takes over if it is better, and is closed if it is not.
The proxy decides, and serve answers on every channel. A later channel must lead to the same peer, which its
certificate proves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from ..bucket import Bucket
from ..config import Settings
from ..errors import ConnectFailed, PeerError, PeerLost, TunnelError
from ..paths import Path
from ..protocol.greeting import Greeting
from ..protocol.handshake import Agreement
from ..protocol.hello import Feature
from ..signaling import messages
from ..signaling.messages import IceCandidate, Member
from ..status import Role
from ..transport.base import Channel, Way
from ..transport.identity import Identity
from ..transport.tasks import ended, finish
from ..transport.tcp import TcpDialler
from .attempt import Attempt, GiveUpAll, GoOn, Over, Stage, UseRelay, outcome
from .carrier import Carrier
from .ice import IceBook
from .local_tcp import DialWay, ListenWay, SharedListener
from .mux import Session
from .ways import AskedRelayWay, DirectWay, RelayWay

logger = logging.getLogger(__name__)

OVERLAP: Final = 2.0
"""Seconds for which a channel stays open after its session has left it."""
TURN: Final = 3.0
"""Seconds that a channel waits for the greeting on another one, before the link abandons that greeting."""
_PIPES: Final = 4
"""Pipes that a member may make serve open at once, and then one more every `_PIPE` s."""
_PIPE: Final = 3.0
_DIALS: Final = 8
"""Times that serve may make a proxy connect to it at once, and then one more every `_DIAL` s.

Serve announces its addresses once on each channel.
"""
_DIAL: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What all links of one side of a room share."""

    role: Role
    settings: Settings
    identity: Identity
    listener: SharedListener
    """Serve's listener for local TCP."""
    ice: IceBook
    """The STUN and TURN servers for a new connection."""


class LinkOwner(Protocol):
    """The owner of a link: decides what its channels are for, and learns of its end. No call may raise or block."""

    def greeting(self, channel: Channel) -> Greeting:
        """Return the greeting for a channel that has just opened."""

    def is_of_use(self, link: Link, path: Path, certificate: bytes) -> bool:
        """Proxy: return whether a further channel over this path is useful.

        ``certificate``: the peer's; b"": any peer.
        """

    def link_agreed(self, link: Link, carrier: Carrier, agreement: Agreement) -> Session | None:
        """Return the session that the channel carries from now on, or None if there is none for it."""

    def link_over(self, link: Link, reason: TunnelError) -> None:
        """Note that every attempt has ended: the link has to be closed. This is the last call."""

    def send_signal(self, message: str) -> None:
        """Queue a signalling message. One that can no longer be sent is dropped."""


class Link:
    """Connect to a member: start with `offer` or `answer`, pass on what the member signals, end with `aclose`.

    ``relay``: how many seconds after the direct way a proxy asks for the relay; None if we cannot use a relay with this
    member. ``addressed``: signalling messages name their receiver. ``spare``: everything works without this link too.
    """

    def __init__(
        self, member: Member, side: Side, owner: LinkOwner, *, relay: float | None, addressed: bool, spare: bool
    ) -> None:
        self.member = member
        self.spare = spare
        self.name = f"{member.role or 'peer'}-{member.peer_id[:6]}"
        """Short name for people: first from the member's room id, then from its certificate, which outlives a
        rejoin."""
        self.certificate = b""
        """What identifies the member, as in `Agreement`: before that, the certificate that it has shown; empty until a
        channel is open."""
        self.session: Session | None = None
        """The session that it carries or has carried; None before the peers have agreed."""
        self._side = side
        self._owner = owner
        self._relay = relay
        self._dialler: TcpDialler | None = None
        """Proxy: connects to the peer that was found."""
        self._direct = DirectWay(
            side.settings,
            servers=side.ice.servers(asyncio.get_running_loop().time()),
            server=side.role is Role.SERVE,
            identity=side.identity,
            send=owner.send_signal,
            to=member.peer_id if addressed else None,
            peer=self.name,
        )
        self._asked: AskedRelayWay | None = None
        self._pipes = Bucket(_PIPES, every=_PIPE)
        self._dials = Bucket(_DIALS, every=_DIAL)
        self.attempts: list[Attempt] = []
        """The oldest first, which is the direct one. Of the closed ones, only the last of each kind is kept."""
        self._stopping = asyncio.Event()

    @property
    def carries(self) -> bool:
        """Whether the link has a session that has not ended."""
        return self.session is not None and self.session.error is None

    @property
    def networks(self) -> tuple[str, ...]:
        """Where the member is, see `Channel.networks`; empty until a channel is open."""
        greeted = [each.carrier for each in self.attempts if each.carrier is not None]
        return greeted[-1].channel.networks if greeted else ()

    @property
    def tries_direct(self) -> bool:
        """Whether the link may still get a direct path."""
        return any(each.way is self._direct and each.carrier is None for each in self._running)

    @property
    def _running(self) -> list[Attempt]:
        return [each for each in self.attempts if each.running]

    # -- what the member signals

    def offer(self) -> None:
        """Start to connect by making an offer."""
        self._start()

    def answer(self, sdp: str) -> None:
        """Start to connect by answering the member's offer."""
        self._direct.answer(sdp)
        self._start()

    async def take_answer(self, sdp: str) -> None:
        """Process the member's answer."""
        try:
            await self._direct.take_answer(sdp)
        except ConnectFailed as exc:
            self._give_up(self.attempts[:1], exc)

    def take_candidate(self, candidate: IceCandidate) -> None:
        """Process a candidate from the member."""
        self._direct.peer.add_candidate(candidate)

    def take_ticket(self, ticket: str) -> None:
        """Process a ticket for a pipe to the member. A proxy has asked for it; serve opens its end."""
        if self._asked is not None:
            self._asked.take_ticket(ticket)
        elif (
            self._relay is not None
            and self._side.role is Role.SERVE
            and self._pipes.take(asyncio.get_running_loop().time())
        ):
            last = [each for each in self._running if isinstance(each.way, RelayWay) and each.carrier is None]
            self._give_up(last, ConnectFailed("The peer has asked for another pipe."))
            pipe = RelayWay(self._side.settings, identity=self._side.identity, server=True, welcome=self._is_welcome)
            pipe.take_ticket(ticket)
            self._try(pipe)

    def refuse_relay(self, reason: str) -> None:
        """Note that the signal server refuses a pipe."""
        if self._asked is not None:
            self._asked.refuse(reason)

    def look(self) -> None:
        """Check again whether the relay is needed, since the path that carried the session has failed."""
        if self._asked is not None:
            self._asked.look()

    def suspect(self, *, gone: bool = False) -> None:
        """Find out soon whether the member has left, as reported. Abandon the link if it has no session yet.

        ``gone``: the member's process seems to have ended, so the wait for it is shorter.
        """
        if self.session is not None:
            self.session.suspect(gone=gone)
        else:
            self._give_up(self._running, PeerLost(f"{self.name} left before a connection came up."))

    def settle(self) -> None:
        """Open no further channels."""
        pending = [each for each in self._running if each.carrier is None]
        self._give_up(pending, PeerError("Another connection is being made."))

    async def overlap(self, stopping: asyncio.Event) -> None:
        """Wait a moment if the session continues elsewhere, so that the peer learns that before it sees an end here.

        ``stopping`` ends the wait.
        """
        if self.carries:
            with suppress(TimeoutError):
                async with asyncio.timeout(OVERLAP):
                    await stopping.wait()

    async def aclose(self, *, stopping: bool) -> None:
        """Close the channels in order, and everything else. Call this once, also for a link that has ended.

        ``stopping``: the room closes, and its sessions with it.
        """
        self._stopping.set()
        await finish(partial(self._close_carriers, stopping=stopping), self._until_closed)

    async def _close_carriers(self, *, stopping: bool) -> None:
        carriers = [each.carrier for each in self.attempts if each.carrier is not None]
        await finish(*(partial(carrier.aclose, stopping=stopping) for carrier in carriers), together=True)

    async def _until_closed(self) -> None:
        self._give_up(self._running, PeerError("The connection was abandoned."))
        while left := [each.task for each in self.attempts if each.stage is not Stage.CLOSED]:
            await ended(*left)

    # -- the ways

    def _start(self) -> None:
        self._try(self._direct)
        if self._relay is not None and self._side.role is Role.PROXY:
            self._asked = AskedRelayWay(
                self._side.settings,
                identity=self._side.identity,
                welcome=self._is_welcome,
                told=self._direct.told,
                head_start=self._relay,
                ask=self._ask_for_pipe,
                wanted=self._wants_relay,
            )
            self._try(self._asked)

    def _wants_relay(self) -> bool:
        introduced = self.session is not None and self.session.introduced
        return not introduced and self._owner.is_of_use(self, Path.RELAY, b"")

    def _ask_for_pipe(self) -> None:
        self._owner.send_signal(messages.pipe(self.member.peer_id))

    # -- the attempts

    def _try(self, way: Way) -> None:
        # A closed attempt tells nothing that a later one of its kind does not.
        self.attempts = [each for each in self.attempts if each.stage is not Stage.CLOSED or each.way.name != way.name]
        attempt = Attempt(way)
        self.attempts.append(attempt)
        attempt.task = task = asyncio.create_task(self._use(attempt), name=f"{way.name} link to {self.name}")
        # Not in the task itself: a task that is cancelled before its first step never runs.
        task.add_done_callback(partial(self._attempt_over, attempt))

    async def _use(self, attempt: Attempt) -> TunnelError:
        """Connect, stay until the channel has ended, and return why it has."""
        try:
            channel = await attempt.way.open()
            attempt.step(Stage.WAITING)
            carrier = await self._greet(attempt, channel)
            return await carrier.wait_over()
        except TunnelError as exc:
            return exc.again()
        except Exception as exc:
            logger.exception("a defect ended the connection to %s", self.name)
            return PeerError(f"An internal error ended the link to {self.name}: {exc!r}.", hint="Please report this.")

    async def _greet(self, attempt: Attempt, channel: Channel) -> Carrier:
        """Start the greeting on an open channel. Raises `ConnectFailed` if the channel is of no use."""
        certificate = channel.binding.certificate if channel.binding is not None else b""
        if self._side.role is Role.PROXY:
            await self._take_turn()
            if not self._owner.is_of_use(self, channel.path, certificate):
                raise ConnectFailed("A better path already carries the session.")
        if self.session is not None and not (self.session.suspended or self.session.line.resumable):
            raise ConnectFailed("The current session cannot change its path.")
        if certificate and not self._knows_key and not self._is_welcome(certificate):
            raise ConnectFailed("The peer on it shows another certificate than the session's peer.")
        if self.session is None and certificate:
            self._name(certificate)
        carrier = Carrier(channel, self._owner.greeting(channel), agreed=partial(self._agreed, attempt))
        attempt.carrier = carrier
        attempt.step(Stage.GREETING)
        carrier.start()
        return carrier

    async def _take_turn(self) -> None:
        """Wait, as a proxy, until no other channel is being greeted on. Each greeting would begin a session."""
        while before := next((each.carrier for each in self.attempts if each.greets), None):
            try:
                async with asyncio.timeout(TURN):
                    await before.settled.wait()
            except TimeoutError:
                before.leave("Another path became available meanwhile.")

    def _give_up(self, attempts: Iterable[Attempt], reason: TunnelError) -> None:
        for attempt in attempts:
            if attempt.running:
                attempt.failure = attempt.failure or reason
                attempt.task.cancel()

    def _attempt_over(self, attempt: Attempt, task: asyncio.Task[TunnelError]) -> None:
        attempt.failure = self._why_given_up(attempt) if task.cancelled() else task.result()
        attempt.step(Stage.LEFT)
        attempt.task = asyncio.create_task(self._close(attempt), name=f"closing {attempt.way.name} to {self.name}")
        logger.info("%s: the %s attempt has ended: %s", self.name, attempt.way.name, attempt.failure)
        if self.session is not None and isinstance(attempt.way, DialWay) and attempt.carrier is None:
            self.session.miss(attempt.failure.message)
        match outcome(attempt, self.attempts, has_session=self.session is not None, session_over=not self.carries):
            case Over(reason):
                self._owner.link_over(self, reason)
            case GiveUpAll(reason):
                self._give_up(self._running, reason)
            case UseRelay() if self._asked is not None:
                self._explain()
                self._asked.look(last=True)
            case GoOn():
                self._explain()

    def _why_given_up(self, attempt: Attempt) -> TunnelError:
        """Return the failure of an attempt that was cancelled.

        If somebody guessed at the secret on its channel, that is the failure. An end that the signal server has caused
        must not hide it.
        """
        reason = attempt.failure or PeerError("The connection was abandoned.")
        if attempt.carrier is None:
            return reason
        attempt.carrier.leave(reason.message)
        error = attempt.carrier.error
        return reason if error is None or isinstance(error, PeerLost) else error

    async def _close(self, attempt: Attempt) -> None:
        try:
            await self.overlap(self._stopping)
        finally:
            over = self.session is not None and not self.carries
            closing = [partial(attempt.carrier.aclose, stopping=over)] if attempt.carrier is not None else []
            await finish(*closing, attempt.way.aclose)
            attempt.step(Stage.CLOSED)

    # -- the session

    def _agreed(self, attempt: Attempt, carrier: Carrier, agreement: Agreement) -> None:
        session = None
        if self._is_welcome(agreement.certificate):
            if agreement.certificate:
                self._name(agreement.certificate, is_key=Feature.IDENTITY in agreement.features)
            session = self._owner.link_agreed(self, carrier, agreement)
        if session is None:
            if carrier.error is None:
                carrier.refuse()
            return
        attempt.step(Stage.CARRYING)
        self.session = session
        self._explain()
        if session.path is not Path.TCP:
            self._come_nearer(session)

    def _come_nearer(self, session: Session) -> None:
        """Try local TCP too, now that serve knows whom to expect and the proxy knows where it may connect."""
        if not session.features >= {Feature.PATH, Feature.AUTH}:
            session.miss("Only local TCP may be used, and the other side does not support it.")
        elif self._side.role is Role.PROXY:
            session.hear_addresses(self._dial)
        elif listening := next((each.way for each in self._running if isinstance(each.way, ListenWay)), None):
            listening.tell_again(session.tell_addresses)
        else:
            self._try(ListenWay(self._side.listener, self.certificate, tell=session.tell_addresses))

    def _dial(self, addresses: tuple[str, ...]) -> None:
        """Connect to the addresses that serve announces, one attempt at a time."""
        dialling = any(isinstance(each.way, DialWay) for each in self._running)
        if dialling or not self._owner.is_of_use(self, Path.TCP, self.certificate):
            return
        if not self._dials.take(asyncio.get_running_loop().time()):
            return
        if self._dialler is None:
            timeouts, loopback = self._side.settings.timeouts, self._side.settings.loopback
            self._dialler = TcpDialler(self._side.identity, self.certificate, timeouts=timeouts, loopback=loopback)
        self._try(DialWay(self._dialler, addresses))

    @property
    def _knows_key(self) -> bool:
        """Whether the peer that we have found is known by a key, so that its certificate does not matter."""
        return self.session is not None and Feature.IDENTITY in self.session.features

    def _is_welcome(self, fingerprint: bytes) -> bool:
        """Return whether this certificate may belong to the peer that we have found, if we have found one."""
        return self.session is None or fingerprint == self.certificate

    def _name(self, certificate: bytes, *, is_key: bool = False) -> None:
        """Note what identifies the member. ``is_key``: it is a key's, which only a page in a browser has."""
        self.certificate = certificate
        self.name = f"{'browser' if is_key else self.member.role or 'peer'}-{certificate.hex()[:8]}"

    def _explain(self) -> None:
        """Record why the session is not on a better path."""
        if self.session is None:
            return
        path, failure = self.session.path, self.attempts[0].failure
        if path is Path.TURN and Path.DIRECT in self._side.settings.carriers:
            self.session.explain("direct: the two networks let nothing through directly")
        elif path is not Path.RELAY:
            self.session.explain("")
        elif failure is None:
            self.session.explain("direct: still trying")
        elif isinstance(failure, ConnectFailed):
            self.session.explain(f"direct: {failure.message}")
