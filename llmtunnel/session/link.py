"""One connection to one member of the room: WebRTC, then a session, from the first offer to the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ..config import Settings
from ..errors import ConnectFailed, ErrorCode, PeerError, TunnelError
from ..signaling import messages
from ..signaling.messages import IceCandidate, Member
from ..status import Role
from ..transport.webrtc import WebRtcPeer
from .mux import Handler, Session

logger = logging.getLogger(__name__)

Send = Callable[[str], None]
"""Queues a signalling message; one that cannot be sent any more is dropped: the peer will time out."""


class Link:
    """Make with a member, start with `offer` or `answer`, feed what the member signals, end with `aclose`.

    ``up`` is called when the session stands, ``down`` once when the link is over, with the reason.
    """

    def __init__(
        self,
        member: Member,
        role: Role,
        settings: Settings,
        *,
        handler: Handler | None,
        send: Send,
        addressed: bool,
        up: Callable[[Link], None],
        down: Callable[[Link, TunnelError], None],
    ) -> None:
        self.member = member
        self.name = f"{member.role or 'peer'}-{member.peer_id[:6]}"
        """Short, for people; it stays when the member comes back under another id."""
        self.session: Session | None = None
        """Set once it stands."""
        self._role = role
        self._settings = settings
        self._handler = handler
        self._send = send
        self._to = member.peer_id if addressed else None
        self._up, self._down = up, down
        self._peer = WebRtcPeer(
            ice=settings.ice,
            timeouts=settings.timeouts,
            limits=settings.limits,
            on_candidate=self._tx_candidate,
            loopback=settings.loopback,
        )
        self._answered = asyncio.Event()
        self._over = False
        self._task: asyncio.Task[None] | None = None

    def offer(self) -> None:
        """Connect: we offer."""
        self._start(self._make_offer())

    def answer(self, sdp: str) -> None:
        """Connect: the member offers."""
        self._start(self._make_answer(sdp))

    async def take_answer(self, sdp: str) -> None:
        """The member's answer came."""
        if self._answered.is_set():
            return
        try:
            await self._peer.accept(sdp)
        except ConnectFailed as exc:
            logger.warning("%s sent a useless answer: %s", self.name, exc)
            self._cancel()
            return
        self._answered.set()

    def take_candidate(self, candidate: IceCandidate) -> None:
        """A candidate of the member's came."""
        self._peer.add_candidate(candidate)

    def suspect(self) -> None:
        """The member is said to be gone: find out soon, or give up at once where nothing stands yet."""
        if self.session is not None:
            self.session.suspect()
        else:
            self._cancel()

    async def aclose(self) -> None:
        """End the session in order, and the connection; idempotent."""
        if self.session is not None:
            await self.session.aclose()
        else:
            self._cancel()
        if self._task is not None:
            await asyncio.wait((self._task,))

    def _start(self, connect: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(self._run(connect), name=f"link to {self.name}")

    def _cancel(self) -> None:
        if self._task is not None and not self._over:
            self._task.cancel()

    async def _run(self, connect: Coroutine[Any, Any, None]) -> None:
        reason: TunnelError = PeerError("The connection was given up.")
        try:
            await connect
            session = await self._make_session()
            self.session = session
            self._up(self)
            reason = await session.wait_ended()
        except TunnelError as exc:
            reason = exc
        finally:
            await self._close(reason)

    async def _make_session(self) -> Session:
        channel = await self._peer.channel()
        settings = self._settings
        session = Session(
            channel,
            self._role,
            peer=self.name,
            handler=self._handler,
            limits=settings.limits,
            timeouts=settings.timeouts,
        )
        try:
            await session.start()
        except BaseException:
            await session.aclose(ErrorCode.CANCELLED, "The hello was given up.")
            raise
        return session

    async def _close(self, reason: TunnelError) -> None:
        self._over = True
        try:
            if self.session is not None:
                await self.session.aclose()
            await self._peer.aclose()
        finally:
            self._down(self, reason)

    async def _make_offer(self) -> None:
        self._send(messages.offer(await self._peer.offer(), to=self._to))
        try:
            async with asyncio.timeout(self._settings.timeouts.answer):
                await self._answered.wait()
        except TimeoutError as exc:
            raise ConnectFailed(f"{self.name} did not answer our offer.") from exc

    async def _make_answer(self, sdp: str) -> None:
        self._answered.set()
        self._send(messages.answer(await self._peer.answer(sdp), to=self._to))

    def _tx_candidate(self, candidate: IceCandidate) -> None:
        self._send(messages.candidate(candidate, to=self._to))
