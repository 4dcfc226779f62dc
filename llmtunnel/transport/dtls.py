"""aiortc's DTLS, driven without a task: each datagram is one call, and so is each packet that goes out.

aiortc does the handshake. From then on `receive` takes the datagrams straight from the ICE agent, and `send` gives them
to it. Every reach into aiortc for the sake of DTLS is here and in webrtc.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiortc import RTCCertificate, RTCDtlsTransport, RTCIceTransport
from OpenSSL import SSL

from .ice import IceAgent

_log = logging.getLogger(__name__)

_HEADER = 13
"""Bytes of a record's header; the last two are the length (RFC 6347 section 4.1)."""
_APPLICATION_DATA = 23
_RECORD = 16 * 1024
_OVERHEAD = 128
"""Bytes that a record adds, at most."""


class Dtls(RTCDtlsTransport):
    """``packet`` takes each packet that came, ``ended`` hears that nothing more will come."""

    def __init__(
        self,
        transport: RTCIceTransport,
        agent: IceAgent,
        certificate: RTCCertificate,
        *,
        packet: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(transport, [certificate])
        self._agent = agent
        self._packet = packet
        self._ended = ended

    def take_over(self) -> None:
        """Take datagrams from now on; the handshake is done."""
        assert self._ssl is not None and self.state == "connected"
        self._agent.deliver(self._receive)

    def send(self, packet: bytes) -> None:
        """Send a packet; it is lost where the connection is."""
        assert self._ssl is not None
        if self.state != "connected":
            return
        try:
            self._ssl.send(packet)
            self._agent.transmit(self._ssl.bio_read(len(packet) + _OVERHEAD))
        except (SSL.Error, ConnectionError, OSError) as exc:
            _log.debug("Not sent: %r", exc)

    def _receive(self, datagram: bytes) -> None:
        assert self._ssl is not None
        self._ssl.bio_write(datagram)
        # One record is the rule; more of them do not come out of one read.
        alone = datagram[0] == _APPLICATION_DATA and len(datagram) == _HEADER + int.from_bytes(datagram[11:13])
        while True:
            try:
                packet = self._ssl.recv(_RECORD)
            except SSL.ZeroReturnError:
                self._ended()
                return
            except SSL.Error:  # nothing more, or a forged record
                break
            self._packet(packet)
            if alone:
                return
        self._answer()

    def _answer(self) -> None:
        """Send what OpenSSL says by itself: its last flight again, or an alert."""
        assert self._ssl is not None
        try:
            self._agent.transmit(self._ssl.bio_read(_RECORD))
        except (SSL.Error, ConnectionError, OSError):
            return
