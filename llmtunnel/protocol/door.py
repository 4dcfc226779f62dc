"""Serve's door: who may try the secret, how often, and who is admitted. Pure: the time is passed in as ``now``.

A stranger takes a guess from a bucket before serve computes anything for it. The guess returns to the bucket if the
stranger knows the secret. So a handshake that fails or is abandoned costs a guess. All strangers share the one bucket:
more addresses or certificates do not give an attacker more guesses. A proxy with a ticket bypasses the bucket.

Strangers that find the bucket empty wait. The next guess goes to the network that has made none for the longest time.
So an attacker delays a newcomer from elsewhere by one guess for each network that the attacker uses, and not by one for
each attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..bucket import Bucket
from ..errors import ErrorCode, ProtocolError
from .keys import Ticket

GUESSES: Final = 16
"""Guesses at once: as many as serve accepts proxies, since all of them return when serve restarts."""
GUESS_EVERY: Final = 2.0
"""Seconds until another guess may be made: 16 million guesses a year. A code has 3,600 million million values."""
ASK_EVERY: Final = 0.25
"""Seconds after which a waiting stranger knocks again."""
AWAY: Final = 1.0
"""Seconds without a knock after which a stranger no longer waits: its connection has closed."""
WAIT: Final = 15.0
"""Seconds that a stranger waits for a guess at most. A proxy waits 20 s for serve's answer to its hello."""
NETWORKS: Final = 1024
"""Networks whose last guess is remembered. An attacker with more networks counts as a newcomer again."""
TICKETS: Final = 256
"""Proxies without a session that serve recognises. Of more, the one whose session ended first becomes a stranger."""
PUT_OUT: Final = 1024
"""Blocked certificates that are remembered."""

_NEVER: Final = float("-inf")

Networks = tuple[str, ...]
"""The networks that an address is in, the widest first. The texts have no other meaning."""


@dataclass(slots=True)
class _Known:
    ticket: Ticket
    certificate: bytes


@dataclass(slots=True)
class _Waiting:
    networks: Networks
    since: float
    seen: float
    """When the stranger knocked last."""


