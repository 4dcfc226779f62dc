"""TLS 1.3 between two peers, over bytes from an untrusted carrier: bytes in, messages out. No I/O, no clock.

    client                                               server
    ── hello ──────────────────────────────────────────→
    ←─ hello, certificate, proof of its key, finished ──
    ── certificate, proof of its key, finished ────────→
    ←─ messages, each after its length less one (u16) ─→
    ←─ close_notify ─→                                     what ends without it was cut

No authority signs the certificates. Each side accepts any certificate whose key the other side proves to hold. The code
that authenticates the peer binds that to `Tls.binding`, or accepts only some fingerprints (``welcome``). This uses
OpenSSL through pyOpenSSL. The standard library's `ssl` reads keys from files only, and does not reveal a peer's
certificate that no authority has signed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL, crypto

from ..config import KIB
from ..errors import ProtocolError
from .base import MAX_MESSAGE, Binding
from .identity import Identity

Welcome = Callable[[bytes], bool]
"""Whether a certificate with this fingerprint (SHA-256, 32 bytes) is accepted."""

_LENGTH: Final = struct.Struct(">H")
_RECORD: Final = 16 * KIB
"""Maximum bytes in one record."""
_READ: Final = 68 * KIB
"""Bytes of records to read at once: a whole message with what TLS adds."""


def anybody(fingerprint: bytes) -> bool:
    """Return True: a `Welcome` for a peer that is authenticated later."""
    return True


class Tls:
    """One end of a connection.

    After `ProtocolError` it accepts nothing more; `bytes_to_send` may still hold an alert.
    """

    def __init__(self, identity: Identity, *, server: bool, welcome: Welcome = anybody) -> None:
        self._identity = identity
        self._welcome = welcome
        self._refused = False
        self._messages = Deframer()
        self._connection = SSL.Connection(self._make_context(), None)
        self.binding: Binding | None = None
        """The certificates at both ends; None until the handshake is complete."""
        self.ended = False
        """Whether the other end has closed in order, so that nothing more arrives."""
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
            self._shake_hands()

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Process received bytes, and return the messages that they complete.

        Raises `ProtocolError` with a text for people.
        """
        if self.ended or not data:
            return []
        try:
            self._connection.bio_write(data)
            if self.binding is None and not self._shake_hands():
                return []
            return self._read()
        except SSL.Error as exc:
            raise ProtocolError(self._reason(exc)) from exc

    def send(self, message: bytes) -> None:
        """Send a message of 1 to `MAX_MESSAGE` bytes. The handshake must be complete."""
        self._connection.sendall(framed(message))

    def close(self) -> None:
        """Announce that nothing more follows. Does nothing before the handshake is complete."""
        if self.binding is not None:
            self._connection.shutdown()

    def bytes_to_send(self) -> bytes:
        """Return the bytes for the other end; empty if there are none."""
        parts = []
        try:
            while len(part := self._connection.bio_read(_READ)) == _READ:
                parts.append(part)
            parts.append(part)
        except SSL.WantReadError:
            pass
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _make_context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_3_VERSION)
        # Sessions are never resumed: each handshake proves both keys.
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # saves 40 KB on an idle connection
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        context.use_certificate(self._identity.certificate._cert)
        context.use_privatekey(self._identity.certificate._key)
        return context

    def _verify(self, _: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """Called by OpenSSL with each problem in the chain. Only the end of the chain matters here."""
        if depth == 0 and not self._welcome(certificate.to_cryptography().fingerprint(SHA256())):
            self._refused = True
        return not self._refused

    def _shake_hands(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        assert certificate is not None, "OpenSSL has asked for it"
        remote = certificate.fingerprint(SHA256())
        if not self._welcome(remote):
            raise ProtocolError(_REFUSED)
        self.binding = Binding(local=self._identity.fingerprint, remote=remote)
        return True

    def _read(self) -> list[bytes]:
        messages: list[bytes] = []
        try:
            while True:
                messages += self._messages.feed(self._connection.recv(_RECORD))
        except SSL.WantReadError:
            return messages
        except SSL.ZeroReturnError:
            self.ended = True
        if self._messages.partial:
            raise ProtocolError("the other end closed in the middle of a message")
        return messages

    def _reason(self, error: SSL.Error) -> str:
        if self._refused:
            return _REFUSED
        reasons = _reasons(error)
        told = "alert" in reasons  # from the other end
        if told and ("certificate" in reasons or "unknown ca" in reasons):
            return "the other end rejected our certificate"
        if told and "bad record mac" not in reasons:
            return f"the other end closed the connection: {reasons}"
        if self.binding is None:
            return f"the other end does not speak TLS 1.3 in a supported way: {reasons}"
        return f"the data was altered on the way: {reasons}"


def _reasons(error: SSL.Error) -> str:
    """Return OpenSSL's own words. Its error has a list of (library, function, reason), or two system call arguments."""
    listed = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return " ".join(str(each[-1]) for each in listed) or " ".join(map(str, error.args)) or "no reason"


_REFUSED: Final = "the other end shows an unexpected certificate"


def framed(message: bytes) -> bytes:
    """Return a message of 1 to `MAX_MESSAGE` bytes as `Deframer` finds it in a stream of bytes."""
    assert 0 < len(message) <= MAX_MESSAGE
    return _LENGTH.pack(len(message) - 1) + message


class Deframer:
    """Finds messages in a stream of bytes, and holds less than one message. Any bytes are messages or begin one."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is incomplete."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes, and return the messages that they complete."""
        buffer, messages, start = self._buffer, [], 0
        buffer += data
        while len(buffer) - start >= _LENGTH.size:
            first = start + _LENGTH.size
            end = first + _LENGTH.unpack_from(buffer, start)[0] + 1
            if end > len(buffer):
                break
            messages.append(bytes(buffer[first:end]))
            start = end
        del buffer[:start]
        return messages
