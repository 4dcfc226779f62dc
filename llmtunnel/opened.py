"""The open tunnels of this process's blocking calls, and which of them a new call replaces.

A cell that runs again makes the same call again. A new proxy replaces a proxy with the same code at the same address. A
new serve replaces a serve with the same upstream. Two calls in one cell are two tunnels. So are two serves that were
given different invites or rooms. A program has no cells, so nothing is replaced.
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
    """A tunnel, and its share of a loop, which `close` releases. It does not keep the handle alive."""

    tunnel: Tunnel
    hold: runtime.Hold
    settings: Settings
    given: bool
    """Whether the call said where to meet; otherwise it made an invite."""
    cell: int | None
    """The number of the IPython cell that opened it; None outside IPython."""

    def close(self) -> None:
        """Close the tunnel, as its handle does."""
        self.hold.close()


_opened: Final[dict[runtime.Hold, Opened]] = {}
"""Thread-safe, since every access is a single operation of the dictionary."""


def note(opened: Opened) -> None:
    """Remember a tunnel until it is closed."""
    _opened[opened.hold] = opened


def running() -> tuple[Opened, ...]:
    """Return the tunnels that are not closed, oldest first. A forked process starts with none."""
    for hold in tuple(_opened):
        if hold.released or runtime.elsewhere(hold.process):
            _opened.pop(hold, None)
    return tuple(_opened.values())


def listens(address: str) -> bool:
    """Whether one of these tunnels is a proxy at the port of this address."""
    proxies = (each.tunnel for each in running() if isinstance(each.settings, ProxySettings))
    return any(tunnel.url.rpartition(":")[2] == address.rpartition(":")[2] for tunnel in proxies)


def others() -> tuple[Tunnel, ...]:
    """Return this process's tunnels of `aio`, which run on loops of the user."""
    ours = {each.tunnel for each in running()}
    return tuple(each for each in Tunnel.running() if each not in ours)


def earlier(settings: Settings, *, given: bool, cell: int | None) -> Opened | None:
    """Return the tunnel of an earlier cell that one with these settings replaces, or None."""
    if cell is None:
        return None
    found = (each for each in running() if each.cell not in (None, cell) and _is_same(each, settings, given))
    return next(found, None)


def in_place_of(before: Opened, settings: S, *, given: bool) -> S:
    """Return the settings with the invite of the replaced tunnel, unless either call said where to meet."""
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
