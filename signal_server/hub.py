"""Map sockets to rooms: which outlet is which member. Pure except for its log lines.

A room's name is all that its users need to meet, so it is a secret. Logs only contain a hash of it, with a new key in
each process. SDPs and candidates are never logged.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterable
from typing import Final, Protocol

from .accounts import Joins
from .limits import Limits
from .messages import Bye, Code, Join, Message, OpenPipe, PassOn, Refused, Request
from .rooms import Delivery, Member, Rooms
from .tickets import Tickets

logger = logging.getLogger(__name__)

SILENCE: Final = 60.0
"""Minimum seconds between two log lines about limits of addresses, since a rejected client tries again and again."""


class Outlet(Protocol):
    """A client's socket, as the hub sees it. Neither method may raise or block."""

    @property
    def network(self) -> str:
        """The network that it counts towards: see `accounts.network`."""

    def send(self, message: Message) -> None:
        """Send a message soon. If that is impossible, the client is dropped."""

    def drop(self) -> None:
        """Cut the client off."""


class Hub:
    """Processes the messages that outlets receive."""

    def __init__(self, limits: Limits) -> None:
        self._rooms = Rooms(limits)
        self._joins = Joins(limits)
        self._members: dict[Outlet, Member] = {}
        self._outlets: dict[Member, Outlet] = {}
        self._silent_until = 0.0
        self._key = secrets.token_bytes(16)
        self.tickets = Tickets(limits.relay) if limits.relay else None
        """Tickets for pipes, if the server offers a relay."""

    def joined(self, outlet: Outlet) -> bool:
        """Whether the client is in a room."""
        return outlet in self._members

    def is_member(self, member: Member) -> bool:
        """Whether the member is still in its room."""
        return member in self._outlets

    def delay(self, outlet: Outlet, request: Request, *, now: float) -> float:
        """Return the seconds to delay a request before it is received. Raises `Refused`."""
        if not isinstance(request, Join) or outlet in self._members or self._rooms.returns(request):
            return 0.0
        return self._joins.wait(outlet.network, now=now)

    def note(self, refusal: Refused, *, now: float) -> None:
        """Log from time to time that an address has reached its limits, since it may be that of a proxy."""
        if refusal.code is Code.ADDRESS_LIMIT and now >= self._silent_until:
            self._silent_until = now + SILENCE
            logger.warning("Rejected a join: %s. If the address is a proxy's, use --trusted-proxy.", refusal)

    def receive(self, outlet: Outlet, request: Request, *, now: float) -> None:
        """Process a message. Raises `Refused`."""
        match request:
            case Join():
                self._join(outlet, request)
            case PassOn():
                self._relay(outlet, request)
            case OpenPipe(to=to):
                self._open_pipe(outlet, to, now)
            case Bye():
                self.leave(outlet)

    def leave(self, outlet: Outlet, *, abrupt: bool = False) -> None:
        """Remove a client that has disconnected or said bye, if it is in a room. ``abrupt``: see `Rooms.leave`."""
        member = self._members.pop(outlet, None)
        if member is None:
            return
        del self._outlets[member]
        self._void_tickets(member)
        deliveries = self._rooms.leave(member, abrupt=abrupt)
        self._log(member, "left")
        self._deliver(deliveries)

    def _join(self, outlet: Outlet, request: Join) -> None:
        if outlet in self._members:
            raise Refused(Code.ALREADY_JOINED, "already in a room")
        admission = self._rooms.join(request, outlet.network)
        if admission.ghost:
            ghost = self._outlets.pop(admission.ghost)
            del self._members[ghost]
            self._void_tickets(admission.ghost)
            ghost.drop()
        self._members[outlet] = admission.member
        self._outlets[admission.member] = outlet
        self._log(admission.member, "took its ghost's place" if admission.ghost else "joined")
        self._deliver(admission.deliveries)

    def alias(self, room: str) -> str:
        """Return the name of a room for logs, and for its accounts while it is empty."""
        return hashlib.blake2b(room.encode(), key=self._key, digest_size=8).hexdigest()

    def _relay(self, outlet: Outlet, request: PassOn) -> None:
        self._deliver(self._rooms.relay(self._member(outlet), request))

    def _open_pipe(self, outlet: Outlet, to: str, now: float) -> None:
        member = self._member(outlet)
        if self.tickets is None:
            raise Refused(Code.NO_RELAY, "this server offers no relay")
        self._deliver(self.tickets.issue(member, self._rooms.other(member, to), now=now))

    def _void_tickets(self, member: Member) -> None:
        if self.tickets is not None:
            self.tickets.leave(member)

    def _member(self, outlet: Outlet) -> Member:
        member = self._members.get(outlet)
        if member is None:
            raise Refused(Code.NOT_JOINED, "must join a room first")
        return member

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._outlets[delivery.to].send(delivery.message)

    def _log(self, member: Member, what: str) -> None:
        size = len(self._rooms.members(member.room))
        logger.info("room %s: %s %s, %d inside", self.alias(member.room), member.role or "original peer", what, size)
