"""Serve's door: who may try the secret, how often, and who is let in. Pure: time comes in as ``now``.

A stranger takes a guess from a bucket before anything is computed for it, and gets it back by knowing the secret: a
handshake that fails, or is broken off, has cost one. A proxy that was in comes back by its ticket, past the bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..bucket import Bucket
from ..errors import ErrorCode, ProtocolError
from .keys import Ticket

GUESSES: Final = 16
"""Guesses at once: as many proxies as serve takes, which all come when it is started again."""
GUESS_EVERY: Final = 2.0
"""Seconds until another guess may be made: 16 million a year, of the 3,600 million million that a code has."""
TICKETS: Final = 256
"""Proxies that are known again; of more, the one that came in longest ago is a stranger."""
PUT_OUT: Final = 1024
"""Certificates that stay out."""


@dataclass(slots=True)
class _Known:
    ticket: Ticket
    certificate: bytes


class Door:
    """One tunnel's door. ``expires``: when it closes to strangers, as ``now``; ``once``: it closes behind the first."""

    def __init__(self, secret: str | None, *, expires: float | None = None, once: bool = False) -> None:
        self.secret = secret
        """What strangers have to know; None: nothing, so that they are not held up at all."""
        self._expires = expires
        self._once = once
        self._first: bytes | None = None
        self._guesses = Bucket(GUESSES, every=GUESS_EVERY)
        self._known: dict[bytes, _Known] = {}
        self._put_out: dict[bytes, None] = {}

    def renew(self, secret: str) -> None:
        """Strangers have to know another secret from now on; who was in is none."""
        self.secret, self._first, self._expires = secret, None, None

    def returning(self, ticket: bytes, certificate: bytes) -> Ticket | None:
        """The ticket of that id, where it is this certificate's."""
        known = self._known.get(ticket)
        return known.ticket if known is not None and known.certificate == certificate else None

    def knock(self, certificate: bytes, now: float) -> None:
        """A stranger wants to try. Raises `ProtocolError`: UNWELCOME, or REFUSED where it may come again later."""
        self.check(certificate)
        self._check_invite(certificate, now)
        if not self._guesses.take(now):
            raise ProtocolError("Too many have tried to come in just now; try again.", code=ErrorCode.REFUSED)

    def enter(self, certificate: bytes, ticket: Ticket, now: float) -> None:
        """A stranger has proven itself: its guess was none. Raises `ProtocolError` where the door has closed since."""
        self._guesses.give()
        self.check(certificate)
        self._check_invite(certificate, now)
        self._first = self._first or certificate
        for id in [id for id, known in self._known.items() if known.certificate == certificate]:
            del self._known[id]
        self._known[ticket.id] = _Known(ticket, certificate)
        if len(self._known) > TICKETS:
            del self._known[next(iter(self._known))]

    def put_out(self, certificate: bytes) -> None:
        """Keep a certificate out from now on, whatever it knows."""
        self._known = {id: known for id, known in self._known.items() if known.certificate != certificate}
        self._put_out[certificate] = None
        if len(self._put_out) > PUT_OUT:
            del self._put_out[next(iter(self._put_out))]

    def check(self, certificate: bytes) -> None:
        """Raises `ProtocolError` UNWELCOME for a certificate that was put out."""
        if certificate in self._put_out:
            raise ProtocolError("Serve has put this proxy out.", code=ErrorCode.UNWELCOME)

    def _check_invite(self, certificate: bytes, now: float) -> None:
        # The first may not have heard that it is in: then it has no ticket, and comes by the secret again.
        if self._once and self._first not in (None, certificate):
            raise ProtocolError("The invite was for one proxy, and one has come in.", code=ErrorCode.UNWELCOME)
        if self._expires is not None and now >= self._expires:
            raise ProtocolError("The invite has expired.", code=ErrorCode.UNWELCOME)
