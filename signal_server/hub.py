"""Map sockets to members: which member an outlet is. Pure except for its log lines and the time of day.

A room's name is all that its users need to meet, so it is a secret. Logs only contain a hash of it, with a new key in
each process, or one that the instances of a server share. SDPs and candidates are never logged.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from .access import Access
from .accounts import Joins, Messages
from .ice import IceServers
from .limits import Bucket, Limits
from .messages import AskIce, Bye, Code, Join, Message, OpenPipe, PassOn, Refused, Request, unknown_type
from .registry import Audience, MemoryRegistry, Registry
from .rooms import Member
from .tickets import Tickets

logger = logging.getLogger(__name__)

SILENCE: Final = 60.0
"""Minimum seconds between two log lines about limits of addresses, since a rejected client tries again and again."""


NOTED: Final = 100
"""Rejected messages that may be logged with an address at once; then one a second."""
_TOLD: Final = {
    Code.ADDRESS_LIMIT: "If the address is a proxy's, use --trusted-proxy.",
    Code.ACCESS_TOKEN: "If it should be admitted, add its token to the file of --access-token-file.",
}
"""Rejections that an operator may have to act on, and how. Their texts contain no room's name."""


class Outlet(Protocol):
    """A client's socket, as the hub sees it. Neither method may raise or block."""

    @property
    def network(self) -> str:
        """The network that it counts towards: see `accounts.network`."""

    @property
    def remote(self) -> str:
        """The client's address for logs; empty if they must not contain it."""

    def send(self, message: Message) -> None:
        """Send a message soon. If that is impossible, the client is dropped."""

    def drop(self) -> None:
        """Cut the client off."""


class Hub:
    """Processes the messages that outlets receive. ``registry`` makes the registry of rooms, which has its members.

    ``ice``: the STUN and TURN servers to hand out, if any. ``web``: whether the server has a page for browsers.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Callable[[Limits, Audience], Registry] = MemoryRegistry,
        *,
        node: str = "",
        ice: IceServers | None = None,
        access: Access | None = None,
        web: bool = False,
    ) -> None:
        self.registry = registry(limits, self)
        self._access = access or Access()
        self._limits = limits
        self._ice = ice
        self._web = web
        self._joins = Joins(limits, self.registry.make_bucket)
        self._messages = Messages(limits, self.registry.make_bucket)
        self._members: dict[Outlet, Member] = {}
        self._outlets: dict[Member, Outlet] = {}
        self._silent_until: dict[Code, float] = {}
        self._noted: Bucket | None = None
        self.tickets = Tickets(limits.relay, node=node) if limits.relay else None
        """Tickets for pipes, if the server offers a relay."""
        self.draining = False
        """Whether joins are rejected, since the server is about to stop."""

    def __len__(self) -> int:
        return len(self._members)

    def member(self, outlet: Outlet) -> Member | None:
        """Return which member the client is; None if it is in no room."""
        return self._members.get(outlet)

    def is_member(self, member: Member) -> bool:
        """Whether the member is still in its room."""
        return member in self.registry.room(member.room).members

    def charge(self, outlet: Outlet, size: int, *, now: float) -> float:
        """Count a message of that size, in bytes, and return the seconds to delay it. Raises `Refused`."""
        member = self._members.get(outlet)
        room = None if member is None else self.alias(member.room)
        return self._messages.charge(outlet.network, room, size, now=now)

    async def delay(self, outlet: Outlet, request: Request, *, now: float) -> float:
        """Return the seconds to delay a request before it is received. Raises `Refused`."""
        if isinstance(request, Join) and self.draining:
            raise Refused(Code.DRAINING, "this server is about to stop; join again")
        if not isinstance(request, Join) or outlet in self._members:
            return 0.0
        if self._access.admits(request) and request.token is not None and await self.registry.returns(request):
            return 0.0
        return self._joins.charge(outlet.network, 1, now=now)

    def note(self, outlet: Outlet, refusal: Refused, *, now: float) -> None:
        """Log a rejected message. Without its address, only from time to time, and what an operator may act on."""
        if outlet.remote:
            self._noted = self._noted or Bucket(rate=1.0, burst=NOTED, now=now)
            if self._noted.take(1, now=now):
                logger.info("Rejected a message from %s: %s", outlet.remote, refusal.code)
        if refusal.code in _TOLD and now >= self._silent_until.get(refusal.code, now):
            self._silent_until[refusal.code] = now + SILENCE
            logger.warning("Rejected a message: %s. %s", refusal, _TOLD[refusal.code])

    async def receive(self, outlet: Outlet, request: Request, *, now: float) -> None:
        """Process a message. Raises `Refused`."""
        match request:
            case Join():
                await self._join(outlet, request)
            case PassOn():
                self._pass_on(outlet, request)
            case OpenPipe(to=to):
                self._open_pipe(outlet, to, now)
            case AskIce():
                self._tell_ice(outlet)
            case Bye():
                self.leave(outlet)

    def leave(self, outlet: Outlet, *, abrupt: bool = False) -> None:
        """Remove a client that has disconnected or said bye, if it is in a room. ``abrupt``: see `rooms.news`."""
        member = self._members.get(outlet)
        if member is not None:
            self._forget(member)
            self.registry.leave(member, abrupt=abrupt)
            self._log(member, "left", outlet)

    def tell(self, member: Member, message: Message) -> None:
        """See `registry.Audience`."""
        self._outlets[member].send(message)

    def gone(self, member: Member) -> None:
        """See `registry.Audience`."""
        outlet = self._forget(member)
        if outlet is not None:
            outlet.drop()

    async def _join(self, outlet: Outlet, request: Join) -> None:
        if outlet in self._members:
            raise Refused(Code.ALREADY_JOINED, "already in a room")
        self._access.check(request)  # after the delay, so that guesses are few, and before anything that a room decides
        admission, messages = await self.registry.join(request, outlet.network)
        member = admission.member
        self._members[outlet] = member
        self._outlets[member] = outlet
        self._log(member, "took its ghost's place" if admission.ghost else "joined", outlet)
        joined, *later = messages
        for message in (joined | self._offer(member) | self._ice_for(outlet, member), *later):
            outlet.send(message)

    def alias(self, room: str) -> str:
        """Return the name of a room for logs, and for its accounts while it is empty."""
        return hashlib.blake2b(room.encode(), key=self.registry.key, digest_size=8).hexdigest()

    def _offer(self, member: Member) -> Message:
        """Describe to a newcomer what else there is; an original member would not understand it."""
        relay, offer = self._limits.relay, Message()
        if member.role is None:
            return offer
        if relay is not None:
            offer["relay"] = {"rate": relay.rate, "total": relay.total, "idle": relay.idle}
        if self._web:
            offer["web"] = True
        return offer

    def _ice_for(self, outlet: Outlet, member: Member) -> Message:
        """Return the STUN and TURN servers for a member; an original one would not understand them."""
        if self._ice is None or member.role is None:
            return {}
        return {"ice": self._ice.offer(outlet.network, now=time.time())}

    def _tell_ice(self, outlet: Outlet) -> None:
        member = self.member(outlet)
        ice = self._ice_for(outlet, member) if member is not None else {}
        if not ice:
            raise unknown_type()  # the answer of a server that hands out nothing
        outlet.send({"type": "ice"} | ice)

    def _pass_on(self, outlet: Outlet, request: PassOn) -> None:
        sender = self._must_be_member(outlet)
        message = request.message(sender.peer_id)
        for target in self.registry.room(sender.room).targets(sender, request.to):
            self.registry.send(sender, target, message)

    def _open_pipe(self, outlet: Outlet, to: str, now: float) -> None:
        member = self._must_be_member(outlet)
        if self.tickets is None:
            raise Refused(Code.NO_RELAY, "this server offers no relay")
        other = self.registry.room(member.room).other(member, to)
        for target, message in self.tickets.issue(member, other, now=now):
            self.registry.send(member, target, message)

    def _forget(self, member: Member) -> Outlet | None:
        """Forget a member, and return its outlet if that is here."""
        if self.tickets is not None:
            self.tickets.leave(member)
        outlet = self._outlets.pop(member, None)
        if outlet is not None:
            del self._members[outlet]
        return outlet

    def _must_be_member(self, outlet: Outlet) -> Member:
        member = self.member(outlet)
        if member is None:
            raise Refused(Code.NOT_JOINED, "must join a room first")
        return member

    def _log(self, member: Member, what: str, outlet: Outlet) -> None:
        size = len(self.registry.room(member.room).members)
        who = member.role or "original peer"
        where = f", from {outlet.remote}" if outlet.remote else ""
        logger.info("room %s: %s %s, %d inside%s", self.alias(member.room), who, what, size, where)
