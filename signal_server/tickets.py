"""Tickets for pipes: two members get one each, which is valid once and for a short time. Pure.

If a server has several instances, a ticket names the one that has issued it, where the pipe's two ends meet.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

from .limits import Bucket, RelayLimits
from .messages import Code, Message, Refused
from .rooms import Member

NODE_ENDS: Final = "."
"""Ends the name of an instance in a ticket. Both are a token of RFC 9110, section 5.6.2, as the ticket is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """The right of a pair of members to open one pipe."""

    members: frozenset[Member]
    tickets: tuple[str, str] = field(repr=False)
    until: float

    @property
    def room(self) -> str:
        """The room of the pair."""
        return next(iter(self.members)).room


class Tickets:
    """All unused tickets. Each pair of members has at most one pass, so old tickets do not accumulate."""

    def __init__(self, limits: RelayLimits, *, node: str = "") -> None:
        self._limits = limits
        self._node = node
        self._passes: dict[str, dict[frozenset[Member], Pass]] = {}
        """Passes by room."""
        self._tickets: dict[str, Pass] = {}
        self._asks: dict[Member, Bucket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def issue(self, asking: Member, other: Member, *, now: float) -> list[tuple[Member, Message]]:
        """Return a message with a ticket for each of the two, replacing earlier tickets. Raises `Refused`."""
        if asking.role is None or other.role is None:
            raise Refused(Code.NO_SUCH_PEER, "original peers know no relay")
        if asking not in self._asks:
            self._asks[asking] = Bucket(rate=1 / self._limits.ask, burst=self._limits.asks, now=now)
        if not self._asks[asking].take(1, now=now):
            raise Refused(Code.RELAY_LIMIT, "too many pipes asked for")
        pair = frozenset((asking, other))
        self._void(pair)
        tickets = self._ticket(), self._ticket()
        granted = Pass(members=pair, tickets=tickets, until=now + self._limits.ticket)
        self._passes.setdefault(granted.room, {})[pair] = granted
        self._tickets |= dict.fromkeys(tickets, granted)
        mine, others = tickets
        return [(asking, _pipe(other, mine)), (other, _pipe(asking, others))]

    def redeem(self, ticket: str, *, now: float) -> Pass:
        """Redeem a ticket. Raises `Refused` if it is not valid, or no longer valid."""
        granted = self._tickets.pop(ticket, None)
        if granted is None or granted.until < now:
            raise Refused(Code.NO_RELAY, "no such ticket")
        return granted

    def leave(self, member: Member) -> None:
        """Remove a member, and invalidate its tickets."""
        self._asks.pop(member, None)
        for pair in [pair for pair in self._passes.get(member.room, ()) if member in pair]:
            self._void(pair)

    def _void(self, pair: frozenset[Member]) -> None:
        room = next(iter(pair)).room
        passes = self._passes.get(room, {})
        if granted := passes.pop(pair, None):
            for ticket in granted.tickets:
                self._tickets.pop(ticket, None)
        if not passes:
            self._passes.pop(room, None)

    def _ticket(self) -> str:
        ticket = secrets.token_urlsafe()
        return f"{self._node}{NODE_ENDS}{ticket}" if self._node else ticket


def node_of(ticket: str) -> str:
    """Return the name of the instance that has issued a ticket; empty if the ticket does not say."""
    return ticket.rpartition(NODE_ENDS)[0]


def _pipe(other: Member, ticket: str) -> Message:
    return {"type": "pipe", "peerId": other.peer_id, "ticket": ticket}
