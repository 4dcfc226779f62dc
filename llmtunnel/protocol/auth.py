"""How two peers prove to each other that they hold a secret, and which keys they derive from it (README.md section 9).

    1. proxy -> serve   HELLO   the share of a SPAKE2 exchange, and the id of its ticket if it has one
    2. serve -> proxy   AGREE   its own share, or a nonce if it knows the ticket
    3. proxy -> serve   AUTH    the proxy's confirmation: it comes first, so that serve tells a stranger nothing
    4. serve -> proxy   AUTH    serve's confirmation

A proxy that lists the feature `identity` names its public key in HELLO, and adds a signature to its confirmation. Serve
knows it by that key then, whatever certificate it shows (a browser's page has another one each time, or none).

The confirmations depend on the shared key and on everything that an attacker could have forged: the room, HELLO and
AGREE byte for byte, and the certificate at each end of the channel. SPAKE2 leaves nothing to test guesses on. So a peer
that impersonates one side gets one guess per exchange.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

from ..bucket import Bucket
from ..errors import ErrorCode, ProtocolError
from ..status import Role
from . import keys
from .door import Door, Networks
from .hello import AuthAnswer, AuthOffer
from .keys import Certificates, KeyExchange, Keys, Ticket

GUESSES: Final = 3
"""Proofs that a proxy gives without receiving one, before it stops and asks its user. Each gives a peer that
impersonates serve one guess, and a mistyped code stays wrong."""
GUESS_EVERY: Final = 600.0
"""Seconds until the proxy gives one more. A success returns only its own guess. Otherwise an attacker that lets some
handshakes succeed could guess without limit."""
CONFIRMATION: Final = 32
"""Bytes of a confirmation. A signature may follow it."""
NONCE: Final = 32
"""Bytes of the nonce that serve sends to a proxy with a ticket."""
NOT_THE_SAME: Final = "Serve and proxy do not hold the same secret, or somebody is in between."
NONE_GIVEN: Final = "Serve lets in who has its invite or secret, and this proxy has none."
SPARED: Final = "The code is for one proxy, and was not tried."
NOT_ITS_KEY: Final = "The proxy has not proven that the key in its hello is its own."
NO_KEY: Final = "A proxy needs a key on this kind of channel."
TOO_MANY: Final = "Too many have answered as serve who do not prove that they hold the secret."


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyCredentials:
    """What a proxy needs to prove itself."""

    room: str
    certificates: Certificates
    secret: str = field(repr=False)
    ticket: Ticket | None = None
    guesses: Bucket = field(default_factory=lambda: Bucket(GUESSES, every=GUESS_EVERY), repr=False)
    """Shared by all channels of a proxy."""
    spares: bool = False
    """Whether the proxy only looks. It proves nothing to a serve whose secret that would use up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCredentials:
    """What serve needs: its door, which has the secret, if any, and decides who may try it."""

    room: str
    certificates: Certificates
    door: Door
    networks: Networks = ()
    """Where the proxy is, so that the door is fair between strangers."""


class ProxyAuth:
    """The proxy's side of one authentication: `offer`, `prove`, `check`."""

    def __init__(self, credentials: ProxyCredentials) -> None:
        self._credentials = credentials
        self._exchange = KeyExchange(Role.PROXY, credentials.secret)
        self._keys: Keys | None = None
        self._ticket = credentials.ticket
        self._guessed = False

    @property
    def offer(self) -> AuthOffer:
        """The proxy's part of HELLO."""
        return AuthOffer(share=self._exchange.share, ticket=self._ticket.id if self._ticket else None)

    def prove(self, answer: AuthAnswer | None, now: float, *, hello: bytes, agree: bytes, once: bool = False) -> bytes:
        """Return the confirmation for serve's part of AGREE. Raises `ProtocolError` UNAUTHENTICATED.

        ``once``: a proof uses the secret up. Raises `ProtocolError` UNWELCOME if the credentials do not permit that.
        """
        if once and self._credentials.spares:
            raise ProtocolError(SPARED, code=ErrorCode.UNWELCOME)
        if answer is None:
            raise unproven("Serve asks for no secret, and this proxy was given one.")
        credentials = self._credentials
        shared = self._shared(answer, now)
        self._keys = keys.derive(shared, credentials.room, credentials.certificates, hello, agree)
        if answer.nonce is None:
            self._ticket = self._keys.ticket()
        return self._keys.proxy

    def check(self, confirmation: bytes) -> Ticket:
        """Check serve's confirmation, and return the ticket for the next time.

        Raises `ProtocolError` UNAUTHENTICATED.
        """
        if self._keys is None or not self._keys.confirms(Role.SERVE, confirmation):
            raise unproven(NOT_THE_SAME)
        if self._guessed:
            self._credentials.guesses.give()
        assert self._ticket is not None
        return self._ticket

    def _shared(self, answer: AuthAnswer, now: float) -> bytes:
        if answer.share is not None:
            # Take the guess before anything is sent. So no way of abandoning the handshake returns it.
            self._guessed = self._credentials.guesses.take(now)
            if not self._guessed:
                raise unproven(TOO_MANY)
            return _finish(self._exchange, answer.share)
        if self._ticket is None or answer.nonce is None:
            raise unproven("Serve takes this proxy for one that comes back.")
        return keys.returning(self._ticket, self._exchange.share, answer.nonce)


