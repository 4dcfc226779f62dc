"""DTLS (RFC 6347, RFC 9147) on the loop, without a task. Each incoming datagram or outgoing packet is one call.

    client                                  server
    ── hello ─────────────────────────────→
    ←─ hello, certificate, ask for one ────         each flight is repeated until the next one arrives
    ── certificate, finished ─────────────→
    ←─ finished ───────────────────────────
    ←─ packets of SCTP, one a record ─→
    ←─ close_notify ─→

No authority signs the certificates. Each side shows the one whose fingerprint is in its session description (RFC 8827
section 6.5).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from OpenSSL import SSL

from .identity import Identity
from .sdp import Fingerprint

_log = logging.getLogger(__name__)

_DIGESTS: Final[dict[str, HashAlgorithm]] = {"sha-256": SHA256(), "sha-384": SHA384(), "sha-512": SHA512()}
"""The digests (RFC 8122 section 5) that our fingerprints use, and that we check in the peer's."""
_CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
)
"""Cipher suites of DTLS 1.2 that WebRTC peers have in common (RFC 8827 section 6.5)."""
_SRTP: Final = b"SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80"
"""Profiles for media. We send none, but some peers, such as aiortc, reject a handshake that selects no profile."""
_HEADER: Final = 13
"""Bytes of a record's header in DTLS 1.2."""
_APPLICATION_DATA: Final = 23
_UNIFIED: Final = 1
"""The first three bits of DTLS 1.3's header. The flags below are bits of the same byte. We use no connection ids."""
_LONG_NUMBER: Final = 8
_HAS_LENGTH: Final = 4
_RECORD: Final = 32 * 1024
"""Bytes to read at once. A record has 16 KiB at most."""
_OVERHEAD: Final = 128
"""Maximum bytes that a record adds."""
_MOST: Final = 256
"""Records in a datagram: more than can fit in one."""
_FAILED: Final = "the DTLS handshake failed, or the certificate is not the announced one"
_LOST: Final = "the connection to the peer was lost"


def fingerprints(identity: Identity) -> tuple[Fingerprint, ...]:
    """Return our certificate's fingerprints, for the session description."""
    return tuple(Fingerprint(algorithm=name, value=_digest(identity.certificate, name)) for name in _DIGESTS)


class Datagrams(Protocol):
    """What carries the records: the ICE agent, once it has found a path."""

    def transmit(self, datagram: bytes) -> None:
        """Send a datagram. It may be lost."""

    def deliver(self, receive: Callable[[bytes], None]) -> None:
        """Call ``receive`` with each datagram that has arrived and that will arrive. None is empty."""


