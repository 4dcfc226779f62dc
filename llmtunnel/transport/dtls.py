"""aiortc's DTLS, driven without a task. Each incoming datagram is one call, and so is each outgoing packet.

aiortc does the handshake. After that, `receive` gets the datagrams directly from the ICE agent, and `send` passes
datagrams to it. Only this module and webrtc.py depend on internals of aiortc for DTLS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiortc import RTCCertificate, RTCDtlsParameters, RTCDtlsTransport, RTCIceTransport
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS, State
from OpenSSL import SSL

from .ice import IceAgent

_log = logging.getLogger(__name__)

_HEADER = 13
"""Bytes of a record's header in DTLS 1.2."""
_APPLICATION_DATA = 23
_UNIFIED = 1
"""The first three bits of DTLS 1.3's header. The flags below are bits of the same byte. We use no connection ids."""
_LONG_NUMBER = 8
_HAS_LENGTH = 4
_RECORD = 32 * 1024
"""Bytes to read at once. A record has 16 KiB at most."""
_OVERHEAD = 128
"""Maximum bytes that a record adds."""
_MOST = 256
"""Records in a datagram: more than can fit in one."""


class Dtls(RTCDtlsTransport):
    """DTLS for one connection.

    ``packet`` gets each packet that arrives; ``ended`` is called when nothing more can arrive.
    """

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

    def peer_digest(self, algorithm: str) -> bytes:
        """Return the digest of the certificate that the peer has shown, by a name such as ``sha256``."""
        assert self._ssl is not None
        certificate = self._ssl.get_peer_certificate()
        assert certificate is not None, "the handshake is complete"
        return bytes.fromhex(certificate.digest(algorithm).decode("ascii").replace(":", ""))

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:  # noqa: N803 (aiortc's name)
        """Fail unless the certificate has the announced fingerprints, of which we must know at least one.

        aiortc parses the certificate for that, and its parser rejects those of libdatachannel (X.509 version 2).
        """
        known = [each for each in remoteParameters.fingerprints if each.algorithm.lower() in X509_DIGEST_ALGORITHMS]
        digests = [self.peer_digest(each.algorithm.lower().replace("-", "")) for each in known]
        if not known or [bytes.fromhex(each.value.replace(":", "")) for each in known] != digests:
            self._set_state(State.FAILED)

    def take_over(self) -> None:
        """Handle the datagrams from now on. The handshake is complete, and may have left data in either direction."""
        assert self._ssl is not None and self.state == "connected"
        self._read()
        self._write()
        self._agent.deliver(self._receive)

    def send(self, packet: bytes) -> None:
        """Send a packet. It is lost if the connection is."""
        assert self._ssl is not None
        if self.state != "connected":
            return
        try:
            self._ssl.send(packet)
        except SSL.Error as exc:
            _log.debug("Not sent: %r", exc)
        self._write(len(packet) + _OVERHEAD)

    def _receive(self, datagram: bytes) -> None:
        assert self._ssl is not None
        self._ssl.bio_write(datagram)
        # Usually a datagram is one record. Further records would need further reads.
        alone = datagram[0] == _APPLICATION_DATA and len(datagram) == _size(datagram, 0)
        self._read(most=1 if alone else _MOST)
        if not alone:
            self._write()

    def _read(self, most: int = _MOST) -> None:
        """Read and deliver the packets that have arrived."""
        assert self._ssl is not None
        for _ in range(most):
            try:
                packet = self._ssl.recv(_RECORD)
            except SSL.ZeroReturnError:
                self._ended()
                return
            except SSL.Error:  # nothing more, or a forged record
                return
            self._packet(packet)

    def _write(self, size: int = _RECORD) -> None:
        """Send OpenSSL's output, each record in its own datagram.

        Normally, all of it has up to ``size`` bytes.
        """
        assert self._ssl is not None
        records = b""
        try:
            records = piece = self._ssl.bio_read(size)
            while len(piece) == size:  # there may be more: an earlier flight that is sent again
                piece = self._ssl.bio_read(size)
                records += piece
        except SSL.WantReadError:
            if not records:
                return
        at, end = 0, len(records)
        while at < end:
            after = at + _size(records, at)
            self._agent.transmit(records if after - at == end else records[at:after])
            at = after


def _size(records: bytes, at: int) -> int:
    """Return the size of the record at this position, with its header (RFC 6347 section 4.1, RFC 9147 section 4)."""
    first = records[at]
    if first >> 5 != _UNIFIED:
        return _HEADER + int.from_bytes(records[at + 11 : at + 13])
    header = 3 if first & _LONG_NUMBER else 2
    if not first & _HAS_LENGTH:
        return len(records) - at
    return header + 2 + int.from_bytes(records[at + header : at + header + 2])
