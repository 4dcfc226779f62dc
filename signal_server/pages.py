"""The page that makes a browser a peer: which file answers a request, and with which header fields. Pure.

Hosts are of two kinds, so that the page and the web app that comes through the tunnel never share an origin:

- **The page's host** gets every file but those in ``app/``: the connection, the keys and the chat. Both get `SHARED`.
- **The app's hosts** get the files of ``app/`` only, below `RESERVED`. Everything else there comes through the tunnel,
  where a service worker asks for it. What the browser sends to this server instead is refused.

A path may have any prefix, since an HTTP server in front may serve this one below a path of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from .page_files import INDEX, File, Files

APP: Final = "app/"
"""Folder of the files for the app's hosts."""
SHARED: Final = ("app/cookies.js",)
"""Files of that folder that the page needs too."""
RESERVED: Final = "/~llmtunnel/"
"""Prefix of the paths on the app's hosts that do not come through the tunnel."""
CLEAR: Final = f"{RESERVED}clear"
"""Makes the browser clear everything that the app has stored."""
WORKER: Final = f"{RESERVED}worker.js"
SITE: Final = "site.json"
"""What the page has to know about this server. It is no file."""
SAME: Final = "same"
"""In `SITE`: the signal server is where the page is."""
METHODS: Final = ("GET", "HEAD")
DEEPEST: Final = 8
"""Maximum number of parts of a file's path."""
TRUSTED_TYPES: Final = "dompurify"
"""Name of the policy that may make markup of text: that of the vendored DOMPurify."""

_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*", re.ASCII)
_ALWAYS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_REFUSED: Final = (
    "This address belongs to a web app that comes through a tunnel.\n"
    "The browser has sent this request past the tunnel, and it was refused.\n"
    "Open the link of the tunnel again.\n"
)


