"""The tunnels that blocking calls of this process have opened and not closed, and which of them another call replaces.

A cell that runs again makes the same call again. Its tunnel takes the place of the one before: a proxy that of a proxy
with the same code at the same address, a serve that of a serve with the same upstream. Two calls in one cell are two
tunnels, and so are two serves whose invites or rooms were both given and differ. A program has no cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from . import runtime
from .config import ProxySettings, ServeSettings, Settings
from .endpoints.listen import parse_listen
from .tunnel import Tunnel

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A tunnel, and the part in a loop that is let go where it is closed. It keeps no handle alive."""

    tunnel: Tunnel
    hold: runtime.Hold
    settings: Settings
    given: bool
    """Whether the call said where the two meet. Otherwise an invite was made."""
    cell: int | None
    """The number of IPython's cell that opened it; None outside IPython."""

    def close(self) -> None:
        """Close it, as its handle does."""
        self.hold.close()


_opened: Final[dict[runtime.Hold, Opened]] = {}
"""Each step on it is one operation of the dictionary, as calls come from any thread."""


def note(opened: Opened) -> None:
    """Remember one, until it is closed."""
    _opened[opened.hold] = opened


def running() -> tuple[Opened, ...]:
    """Those that are not closed, the oldest first. In a forked process, those of its own."""
    for hold in tuple(_opened):
        if hold.released or runtime.elsewhere(hold.process):
            _opened.pop(hold, None)
    return tuple(_opened.values())


def listens(address: str) -> bool:
    """Whether one of them is a proxy at the port of this address."""
    proxies = (each.tunnel for each in running() if isinstance(each.settings, ProxySettings))
    return any(tunnel.url.rpartition(":")[2] == address.rpartition(":")[2] for tunnel in proxies)


def others() -> tuple[Tunnel, ...]:
    """The tunnels of this process that no blocking call has opened: `aio`'s, each on a loop of its user's."""
    ours = {each.tunnel for each in running()}
    return tuple(each for each in Tunnel.running() if each not in ours)


def earlier(settings: Settings, *, given: bool, cell: int | None) -> Opened | None:
    """The tunnel of an earlier cell whose place one with these settings takes; None where there is none."""
    if cell is None:
        return None
    found = (each for each in running() if each.cell not in (None, cell) and _is_same(each, settings, given))
    return next(found, None)


def in_place_of(before: Opened, settings: S, *, given: bool) -> S:
    """The settings with the invite of the tunnel whose place they take, where both were to make one."""
    invite = getattr(before.tunnel, "invite", None)
    if given or before.given or invite is None or invite.signal != settings.signal:
        return settings
    more: dict[str, Any] = {"invite": invite, "room": invite.room, "secret": invite.secret}
    return replace(settings, **more)


def _is_same(before: Opened, settings: Settings, given: bool) -> bool:
    one, other = before.settings, settings
    meets = (one.room, one.secret, one.signal) == (other.room, other.secret, other.signal)
    if isinstance(one, ServeSettings) and isinstance(other, ServeSettings):
        return str(one.upstream) == str(other.upstream) and (meets or not (given and before.given))
    if isinstance(one, ProxySettings) and isinstance(other, ProxySettings):
        address = parse_listen(other.listen)
        return meets and address.port != 0 and parse_listen(one.listen) == address
    return False
