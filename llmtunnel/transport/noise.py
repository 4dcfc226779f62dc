"""Noise_NN_25519_AESGCM_SHA256 (Noise Protocol Framework, revision 34): an ephemeral key exchange. No I/O, no clock.

    -> e        the initiator's ephemeral key
    <- e, ee    the responder's, and everything from here on is encrypted

Neither side proves who it is. The code that authenticates a peer binds that to the handshake hash (section 11.2), which
differs on the two sides of a man in the middle.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import ProtocolError

NAME: Final = b"Noise_NN_25519_AESGCM_SHA256"
KEY: Final = 32
"""Bytes of a public key."""
TAG: Final = 16
"""Bytes that encryption adds."""
MAX_MESSAGE: Final = 65_535
"""Maximum bytes of an encrypted message (section 3)."""
_LAST_NONCE: Final = 2**64 - 1
"""Never used for a message: `Rekey` uses it."""
ALTERED: Final = "the data was altered on the way"


class CipherState:
    """One direction: a key, and the number of the next message (section 5.1).

    The key is replaced after ``rekey_every`` messages, on both sides alike.
    """

    def __init__(self, key: bytes, *, rekey_every: int | None = None) -> None:
        self._cipher = AESGCM(key)
        self._nonce = 0
        self._rekey_every = rekey_every

    def encrypt(self, plaintext: bytes, ad: bytes = b"") -> bytes:
        """Return the next message."""
        sealed = self._cipher.encrypt(_nonce(self._nonce), plaintext, ad)
        self._step()
        return sealed

    def decrypt(self, message: bytes, ad: bytes = b"") -> bytes:
        """Return the plaintext of the next message. Raises `ProtocolError` if it is another one, or was changed."""
        try:
            plaintext = self._cipher.decrypt(_nonce(self._nonce), message, ad)
        except InvalidTag as exc:
            raise ProtocolError(ALTERED) from exc
        self._step()
        return plaintext

    def _step(self) -> None:
        self._nonce += 1
        assert self._nonce < _LAST_NONCE
        if self._rekey_every is not None and self._nonce % self._rekey_every == 0:
            self._cipher = AESGCM(self._cipher.encrypt(_nonce(_LAST_NONCE), bytes(KEY), b"")[:KEY])


@dataclass(frozen=True, slots=True)
class Keys:
    """What a handshake ends with."""

    sends: CipherState = field(repr=False)
    receives: CipherState = field(repr=False)
    hash: bytes
    """The handshake hash: the same on both sides only if nothing between them was changed."""


class Handshake:
    """One side of the handshake. The initiator calls `write` and then `read`, the responder `read` and then `write`.

    ``private``: the ephemeral key, for tests. ``rekey_every``: see `CipherState`.
    """

    def __init__(
        self, *, initiator: bool, prologue: bytes, private: bytes | None = None, rekey_every: int | None = None
    ) -> None:
        self._initiator = initiator
        self._private = X25519PrivateKey.from_private_bytes(private) if private else X25519PrivateKey.generate()
        self._theirs: bytes | None = None
        self._rekey_every = rekey_every
        self._chaining_key = self._hash = NAME.ljust(sha256().digest_size, b"\0")
        self._cipher: CipherState | None = None
        self._mix_hash(prologue)

    def write(self, payload: bytes = b"") -> bytes:
        """Return our message."""
        public = self._private.public_key().public_bytes_raw()
        self._mix_hash(public)
        if self._theirs is not None:
            self._mix_key(self._theirs)
        sealed = payload if self._cipher is None else self._cipher.encrypt(payload, self._hash)
        self._mix_hash(sealed)
        return public + sealed

    def read(self, message: bytes) -> bytes:
        """Process the other side's message, and return its payload. Raises `ProtocolError`."""
        public, sealed = message[:KEY], message[KEY:]
        self._theirs = public
        self._mix_hash(public)
        if self._initiator:
            self._mix_key(public)
        payload = sealed if self._cipher is None else self._cipher.decrypt(sealed, self._hash)
        self._mix_hash(sealed)
        return payload

    def split(self) -> Keys:
        """Return the keys, when both messages have passed."""
        first, second = _hkdf(self._chaining_key, b"")
        ciphers = [CipherState(key, rekey_every=self._rekey_every) for key in (first, second)]
        sends, receives = ciphers if self._initiator else reversed(ciphers)
        return Keys(sends, receives, self._hash)

    def _mix_hash(self, data: bytes) -> None:
        self._hash = sha256(self._hash + data).digest()

    def _mix_key(self, theirs: bytes) -> None:
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError as exc:  # too short, or a point of small order, which would make the key known to all
            raise ProtocolError("the other end's key is none") from exc
        self._chaining_key, key = _hkdf(self._chaining_key, shared)
        self._cipher = CipherState(key)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")  # 4 bytes of zeros, and the number in 8 (section 12.3)


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    key = hmac.digest(chaining_key, material, sha256)
    first = hmac.digest(key, b"\x01", sha256)
    return first, hmac.digest(key, first + b"\x02", sha256)
