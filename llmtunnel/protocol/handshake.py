"""From an open channel to an agreement: HELLO, AGREE and, with a secret, AUTH (README.md sections 3 and 9). Pure.

A handshake consumes and produces frames, and has an `Agreement` when it is complete. A mistake in a peer's frame raises
`ProtocolError`, which ends the session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from ..config import Limits
from ..errors import ErrorCode, ProtocolError
from ..status import Role
from . import keys
from .auth import NO_KEY, ProxyAuth, ProxyCredentials, ServeAuth, ServeCredentials, unproven
from .door import ASK_EVERY
from .frames import Frame, FrameType, is_breach
from .hello import UNLIMITED, VERSION, Agree, Feature, Features, Hello, ResumeOffer, check_version
from .keys import Ticket
from .resume import Claim, Resumable

Credentials = ProxyCredentials | ServeCredentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """This side's part of a handshake."""

    limits: Limits
    features: Features
    agent: str = ""
    certificate: bytes = b""
    """SHA-256 of the certificate that the peer has shown on this channel; empty if the channel has none."""
    needs_key: bool = False
    """Serve: whether the proxy has to prove a key, since the channel shows no certificate of it."""
    resume: ResumeOffer | None = None
    """Proxy: the session that it wants to resume."""
    resumable: Resumable = lambda claim: None
    """Serve: decides which session a proxy may resume."""
    tcp_only: bool = False
    """Whether only local TCP may carry streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the two sides have agreed on and proven."""

    features: Features
    window: int
    """Bytes of credit towards the peer, for each stream."""
    streams: int = UNLIMITED
    """Maximum number of streams that the proxy may have open at once."""
    ticket: Ticket | None = field(default=None, repr=False)
    """For the proxy's next connection; None if nothing was proven."""
    certificate: bytes = b""
    """What identifies the peer: its certificate, as in `Offer`, or the fingerprint of its key (`Feature.IDENTITY`)."""
    session: bytes = b""
    """The session's id; empty if the session cannot be resumed."""
    received: tuple[int, ...] | None = None
    """How many of our frames the peer has of the session that continues, by lane; None if the session is new."""
    lanes: int = 1
    """The number of lanes. A stream uses the lane whose number is its own modulo this."""
    tcp_only: bool = False
    """Whether either side requires local TCP. A channel of another kind then only introduces the two."""
    agent: str = ""
    """What the peer says that it is, for people."""


class Handshake(ABC):
    """One side of a handshake."""

    def __init__(self, offer: Offer, *, authenticates: bool) -> None:
        self.agreement: Agreement | None = None
        """The result, once the handshake is complete."""
        self.features: Features = frozenset()
        """What has been agreed on so far. This decides how a refusal is sent."""
        self.offered = offer.features | {Feature.AUTH} if authenticates else offer.features
        """What this side supports."""
        self.proved = False
        """Whether our confirmation has been sent. A peer that impersonates the other side has had its one guess
        then."""
        self.wake_at: float | None = None
        """When to call `wake`, as ``now``; None while nothing waits for a time."""
        self._offer = offer

    @abstractmethod
    def begin(self) -> list[Frame]:
        """Return what to send before anything has arrived."""

    @abstractmethod
    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """Process a frame, and return what to send in response. An unknown frame is skipped. Raises `ProtocolError`."""

    def wake(self, now: float) -> list[Frame]:
        """Return what to send at the time of `wake_at`. Raises `ProtocolError`."""
        return []

    def _skip(self, frame: Frame) -> list[Frame]:
        if is_breach(frame.type, self.offered):
            raise ProtocolError(f"A frame of type {frame.type} came from the wrong side, or before the hello.")
        return []


class ProxyHandshake(Handshake):
    """The side that sends HELLO."""

    def __init__(self, offer: Offer, credentials: ProxyCredentials | None) -> None:
        super().__init__(offer, authenticates=credentials is not None)
        self._auth = ProxyAuth(credentials) if credentials else None
        self._hello = Hello(
            features=self.offered,
            window=offer.limits.window,
            agent=offer.agent,
            auth=self._auth.offer if self._auth else None,
            resume=offer.resume,
            tcp_only=offer.tcp_only,
            lanes=offer.limits.lanes,
        ).encode()
        self._agree: Agree | None = None
        self._lanes = 1

    def begin(self) -> list[Frame]:
        """Return HELLO."""
        return [Frame(FrameType.HELLO, 0, self._hello)]

    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """See `Handshake.receive`."""
        if frame.type == FrameType.AGREE and self._agree is None:
            return self._rx_agree(frame.payload, now)
        if frame.type == FrameType.AUTH and self._auth and self._agree:
            self._finish(self._agree, self._auth.check(frame.payload))
            return []
        return self._skip(frame)

    def _rx_agree(self, payload: bytes, now: float) -> list[Frame]:
        agree = self._agree = Agree.decode(payload)
        if agree.version != VERSION:
            raise ProtocolError(
                f"version: The serve chose version {agree.version}, this proxy speaks {VERSION}.",
                code=ErrorCode.VERSION,
            )
        self.features = agree.features & self.offered
        self._check_session(agree)
        if self._auth is None:
            self._finish(agree, None)
            return []
        confirmation = self._auth.prove(agree.auth, now, hello=self._hello, agree=payload, once=agree.once)
        self.proved = agree.auth is not None and agree.auth.share is not None
        return [Frame(FrameType.AUTH, 0, confirmation)]

    def _finish(self, agree: Agree, ticket: Ticket | None) -> None:
        self.agreement = Agreement(
            features=self.features,
            window=agree.window,
            streams=agree.streams,
            ticket=ticket,
            certificate=self._offer.certificate,
            session=agree.session if agree.session and Feature.RESUME in self.features else b"",
            received=agree.received,
            lanes=self._lanes,
            tcp_only=self._offer.tcp_only or agree.tcp_only,
            agent=agree.agent,
        )

    def _check_session(self, agree: Agree) -> None:
        if Feature.RESUME in self.features and agree.session is None:
            raise ProtocolError("An AGREE names no session.")
        asked = self._offer.resume.session if self._offer.resume else None
        if agree.received is not None and (asked is None or agree.session != asked):
            raise ProtocolError("Serve goes on with a session that this proxy did not ask for.")
        if agree.received is not None and self._auth and (agree.auth is None or agree.auth.nonce is None):
            # Other invited peers know the secret, but only the serve of this session knows its ticket.
            raise ProtocolError("Serve goes on with a session without its ticket.")
        self._check_lanes(agree)

    def _check_lanes(self, agree: Agree) -> None:
        if _may_have_lanes(self.features):
            self._lanes = agree.lanes
        if agree.received is not None and self._offer.resume is not None:
            fits = self._lanes == len(agree.received) == len(self._offer.resume.received)
        else:
            fits = self._lanes <= self._offer.limits.lanes
        if not fits:
            raise ProtocolError("Serve agrees on a number of lanes that does not fit.")


