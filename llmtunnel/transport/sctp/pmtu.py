"""How long a packet may be: found by probes (RFC 8899), which are acknowledged, or lost without harm.

size      what happens                                             next
--------  -------------------------------------------------------  -----------------------------
any       a probe of the next size is acknowledged                 that size, and the one beyond
any       three probes of it are not                               no more probes
above     nothing is acknowledged for two timeouts: a black hole   `PACKET`, and no more probes
`PACKET`
"""

from __future__ import annotations

from typing import Final

PACKET: Final = 1188
"""Bytes of a packet: the least MTU of IPv6 without IPv6, UDP and DTLS (RFC 8261 section 5); a multiple of four."""
SIZES: Final = (1408, 8912, 16_352)
"""Sizes to probe, in order: for Ethernet (MTU 1,500), for jumbo frames (9,000), the most that a DTLS record holds."""
_TRIES: Final = 3
BLACK_HOLE: Final = 2
"""Timeouts one after the other."""


class PathMtu:
    """``most``: bytes that the peer takes; ``now``: when the first probe goes out."""

    def __init__(self, most: int, now: float) -> None:
        self.size = PACKET
        """Bytes that a packet may have now."""
        self.due: float | None = now
        """When the next probe goes out; None where there is none to be."""
        self._left = [size for size in SIZES if size <= most]
        self._tried = 0
        if not self._left:
            self.due = None

    def probe(self, now: float, timeout: float) -> int | None:
        """The size of the probe to send now; None where there is none."""
        if self.due is None or now < self.due:
            return None
        if self._tried == _TRIES:
            self.due = None
            return None
        self._tried += 1
        self.due = now + timeout
        return self._left[0]

    def acknowledged(self, size: int, now: float) -> None:
        """A probe of this size has arrived."""
        if self.due is None or not self._left or size != self._left[0]:
            return
        self.size = self._left.pop(0)
        self._tried, self.due = 0, now if self._left else None

    def fall_back(self) -> None:
        """Packets of this size do not arrive any more."""
        self.size, self.due = PACKET, None