class ServeAuth:
    """Serve's side of one authentication: `answer`, `bind`, `confirm`.

    ``key``: the public key that the proxy claims, whose owner is then the ``peer``, as in `handshake.Agreement`.
    """

    def __init__(self, credentials: ServeCredentials, secret: str, *, peer: bytes, key: bytes | None = None) -> None:
        self._secret = secret
        self._credentials = credentials
        self._door = credentials.door
        self._peer = peer
        self._key = key
        self._shared = b""
        self._keys: Keys | None = None
        self.returning: Ticket | None = None
        """The ticket that the proxy claims to hold. `confirm` checks the proof."""
        self.ticket: Ticket | None = None
        """The proxy's ticket for the next time, once the proxy has confirmed."""

    def answer(self, offer: AuthOffer | None, now: float) -> AuthAnswer | None:
        """Return serve's part of AGREE, or None if the door makes this proxy wait. Raises `ProtocolError`."""
        if offer is None:
            raise unproven(NONE_GIVEN)
        self.returning = self._door.returning(offer.ticket, self._peer) if offer.ticket else None
        if self.returning is not None:
            nonce = secrets.token_bytes(NONCE)
            self._shared = keys.returning(self.returning, offer.share, nonce)
            return AuthAnswer(nonce=nonce)
        # It waits under what it has shown, not under what it claims: so nobody takes another one's place.
        shown = self._credentials.certificates.proxy
        if not self._door.knock(self._peer, self._credentials.networks, now, waiter=shown):
            return None
        exchange = KeyExchange(Role.SERVE, self._secret)
        self._shared = _finish(exchange, offer.share)
        return AuthAnswer(share=exchange.share)

    def bind(self, *, hello: bytes, agree: bytes) -> None:
        """Make HELLO, as received, and AGREE, as sent, part of what is proven."""
        credentials = self._credentials
        self._keys = keys.derive(self._shared, credentials.room, credentials.certificates, hello, agree)

    def confirm(self, confirmation: bytes, now: float) -> bytes:
        """Check the proxy's confirmation, with its signature if it has a key, and return serve's.

        Raises `ProtocolError`.
        """
        size = CONFIRMATION if self._key is not None else len(confirmation)
        if self._keys is None or not self._keys.confirms(Role.PROXY, confirmation[:size]):
            raise unproven(NOT_THE_SAME)
        if self._key is not None and not keys.is_signed(self._key, self._keys.transcript, confirmation[size:]):
            raise unproven(NOT_ITS_KEY)
        self.ticket = self.returning or self._keys.ticket()
        # The door may have closed since the proxy knocked.
        if self.returning is not None:
            self._door.check(self._peer)
        elif self._door.secret != self._secret:
            raise ProtocolError("The invite or secret has been changed.", code=ErrorCode.UNWELCOME)
        else:
            self._door.enter(self._peer, self.ticket, now)
        return self._keys.serve


def unproven(message: str) -> ProtocolError:
    """Return the error for a peer that has not proven that it holds the secret."""
    return ProtocolError(message, code=ErrorCode.UNAUTHENTICATED)


def _finish(exchange: KeyExchange, share: bytes) -> bytes:
    try:
        return exchange.finish(share)
    except ValueError as exc:
        raise unproven("The other side's share of the key exchange is none.") from exc