@dataclass(frozen=True, slots=True)
class Host:
    """A host as the address bar shows it: a name or an address, and a port unless it is the default one."""

    name: str
    """In lower case. As a pattern, it may begin with ``*.``, which stands for one label or more."""
    port: str = ""

    @classmethod
    def of(cls, text: str) -> Host:
        """Read a Host field. An invalid one becomes a name that no host has."""
        name, colon, port = text.strip().lower().rpartition(":")
        if not (colon and port.isdecimal()):
            name, port = text.strip().lower(), ""
        return cls(name.removesuffix("."), port)

    @classmethod
    def given(cls, text: str, *, pattern: bool = False) -> Host:
        """Read what an operator has written. ``pattern``: it may begin with ``*.``. Raises `ValueError`."""
        host = cls.of(text)
        valid = _NAME.fullmatch(host.name) if _address(host.name) is None else True
        if not valid or ("*" in host.name and not pattern) or not 0 < int(host.port or "1") < 65536:
            example = "*.app.example.org" if pattern else "tunnel.example.org or localhost:8001"
            raise ValueError(f"{text!r} is not a host: use for example {example}")
        return host

    @property
    def local(self) -> bool:
        """Whether it is the browser's own machine, which a browser trusts without TLS."""
        address = _address(self.name)
        return self.name == "localhost" or self.name.endswith(".localhost") or bool(address and address.is_loopback)

    def matches(self, other: Host) -> bool:
        """Whether this name or pattern is the other one's name. Ports do not matter."""
        return other.name.endswith(self.name[1:]) if self.name.startswith("*") else other.name == self.name

    def __str__(self) -> str:
        return f"{self.name}:{self.port}" if self.port else self.name


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request, as far as it decides the answer."""

    method: str = "GET"
    path: str
    """As it was sent, percent-encoded and without the query."""
    host: str = ""
    """Field Host."""
    scheme: str = ""
    """``http`` or ``https``, if a trusted proxy reports it."""
    known: str = ""
    """Field If-None-Match."""
    encodings: str = ""
    """Field Accept-Encoding."""
    site: str = ""
    """Field Sec-Fetch-Site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response."""

    status: int
    fields: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    """Bytes to send: none for HEAD and 304."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The page as a server answers it. Raises `ValueError` if the hosts contradict each other."""

    files: Files = field(repr=False)
    signal: str | None = SAME
    """The signal server for codes that name none: `SAME`, a URL, or None for the page's default."""
    version: str = ""
    host: Host | None = None
    """The page's only host. None: every host that is not one of the app's."""
    app: Host | None = None
    """The app's host, or the pattern of its hosts. None: ``*.localhost`` if the page is at `_FRAMING`, since a browser
    resolves such names to its own machine; otherwise there is no app."""

    def __post_init__(self) -> None:
        if self.app is not None and self.host is None:
            raise ValueError("the app's host also needs the page's host")
        if self.app is not None and self.host is not None and self.app.matches(self.host):
            raise ValueError(f"{self.host} would be the app's and the page's host: use another name for one of them")

    def is_app(self, host: str) -> bool:
        """Whether a Host field names one of the app's hosts."""
        return (self.app or _LOCAL).matches(Host.of(host))

    def answer(self, ask: Ask) -> Answer:
        """Return the response to a request. Its body does not matter, and may be unread."""
        if self.is_app(ask.host):
            return self._answer_app(ask)
        name = self._name(ask.path)
        if name is None:
            return _text(ask, 404, "There is no such file.\n")
        if ask.method not in METHODS:
            return _text(ask, 405, "Use GET.\n", Allow=", ".join(METHODS))
        host = Host.of(ask.host)
        if self.host is not None and not self.host.matches(host):
            if name != INDEX:
                return _text(ask, 404, "There is no such file.\n")
            location = f"{_scheme(ask, self.host)}://{self.host}{_folder(ask.path)}"
            return _text(ask, 302, f"The page is at {location}\n", Location=location)
        app = self._app_of(host)
        origin = None if app is None else f"{_scheme(ask, app if self.app else host)}://{app}"
        file = self._site(origin) if name == SITE else self.files[name]
        more = {
            "Content-Security-Policy": shell_policy(app, local=host.local),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        return _file(ask, file, more)

    def _name(self, path: str) -> str | None:
        """Return the file of a path below any prefix; None if there is none."""
        if path.endswith("/"):
            return INDEX
        parts = path.rsplit("/", DEEPEST)  # no more, since a path may have thousands
        names = ("/".join(parts[at:]) for at in range(1, len(parts)))
        return next((name for name in names if name == SITE or (name in self.files and _is_page(name))), None)

    def _app_of(self, host: Host) -> Host | None:
        """Return the app's hosts for a page at this host."""
        if self.app is not None:
            return self.app
        return Host(_LOCAL.name, host.port) if host.name in _FRAMING else None

    def _site(self, app: str | None) -> File:
        return File.of(".json", site(signal=self.signal, app=app, version=self.version))

    def _answer_app(self, ask: Ask) -> Answer:
        name = APP + ask.path.removeprefix(RESERVED)
        if not ask.path.startswith(RESERVED) or (ask.path != CLEAR and name not in self.files):
            return _text(ask, 404, _REFUSED)
        if ask.method not in METHODS:
            return _text(ask, 405, _REFUSED, Allow=", ".join(METHODS))
        if ask.path == CLEAR:
            # Another site must not be able to clear it. Each browser that has this field sends it.
            if ask.site not in ("", "same-origin", "none"):
                return _text(ask, 403, "Only the page may clear the app's storage.\n")
            clear = {"Clear-Site-Data": '"cache", "cookies", "storage"', "Cache-Control": "no-store"}
            return Answer(status=204, fields=_ALWAYS | clear)
        file = self.files[name]
        more = {"Content-Security-Policy": self._app_policy(file, Host.of(ask.host))}
        if ask.path == WORKER:
            more["Service-Worker-Allowed"] = "/"
        return _file(ask, file, more)

    def _app_policy(self, file: File, host: Host) -> str:
        if not file.type.startswith("text/html"):
            return "default-src 'none'; script-src 'self'; connect-src 'self'"
        # Without a scheme, a source has the scheme of the document that it is for.
        local = (str(Host(name, host.port)) for name in _FRAMING)
        page = str(self.host) if self.host is not None else " ".join(local)
        return (
            "default-src 'none'; script-src 'self'; frame-src 'self'; connect-src 'self'; worker-src 'self';"
            f" base-uri 'none'; form-action 'none'; frame-ancestors {page}"
        )


_LOCAL: Final = Host("*.localhost")
_FRAMING: Final = ("localhost", "127.0.0.1")
"""Hosts of a page that shows apps at `_LOCAL`. A Content-Security-Policy cannot name an IPv6 address."""


def site(*, signal: str | None, app: str | None, version: str) -> bytes:
    """Return the content of `SITE`."""
    return json.dumps({"signal": signal, "app": app, "version": version}).encode() + b"\n"


def shell_policy(app: Host | None, *, local: bool, meta: bool = False) -> str:
    """Return the page's Content-Security-Policy.

    ``app``: the hosts that it may show in a frame. ``local``: the page is on the browser's own machine, where a page
    without TLS may use a signal server without TLS. ``meta``: for an element in the page, which cannot say who may show
    the page in a frame.
    """
    return "; ".join(_directives(app, local, meta))


def _directives(app: Host | None, local: bool, meta: bool) -> Iterator[str]:
    yield "default-src 'none'"
    yield "script-src 'self'"
    yield "style-src 'self'"
    yield "img-src 'self' data: blob:"
    yield "font-src 'self'"
    # A code may name any signal server.
    yield f"connect-src 'self' wss: {'ws:' if local else 'ws://localhost:* ws://127.0.0.1:*'}"
    yield "frame-src " + ("'none'" if app is None else str(app))
    yield "base-uri 'none'"
    yield "form-action 'none'"
    if not meta:
        yield "frame-ancestors 'none'"
    yield "require-trusted-types-for 'script'"
    yield f"trusted-types {TRUSTED_TYPES}"


def exported(files: Files, *, version: str) -> dict[str, bytes]:
    """Return the files of the chat for a host that serves files only: by their path, with a policy in the page."""
    found = {name: file.data for name, file in files.items() if _is_page(name)}
    policy = shell_policy(None, local=False, meta=True)
    tag = f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
    assert b"<head>" in found[INDEX], "as the page's file has it"
    found[INDEX] = re.sub(rb"<head>", tag.encode(), found[INDEX], count=1)
    return found | {SITE: site(signal=None, app=None, version=version)}


def _is_page(name: str) -> bool:
    """Whether a file belongs to the page, rather than to the app's hosts only."""
    return not name.startswith(APP) or name in SHARED


def _scheme(ask: Ask, host: Host) -> str:
    """Return the scheme of a host: as the proxy in front says, else what a browser requires of the page."""
    return ask.scheme or ("http" if host.local else "https")


def _folder(path: str) -> str:
    return f"/{path.removesuffix(INDEX).strip('/')}/".replace("//", "/")


def _file(ask: Ask, file: File, more: dict[str, str]) -> Answer:
    fields = _ALWAYS | {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"} | more
    if file.tag in (each.strip() for each in ask.known.split(",")):
        return Answer(status=304, fields=fields)
    data = file.data
    if file.packed is not None and _takes_gzip(ask.encodings):
        data, fields = file.packed, fields | {"Content-Encoding": "gzip"}
    fields = fields | {"Content-Type": file.type, "Content-Length": str(len(data))}
    return Answer(status=200, fields=fields, body=b"" if ask.method == "HEAD" else data)


def _takes_gzip(encodings: str) -> bool:
    for each in encodings.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _text(ask: Ask, status: int, text: str, **more: str) -> Answer:
    data = text.encode()
    fields = _ALWAYS | {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(data)),
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'",
    }
    return Answer(status=status, fields=fields | more, body=b"" if ask.method == "HEAD" else data)
