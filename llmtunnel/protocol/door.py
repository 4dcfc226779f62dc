"""Serve's door: who may try the secret, how often, and who is let in. Pure: time comes in as ``now``.

A stranger takes a guess from a bucket before anything is computed for it, and gets it back by knowing the secret: a
handshake that fails, or is broken off, has cost one. All strangers share the one bucket, so no number of addresses or
certificates gives an attacker more guesses. A proxy that was in comes back by its ticket, past the bucket.

Strangers that find the bucket empty wait, and the next guess goes to the network that has had none for the longest
time. So an attacker delays a newcomer from elsewhere by one guess for each network that he comes from, not by one for
each try.
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
ASK_EVERY: Final = 0.25
"""Seconds after which a stranger that waits knocks again."""
AWAY: Final = 1.0
"""A stranger that has not knocked for so many seconds waits no more: its connection is gone."""
WAIT: Final = 15.0
"""Seconds that a stranger waits for a guess, at most. A proxy waits 20 s for serve's answer to its hello."""
NETWORKS: Final = 1024
"""Networks whose last guess is remembered; an attacker from more of them is as a newcomer again."""
TICKETS: Final = 256
"""Proxies without a session that are known again; of more, the one whose session ended first is a stranger."""
PUT_OUT: Final = 1024
"""Certificates that stay out."""

_NEVER: Final = float("-inf")

Networks = tuple[str, ...]
"""The networks that an address is in, the widest first; any texts."""


@dataclass(slots=True)
class _Known:
    ticket: Ticket
    certificate: bytes


@dataclass(slots=True)
class _Waiting:
    networks: Networks
    since: float
    seen: float
    """When it knocked last."""


class Door:
    """One tunnel's door. ``expires``: when it closes to strangers, as ``now``; ``once``: it closes behind the first."""

    def __init__(self, secret: str | None, *, expires: float | None = None, once: bool = False) -> None:
        self.secret = secret
        """What strangers have to know; None: nothing, so that they are not held up at all."""
        self.once = once
        """The secret lets one proxy in."""
        self._expires = expires
        self._first: bytes | None = None
        self.guesses = Bucket(GUESSES, every=GUESS_EVERY)
        """What strangers have, all of them together."""
        self._waiting: dict[bytes, _Waiting] = {}
        """By certificate. Each is a connection that is open now, and those are few (`Limits.strangers`)."""
        self._guessed: dict[str, float] = {}
        """When a guess was last made from a network, the latest last."""
        self._known: dict[bytes, _Known] = {}
        """By the ticket's id; of those without a session, the one that lost it last is the last."""
        self._inside: set[bytes] = set()
        """The ids of tickets whose sessions live."""
        self._put_out: dict[bytes, None] = {}

    def renew(self, secret: str) -> None:
        """Strangers have to know another secret from now on; who was in is none."""
        self.secret, self._first, self._expires = secret, None, None

    def returning(self, ticket: bytes, certificate: bytes) -> Ticket | None:
        """The ticket of that id, where it is this certificate's."""
        known = self._known.get(ticket)
        return known.ticket if known is not None and known.certificate == certificate else None

    # -- strangers

    def knock(self, certificate: bytes, networks: Networks, now: float) -> bool:
        """Whether a stranger may make its guess now; else it knocks again after `ASK_EVERY`, `WAIT` at most.

        Raises `ProtocolError`: UNWELCOME, or REFUSED where it has waited for too long.
        """
        try:
            self.check(certificate)
            self._check_invite(certificate, now)
        except ProtocolError:
            self._waiting.pop(certificate, None)
            raise
        waiting = self._wait(certificate, networks, now)
        if self._place(certificate) < self.guesses.count(now):
            del self._waiting[certificate]
            self.guesses.take(now)
            self._remember(networks, now)
            return True
        if now - waiting.since >= WAIT:
            del self._waiting[certificate]
            raise ProtocolError("Too many have tried to come in just now; try again.", code=ErrorCode.REFUSED)
        return False

    def enter(self, certificate: bytes, ticket: Ticket, now: float) -> None:
        """A stranger has proven itself: its guess was none. Raises `ProtocolError` where the door has closed since."""
        self.guesses.give()
        self.check(certificate)
        self._check_invite(certificate, now)
        self._first = self._first or certificate
        for id in [id for id, known in self._known.items() if known.certificate == certificate]:
            del self._known[id]
        self._known[ticket.id] = _Known(ticket, certificate)
        self._forget_oldest()

    def _wait(self, certificate: bytes, networks: Networks, now: float) -> _Waiting:
        for gone in [each for each, waiting in self._waiting.items() if now - waiting.seen > AWAY]:
            del self._waiting[gone]
        waiting = self._waiting.setdefault(certificate, _Waiting(networks, now, now))
        waiting.networks, waiting.seen = networks, now
        return waiting

    def _place(self, certificate: bytes) -> int:
        """How many of those who wait come before this one."""
        mine = self._turn(self._waiting[certificate])
        return sum(self._turn(each) < mine for each in self._waiting.values())

    def _turn(self, waiting: _Waiting) -> tuple[list[float], float]:
        """What orders those who wait: network by network, the one that guessed longest ago; then who came first."""
        return [self._guessed.get(network, _NEVER) for network in waiting.networks], waiting.since

    def _remember(self, networks: Networks, now: float) -> None:
        for network in networks:
            self._guessed.pop(network, None)
            self._guessed[network] = now
        while len(self._guessed) > NETWORKS:
            del self._guessed[next(iter(self._guessed))]

    # -- who is in

    def begin(self, ticket: Ticket) -> None:
        """A session with the proxy of this ticket has begun: it is known for as long as that lives, and after."""
        self._inside.add(ticket.id)

    def end(self, ticket: Ticket) -> None:
        """The session has ended: of all without one, its proxy is forgotten last."""
        self._inside.discard(ticket.id)
        if known := self._known.pop(ticket.id, None):
            self._known[ticket.id] = known
            self._forget_oldest()

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

    def _forget_oldest(self) -> None:
        outside = [id for id in self._known if id not in self._inside]
        for id in outside[: max(0, len(outside) - TICKETS)]:
            del self._known[id]

    def _check_invite(self, certificate: bytes, now: float) -> None:
        # The first may not have heard that it is in: then it has no ticket, and comes by the secret again.
        if self.once and self._first not in (None, certificate):
            raise ProtocolError("The invite was for one proxy, and one has come in.", code=ErrorCode.UNWELCOME)
        if self._expires is not None and now >= self._expires:
            raise ProtocolError("The invite has expired.", code=ErrorCode.UNWELCOME)
