"""STUN and TURN servers that members are told when they join, with credentials for an hour. Pure.

The credentials are those of draft-uberti-behave-turn-rest-00, which coturn implements as ``use-auth-secret``. Only the
signal server and the TURN server know the secret, and neither asks the other anything:

    username    the Unix time at which they expire, a colon, and an id
    credential  base64(HMAC-SHA1(secret, username))

The id stands for the member's address, so that coturn's ``user-quota`` counts by address. It does not reveal the
address, and is the same at each instance that has the secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from .messages import Message

LIFETIME: Final = 3600.0
"""Seconds for which credentials are valid. A member asks for new ones after half of that."""
MOST: Final = 4
"""Servers that a peer uses. It ignores further ones, since each costs it packets and a hostile server could name
thousands."""
LONGEST: Final = 255
"""Maximum characters of a URL."""
HTTPS: Final = 443
"""The only port below `FIRST_PORT` that a peer uses: many firewalls let nothing else pass."""
FIRST_PORT: Final = 1024

# RFC 7064 and RFC 7065, without IPv6 literals, which peers do not accept. TURN over DTLS is not implemented by peers.
_STUN: Final = re.compile(r"stun:[A-Za-z0-9.-]+(:(?P<port>[0-9]{1,5}))?")
_TURN: Final = re.compile(
    r"(turn:[A-Za-z0-9.-]+(:(?P<port>[0-9]{1,5}))?(\?transport=(udp|tcp))?"
    r"|turns:[A-Za-z0-9.-]+(:(?P<tls>[0-9]{1,5}))?(\?transport=tcp)?)"
)


def check_stun(url: str) -> str:
    """Return the URL. Raises `ValueError` if peers would not use it as a STUN server."""
    if not _usable(url, _STUN):
        raise ValueError(f"{url!r} is not a STUN server: use stun:host:port, where the port is 443 or above 1023")
    return url


def check_turn(url: str) -> str:
    """Return the URL. Raises `ValueError` if peers would not use it as a TURN server."""
    if not _usable(url, _TURN):
        raise ValueError(
            f"{url!r} is not a TURN server: use turn:host:port, turn:host:port?transport=tcp or turns:host:port,"
            " where the port is 443 or above 1023"
        )
    return url


def _usable(url: str, pattern: re.Pattern[str]) -> bool:
    match = pattern.fullmatch(url) if len(url) <= LONGEST else None
    if match is None:
        return False
    ports = [int(text) for text in match.groupdict().values() if text]
    return all(port == HTTPS or FIRST_PORT <= port < 65_536 for port in ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServers:
    """The servers to hand out. Raises `ValueError` for what peers would not use, or what does not fit together."""

    stun: tuple[str, ...] = ()
    turn: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)
    """The secret that the TURN servers have: coturn's ``static-auth-secret``."""
    lifetime: float = LIFETIME
    """Seconds for which credentials are valid."""

    def __post_init__(self) -> None:
        for url in self.stun:
            check_stun(url)
        for url in self.turn:
            check_turn(url)
        if len(self.stun) + len(self.turn) > MOST:
            count = len(self.stun) + len(self.turn)
            raise ValueError(f"--stun and --turn-url: {count} servers, and peers use at most {MOST}: leave some out")
        if self.turn and not self.secret:
            raise ValueError(
                "--turn-url needs the TURN servers' secret: use --turn-secret-file with a file that contains it (in"
                " coturn's turnserver.conf, it is static-auth-secret)"
            )
        if self.secret and not self.turn:
            raise ValueError("--turn-secret needs the TURN servers that have it: use --turn-url")

    def offer(self, address: str, *, now: float) -> Message:
        """Return ``ice`` for a member: the servers as RTCIceServer of WebRTC, and how long the credentials are valid.

        ``address``: what the member counts towards. ``now``: Unix time.
        """
        servers: list[Message] = [{"urls": list(self.stun)}] if self.stun else []
        if self.turn and self.secret:
            username = f"{int(now + self.lifetime)}:{self._id(address)}"
            digest = hmac.digest(self.secret.encode(), username.encode(), hashlib.sha1)
            credential = base64.b64encode(digest).decode()
            servers.append({"urls": list(self.turn), "username": username, "credential": credential})
        return {"servers": servers, "ttl": self.lifetime}

    def _id(self, address: str) -> str:
        assert self.secret is not None, "only TURN servers need it"
        return hmac.digest(self.secret.encode(), b"address " + address.encode(), hashlib.sha256).hex()[:16]
