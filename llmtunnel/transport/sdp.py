"""A session description (SDP) with one data channel and nothing else, as text and as a value. Pure.

RFC 8866 (SDP), RFC 8839 and RFC 8840 (ICE and trickle ICE in SDP), RFC 8841 (SCTP over DTLS), RFC 8842 (DTLS).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from ..errors import ConnectFailed
from .base import MAX_MESSAGE

Setup = Literal["actpass", "active", "passive"]
"""Which side begins the DTLS handshake: the ``active`` one. An offer leaves it open (RFC 8842)."""

SCTP_PORT: Final = 5000

_UFRAG: Final = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD: Final = re.compile(r"[A-Za-z0-9+/]{22,256}")
_FINGERPRINT: Final = re.compile(r"([A-Za-z0-9-]+) +([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+)")
_MID: Final = re.compile(r"[!-~]{1,64}")
_SETUP: Final = re.compile("actpass|active|passive")
_NUMBER: Final = re.compile("[0-9]{1,18}")
_SIZE_WHERE_ABSENT: Final = "65536"
"""RFC 8841 section 6.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A digest of the certificate that DTLS must show."""

    algorithm: str
    value: str
    """Upper-case hexadecimal bytes, separated by colons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What one side tells the other so that they can connect."""

    ufrag: str
    password: str
    fingerprints: tuple[Fingerprint, ...]
    setup: Setup
    mid: str = "0"
    sctp_port: int = SCTP_PORT
    max_message: int = MAX_MESSAGE
    """Bytes; 0 means no limit."""
    candidates: tuple[str, ...] = ()
    """Without the leading ``candidate:``."""
    complete: bool = False
    """Whether no more candidates will be trickled."""

    def __str__(self) -> str:
        lines = [
            "v=0",
            "o=- 1 1 IN IP4 0.0.0.0",
            "s=-",
            "t=0 0",
            f"a=group:BUNDLE {self.mid}",
            "a=msid-semantic:WMS *",
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "c=IN IP4 0.0.0.0",
            f"a=mid:{self.mid}",
            f"a=sctp-port:{self.sctp_port}",
            f"a=max-message-size:{self.max_message}",
            *(f"a=candidate:{candidate}" for candidate in self.candidates),
            *(["a=end-of-candidates"] if self.complete else []),
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            "a=ice-options:trickle",
            *(f"a=fingerprint:{each.algorithm} {each.value}" for each in self.fingerprints),
            f"a=setup:{self.setup}",
        ]
        return "\r\n".join(lines) + "\r\n"


def parse(text: str) -> Description:
    """Parse a peer's SDP. Raises `ConnectFailed` if it is invalid or describes more than a data channel."""
    attributes = _attributes(text)
    setup = _require(_last(attributes, "setup"), _SETUP, "setup")
    port = int(_require(_last(attributes, "sctp-port"), _NUMBER, "sctp-port"))
    max_message = int(
        _require(_last(attributes, "max-message-size") or _SIZE_WHERE_ABSENT, _NUMBER, "max-message-size")
    )
    if not 0 < port < 65_536:
        raise _unusable("sctp-port")
    if 0 < max_message < MAX_MESSAGE:
        raise ConnectFailed(f"The peer accepts only messages up to {max_message} bytes.")
    return Description(
        ufrag=_require(_last(attributes, "ice-ufrag"), _UFRAG, "ice-ufrag"),
        password=_require(_last(attributes, "ice-pwd"), _PASSWORD, "ice-pwd"),
        fingerprints=_fingerprints(attributes.get("fingerprint", [])),
        setup=cast(Setup, setup),
        mid=_require(_last(attributes, "mid"), _MID, "mid"),
        sctp_port=port,
        max_message=max_message,
        candidates=tuple(attributes.get("candidate", ())),
        complete="end-of-candidates" in attributes,
    )


def _attributes(text: str) -> dict[str, list[str]]:
    """Return the values of each attribute, the session's before the media's.

    The one media section must be the data channel.
    """
    found: dict[str, list[str]] = {}
    media: list[str] = []
    for line in text.splitlines():
        if line.startswith("m="):
            media.append(line)
        elif line.startswith("a="):
            name, _, value = line[2:].partition(":")
            found.setdefault(name, []).append(value.strip())
    if len(media) != 1 or not media[0].startswith("m=application ") or "DTLS/SCTP webrtc-" not in media[0]:
        raise _unusable("m")
    return found


def _last(attributes: dict[str, list[str]], name: str) -> str:
    return attributes.get(name, [""])[-1]


def _require(value: str, pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(value):
        raise _unusable(name)
    return value


def _fingerprints(values: list[str]) -> tuple[Fingerprint, ...]:
    matches = [_FINGERPRINT.fullmatch(value) for value in values]
    found = tuple(
        Fingerprint(algorithm=match[1].lower(), value=match[2].upper()) for match in matches if match is not None
    )
    if not found or len(found) < len(values):
        raise _unusable("fingerprint")
    return found


def _unusable(name: str) -> ConnectFailed:
    return ConnectFailed(f"The peer's session description is not valid ({name}).")
