"""aiortc's SCTP with what it leaves open closed: bounds, losses, and its costs for each packet.

Every reach into aiortc for the sake of SCTP is here, so that a transport of our own can take this module's place.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

from aiortc import RTCDtlsTransport, RTCSctpTransport
from aiortc import rtcsctptransport as sctp

from ..config import KIB

_log = logging.getLogger(__name__)

_STREAMS: Final = 16
"""Streams on which a peer may send; the tunnel uses one."""
_FRAGMENTS: Final = 4096
"""Fragments, of about 1,160 bytes, that may wait for others to become messages. aiortc announces a window of 1 MiB and
then takes whatever comes; its own senders ignore the window too, and may have more than 1 MiB on the way."""
_FRAGMENTS_FIRST: Final = 128
"""The same of a stranger, who has a hello of one message to say: a message has 57 fragments."""
_SACK_EVERY: Final = 2
"""DATA packets acknowledged at once while more are waiting (RFC 9260 section 6.2)."""
_CWND_FIRST: Final = 10 * sctp.USERDATA_MAX_LENGTH
"""Bytes on the way before the first acknowledgement: TCP's (RFC 6928), where aiortc begins with three packets."""
_BURSTS: Final = 4
"""Bursts of 4 packets that may follow each other: one alone makes an answer of 60 KB cost a round trip more."""
_NEAR: Final = 0.005
"""A path of fewer seconds holds nothing: what is on the way waits in the peer's socket, with room for 180 packets."""
_CWND_NEAR: Final = 128 * KIB
"""Bytes on the way there at most. aiortc would go on to 1 MiB, overflow the socket, and wait for its own losses."""
_RTO_FIRST: Final = 1.0
"""Seconds until the first packets are sent again (RFC 9260 section 16; aiortc: 3)."""
_RTO_MIN: Final = 0.3
"""Seconds until a lost last packet is sent again, at least: just over the 0.2 for which a peer may hold an
acknowledgement back. aiortc's 1 s is a second in which a token stream stands still."""


class Sctp(RTCSctpTransport):
    """One association. ``more_waits`` tells whether more packets are there to be read; ``broken`` hears of a breach."""

    def __init__(
        self, transport: RTCDtlsTransport, *, more_waits: Callable[[], bool], broken: Callable[[str], None]
    ) -> None:
        super().__init__(transport)
        self._more_waits = more_waits
        self._broken = broken
        self._is_broken = False
        self._fragments = _FRAGMENTS_FIRST
        self._unacknowledged = 0
        self._rtt_least = math.inf
        self._cwnd = _CWND_FIRST
        self._rto = _RTO_FIRST

    def trust(self) -> None:
        """See `Channel.trust`."""
        self._fragments = _FRAGMENTS

    async def _handle_data(self, data: bytes) -> None:
        """Packets come from a peer that is known but not trusted: nothing that it sends may end in a traceback."""
        if self._is_broken:
            return
        try:
            await super()._handle_data(data)
        except Exception as exc:
            self._break(f"the peer broke SCTP ({exc!r})")
        if self._overfilled():
            self._break("the peer sends fragments that never become messages")

    async def _transmit(self) -> None:
        """Several of aiortc's bursts. Not after the end: a timer's last task would start the timer again, for ever."""
        for _ in range(_BURSTS if self._association_state is not self.State.CLOSED else 0):
            before = self._flight_size
            await super()._transmit()
            if self._flight_size - before < 3 * sctp.USERDATA_MAX_LENGTH:
                return

    async def _send_chunk(self, chunk: sctp.Chunk) -> None:
        """Half of aiortc's calls are from tasks and timers that nobody awaits; that DTLS is gone is told elsewhere."""
        try:
            await super()._send_chunk(chunk)
        except ConnectionError as exc:
            _log.debug("Not sent: %r", exc)

    async def _send_sack(self) -> None:
        """One for two packets where both are there at once; without a timer, as aiortc asks again after the next."""
        self._unacknowledged += 1
        if self._unacknowledged < _SACK_EVERY and not self._sack_misordered and self._more_waits():
            return
        self._unacknowledged = 0
        await super()._send_sack()

    async def _receive_sack_chunk(self, chunk: sctp.SackChunk) -> None:
        """Drop one that acknowledges more than was sent: aiortc counts through whatever range it names."""
        if all(first <= last <= len(self._sent_queue) for first, last in chunk.gaps):
            await super()._receive_sack_chunk(chunk)
            if self._rtt_least < _NEAR:
                self._cwnd = min(self._cwnd, _CWND_NEAR)

    def _update_rto(self, R: float) -> None:  # noqa: N803  aiortc's name
        super()._update_rto(R)
        self._rtt_least = min(self._rtt_least, R)
        assert self._srtt is not None and self._rttvar is not None
        self._rto = max(_RTO_MIN, min(self._srtt + 4 * self._rttvar, sctp.SCTP_RTO_MAX))

    def _break(self, reason: str) -> None:
        self._is_broken = True
        self._broken(reason)

    def _overfilled(self) -> bool:
        streams = self._inbound_streams
        return len(streams) > _STREAMS or sum(len(each.reassembly) for each in streams.values()) > self._fragments
