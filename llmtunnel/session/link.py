"""One connection to one member of the room: WebRTC, then what it carries, from the first offer to the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ..config import Settings
from ..errors import ConnectFailed, ErrorCode, PeerError, PeerLost, TunnelError
from ..protocol.greeting import Greeting
from ..protocol.handshake import Agreement
from ..signaling import messages
from ..signaling.messages import IceCandidate, Member
from ..transport.base import Channel
from ..transport.identity import Identity
from ..transport.webrtc import WebRtcPeer
from .carrier import FAREWELL, Carrier
from .mux import Session

logger = logging.getLogger(__name__)

Send = Callable[[str], None]
"""Queues a signalling message; one that cannot be sent any more is dropped: the peer will time out."""
Connect = Callable[[], Coroutine[Any, Any, None]]


class Link:
    """Make with a member, start with `offer` or `answer`, feed what the member signals, end with `aclose`.

    ``greeting`` says what to say on its channel. ``up`` is called with what was agreed on there, and gives the session
    that it carries from then on; ``down`` once when the link is over, with the reason. It is to be closed then too.
    """

    def __init__(
        self,
        member: Member,
        settings: Settings,
        *,
        identity: Identity,
        greeting: Callable[[Channel], Greeting],
        send: Send,
        addressed: bool,
        up: Callable[[Link, Carrier, Agreement], Session | None],
        down: Callable[[Link, TunnelError], None],
    ) -> None:
        self.member = member
        self.name = f"{member.role or 'peer'}-{member.peer_id[:6]}"
        """Short, for people: of its id in the room, then of its certificate, which stays when it comes back."""
        self.certificate = b""
        """SHA-256 of the one that the member showed; empty until the channel is open."""
        self.session: Session | None = None
        """The one that it carries, or has carried; None before there is an agreement."""
        self._carrier: Carrier | None = None
        self._settings = settings
        self._greeting = greeting
        self._send = send
        self._to = member.peer_id if addressed else None
        self._up, self._down = up, down
        self._peer = WebRtcPeer(
            ice=settings.ice,
            timeouts=settings.timeouts,
            limits=settings.limits,
            identity=identity,
            on_candidate=self._tx_candidate,
            loopback=settings.loopback,
        )
        self._answered = asyncio.Event()
        self._reason: TunnelError = PeerError("The connection was given up.")
        self._task: asyncio.Task[TunnelError] | None = None

    def offer(self) -> None:
        """Connect: we offer."""
        self._start(self._make_offer)

    def answer(self, sdp: str) -> None:
        """Connect: the member offers."""
        self._answered.set()
        self._start(partial(self._make_answer, sdp))

    async def take_answer(self, sdp: str) -> None:
        """The member's answer came; another one than the first counts for nothing."""
        if self._answered.is_set():
            return
        self._answered.set()
        try:
            await self._peer.accept(sdp)
        except ConnectFailed as exc:
            self._give_up(exc)

    def take_candidate(self, candidate: IceCandidate) -> None:
        """A candidate of the member's came."""
        self._peer.add_candidate(candidate)

    def suspect(self) -> None:
        """The member is said to be gone: find out soon, or give up at once where nothing stands yet."""
        if self.session is not None:
            self.session.suspect()
        else:
            self._give_up(PeerLost(f"{self.name} left before it was reached."))

    async def aclose(self, code: ErrorCode = ErrorCode.NO_ERROR, message: str = FAREWELL) -> None:
        """Close the channel in order, and the connection; to be called once, also of a link that is over."""
        if self._carrier is not None:
            await self._carrier.aclose(code, message)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._peer.aclose()

    def _start(self, connect: Connect) -> None:
        self._task = asyncio.create_task(self._run(connect), name=f"link to {self.name}")
        # Not from within the task: one that is cancelled before its first step never runs.
        self._task.add_done_callback(self._is_over)

    def _give_up(self, reason: TunnelError) -> None:
        self._reason = reason
        if self._task is not None:
            self._task.cancel()

    async def _run(self, connect: Connect) -> TunnelError:
        """Connect, then stay until the channel is over; returns why it is."""
        try:
            await connect()
            channel = await self._peer.channel()
            self._name(channel)
            self._carrier = Carrier(channel, self._greeting(channel), agreed=self._begin)
            self._carrier.start()
            return await self._carrier.wait_over()
        except TunnelError as exc:
            return exc
        except Exception as exc:
            logger.exception("a defect ended the connection to %s", self.name)
            return PeerError(f"A defect ended the connection to {self.name}: {exc!r}.", hint="Please report it.")

    def _is_over(self, task: asyncio.Task[TunnelError]) -> None:
        self._down(self, self._given_up() if task.cancelled() else task.result())

    def _given_up(self) -> TunnelError:
        """Why; who gives the link up, as the signal server may, does not hide that a guess was made on it."""
        if self._carrier is None:
            return self._reason
        self._carrier.leave(self._reason.message)
        error = self._carrier.error
        return self._reason if error is None or isinstance(error, PeerLost) else error

    def _begin(self, carrier: Carrier, agreement: Agreement) -> None:
        self.session = self._up(self, carrier, agreement)
        if self.session is None:
            carrier.leave("The session that was to go on has ended.")

    def _name(self, channel: Channel) -> None:
        if channel.binding is not None:
            self.certificate = channel.binding.remote
            self.name = f"{self.member.role or 'peer'}-{self.certificate.hex()[:8]}"

    async def _make_offer(self) -> None:
        self._send(messages.offer(await self._peer.offer(), to=self._to))
        try:
            async with asyncio.timeout(self._settings.timeouts.answer):
                await self._answered.wait()
        except TimeoutError as exc:
            raise ConnectFailed(f"{self.name} did not answer our offer.") from exc

    async def _make_answer(self, sdp: str) -> None:
        self._send(messages.answer(await self._peer.answer(sdp), to=self._to))

    def _tx_candidate(self, candidate: IceCandidate) -> None:
        self._send(messages.candidate(candidate, to=self._to))
