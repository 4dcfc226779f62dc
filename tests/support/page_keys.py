"""The key of a page, and a page's side of the authentication step by step, honest or not."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from llmtunnel.protocol import frames, keys
from llmtunnel.protocol.auth import ProxyAuth, ProxyCredentials
from llmtunnel.protocol.frames import Frame, FrameType
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.handshake import Offer, ProxyHandshake
from llmtunnel.protocol.hello import ALL_FEATURES, Agree, Feature, Features, Hello, ResumeOffer
from llmtunnel.protocol.keys import Ticket
from llmtunnel.status import Role

PAGE: Features = ALL_FEATURES | {Feature.AUTH, Feature.IDENTITY}


class Key:
    """A key pair of a page."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.fingerprint = keys.fingerprint(self.public)

    def sign(self, data: bytes) -> bytes:
        r, s = utils.decode_dss_signature(self._private.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class PageAuth:
    """A page that says `hello`, hears serve's AGREE, and makes its `proof`. ``claims``: the key in its hello."""

    def __init__(
        self,
        credentials: ProxyCredentials,
        claims: Key | None,
        *,
        features: Features = PAGE,
        resume: ResumeOffer | None = None,
    ) -> None:
        self._auth = ProxyAuth(credentials)
        hello = Hello(
            features=features,
            agent="llmtunnel page (Test)",
            auth=self._auth.offer,
            identity=claims and claims.public,
            resume=resume,
        )
        self._hello = hello.encode()
        self.agree = Agree()

    @property
    def hello(self) -> bytes:
        return frames.encode(FrameType.HELLO, 0, self._hello)

    def proof(self, message: bytes) -> bytes:
        """The confirmation for serve's AGREE, without a signature."""
        frame = frames.decode(message)
        assert frame is not None and frame.type == FrameType.AGREE, message
        self.agree = Agree.decode(frame.payload)
        return self._auth.prove(self.agree.auth, 0.0, hello=self._hello, agree=frame.payload)

    def signature(self, key: Key) -> bytes:
        assert self._auth._keys is not None
        return key.sign(keys.signed(self._auth._keys.transcript))

    def auth(self, message: bytes, key: Key) -> bytes:
        """AUTH as an honest page sends it."""
        proof = self.proof(message)
        return frames.encode(FrameType.AUTH, 0, proof + self.signature(key))

    def ticket(self, message: bytes) -> Ticket:
        """The ticket, from serve's AUTH."""
        frame = frames.decode(message)
        assert frame is not None and frame.type == FrameType.AUTH, message
        return self._auth.check(frame.payload)


class PageHandshake(ProxyHandshake):
    """A page's side of the handshake."""

    def __init__(self, offer: Offer, credentials: ProxyCredentials, key: Key) -> None:
        super().__init__(offer, credentials)
        self._key = key
        self.offered |= {Feature.IDENTITY}
        self._hello = replace(Hello.decode(self._hello), features=self.offered, identity=key.public).encode()

    def _rx_agree(self, payload: bytes, now: float) -> list[Frame]:
        [said] = super()._rx_agree(payload, now)
        if Feature.IDENTITY not in self.features:
            return [said]
        assert self._auth is not None and self._auth._keys is not None
        signature = self._key.sign(keys.signed(self._auth._keys.transcript))
        return [said._replace(payload=said.payload + signature)]


class PageGreeting(Greeting):
    """A page's greeting, in Python."""

    def __init__(self, key: Key, *, credentials: ProxyCredentials, **options: Any) -> None:
        super().__init__(Role.PROXY, credentials=credentials, **options)
        assert isinstance(self._handshake, ProxyHandshake)
        self._handshake = PageHandshake(self._handshake._offer, credentials, key)
        self._outgoing = deque()
        self._say(self._handshake.begin())