class Door:
    """The door of one tunnel.

    ``expires``: when it closes to strangers, as ``now``; ``once``: it admits one stranger.
    """

    def __init__(self, secret: str | None, *, expires: float | None = None, once: bool = False) -> None:
        self.secret = secret
        """What strangers have to know. None: nothing, so that they do not wait."""
        self.once = once
        """Whether the secret admits one proxy only."""
        self.expires = expires
        """When the door closes to strangers."""
        self._first: bytes | None = None
        self.guesses = Bucket(GUESSES, every=GUESS_EVERY)
        """The guesses of all strangers together."""
        self._waiting: dict[bytes, _Waiting] = {}
        """By the certificate that each has shown. Each stands for an open connection, and those are few
        (`Limits.strangers`)."""
        self._guessed: dict[str, float] = {}
        """When a guess was last made from a network, the latest at the end."""
        self._known: dict[bytes, _Known] = {}
        """By the ticket's id. Of those without a session, the one that lost it last is at the end."""
        self._inside: set[bytes] = set()
        """The ids of tickets whose sessions live."""
        self._put_out: dict[bytes, None] = {}

    def renew(self, secret: str) -> None:
        """Require another secret from strangers from now on. Proxies that were admitted are not strangers."""
        self.secret, self._first, self.expires = secret, None, None

    def returning(self, ticket: bytes, certificate: bytes) -> Ticket | None:
        """Return the ticket with this id if it belongs to this certificate, and None otherwise."""
        known = self._known.get(ticket)
        return known.ticket if known is not None and known.certificate == certificate else None

    # -- strangers

    def knock(self, certificate: bytes, networks: Networks, now: float, *, waiter: bytes | None = None) -> bool:
        """Return whether a stranger may make its guess now. If not, it knocks again after `ASK_EVERY` s.

        ``waiter``: what it waits under, if that is not the certificate.

        Raises `ProtocolError`: UNWELCOME, or REFUSED if it has waited for `WAIT` s.
        """
        waiter = certificate if waiter is None else waiter
        try:
            self.check(certificate)
            self._check_invite(certificate, now)
        except ProtocolError:
            self._waiting.pop(waiter, None)
            raise
        waiting = self._wait(waiter, networks, now)
        if self._place(waiter) < self.guesses.count(now):
            del self._waiting[waiter]
            self.guesses.take(now)
            self._remember(networks, now)
            return True
        if now - waiting.since >= WAIT:
            del self._waiting[waiter]
            raise ProtocolError("Too many have tried to come in just now; try again.", code=ErrorCode.REFUSED)
        return False

    def enter(self, certificate: bytes, ticket: Ticket, now: float) -> None:
        """Admit a stranger that has proven itself, and return its guess.

        Raises `ProtocolError` if the door has closed.
        """
        self.guesses.give()
        self.check(certificate)
        self._check_invite(certificate, now)
        self._first = self._first or certificate
        for id in [id for id, known in self._known.items() if known.certificate == certificate]:
            del self._known[id]
        self._known[ticket.id] = _Known(ticket, certificate)
        self._forget_oldest()

    def _wait(self, waiter: bytes, networks: Networks, now: float) -> _Waiting:
        for gone in [each for each, waiting in self._waiting.items() if now - waiting.seen > AWAY]:
            del self._waiting[gone]
        waiting = self._waiting.setdefault(waiter, _Waiting(networks, now, now))
        waiting.networks, waiting.seen = networks, now
        return waiting

    def _place(self, waiter: bytes) -> int:
        """Return how many of the waiting strangers are ahead of this one."""
        mine = self._turn(self._waiting[waiter])
        return sum(self._turn(each) < mine for each in self._waiting.values())

    def _turn(self, waiting: _Waiting) -> tuple[list[float], float]:
        """Return the sort key of a waiting stranger: the last guess of each of its networks, then its arrival."""
        return [self._guessed.get(network, _NEVER) for network in waiting.networks], waiting.since

    def _remember(self, networks: Networks, now: float) -> None:
        for network in networks:
            self._guessed.pop(network, None)
            self._guessed[network] = now
        while len(self._guessed) > NETWORKS:
            del self._guessed[next(iter(self._guessed))]

    # -- admitted proxies

    def begin(self, ticket: Ticket) -> None:
        """Note that a session with this ticket's proxy has begun.

        Serve recognises the proxy while it lives, and after.
        """
        self._inside.add(ticket.id)

    def end(self, ticket: Ticket) -> None:
        """Note that the session has ended. Its proxy is now the last to be forgotten of all without a session."""
        self._inside.discard(ticket.id)
        if known := self._known.pop(ticket.id, None):
            self._known[ticket.id] = known
            self._forget_oldest()

    def put_out(self, certificate: bytes) -> None:
        """Block a certificate from now on, whatever secret or ticket its owner has."""
        self._known = {id: known for id, known in self._known.items() if known.certificate != certificate}
        self._put_out[certificate] = None
        if len(self._put_out) > PUT_OUT:
            del self._put_out[next(iter(self._put_out))]

    def check(self, certificate: bytes) -> None:
        """Check that a certificate is not blocked. Raises `ProtocolError` UNWELCOME if it is."""
        if certificate in self._put_out:
            raise ProtocolError("Serve has put this proxy out.", code=ErrorCode.UNWELCOME)

    def _forget_oldest(self) -> None:
        outside = [id for id in self._known if id not in self._inside]
        for id in outside[: max(0, len(outside) - TICKETS)]:
            del self._known[id]

    def _check_invite(self, certificate: bytes, now: float) -> None:
        # The first proxy may not have learned that it was admitted. It has no ticket then, and uses the secret again.
        if self.once and self._first not in (None, certificate):
            raise ProtocolError("The invite was for one proxy, and one has come in.", code=ErrorCode.UNWELCOME)
        if self.expires is not None and now >= self.expires:
            raise ProtocolError("The invite has expired.", code=ErrorCode.UNWELCOME)
