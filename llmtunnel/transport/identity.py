"""The certificate that a tunnel shows on each of its channels. The other side recognises it by its fingerprint."""

from __future__ import annotations

import datetime
import secrets
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

_BEFORE: Final = datetime.timedelta(days=1)
"""How long before its creation a certificate is valid, for peers with a slow clock. llmtunnel does not check it."""
_AFTER: Final = datetime.timedelta(days=30)
"""How long it remains valid: the default of browsers (W3C WebRTC, section 4.9.1)."""


class Identity:
    """A key pair that lives as long as the tunnel, and its self-signed certificate (ECDSA, P-256)."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _signed(self.key)
        self.fingerprint: bytes = self.certificate.fingerprint(SHA256())
        """SHA-256 of the certificate's DER, 32 bytes."""


def _signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, secrets.token_hex(16))])
    now = datetime.datetime.now(tz=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _AFTER)
    )
    return builder.sign(key, SHA256())
