"""The cryptography of authentication: from a secret or a ticket to keys that both sides have (README.md section 9)."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from ..status import Role

_IDENTITIES: Final = {"idA": b"llmtunnel proxy", "idB": b"llmtunnel serve"}
_LABEL: Final = b"llmtunnel auth 1"
_SIGNED: Final = b"llmtunnel identity 1"
_NAMED: Final = b"llmtunnel identity key 1"
SIGNATURE: Final = 64
"""Bytes of a signature: r and s, 32 bytes each, as WebCrypto writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What serve and a proxy keep of a session, so that the proxy is not a stranger when it returns."""

    id: bytes
    """16 bytes, sent unencrypted."""
    key: bytes = field(repr=False)
    """32 bytes, never sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """SHA-256 of the certificate at each end of the channel, as one side sees them."""

    proxy: bytes
    serve: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys that both sides share after an exchange, 32 bytes each. None of them reveals another."""

    proxy: bytes = field(repr=False)
    """The proxy's confirmation."""
    serve: bytes = field(repr=False)
    """Serve's confirmation."""
    session: bytes = field(repr=False)
    """The key of the ticket. Never sent."""
    transcript: bytes = b""
    """The hash of everything that both sides have said and seen, which the keys depend on."""

    def ticket(self) -> Ticket:
        """Return the ticket that this session gives."""
        return Ticket(id=_expand(self.session, b"ticket id")[:16], key=_expand(self.session, b"ticket key"))

    def confirms(self, role: Role, confirmation: bytes) -> bool:
        """Return whether this is the confirmation of ``role``. Takes constant time."""
        return hmac.compare_digest(self.proxy if role is Role.PROXY else self.serve, confirmation)


class KeyExchange:
    """One side of one SPAKE2 exchange. ``entropy`` returns random bytes."""

    def __init__(self, role: Role, secret: str, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> None:
        from spake2 import SPAKE2_A, SPAKE2_B  # takes 30 ms to load, and is useless without a secret

        side = SPAKE2_A if role is Role.PROXY else SPAKE2_B
        self._side = side(secret.encode(), entropy_f=entropy, **_IDENTITIES)
        self.share: bytes = self._side.start()

    def finish(self, share: bytes) -> bytes:
        """Return the key, which is the same on both sides only if the secret is.

        Raises ValueError for an invalid share.
        """
        try:
            key: bytes = self._side.finish(share)
        except Exception as exc:  # of our own side, our own sent back, not on the curve: one class per case
            raise ValueError("not a share of the other side") from exc
        return key


def new_session() -> bytes:
    """Return a new session id, 16 random bytes."""
    return secrets.token_bytes(16)


def returning(ticket: Ticket, share: bytes, nonce: bytes) -> bytes:
    """Return the shared key with a proxy that returns. ``share`` and ``nonce`` are new each time."""
    return hmac.digest(ticket.key, share + nonce, sha256)


def derive(shared: bytes, room: str, certificates: Certificates, hello: bytes, agree: bytes) -> Keys:
    """Return the keys, which are the same on both sides only if all arguments are.

    HELLO and AGREE as sent and received.
    """
    parts = (_LABEL, room.encode(), hello, agree, certificates.proxy, certificates.serve)
    transcript = sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    key = hmac.digest(transcript, shared, sha256)  # HKDF-Extract, RFC 5869 section 2.2
    return Keys(
        proxy=_expand(key, b"proxy"),
        serve=_expand(key, b"serve"),
        session=_expand(key, b"session"),
        transcript=transcript,
    )


def fingerprint(key: bytes) -> bytes:
    """Return by what serve knows the owner of a public key, in place of a certificate's SHA-256.

    A certificate is DER, and begins with 0x30. So it never has the fingerprint of a key, unless SHA-256 is broken.
    """
    return sha256(_NAMED + key).digest()


def signed(transcript: bytes) -> bytes:
    """Return what a proxy signs with its key."""
    return _SIGNED + transcript


def is_signed(key: bytes, transcript: bytes, signature: bytes) -> bool:
    """Return whether the owner of a public key (P-256, uncompressed) has signed this transcript."""
    from cryptography.exceptions import InvalidSignature  # only proxies with a key need all this
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    if len(signature) != SIGNATURE:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[: SIGNATURE // 2], signature[SIGNATURE // 2 :]))
    try:
        owner = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        owner.verify(utils.encode_dss_signature(r, s), signed(transcript), ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):  # not a point of the curve, or not its signature
        return False
    return True


def _expand(key: bytes, label: bytes) -> bytes:
    return hmac.digest(key, label + b"\x01", sha256)  # HKDF-Expand of one block, RFC 5869 section 2.3