class Dtls:
    """DTLS for one connection, from `start` to `close`.

    ``connected`` is called when the handshake is complete, and ``packet`` with each packet that arrives from then on.
    ``ended`` is called with the reason when nothing more can arrive, unless `close` was called before. None of the
    three may raise.
    """

    def __init__(
        self,
        agent: Datagrams,
        identity: Identity,
        *,
        connected: Callable[[], None],
        packet: Callable[[bytes], None],
        ended: Callable[[str], None],
    ) -> None:
        self._agent = agent
        self._identity = identity
        self._connected = connected
        self._packet = packet
        self._ended = ended
        self._announced: tuple[Fingerprint, ...] = ()
        self._ssl: SSL.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._repeats = True
        """Whether OpenSSL may have a flight to repeat. In DTLS 1.3 it may, for a while after the handshake."""
        self._over = False
        self.remote: x509.Certificate | None = None
        """The peer's certificate, once the handshake is complete."""

    def start(self, *, server: bool, announced: Iterable[Fingerprint]) -> None:
        """Start the handshake. ``announced``: the fingerprints in the peer's description."""
        self._announced = tuple(announced)
        self._ssl = SSL.Connection(_context(self._identity))
        if server:
            self._ssl.set_accept_state()
        else:
            self._ssl.set_connect_state()
        self._shake_hands()
        self._agent.deliver(self._receive)

    def send(self, packet: bytes) -> None:
        """Send a packet. It is lost if the connection is."""
        if self.remote is None or self._over:
            return
        assert self._ssl is not None
        try:
            self._ssl.send(packet)
        except SSL.Error as exc:
            _log.debug("Not sent: %r", exc)
        self._write(len(packet) + _OVERHEAD)

    def close(self) -> None:
        """Tell the peer that the connection has ended. Idempotent."""
        if self._ssl is not None and not self._over:
            try:
                self._ssl.shutdown()
            except SSL.Error as exc:  # the handshake is not complete
                _log.debug("Not closed in order: %r", exc)
            self._write()
        self._stop()

    # -- the handshake

    def _shake_hands(self) -> None:
        assert self._ssl is not None
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._write()
            self._set_timer()
            return
        except SSL.Error as exc:
            _log.info("The DTLS handshake failed: %r", exc)
            self._end(_FAILED)
            return
        self._write()
        shown = self._ssl.get_peer_certificate(as_cryptography=True)
        assert shown is not None, "OpenSSL has asked for it"
        if not _is_announced(shown, self._announced):
            self._end(_FAILED)
            return
        self.remote = shown
        self._set_timer()
        self._connected()
        self._read()
        self._write()

    def _set_timer(self) -> None:
        """Set the timer after which the last flight is repeated."""
        assert self._ssl is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self._ssl.DTLSv1_get_timeout()
        if seconds is not None and not self._over:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._repeat)
        self._repeats = self.remote is None or seconds is not None

    def _repeat(self) -> None:
        assert self._ssl is not None
        self._timer = None
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error as exc:  # it has repeated the flight for minutes
            _log.info("The DTLS handshake failed: %r", exc)
            self._end(_FAILED if self.remote is None else _LOST)
            return
        self._write()
        self._set_timer()

    # -- receiving

    def _receive(self, datagram: bytes) -> None:
        if self._over:
            return
        assert self._ssl is not None
        self._ssl.bio_write(datagram)
        if self.remote is None:
            self._shake_hands()
            return
        # Usually a datagram is one record. Further records would need further reads.
        alone = datagram[0] == _APPLICATION_DATA and len(datagram) == _size(datagram, 0)
        self._read(most=1 if alone else _MOST)
        if not alone:
            self._write()
        if self._repeats:
            self._set_timer()

    def _read(self, most: int = _MOST) -> None:
        """Read and deliver the packets that have arrived."""
        assert self._ssl is not None
        for _ in range(most):
            try:
                packet = self._ssl.recv(_RECORD)
            except SSL.ZeroReturnError:
                self._end(_LOST)
                return
            except SSL.Error:  # nothing more, or a forged record
                return
            self._packet(packet)

    def _end(self, reason: str) -> None:
        if not self._over:
            self._write()  # an alert, if OpenSSL has one
            self._stop()
            self._ended(reason)

    def _stop(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- sending

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


def _context(identity: Identity) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_TICKET)
    # Any certificate passes here. `Dtls` compares it with the description when the handshake is complete.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    context.set_cipher_list(_CIPHERS)
    context.set_tlsext_use_srtp(_SRTP)
    return context


def _is_announced(shown: x509.Certificate, announced: Iterable[Fingerprint]) -> bool:
    """Return whether we know the digest of at least one fingerprint, and all that we know match the certificate."""
    known = [each for each in announced if each.algorithm in _DIGESTS]
    return bool(known) and all(each.value == _digest(shown, each.algorithm) for each in known)


def _digest(certificate: x509.Certificate, algorithm: str) -> str:
    return certificate.fingerprint(_DIGESTS[algorithm]).hex(":").upper()


def _size(records: bytes, at: int) -> int:
    """Return the size of the record at this position, with its header (RFC 6347 section 4.1, RFC 9147 section 4)."""
    first = records[at]
    if first >> 5 != _UNIFIED:
        return _HEADER + int.from_bytes(records[at + 11 : at + 13])
    header = 3 if first & _LONG_NUMBER else 2
    if not first & _HAS_LENGTH:
        return len(records) - at
    return header + 2 + int.from_bytes(records[at + header : at + header + 2])
