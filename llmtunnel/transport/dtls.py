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
_TOGETHER = 16 * 1024
"""Bytes of records that OpenSSL gets at once. It takes them for one datagram, of which it reads some 16,700 bytes, and
loses the record that ends beyond that."""


class Dtls(RTCDtlsTransport):
    """DTLS for one connection.

    ``packets`` gets the packets that arrive together; ``ended`` is called when nothing more can arrive.
    """

    def __init__(
        self,
        transport: RTCIceTransport,
        agent: IceAgent,
        certificate: RTCCertificate,
        *,
        packets: Callable[[list[bytes]], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(transport, [certificate])
        self._agent = agent
        self._packets = packets
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
        self._read(_MOST)
        self._write()
        self._agent.deliver(self._receive)

    def send(self, packets: list[bytes]) -> None:
        """Send packets. They are lost if the connection is."""
        assert self._ssl is not None
        if self.state != "connected":
            return
        send = self._ssl.send
        try:
            for packet in packets:
                send(packet)
        except SSL.Error as exc:
            _log.debug("Not sent: %r", exc)
        self._write(sum(map(len, packets)) + _OVERHEAD * len(packets))

    def _receive(self, datagrams: list[bytes]) -> None:
        """Decrypt datagrams. Usually each is one record."""
        alone: list[bytes] = []
        size = 0
        for datagram in datagrams:
            length = len(datagram)
            if datagram[0] != _APPLICATION_DATA or length != _size(datagram, 0):
                self._read_alone(alone)
                alone, size = [], 0
                assert self._ssl is not None
                self._ssl.bio_write(datagram)
                self._read(_MOST)
                self._write()
                continue
            if size + length > _TOGETHER:
                self._read_alone(alone)
                alone, size = [], 0
            alone.append(datagram)
            size += length
        self._read_alone(alone)

    def _read_alone(self, records: list[bytes]) -> None:
        """Decrypt datagrams of one record each, which OpenSSL reads as one datagram."""
        if records:
            assert self._ssl is not None
            self._ssl.bio_write(b"".join(records) if len(records) > 1 else records[0])
            self._read(len(records))

    def _read(self, most: int) -> None:
        """Read and deliver the packets that have arrived, up to ``most``."""
        assert self._ssl is not None
        receive, packets = self._ssl.recv, []
        has_ended = False
        try:
            for _ in range(most):
                packets.append(receive(_RECORD))  # noqa: PERF401  those before an error count
        except SSL.ZeroReturnError:
            has_ended = True
        except SSL.Error:  # nothing more, or a forged record
            pass
        if packets:
            self._packets(packets)
        if has_ended:
            self._ended()

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
        # Records of one size, and a shorter one after them, are sent at once.
        start, end = 0, len(records)
        at = last = first = _size(records, 0)
        while at < end:
            size = _size(records, at)
            if last < first or size > first:
                self._agent.transmit(records[start:at], first)
                start, first = at, size
            last = size
            at += size
        self._agent.transmit(records[start:end] if start else records, first)


def _size(records: bytes, at: int) -> int:
    """Return the size of the record at this position, with its header (RFC 6347 section 4.1, RFC 9147 section 4)."""
    first = records[at]
    if first >> 5 != _UNIFIED:
        return _HEADER + int.from_bytes(records[at + 11 : at + 13])
    header = 3 if first & _LONG_NUMBER else 2
    if not first & _HAS_LENGTH:
        return len(records) - at
    return header + 2 + int.from_bytes(records[at + header : at + header + 2])
