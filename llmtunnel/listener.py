"""Who may use the proxy's listener, as its user set it, and how hosts and origins are compared. Pure.

`endpoints/guard.py` holds each request to it.
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
"""One part of an IPv4 address as C's inet_aton and browsers read it: hexadecimal, octal or decimal."""
_BASES: Final = (10, 16, 8, 10)
"""The base of each group of `_NUMBER`, which count from 1."""
_LONGEST: Final = 260
"""Characters of a host and its port: a name of 253 (RFC 1035), a dot after it, and ``:65535``."""
_REMEMBERED: Final = 128
"""Hosts whose parsing is not repeated: clients name the same few with every request. None is longer than `_LONGEST`."""
_NETLOC: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^\s:\[\]/?#@]*))(?::([0-9]{0,5}))?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_APP_HOST: Final = re.compile(r"[A-Za-z0-9._~-]*")
"""What follows an application's own scheme: an id, a word, a dot (``app://.``) or nothing (``file://``)."""
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

    def __str__(self) -> str:
        """As ``--allow-origin`` takes it."""
        if self == OPAQUE:
            return "null"
        is_usual = self.port == _DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{netloc(self.host, None if is_usual else self.port)}"


OPAQUE: Final = WebOrigin("", "", None)
"""What browsers send as ``null``: a page that was opened from a file, or any site's sandboxed frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPolicy:
    """Whom the proxy's listener answers, beside programs on this machine."""

    allow_hosts: tuple[str, ...] = ()
    """Names by which clients may call it, beside the address listened on and those of `is_loopback`."""
    allow_origins: tuple[str, ...] = ()
    """Pages that may use it, beside those of this machine: ``https://app.example``, ``tauri://localhost``, ``file://``.

    ``null`` allows pages without an origin of their own. Every web site can produce such a page."""
    api_key: str | None = field(default=None, repr=False)
    """What clients must send, as ``Authorization: Bearer`` or ``X-Api-Key``."""
    no_auth: bool = False
    """Listen where other machines reach it without a key: they all may use it."""

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
    if isinstance(value, str):  # its letters would be taken for hosts
        raise SettingError(f"{name} must be a tuple, got the text {value!r}.", hint=f"Use {name}=({value!r},).")


def _check_host(name: str) -> None:
    """Raise `SettingError` where this is no name by which clients may call the listener."""
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
    """``127.0.0.1:8000``, ``[::1]:8000``; without a port the host alone, as it stands in a URL."""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def split_netloc(text: str) -> tuple[str, int | None] | None:
    """The host, without its brackets, and the port of ``host``, ``host:port``, ``:port`` or ``[::1]:port``.

    None where it is something else. Brackets are around an IPv6 address, and an IPv6 address is in brackets. What name
    the host may have is for the caller to say.
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
    """A host as it is compared: lower case, no trailing dot, an address in its one spelling; None where it is none.

    An IPv6 address stands without brackets; one with a zone, which names an interface of another machine, is none.
    """
    host = text.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host if _NAME.fullmatch(host) else None
    return None if "%" in host else str(address)


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that some program takes a host for, whatever its spelling; None for a name.

    ``127.1``, ``2130706433``, ``0x7f.1`` and ``::ffff:127.0.0.1`` are all 127.0.0.1.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _address_of_numbers(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _address_of_numbers(host: str) -> ipaddress.IPv4Address | None:
    """One to four numbers, the last of which fills what is left (https://url.spec.whatwg.org/#concept-ipv4-parser)."""
    found = [_NUMBER.fullmatch(part) for part in host.lower().split(".")]
    if len(host) > _LONGEST or len(found) > 4 or None in found:
        return None
    *numbers, last = [int(each[each.lastindex or 0] or "0", _BASES[each.lastindex or 0]) for each in found if each]
    if any(number > 255 for number in numbers) or last >= 256 ** (4 - len(numbers)):
        return None
    return ipaddress.IPv4Address(sum(each << 8 * (3 - at) for at, each in enumerate(numbers)) + last)


@lru_cache(_REMEMBERED)
def usual_address(host: str) -> str | None:
    """By which address to call this machine instead of a canonical host; None where the host is fine as it is.

    0.0.0.0, ``::`` and IPv4 addresses inside IPv6 ones reach this machine too. Browsers know them for no loopback, and
    send no Sec-Fetch-Site there: a GET of a web page would look like a program's.
    """
    address = address_of(host)
    if address is None:
        return None
    if address.is_unspecified:
        return LOOPBACK if address.version == 4 else LOOPBACK6
    return None if str(address) == host else str(address)


def parse_authority(text: str) -> Authority | None:
    """``host``, ``host:port``, ``[::1]:port``; None where it is something else (RFC 3986 section 3.2, no userinfo)."""
    parts = split_netloc(text) if len(text) <= _LONGEST and text.isascii() else None
    host = canonical_host(parts[0]) if parts else None
    return Authority(host, parts[1]) if parts and host else None


def parse_origin(text: str) -> WebOrigin | None:
    """``scheme://host`` or ``scheme://host:port``, or `OPAQUE`; None for all else: ``*``, two of them, a path.

    An application's own scheme may stand before any word, or before none: ``app://.``, ``file://``.
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
    """Whether a canonical host is an IP address, which no name server can point elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(_REMEMBERED)
def is_loopback(host: str) -> bool:
    """Whether a canonical host is this machine, nobody else reaches it, and browsers know that.

    The names are RFC 6761's, section 6.3. Browsers take 127.0.0.0/8, ::1 and these names for potentially trustworthy
    (https://w3c.github.io/webappsec-secure-contexts/), so that they send Sec-Fetch-Site with all requests to them.
    """
    if host == LOCALHOST or host.endswith(f".{LOCALHOST}"):
        return True
    return is_address(host) and usual_address(host) is None and ipaddress.ip_address(host).is_loopback


def is_unspecified(host: str) -> bool:
    """Whether a canonical host stands for every address of the machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified
