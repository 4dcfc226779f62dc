"""Which STUN and TURN servers a new connection uses: the user's own, or those that the signal server hands out. Pure.

    event                                   servers
    --------------------------------------  -----------------------------------------------------------------
    we join the room, or get new ones       what the signal server tells, from now on; nothing if it tells none
    half of their time has passed           ask for new credentials
    their time has passed                   its TURN servers are no longer used
    the connection to it is lost            as before: they are not the connection's

The user's own come first. The signal server's STUN servers count only if the user has named none, and its TURN servers
likewise. A connection that exists keeps the servers and credentials with which it was made.
"""

from __future__ import annotations

from typing import Final

from ..config import DEFAULT_STUN, Settings
from ..signaling.messages import IceOffer
from ..status import TurnSource
from ..transport.networks import Reach
from ..transport.servers import IceServer, each_of

SOONEST: Final = 1.0
"""Minimum seconds until we ask for new credentials. The server chooses how long they are valid."""


class IceBook:
    """The servers to use, as far as they are known."""

    def __init__(self, settings: Settings) -> None:
        self._own = each_of(settings.ice)
        self._takes = not settings.no_signal_ice
        self._named_stun = settings.ice.stun != (DEFAULT_STUN,)
        self._told: tuple[IceServer, ...] = ()
        self._until: float | None = None
        self.renewal: float | None = None
        """When to ask for new credentials; None: never."""

    def told(self, offer: IceOffer | None, *, within: Reach, now: float) -> None:
        """Note what the signal server hands out. ``within``: which addresses it may name."""
        self._told, self._until, self.renewal = (), None, None
        if offer is None or not self._takes:
            return
        self._told = tuple(server for each in offer.servers for server in each_of(each, within))
        if offer.ttl and any(each.is_turn for each in self._told):
            self._until = now + offer.ttl
            self._ask_later(now)

    def take_renewal(self, now: float) -> bool:
        """Return whether to ask for new credentials now. If so, the next time follows, should no answer come."""
        if self.renewal is None or now < self.renewal:
            return False
        self._ask_later(now)
        return True

    def servers(self, now: float) -> tuple[IceServer, ...]:
        """Return the servers for a connection that begins now."""
        return (*self._stun(), *self._turn(now))

    def turn(self, now: float) -> tuple[tuple[str, ...], TurnSource | None]:
        """Return the URLs of the TURN servers, and where they come from; None if there are none."""
        found = self._turn(now)
        if not found:
            return (), None
        source = TurnSource.SETTINGS if found[0].within is None else TurnSource.SIGNAL
        return tuple(each.url for each in found), source

    def _stun(self) -> list[IceServer]:
        told = [each for each in self._told if not each.is_turn]
        return told if told and not self._named_stun else [each for each in self._own if not each.is_turn]

    def _turn(self, now: float) -> list[IceServer]:
        if own := [each for each in self._own if each.is_turn]:
            return own
        valid = self._until is None or now < self._until
        return [each for each in self._told if each.is_turn and valid]

    def _ask_later(self, now: float) -> None:
        assert self._until is not None, "the credentials expire"
        left = self._until - now
        self.renewal = now + max(SOONEST, left / 2) if left > 0 else None
