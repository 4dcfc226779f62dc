"""Who may use the proxy's listener, as its user set it, and how hosts and origins are compared. Pure.

`endpoints/guard.py` holds each request to it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .errors import SettingError

LOCALHOST: Final = "localhost"

_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{0,5}))?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_KEY: Final = re.compile(r"[!-~]{1,4096}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """A host as `canonical_host` gives it, and its port where one is named."""

    host: str
    port: int | None


class WebOrigin(NamedTuple):
    """Where a web page comes from (RFC 6454): two are the same where these three are."""

    scheme: str
    host: str
    port: int | None
    """The scheme's own where none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPolicy:
    """Whom the proxy's listener answers, beside programs on this machine."""

    allow_hosts: tuple[str, ...] = ()
    """Names by which clients may call it, beside the address listened on and ``localhost``."""
    allow_origins: tuple[str, ...] = ()
    """Web pages, ``https://app.example``, that may use it, beside those of this machine."""
    api_key: str | None = field(default=None, repr=False)
    """What clients must send, as ``Authorization: Bearer`` or ``X-Api-Key``."""
    no_auth: bool = False
    """Listen where other machines reach it without a key: they all may use it."""

    def __post_init__(self) -> None:
        for name in self.allow_hosts:
            if canonical_host(name) is None:
                raise SettingError(f"{name!r} is not a host's name.", hint="Write --allow-host host.docker.internal.")
        for origin in self.allow_origins:
            if parse_origin(origin) is None:
                raise SettingError(
                    f"{origin!r} is not a web page's origin.",
                    hint="Write each as --allow-origin https://app.example: scheme, host and port, nothing else.",
                )
        if self.api_key is not None:
            self._check_key(self.api_key)

    def _check_key(self, key: str) -> None:
        if not _KEY.fullmatch(key):
            raise SettingError(
                "The API key is empty, too long, or has a space or a character that is not ASCII.",
                hint='Make one: python -c "import secrets; print(secrets.token_urlsafe())".',
            )
        if self.no_auth:
            raise SettingError("An API key and --no-auth contradict each other.", hint="Leave one of them out.")


def canonical_host(text: str) -> str | None:
    """A host as it is compared: lower case, no trailing dot, an address in its one spelling; None where it is none.

    An IPv6 address stands without brackets; one with a zone, which names an interface of another machine, is none.
    """
    host = text.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host if _NAME.fullmatch(host) else None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return None if "%" in host else str(mapped or address)


def parse_authority(text: str) -> Authority | None:
    """``host``, ``host:port``, ``[::1]:port``; None where it is something else (RFC 3986 section 3.2, no userinfo)."""
    match = _AUTHORITY.fullmatch(text)
    if not match or (match[1] and ":" not in match[1]):
        return None
    host, port = canonical_host(match[1] or match[2]), int(match[3]) if match[3] else None
    return None if host is None or (port or 0) > 65_535 else Authority(host, port)


def parse_origin(text: str) -> WebOrigin | None:
    """``scheme://host`` or ``scheme://host:port``; None for all else: ``null``, ``file://``, two of them, a path."""
    scheme, mark, rest = text.partition("://")
    authority = parse_authority(rest)
    if not (mark and authority and _SCHEME.fullmatch(scheme)):
        return None
    scheme = scheme.lower()
    return WebOrigin(scheme, authority.host, authority.port or _DEFAULT_PORTS.get(scheme))


def is_address(host: str) -> bool:
    """Whether a canonical host is an IP address, which no name server can point elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a canonical host is this machine, and nobody else reaches it."""
    return host == LOCALHOST or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_unspecified(host: str) -> bool:
    """Whether a canonical host stands for every address of the machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified
