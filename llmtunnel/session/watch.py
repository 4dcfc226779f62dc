"""Notices at once that this machine's route to the network changed or returned, or that the machine slept.

Otherwise only a silence would reveal that. No packet is sent: connecting a UDP socket only asks the system which
address it would send from.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

EVERY: Final = 0.5
"""Seconds between two checks. Each costs some 20 µs."""
JUMP: Final = 3.0
"""Seconds by which a check may be late before we conclude that the machine, or this process, was stopped."""
_TARGETS: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that nobody has (RFC 5737, RFC 3849). The route to them is the route to the internet."""


def source_addresses() -> tuple[str, ...]:
    """Return the addresses that the system would send from towards the internet. An empty text means no route."""
    return tuple(_source(family, target) for family, target in _TARGETS)


class NetworkWatch:
    """Compares each observation with the last one. Pure: the time and the addresses are passed in."""

    def __init__(self, now: float, addresses: tuple[str, ...]) -> None:
        self._seen = now
        self._addresses = addresses

    def look(self, now: float, addresses: tuple[str, ...]) -> bool:
        """Return whether anything has changed since the last call.

        The clock behind ``now`` must run while the machine sleeps.
        """
        jumped = abs(now - self._seen - EVERY) > JUMP
        changed = addresses != self._addresses and any(addresses)  # without any route, nothing can be done
        self._seen = now
        self._addresses = addresses
        return jumped or changed


async def watch(changed: Callable[[], None]) -> None:
    """Call ``changed`` each time that something has changed, without end."""
    watching = NetworkWatch(time.time(), source_addresses())
    while True:
        await asyncio.sleep(EVERY)
        if watching.look(time.time(), source_addresses()):
            changed()


def _source(family: int, target: str) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
