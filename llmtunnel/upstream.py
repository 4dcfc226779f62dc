"""The HTTP service behind serve: its address, the fields that serve adds, and the targets of requests. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, urlsplit

from .errors import ProtocolError, SettingError
from .listener import netloc

NAMED: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ollama": 11434,
        "vllm": 8000,
        "llamacpp": 8080,
        "lmstudio": 1234,
        "sglang": 30000,
        # TGI's launcher listens on 3000, but its documentation runs the container with `-p 8080:80`.
        "tgi": 8080,
    }
)
"""Known model servers, with the default port of each."""

LOCALHOST: Final = "localhost"
"""Host for a port or a known name. It is a host name, so that a server that only listens on ::1 is reached too."""

_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")
_SHOWN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z.]{1,19}")
"""A word that an error may repeat: a code never consists of letters only."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_TARGET: Final = re.compile(rb"/[^\x00-\x20\x7f]*|\*")
_OURS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that belong to the connection or to the framing of a body, so users may not set them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One HTTP origin. Every request goes to it, whatever the request says."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """A name or an address; an IPv6 address has no brackets."""
    port: int
    base_path: bytes = b""
    """Prefix for every path: empty, or it starts with ``/`` and does not end with one."""
    ca_file: str | None = None
    """https: PEM file with the authorities to trust instead of the system's."""
    insecure: bool = False
    """https: accept any certificate."""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    """Header fields to set in each request; they replace its own fields of the same name."""

    def __post_init__(self) -> None:
        _check_scheme(self.scheme)
        if not 0 < self.port < 65536:
            raise SettingError(
                f"The upstream's port is {self.port}, which does not exist.", hint="Use a port from 1 to 65535."
            )
        self._check_tls()

    def _check_tls(self) -> None:
        if self.ca_file and self.insecure:
            raise SettingError(
                "--upstream-ca and --upstream-insecure contradict each other.", hint="Use only one of them."
            )
        if self.scheme == "http" and (self.ca_file or self.insecure):
            raise SettingError(
                f"--upstream-ca and --upstream-insecure need an https upstream, and this one is {self.origin}.",
                hint=f"Use https://{self._netloc}, or remove these flags.",
            )

    def __repr__(self) -> str:
        names = ", ".join(f"{name.decode('ascii')}: ***" for name, _ in self.fields)
        return f"<Upstream {self}{' ' if names else ''}{names}>"

    def __str__(self) -> str:
        return self.origin + self.base_path.decode("ascii")

    @classmethod
    def parse(
        cls, text: str, *, ca_file: str | None = None, insecure: bool = False, headers: Iterable[str] = ()
    ) -> Upstream:
        """Read a URL, host:port, a port, or a name of `NAMED`. Raises `SettingError`.

        Parameters:
            text: The address.
            ca_file: For https, a PEM file with the authorities to trust instead of the system's.
            insecure: For https, whether to accept any certificate.
            headers: Header fields to set in each request, each as ``Name: value``.
        """
        scheme, host, port, base_path = _parse_address(text.strip())
        return cls(
            scheme=scheme,
            host=host,
            port=port,
            base_path=base_path,
            ca_file=ca_file,
            insecure=insecure,
            fields=tuple(parse_header(line) for line in headers),
        )

    @property
    def authority(self) -> bytes:
        """Value of the Host field, without the scheme's default port (RFC 9110 section 7.2)."""
        return self._netloc.encode("ascii")

    @property
    def origin(self) -> str:
        """Scheme, host and port, for people."""
        return f"{self.scheme}://{self._netloc}"

    @property
    def _netloc(self) -> str:
        # A zone names an interface of this machine, and means nothing to the other side (RFC 6874).
        return netloc(self.host.partition("%")[0], None if self.port == _DEFAULT_PORT[self.scheme] else self.port)

    def request_target(self, target: bytes) -> bytes:
        """Return the target for this upstream: the base path and ``target``, byte for byte and unresolved.

        Raises `ProtocolError` unless it is ``*`` or starts with ``/``, so that it cannot name another origin.

        Parameters:
            target: Target of a request line: a path with its query.
        """
        if not _TARGET.fullmatch(target):
            raise ProtocolError(f"The request target is not a path: {target[:80]!r}.")
        return target if target == b"*" else self.base_path + target