class ServeHandshake(Handshake):
    """The side that sends AGREE."""

    def __init__(self, offer: Offer, credentials: ServeCredentials | None) -> None:
        self._secret = credentials.door.secret if credentials else None
        super().__init__(offer, authenticates=self._secret is not None)
        if self._secret is not None:
            self.offered |= {Feature.IDENTITY}
        self._credentials = credentials
        self._auth: ServeAuth | None = None
        self._peer = offer.certificate
        """What identifies the proxy."""
        self._hello: Hello | None = None
        self._payload = b""
        """HELLO as received."""
        self._session = b""
        self._resumed = False
        self._lanes = 1

    def begin(self) -> list[Frame]:
        """Return nothing: the proxy speaks first."""
        return []

    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """See `Handshake.receive`."""
        if frame.type == FrameType.HELLO and self._hello is None:
            return self._rx_hello(frame.payload, now)
        if frame.type == FrameType.AUTH and self._auth and self._hello:
            confirmation = self._auth.confirm(frame.payload, now)
            self._finish(self._hello)
            return [Frame(FrameType.AUTH, 0, confirmation)]
        return self._skip(frame)

    def _rx_hello(self, payload: bytes, now: float) -> list[Frame]:
        hello = self._hello = Hello.decode(payload)
        self._payload = payload
        check_version(hello)
        self.features = hello.features & self.offered
        if _may_have_lanes(self.features):
            self._lanes = min(hello.lanes, self._offer.limits.lanes)
        self._identify(hello)
        return self._agree(hello, now)

    def _identify(self, hello: Hello) -> None:
        """Note who the proxy claims to be. Nothing depends on that claim before `ServeAuth.confirm`."""
        key = hello.identity if Feature.IDENTITY in self.features else None
        if Feature.IDENTITY in self.features and key is None:
            raise ProtocolError("A hello has no key for its feature identity.")
        if self._offer.needs_key and key is None:
            raise unproven(NO_KEY)
        if key is not None:
            self._peer = keys.fingerprint(key)
        if self._credentials is None:
            return
        shown = self._credentials.certificates.proxy
        peer = shown if key is None else self._peer
        self._credentials.door.check(peer)
        if self._secret is not None:
            self._auth = ServeAuth(self._credentials, self._secret, peer=peer, key=key)

    def wake(self, now: float) -> list[Frame]:
        """Let a stranger that had to wait at the door try again. See `Handshake.wake`."""
        assert self._hello is not None
        return self._agree(self._hello, now)

    def _agree(self, hello: Hello, now: float) -> list[Frame]:
        self.wake_at = None
        answer = self._auth.answer(hello.auth, now) if self._auth else None
        if self._auth and answer is None:
            self.wake_at = now + ASK_EVERY
            return []
        received = self._find_session(hello)
        agree = Agree(
            features=self.features,
            window=self._offer.limits.window,
            streams=self._offer.limits.streams,
            agent=self._offer.agent,
            auth=answer,
            session=self._session or None,
            received=received,
            tcp_only=self._offer.tcp_only,
            once=self._credentials is not None and self._credentials.door.once,
            lanes=self._lanes,
        ).encode()
        if self._auth is None:
            self._finish(hello)
        else:
            self._auth.bind(hello=self._payload, agree=agree)
        return [Frame(FrameType.AGREE, 0, agree)]

    def _finish(self, hello: Hello) -> None:
        self.agreement = Agreement(
            features=self.features,
            window=hello.window,
            ticket=self._auth.ticket if self._auth else None,
            certificate=self._peer,
            session=self._session,
            received=hello.resume.received if self._resumed and hello.resume else None,
            lanes=self._lanes,
            tcp_only=self._offer.tcp_only or hello.tcp_only,
            agent=hello.agent,
        )

    def _find_session(self, hello: Hello) -> tuple[int, ...] | None:
        """Choose the session.

        Return how many of the proxy's frames have arrived, by lane, if it continues one, and None if it is new.
        """
        if Feature.RESUME not in self.features:
            return None
        received = self._ask_for_session(hello.resume) if hello.resume else None
        if received is not None:
            self._lanes = len(received)
        self._resumed = received is not None
        self._session = hello.resume.session if hello.resume and self._resumed else keys.new_session()
        return received

    def _ask_for_session(self, resume: ResumeOffer) -> tuple[int, ...] | None:
        ticket = self._auth.returning if self._auth else None
        if self._auth and ticket is None:
            return None  # the secret is not enough: others have received it too
        claim = Claim(
            session=resume.session,
            received=resume.received,
            certificate=self._peer,
            ticket=ticket.id if ticket else None,
            features=self.features,
        )
        return self._offer.resumable(claim)


def _may_have_lanes(features: Features) -> bool:
    """Whether there may be more than one: what they carry is counted by lane only where it is counted at all."""
    return {Feature.LANES, Feature.RESUME} <= features


def handshake(role: Role, offer: Offer, credentials: Credentials | None) -> Handshake:
    """Return the handshake for this role. Without credentials, nothing is required and nothing is proven."""
    if role is Role.PROXY:
        assert not isinstance(credentials, ServeCredentials)
        return ProxyHandshake(offer, credentials)
    assert not isinstance(credentials, ProxyCredentials)
    return ServeHandshake(offer, credentials)
