"""The sealed form of a pipe, for pages, which cannot speak TLS with our certificates (protocol/README.md section 15).

    page                                                 serve
    ── 0x01, Noise's first message ─────────────────────→
    ←─ Noise's second message ───────────────────────────
    ←─ records: length (u16), Noise's transport message ─→  their plaintexts make the stream that TLS would carry
    ←─ an empty record ─→                                   what ends without it was cut

`Sealed` has the interface of `tls.Tls`, so `pipe` drives either. `EitherForm` is serve's end of a pipe whose form is
not known yet. Its first byte tells: TLS begins with 0x16.
"""

from __future__ import annotations

import struct
from typing import Final

from ..errors import ProtocolError
from .base import MAX_MESSAGE, Binding
from .identity import Identity
from .noise import KEY, TAG, Handshake, Keys
from .noise import MAX_MESSAGE as MAX_RECORD
from .tls import Deframer, Tls, Welcome, anybody, framed

FORM: Final = b"\x01"
"""The first byte of the sealed form. TLS's first byte is 0x16 (a handshake record)."""
PROLOGUE: Final = b"llmtunnel sealed 1"
REKEY_EVERY: Final = 2**20
"""Records after which a direction's key is replaced (README.md section 15 has the bounds)."""
_LENGTH: Final = struct.Struct(">H")
_RECORD: Final = MAX_MESSAGE - _LENGTH.size - TAG
"""Maximum bytes of plaintext that we put into a record. It fits one message of the relay then."""


class Sealed:
    """One end of a sealed pipe: a page's (``server`` is false) or serve's.

    After `ProtocolError` it accepts nothing more.
    """

    def __init__(self, *, server: bool, rekey_every: int = REKEY_EVERY) -> None:
        self._server = server
        self._handshake = Handshake(initiator=not server, prologue=PROLOGUE, rekey_every=rekey_every)
        self._keys: Keys | None = None
        self._unread = bytearray()
        self._unsent: list[bytes] = []
        self._messages = Deframer()
        self.binding: Binding | None = None
        """The handshake hash, for both ends; None until the handshake is complete."""
        self.ended = False
        """Whether the other end has closed in order, so that nothing more arrives."""
        if not server:
            self._unsent.append(FORM + self._handshake.write())

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Process received bytes, and return the messages that they complete.

        Raises `ProtocolError` with a text for people.
        """
        if self.ended:
            return []
        self._unread += data
        if self._keys is None and not self._shake_hands():
            return []
        messages: list[bytes] = []
        while not self.ended and (record := self._next_record()) is not None:
            messages += self._open(record)
        return messages

    def send(self, message: bytes) -> None:
        """Send a message of 1 to `MAX_MESSAGE` bytes. The handshake must be complete."""
        data = framed(message)
        for start in range(0, len(data), _RECORD):
            self._seal(data[start : start + _RECORD])

    def close(self) -> None:
        """Announce that nothing more follows. Does nothing before the handshake is complete."""
        if self._keys is not None:
            self._seal(b"")

    def bytes_to_send(self) -> bytes:
        """Return the bytes for the other end; empty if there are none."""
        parts, self._unsent = self._unsent, []
        return b"".join(parts)

    def _shake_hands(self) -> bool:
        """Take the other side's part of the handshake, if it is complete, and answer. Return whether it is done."""
        if self._server and self._unread and self._unread[:1] != FORM:
            raise ProtocolError("the other end speaks neither TLS nor the sealed form")
        size = len(FORM) + KEY if self._server else KEY + TAG
        if len(self._unread) < size:
            return False
        message = bytes(self._unread[size - KEY if self._server else 0 : size])
        del self._unread[:size]
        self._handshake.read(message)
        if self._server:
            self._unsent.append(self._handshake.write())
        self._keys = keys = self._handshake.split()
        self.binding = Binding(local=keys.hash, remote=keys.hash, certified=False)
        return True

    def _next_record(self) -> bytes | None:
        """Remove and return the next whole record."""
        if len(self._unread) < _LENGTH.size:
            return None
        [size] = _LENGTH.unpack_from(self._unread)
        end = _LENGTH.size + size
        if size < TAG:
            raise ProtocolError("the other end sent a record that is too short")
        if len(self._unread) < end:
            return None
        record = bytes(self._unread[_LENGTH.size : end])
        del self._unread[:end]
        return record

    def _open(self, record: bytes) -> list[bytes]:
        assert self._keys is not None
        plaintext = self._keys.receives.decrypt(record)
        if plaintext:
            return self._messages.feed(plaintext)
        self.ended = True
        if self._messages.partial:
            raise ProtocolError("the other end closed in the middle of a message")
        return []

    def _seal(self, plaintext: bytes) -> None:
        assert self._keys is not None
        record = self._keys.sends.encrypt(plaintext)
        assert len(record) <= MAX_RECORD
        self._unsent.append(_LENGTH.pack(len(record)) + record)


class EitherForm:
    """Serve's end of a pipe, which becomes `tls.Tls` or `Sealed` with the first byte that arrives."""

    def __init__(self, identity: Identity, *, welcome: Welcome = anybody) -> None:
        self._identity = identity
        self._welcome = welcome
        self._form: Tls | Sealed | None = None

    @property
    def binding(self) -> Binding | None:
        """As that of the form."""
        return None if self._form is None else self._form.binding

    @property
    def ended(self) -> bool:
        """As that of the form."""
        return self._form is not None and self._form.ended

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """As that of the form."""
        if not data:
            return []
        if self._form is None:
            sealed = bytes(data[:1]) == FORM
            self._form = Sealed(server=True) if sealed else Tls(self._identity, server=True, welcome=self._welcome)
        return self._form.receive(data)

    def send(self, message: bytes) -> None:
        """As that of the form."""
        assert self._form is not None
        self._form.send(message)

    def close(self) -> None:
        """As that of the form."""
        if self._form is not None:
            self._form.close()

    def bytes_to_send(self) -> bytes:
        """As that of the form."""
        return b"" if self._form is None else self._form.bytes_to_send()
