"""The sessions of one side of a room: which channel belongs to which, which peers are reached, and what is reported.

A proxy has one session; serve has one with each proxy. Open channels of any kind arrive here. The greeting on each
continues an existing session if there is one, and otherwise begins a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ..config import ServeSettings, Settings
from ..errors import ErrorCode, PeerNotFound, TunnelError
from ..paths import Path, kind
from ..protocol.greeting import Greeting
from ..protocol.handshake import Agreement
from ..protocol.hello import ALL_FEATURES, Feature, Features, ResumeOffer
from ..protocol.resume import Claim
from ..protocol.window import Budget
from ..status import Notice, PeerConnected, PeerLostNotice, Resumed, Role, Suspended
from ..transport.base import Channel
from ..transport.tasks import ended, finish, report
from . import life
from .access import Access
from .carrier import AGENT, FAREWELL, Carrier
from .handlers import Handler
from .mux import Session
from .ways import HEAD_START, PATIENT_START


class Peers:
    """The sessions of one side of a room.

    ``disturbed`` is called when one is suspended or (with a reason) ends, ``restored`` when one works.
    """

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        access: Access,
        handler: Handler | None,
        notify: Callable[[Notice], None],
        disturbed: Callable[[TunnelError | None], None],
        restored: Callable[[], None],
    ) -> None:
        self.sessions: list[Session] = []
        """The sessions that have not ended, the newest last."""
        self.closed = False
        """Whether all have ended for good. No channel that still opens may begin another one."""
        self._role = role
        self._settings = settings
        self._access = access
        self._handler = handler
        self._notify = notify
        self._disturbed = disturbed
        self._restored = restored
        self._features = _features(settings)
        self._in_common = Budget(settings.limits.held_in_all // 2)
        """What peers may hold beyond their own shares."""
        self._up = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def standing(self) -> list[Session]:
        """The sessions that are not suspended."""
        # Copy first: other threads ask too, while the loop continues.
        return [session for session in tuple(self.sessions) if not session.suspended]

    @property
    def waiting(self) -> bool:
        """Whether streams wait for a channel."""
        return any(session.suspended and session.active for session in self.sessions)

    async def session(self, wait: float) -> Session:
        """Proxy: return the session with serve. Raises `PeerNotFound` if none stands within ``wait`` seconds."""
        if standing := self.standing:
            return standing[-1]
        try:
            async with asyncio.timeout(wait):
                while not self.standing:
                    self._up.clear()
                    await self._up.wait()
        except TimeoutError:
            raise PeerNotFound(
                "The other side is not connected.",
                hint="Is `llmtunnel serve` running on the other machine?",
            ) from None
        return self.standing[-1]

    def suspect(self) -> None:
        """Ping all peers, since the path to each of them may have changed."""
        for session in self.standing:
            session.suspect()

    # -- channels

    def wanted(self, path: Path, certificate: bytes) -> bool:
        """Proxy: return whether a channel over this path is worth greeting on.

        It is if nothing carries, if its path is at least as good as the current one, or if it leads to another serve.
        """
        return all(
            session.suspended
            or kind(path).rank <= kind(session.path).rank
            or certificate not in (b"", session.certificate)
            for session in self.sessions
        )

    def is_better(self, path: Path, certificate: bytes) -> bool:
        """Proxy: return whether a channel over this path to the same serve is better than the current one."""
        return any(
            not session.suspended and kind(path).rank < kind(session.path).rank and certificate == session.certificate
            for session in self.sessions
        )

    def head_start(self) -> float:
        """Proxy: return for how many seconds to try the direct way before asking for the relay."""
        if self._settings.resume_for == 0:
            return PATIENT_START
        waiting = any(session.suspended and session.path is Path.RELAY for session in self.sessions)
        return 0.0 if waiting else HEAD_START

    def greeting(self, channel: Channel) -> Greeting:
        """Return the greeting for a channel that has just opened."""
        binding = channel.binding
        certificate = binding.certificate if binding else b""
        return Greeting(
            self._role,
            now=asyncio.get_running_loop().time(),
            limits=self._settings.limits,
            timeouts=self._settings.timeouts,
            features=self._features,
            agent=AGENT,
            credentials=self._access.credentials(binding, channel.networks),
            certificate=certificate,
            needs_key=binding is not None and not binding.certified,
            resume=self._offer(certificate) if self._role is Role.PROXY else None,
            resumable=self._answer,
            tcp_only=self._settings.carriers == {Path.TCP},
        )

    def agreed(self, carrier: Carrier, agreement: Agreement, *, name: str) -> Session | None:
        """Continue or begin the agreed session, and return it. Return None if the session to continue has ended."""
        if self.closed:
            return None
        if agreement.received is None:
            return self._begin(carrier, agreement, name)
        session = next((each for each in self.sessions if each.id == agreement.session), None)
        if session is not None:
            session.resume(agreement, carrier)
        return session

    def _offer(self, certificate: bytes) -> ResumeOffer | None:
        offers = (session.line.offer(certificate) for session in self.sessions)
        return next((offer for offer in offers if offer is not None), None)

    def _answer(self, claim: Claim) -> tuple[int, ...] | None:
        answers = (session.line.answer(claim) for session in self.sessions)
        return next((answer for answer in answers if answer is not None), None)

    def _begin(self, carrier: Carrier, agreement: Agreement, name: str) -> Session:
        self._make_place(agreement)
        session = Session(
            self._role,
            agreement,
            carrier,
            peer=name,
            handler=self._handler,
            limits=self._settings.limits,
            timeouts=self._settings.timeouts,
            resume_for=self._settings.resume_for,
            owner=self,
            budget=self._budget(),
        )
        self._access.established(session)
        self.sessions.append(session)
        if session.has_stood:
            self._stands(session)
        return session

    def _budget(self) -> Budget:
        """Return the limit of what a new peer may make this side hold."""
        limits = self._settings.limits
        if self._role is Role.PROXY:
            return Budget(limits.held_in_all)
        return Budget(limits.held, share=limits.held_in_all // 2 // limits.peers, others=self._in_common)

    def _make_place(self, agreement: Agreement) -> None:
        """End the sessions that the new one replaces, or whose place it needs."""
        for session in tuple(self.sessions):
            if self._role is Role.PROXY:
                self.end(session, "Another serve took its place.")
            elif agreement.certificate and session.certificate == agreement.certificate:
                self.end(session, "It has connected again.")
        if len(self.sessions) >= self._settings.limits.peers:
            for session in [session for session in self.sessions if session.suspended][:1]:
                self.end(session, "Another peer needs its place.")

    # -- reports from sessions

    def session_changed(self, session: Session, change: life.Change) -> None:
        """See `Owner`. Users hear nothing of a peer before its session has stood."""
        if session not in self.sessions:
            return
        match change:
            case life.Suspended(reason):
                if session.has_stood:
                    self._notify(Suspended(peer=session.peer, reason=reason, path=session.path))
                self._disturbed(None)
            case life.Resumed(first=True):
                self._stands(session)
            case life.Resumed(gap):
                self._reached()
                self._notify(Resumed(peer=session.peer, path=session.path, gap_ms=round(gap * 1000, 1)))

    def session_ended(self, session: Session, error: TunnelError) -> None:
        """See `Owner`."""
        if session in self.sessions:
            self.end(session, str(error))
            self._disturbed(error)

    def _stands(self, session: Session) -> None:
        """Report that a session stands for the first time."""
        self._reached()
        self._notify(
            PeerConnected(
                peer=session.peer,
                path=session.path,
                version=session.version,
                address=session.address,
                fingerprint=session.certificate.hex(),
                agent=session.agent,
                authenticated=session.authenticated,
            )
        )

    def _reached(self) -> None:
        self._up.set()
        self._restored()

    # -- the end

    def put_out(self, certificate: bytes) -> None:
        """Serve: end every session with the owner of this certificate."""
        for session in tuple(self.sessions):
            if session.certificate == certificate:
                told = "Serve has put this proxy out."
                self.end(session, "It was removed and blocked.", code=ErrorCode.UNWELCOME, told=told)

    def end(self, session: Session, reason: str, *, code: ErrorCode = ErrorCode.NO_ERROR, told: str = FAREWELL) -> None:
        """End a session now, tell its streams and the peer, and close the channel in the background."""
        self.sessions.remove(session)
        self._access.ended(session)
        if session.has_stood:
            self._notify(PeerLostNotice(peer=session.peer, reason=reason))
        closing = finish(partial(session.aclose, code, told))
        task = asyncio.create_task(closing, name=f"closing {session.peer}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.add_done_callback(report)

    async def aclose(self) -> None:
        """End all sessions, without notices."""
        self.closed = True
        closing = [session.aclose for session in self.sessions]
        self.sessions.clear()
        await finish(*closing, partial(ended, *self._closing), together=True)


def _features(settings: Settings) -> Features:
    features = ALL_FEATURES
    if isinstance(settings, ServeSettings) and settings.no_bench:
        features -= {Feature.BENCH}
    if settings.resume_for == 0:
        return features - {Feature.RESUME}
    nearby = settings.secret is not None and Path.TCP in settings.tried
    return features | {Feature.PATH} if nearby else features
