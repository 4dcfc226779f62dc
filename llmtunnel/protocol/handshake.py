"""From an open channel to an agreement, pure: HELLO, AGREE and, where there is a secret, AUTH (README.md sections 3, 9)

A handshake takes frames and gives frames, and has an `Agreement` when it is done. What is wrong with a peer's frame is
a `ProtocolError`, which ends the session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Final

from ..config import Limits
from ..errors import ErrorCode, ProtocolError
from ..status import Role
from .auth import ProxyAuth, ProxyCredentials, ServeAuth, ServeCredentials
from .frames import Frame, FrameType
from .hello import UNLIMITED, VERSION, Agree, Feature, Features, Hello, check_version
from .keys import Ticket

Credentials = ProxyCredentials | ServeCredentials

V1: Final = frozenset(FrameType) - {FrameType.BUNDLE, FrameType.AUTH, FrameType.RESET, FrameType.CREDIT}
"""Types that every peer knows; of the others, one that was not agreed on is an unknown one, and skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the two sides have agreed on, and proven."""

    window: int
    """Bytes of credit towards the peer, for each stream."""
    streams: int = UNLIMITED
    """How many the proxy may have open at once."""
    agent: str = ""
    ticket: Ticket | None = field(default=None, repr=False)
    """For the proxy's next time; None where nothing was proven."""


class Handshake(ABC):
    """One side of it."""

    def __init__(self, *, limits: Limits, features: Features, agent: str, authenticates: bool) -> None:
        self.agreement: Agreement | None = None
        """What was agreed on, once all is done."""
        self.features: Features = frozenset()
        """What has been agreed on so far, which is how a refusal is told."""
        self.offered = features | {Feature.AUTH} if authenticates else features
        """What this side can do."""
        self.proved = False
        """Our confirmation is sent: a peer that plays a part has had its one guess."""
        self._limits = limits
        self._agent = agent

    @abstractmethod
    def begin(self) -> list[Frame]:
        """What is said before anything has come."""

    @abstractmethod
    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """Take a frame; what is to be sent for it. One that is not known here is skipped. Raises `ProtocolError`."""


class ProxyHandshake(Handshake):
    """The side that says hello."""

    def __init__(self, credentials: ProxyCredentials | None, *, limits: Limits, features: Features, agent: str) -> None:
        super().__init__(limits=limits, features=features, agent=agent, authenticates=credentials is not None)
        self._auth = ProxyAuth(credentials) if credentials else None
        offer = self._auth.offer if self._auth else None
        self._hello = Hello(features=self.offered, window=limits.window, agent=agent, auth=offer).encode()
        self._agree: Agree | None = None

    def begin(self) -> list[Frame]:
        """HELLO."""
        return [Frame(FrameType.HELLO, 0, self._hello)]

    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """See `Handshake.receive`."""
        if frame.type == FrameType.AGREE and self._agree is None:
            return self._rx_agree(frame.payload, now)
        if frame.type == FrameType.AUTH and self._auth and self._agree:
            self._finish(self._agree, self._auth.check(frame.payload))
            return []
        return _skip(frame)

    def _rx_agree(self, payload: bytes, now: float) -> list[Frame]:
        agree = self._agree = Agree.decode(payload)
        if agree.version != VERSION:
            raise ProtocolError(
                f"version: The serve chose version {agree.version}, this proxy speaks {VERSION}.",
                code=ErrorCode.VERSION,
            )
        self.features = agree.features & self.offered
        if self._auth is None:
            self._finish(agree, None)
            return []
        confirmation = self._auth.prove(agree.auth, now, hello=self._hello, agree=payload)
        self.proved = True
        return [Frame(FrameType.AUTH, 0, confirmation)]

    def _finish(self, agree: Agree, ticket: Ticket | None) -> None:
        self.agreement = Agreement(window=agree.window, streams=agree.streams, agent=agree.agent, ticket=ticket)


class ServeHandshake(Handshake):
    """The side that agrees."""

    def __init__(self, credentials: ServeCredentials | None, *, limits: Limits, features: Features, agent: str) -> None:
        secret = credentials.door.secret if credentials else None
        super().__init__(limits=limits, features=features, agent=agent, authenticates=secret is not None)
        self._credentials = credentials
        self._auth = ServeAuth(credentials, secret) if credentials and secret is not None else None
        self._hello: Hello | None = None

    def begin(self) -> list[Frame]:
        """Nothing: the proxy speaks first."""
        return []

    def receive(self, frame: Frame, now: float) -> list[Frame]:
        """See `Handshake.receive`."""
        if frame.type == FrameType.HELLO and self._hello is None:
            return self._rx_hello(frame.payload, now)
        if frame.type == FrameType.AUTH and self._auth and self._hello:
            confirmation = self._auth.confirm(frame.payload, now)
            self._finish(self._hello)
            return [Frame(FrameType.AUTH, 0, confirmation)]
        return _skip(frame)

    def _rx_hello(self, payload: bytes, now: float) -> list[Frame]:
        hello = self._hello = Hello.decode(payload)
        check_version(hello)
        self.features = hello.features & self.offered
        if self._credentials:
            self._credentials.door.check(self._credentials.certificates.proxy)
        answer = self._auth.answer(hello.auth, now) if self._auth else None
        agree = Agree(
            features=self.features,
            window=self._limits.window,
            streams=self._limits.streams,
            agent=self._agent,
            auth=answer,
        ).encode()
        if self._auth is None:
            self._finish(hello)
        else:
            self._auth.bind(hello=payload, agree=agree)
        return [Frame(FrameType.AGREE, 0, agree)]

    def _finish(self, hello: Hello) -> None:
        self.agreement = Agreement(window=hello.window, agent=hello.agent)


def handshake(
    role: Role, credentials: Credentials | None, *, limits: Limits, features: Features, agent: str
) -> Handshake:
    """The one of this role; without credentials nothing is asked for, and nothing proven."""
    if role is Role.PROXY:
        assert not isinstance(credentials, ServeCredentials)
        return ProxyHandshake(credentials, limits=limits, features=features, agent=agent)
    assert not isinstance(credentials, ProxyCredentials)
    return ServeHandshake(credentials, limits=limits, features=features, agent=agent)


def _skip(frame: Frame) -> list[Frame]:
    if frame.type in V1:
        raise ProtocolError(f"A frame of type {frame.type} came from the wrong side, or before the hello.")
    return []