def parse_header(line: str) -> tuple[bytes, bytes]:
    """Read ``Name: value``. Raises `SettingError`, whose text never contains the value."""
    name, colon, value = line.partition(":")
    value = value.strip(" \t")
    if not colon or not _TOKEN.fullmatch(name):
        raise SettingError(
            "--upstream-header: the text does not start with a valid header name and a colon.",
            hint="Use for example 'Authorization: Bearer …'.",
        )
    if name.lower() in _OURS:
        raise SettingError(f"--upstream-header: the tunnel sets {name!r} itself.", hint="Remove this header.")
    if re.search(r"[\r\n\0]", value):
        raise SettingError(
            f"--upstream-header: the value of {name!r} contains a line break or a NUL.", hint="Remove that character."
        )
    return name.encode("ascii"), value.encode("utf-8", "surrogateescape")


def _parse_address(text: str) -> tuple[str, str, int, bytes]:
    """Return scheme, host, port and base path of an address that a person wrote."""
    if text.lower() in NAMED:
        return "http", LOCALHOST, NAMED[text.lower()], b""
    if text.isascii() and text.isdigit():
        return "http", LOCALHOST, int(text[:6]), b""
    if "://" not in text and ":" not in text:
        raise _unknown_server(text)
    return _parse_url(text if "://" in text else f"http://{text}")


def _unknown_server(text: str) -> SettingError:
    """Return the error for an unknown server name. The word may be a code, which errors do not repeat."""
    known = f"Use a URL such as http://127.0.0.1:11434, a port, or one of {', '.join(NAMED)}."
    if not _SHOWN_NAME.fullmatch(text):
        return SettingError("The upstream's address is not valid.", hint=f"{known} For a code, use --invite.")
    near = get_close_matches(text.lower(), NAMED, n=1)
    return SettingError(f"Unknown server {text!r}.", hint=f"Did you mean {near[0]!r}?" if near else known)


def _parse_url(url: str) -> tuple[str, str, int, bytes]:
    if _UNPRINTABLE.search(url):
        raise SettingError("The upstream's address contains a space or a control character.", hint="Remove it.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _checked_host(parts.hostname or "")
    except ValueError as exc:
        raise SettingError(
            "The upstream's address is not a valid URL.", hint="Use for example http://127.0.0.1:11434."
        ) from exc
    _check_scheme(parts.scheme)
    _refuse_extras(url, bare=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    base_path = quote(parts.path.rstrip("/"), safe=_PRINTABLE).encode("ascii")
    return parts.scheme, host, _DEFAULT_PORT[parts.scheme] if port is None else port, base_path


def _check_scheme(scheme: str) -> None:
    if scheme not in _DEFAULT_PORT:
        raise SettingError(
            f"The upstream's address must start with http:// or https://, got {scheme!r}.",
            hint="Use for example http://127.0.0.1:11434.",
        )


def _checked_host(host: str) -> str:
    """Return the host in ASCII. Raises `ValueError` if it is neither a name nor an address."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host))
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    if not _HOST_NAME.fullmatch(name):
        raise ValueError(host)
    return name


def _refuse_extras(url: str, *, bare: str) -> None:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise SettingError(
            "The upstream's address contains a user name or a password, which programs and logs would show.",
            hint=f"Use {bare}, and --upstream-header 'Authorization: Basic …'.",
        )
    if "?" in url or "#" in url:
        raise SettingError(
            "The upstream's address contains a query or a fragment, which cannot come before a path.",
            hint=f"Use {bare}, with the base path if the server has one.",
        )
