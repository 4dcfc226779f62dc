"""Notices at once what would else cost a silence: that this machine's way to the network changed, or came back, or that
it slept.

No packet is sent: connecting a UDP socket only asks the system which address it would send from.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

EVERY: Final = 0.5
"""Seconds between two looks, each of which costs some 20 µs."""
JUMP: Final = 3.0
"""Seconds by which a look may be late before we take it that the machine, or this process, was stopped."""
_TARGETS: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that are nobody's (RFC 5737, RFC 3849): the way to them is the way to the internet."""


def source_addresses() -> tuple[str, ...]:
    """The addresses that the system would send from, towards the internet; empty texts where there is no way."""
    return tuple(_source(family, target) for family, target in _TARGETS)


class NetworkWatch:
    """Compares one look with the last one. Pure, but for what it is given."""

    def __init__(self, now: float, addresses: tuple[str, ...]) -> None:
        self._seen = now
        self._addresses = addresses

    def look(self, now: float, addresses: tuple[str, ...]) -> bool:
        """Whether anything has changed since the last look; ``now`` by a clock that does not stop with the machine."""
        jumped = abs(now - self._seen - EVERY) > JUMP
        changed = addresses != self._addresses and any(addresses)  # while there is no way at all, nothing can be done
        self._seen = now
        self._addresses = addresses
        return jumped or changed


async def watch(changed: Callable[[], None]) -> None:
    """Call ``changed`` each time that something has, for ever."""
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
