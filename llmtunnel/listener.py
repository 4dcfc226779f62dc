"""The user's rules for who may use the proxy's listener, and the comparison of hosts and origins. Pure.

`endpoints/guard.py` applies them to each request.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from .errors import SettingError

LOCALHOST: Final = "localhost"
LOOPBACK: Final = "127.0.0.1"
LOOPBACK6: Final = "::1"

_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NUMBER: Final = re.compile(r"0x([0-9a-f]*)|0([0-7]*)|([1-9][0-9]*)")
"""One part of an IPv4 address in hexadecimal, octal or decimal, as C's inet_aton and browsers read it."""
_BASES: Final = (10, 16, 8, 10)
"""The base for each group of `_NUMBER`; groups count from 1."""
_LONGEST: Final = 260
"""Maximum length of a host and its port, in characters: a name of 253 (RFC 1035), a trailing dot, and ``:65535``."""
_REMEMBERED: Final = 128
"""Size of the cache of parsed hosts: clients send the same few with every request. No entry exceeds `_LONGEST`."""
_NETLOC: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^\s:\[\]/?#@]*))(?::([0-9]{0,5}))?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_APP_HOST: Final = re.compile(r"[A-Za-z0-9._~-]*")
"""What may follow an application's own scheme: an id, a word, a dot (``app://.``) or nothing (``file://``)."""
_KEY: Final = re.compile(r"[!-~]{1,4096}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """A host in the form of `canonical_host`, and its port if one is named."""

    host: str
    port: int | None


class WebOrigin(NamedTuple):
    """The origin of a web page (RFC 6454). Two origins are the same if all three fields are equal."""

    scheme: str
    host: str
    port: int | None
    """Port; the scheme's default port if none is named."""

    def __str__(self) -> str:
        """Return the origin as ``--allow-origin`` accepts it."""
        if self == OPAQUE:
            return "null"
        is_usual = self.port == _DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{netloc(self.host, None if is_usual else self.port)}"


OPAQUE: Final = WebOrigin("", "", None)
"""The origin that browsers send as ``null``: a page opened from a file, or a sandboxed frame of any site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPolicy:
    """Who may use the proxy's listener, besides programs on this machine."""

    allow_hosts: tuple[str, ...] = ()
    """Further host names that clients may use, besides the listen address and those of `is_loopback`."""
    allow_origins: tuple[str, ...] = ()
    """Origins of pages that may use it, besides those of this machine: ``https://app.example``, ``tauri://localhost``,
    ``file://``.

    ``null`` allows pages without an origin of their own. Every web site can produce such a page."""
    api_key: str | None = field(default=None, repr=False)
    """Key that clients must send, as ``Authorization: Bearer`` or ``X-Api-Key``."""
    no_auth: bool = False
    """Listen without a key on an address that other machines can reach: all of them may use it."""

    def __post_init__(self) -> None:
        _check_tuple("allow_hosts", self.allow_hosts)
        _check_tuple("allow_origins", self.allow_origins)
        for host in self.allow_hosts:
            _check_host(host)
        for origin in self.allow_origins:
            if parse_origin(origin) is None:
                raise SettingError(
                    f"--allow-origin: not an origin: {origin!r}.",
                    hint="Use scheme, host and port only: --allow-origin https://app.example. For a desktop app or a"
                    " file, use app://name, file:// or null.",
                )
        if self.api_key is not None:
            self._check_key(self.api_key)

    @property
    def any_site(self) -> bool:
        """Whether ``null`` is allowed, which a page of any web site can send."""
        return OPAQUE in map(parse_origin, self.allow_origins)

    def _check_key(self, key: str) -> None:
        if not _KEY.fullmatch(key):
            raise SettingError(
                "--api-key: the key is empty, too long, or contains a space or a character that is not ASCII.",
                hint='Create one: python -c "import secrets; print(secrets.token_urlsafe())".',
            )
        if self.no_auth:
            raise SettingError("--api-key and --no-auth contradict each other.", hint="Use only one of them.")


def _check_tuple(name: str, value: object) -> None:
    if isinstance(value, str):  # iterating over it would treat its letters as hosts
        raise SettingError(f"{name} must be a tuple, got the text {value!r}.", hint=f"Use {name}=({value!r},).")


def _check_host(name: str) -> None:
    """Raise `SettingError` if clients may not use this host name for the listener."""
    host = canonical_host(name)
    if host is None:
        raise SettingError(
            f"--allow-host: not a host name: {name!r}.", hint="Use for example --allow-host host.docker.internal."
        )
    if usual := usual_address(host):
        raise SettingError(
            f"--allow-host: {name!r} is not safe: browsers do not mark requests of web pages to this address.",
            hint=f"Call the proxy at {usual} instead.",
        )


def netloc(host: str, port: int | None = None) -> str:
    """Return ``127.0.0.1:8000`` or ``[::1]:8000``; without a port, the host as it appears in a URL."""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def split_netloc(text: str) -> tuple[str, int | None] | None:
    """Split ``host``, ``host:port``, ``:port`` or ``[::1]:port`` into the host (without brackets) and the port.

    Returns None for anything else. An IPv6 address must have brackets, and nothing else may have them. The caller
    decides which host names are valid.
    """
    match = _NETLOC.fullmatch(text)
    if not match or (match[1] and not is_ipv6(match[1])):
        return None
    port = int(match[3]) if match[3] else None
    return None if (port or 0) > 65_535 else (match[1] or match[2], port)


def is_ipv6(text: str) -> bool:
    """Whether this is an IPv6 address, without brackets."""
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


@lru_cache(_REMEMBERED)
def canonical_host(text: str) -> str | None:
    """Return a host as it is compared: lower case, no trailing dot, one spelling per address; None if it is invalid.

    An IPv6 address has no brackets. One with a zone is invalid, since the zone names an interface of another machine.
    """
    host = text.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host if _NAME.fullmatch(host) else None
    return None if "%" in host else str(address)


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that some program reads from a host, whatever its spelling; None for a name.

    ``127.1``, ``2130706433``, ``0x7f.1`` and ``::ffff:127.0.0.1`` are all 127.0.0.1.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _address_of_numbers(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _address_of_numbers(host: str) -> ipaddress.IPv4Address | None:
    """Read one to four numbers, of which the last fills the rest: https://url.spec.whatwg.org/#concept-ipv4-parser."""
    found = [_NUMBER.fullmatch(part) for part in host.lower().split(".")]
    if len(host) > _LONGEST or len(found) > 4 or None in found:
        return None
    *numbers, last = [int(each[each.lastindex or 0] or "0", _BASES[each.lastindex or 0]) for each in found if each]
    if any(number > 255 for number in numbers) or last >= 256 ** (4 - len(numbers)):
        return None
    return ipaddress.IPv4Address(sum(each << 8 * (3 - at) for at, each in enumerate(numbers)) + last)


@lru_cache(_REMEMBERED)
def usual_address(host: str) -> str | None:
    """Return the address to use for this machine instead of a canonical host; None if the host is fine.

    0.0.0.0, ``::`` and IPv4 addresses inside IPv6 ones reach this machine too. Browsers do not recognise them as
    loopback, and send no Sec-Fetch-Site: a GET of a web page would look like one of a program.
    """
    address = address_of(host)
    if address is None:
        return None
    if address.is_unspecified:
        return LOOPBACK if address.version == 4 else LOOPBACK6
    return None if str(address) == host else str(address)


def parse_authority(text: str) -> Authority | None:
    """Read ``host``, ``host:port`` or ``[::1]:port``; None for anything else (RFC 3986 section 3.2, no userinfo)."""
    parts = split_netloc(text) if len(text) <= _LONGEST and text.isascii() else None
    host = canonical_host(parts[0]) if parts else None
    return Authority(host, parts[1]) if parts and host else None


def parse_origin(text: str) -> WebOrigin | None:
    """Read ``scheme://host``, ``scheme://host:port`` or ``null``; None for anything else: ``*``, a list, a path.

    After an application's own scheme, any word or none may follow: ``app://.``, ``file://``.
    """
    if text == "null":
        return OPAQUE
    scheme, mark, rest = text.partition("://")
    if not (mark and _SCHEME.fullmatch(scheme)):
        return None
    scheme = scheme.lower()
    if authority := parse_authority(rest):
        return WebOrigin(scheme, authority.host, authority.port or _DEFAULT_PORTS.get(scheme))
    if scheme in _DEFAULT_PORTS or len(rest) > _LONGEST or not _APP_HOST.fullmatch(rest):
        return None
    return WebOrigin(scheme, rest.lower(), None)


def is_address(host: str) -> bool:
    """Whether a canonical host is an IP address, which no name server can redirect."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(_REMEMBERED)
def is_loopback(host: str) -> bool:
    """Whether a canonical host is only reachable from this machine, and browsers know that.

    The names are those of RFC 6761 section 6.3. Browsers consider 127.0.0.0/8, ::1 and these names potentially
    trustworthy (https://w3c.github.io/webappsec-secure-contexts/), so they send Sec-Fetch-Site to them.
    """
    if host == LOCALHOST or host.endswith(f".{LOCALHOST}"):
        return True
    return is_address(host) and usual_address(host) is None and ipaddress.ip_address(host).is_loopback


def is_unspecified(host: str) -> bool:
    """Whether a canonical host stands for every address of the machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified
