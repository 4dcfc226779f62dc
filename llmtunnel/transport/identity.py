"""The certificate that a tunnel shows on each of its channels. The other side recognises it by its fingerprint."""

from __future__ import annotations

from aiortc import RTCCertificate
from cryptography.hazmat.primitives.hashes import SHA256


class Identity:
    """A key pair that lives as long as the tunnel, and its self-signed certificate (ECDSA, P-256)."""

    def __init__(self) -> None:
        self.certificate = RTCCertificate.generateCertificate()
        self.fingerprint: bytes = self.certificate._cert.fingerprint(SHA256())
        """SHA-256 of the certificate's DER, 32 bytes."""
