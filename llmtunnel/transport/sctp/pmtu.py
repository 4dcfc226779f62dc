"""How long a packet may be. Probes find out (RFC 8899): they are acknowledged, or lost without harm.

size      what happens                                             next
--------  -------------------------------------------------------  ------------------------------------------------
any       a probe of the next size is acknowledged                 that size, and the one beyond
any       three probes of it are not                               the same size again after `RAISE`
above     nothing is acknowledged for two timeouts: a black hole   `PACKET`, and all sizes again after `RAISE`
`PACKET`
"""

from __future__ import annotations

from typing import Final

PACKET: Final = 1188
"""Bytes of a packet: IPv6's minimum MTU less IPv6, UDP and DTLS (RFC 8261 section 5); a multiple of four."""
SIZES: Final = (1408, 1952, 8912, 16_352)
"""Sizes to probe, in order: for Ethernet (MTU 1,500), `BROWSER`, jumbo frames (9,000), the maximum of a DTLS record."""
BROWSER: Final = 1952
"""Maximum bytes for a browser. It accepts datagrams of 2,048 bytes (libwebrtc's kMaxDtlsPacketLen)."""
_TRIES: Final = 3
BLACK_HOLE: Final = 2
"""Consecutive timeouts after which longer packets are considered undeliverable."""
RAISE: Final = 600.0
"""Seconds after which a path is probed again (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)."""


class PathMtu:
    """Probes one path. ``most``: bytes that the peer accepts; ``now``: when the first probe is sent."""

    def __init__(self, most: int, now: float) -> None:
        self.size = PACKET
        """Maximum bytes in a packet now."""
        self.due: float | None = now
        """When to send the next probe; None if there is none."""
        self._most = most
        self._left = self._sizes()
        self._tried = 0
        self._is_short = False
        """Whether packets have become too long. Until the path is probed again, those that were sent go in pieces."""
        if not self._left:
            self.due = None

    def _sizes(self) -> list[int]:
        return [size for size in SIZES if size <= self._most]

    def probe(self, now: float, timeout: float) -> int | None:
        """Return the size of the probe to send now, or None."""
        if self.due is None or now < self.due or self._is_short:
            return None
        if self._tried == _TRIES:
            self._tried, self.due = 0, now + RAISE
            return None
        self._tried += 1
        self.due = now + timeout
        return self._left[0]

    def acknowledged(self, size: int, now: float) -> None:
        """Note that a probe of this size has arrived."""
        if self._is_short or not self._left or size != self._left[0]:
            return
        self.size = self._left.pop(0)
        self._tried, self.due = 0, now if self._left else None

    def fall_back(self, now: float) -> None:
        """Return to `PACKET`, since longer packets no longer arrive."""
        self.size, self._left, self._tried = PACKET, self._sizes(), 0
        self._is_short, self.due = True, now + RAISE

    def recover(self, now: float) -> bool:
        """Return whether the path is to be probed again now, after `fall_back`. Probes must not be fragmented."""
        if not self._is_short or self.due is None or now < self.due:
            return False
        self._is_short = False
        return True
