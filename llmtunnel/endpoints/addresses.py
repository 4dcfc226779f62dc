"""Translate addresses in header fields between the client and the upstream. Pure.

    client                                                    upstream
    Host: 127.0.0.1:8000                                 ->   Host: localhost:7860
    Origin: http://127.0.0.1:8000                        ->   Origin: http://localhost:7860
    Location: http://127.0.0.1:8000/a                    <-   Location: http://localhost:7860/a

Servers compare Origin and Referer with Host to distinguish their own pages from foreign ones. `forwarding` replaces
Host, so fields that name the same address change with it. Any other address stays unchanged, so its page is foreign to
the upstream too.

The client has two addresses:

- Its *own* origin is exactly the scheme and Host of this request. The scheme is http, or that which a TLS terminator in
  front of the proxy states in X-Forwarded-Proto. The proxy appends Host to X-Forwarded-Host. An earlier member of that
  list never counts as own, since a page of another origin may be able to set it.
- Responses lead to the first member of X-Forwarded-Host, which is the host that the outermost proxy was called by.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Final

from ..listener import LOCALHOST, canonical_host, is_loopback, is_unspecified
from ..protocol.heads import Fields, RequestHead, get_all
from ..upstream import Upstream

_URL: Final = re.compile(rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#]*)(.*)", re.DOTALL)
_HOST: Final = re.compile(rb"[^\s/?#@\\]+")
_PORT: Final = re.compile(rb":[0-9]*$")
_IN_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|<([^<>]*)>', re.DOTALL)
"""A URL in angle brackets, as in Link and If. A quoted string is matched too, so that it can be left unchanged."""
_REFRESH: Final = re.compile(rb"([^;,]*[;,]\s*(?:url\s*=\s*)?[\"']?)(.*?)([\"']?)", re.DOTALL | re.IGNORECASE)
"""The text before the URL, the URL, and its closing quote (HTML, 4.2.5.3)."""

_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
_SCHEMES: Final = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}
"""Values of X-Forwarded-Proto. Traefik sends ws and wss for WebSockets, whose pages use http and https."""
_HERE: Final = (LOCALHOST.encode(), b"127.0.0.1", b"[::1]", b"0.0.0.0", b"[::]")
"""Names that a server on serve's own machine may use for itself, whichever of them serve was given."""

_FOREIGN: Final = b"http://foreign.invalid"
"""Replaces a foreign address that is spelled like the upstream's. RFC 2606 reserves the name. ``null`` cannot be used,
since ComfyUI treats it like a missing origin."""

_ORIGINS: Final = frozenset((b"origin", b"sec-websocket-origin"))
"""Request fields with an origin. Tornado reads the second one, of the WebSocket drafts, if the first is missing."""
_SENT: Final = _ORIGINS | {b"referer", b"destination", b"if"}
"""Request fields that change. Destination and If are WebDAV's (RFC 4918 sections 10.3 and 10.4)."""
_ECHOED: Final = frozenset((b"access-control-allow-origin", b"timing-allow-origin", b"sec-websocket-origin"))
"""Response fields that repeat the request's Origin."""
_URLS: Final = frozenset((b"content-location", b"sourcemap", b"x-sourcemap", b"service-worker-allowed"))
"""Response fields that contain a URL or a path, besides Location, which `_redirect` handles."""
_ANSWERED: Final = _ECHOED | _URLS | {b"location", b"refresh", b"link", b"set-cookie", b"alt-svc"}
"""Response fields that change."""


class Addresses:
    """The addresses of one request. `to_upstream` translates its fields, and `to_client` those of its response."""

    def __init__(self, upstream: Upstream, advertise: bytes, request: RequestHead) -> None:
        """``request`` is the head as the proxy sent it. ``advertise``: see `Forwarding`."""
        self._upstream = upstream
        self._advertise = advertise
        self._request = request

    @cached_property
    def _told(self) -> bytes | None:
        """``http`` or ``https`` according to X-Forwarded-Proto; the outermost proxy's value comes first."""
        told = _members(self._request.fields, b"x-forwarded-proto")
        return _SCHEMES.get(told[0].lower()) if told else None

    @cached_property
    def _hosts(self) -> list[bytes]:
        """The hosts that the proxies were called by, outermost first. An original proxy sends Host, ours never does."""
        return [host for name in (b"x-forwarded-host", b"host") for host in _members(self._request.fields, name)]

    @cached_property
    def _own(self) -> tuple[bytes, bytes] | None:
        """The client's own origin in canonical form; None if the client sent no Host."""
        return _canonical(self._told or b"http", self._hosts[-1]) if self._hosts else None

    @property
    def _client(self) -> bytes:
        """Host and port for addresses in responses; empty if unknown."""
        return self._hosts[0] if self._hosts and _HOST.fullmatch(self._hosts[0]) else b""

    @cached_property
    def _schemes(self) -> set[bytes]:
        """The schemes that the upstream may use for itself.

        A server that trusts X-Forwarded-Proto uses that, as uvicorn and gunicorn do for requests from loopback. Other
        servers usually compare only hosts.
        """
        ours = self._upstream.scheme.encode()
        return {ours, self._told or ours}

    @property
    def _upstream_origin(self) -> bytes:
        return (b"https" if b"https" in self._schemes else b"http") + b"://" + self._upstream.authority

    # -- to the upstream

    def to_upstream(self, fields: Fields) -> Fields:
        """Return the request's fields for the upstream. A repeated field stays unchanged."""
        names = [name.lower() for name, _ in fields]
        if _SENT.isdisjoint(names) or self._own is None:
            return fields
        return tuple(
            (name, self._sent(lower, value) if lower in _SENT and names.count(lower) == 1 else value)
            for lower, (name, value) in zip(names, fields, strict=True)
        )

    def _sent(self, name: bytes, value: bytes) -> bytes:
        if name == b"if":
            return _in_brackets(value, self._destination)
        if name == b"destination":
            return self._destination(value)
        url = _URL.fullmatch(value)
        if not (url and url[1]):
            return value
        if name == b"referer":
            if self._is_own(url):
                return self._upstream_origin + self._path_there(url[3])
            return _FOREIGN + b"/" if self._would_pass(url) else value
        if self._is_own(url) and not url[3]:
            return self._upstream_origin
        return _FOREIGN if self._would_pass(url) else value

    def _would_pass(self, url: re.Match[bytes]) -> bool:
        """Whether the upstream would accept a foreign address as its own, since Host is the upstream's.

        A page at localhost:8888 on the client's machine does not belong to the upstream at localhost:8888 on serve's
        machine. If both are a JupyterLab, a page of one must not use the other.
        """
        return _is_local(self._upstream) and _canonical(url[1], url[2])[1] == self._upstream.authority.lower()

    def _destination(self, value: bytes) -> bytes:
        url = _URL.fullmatch(value)
        if url:
            return self._upstream_origin + self._path_there(url[3]) if url[1] and self._is_own(url) else value
        return self._path_there(value) if value.startswith(b"/") else value

    def _is_own(self, url: re.Match[bytes]) -> bool:
        return _canonical(url[1], url[2]) == self._own

    def _path_there(self, path: bytes) -> bytes:
        """Return the path as `Forwarding` makes the target: without the prefix, after the base path."""
        return self._upstream.base_path + without_prefix(path, self._advertise)

    # -- to the client

    def to_client(self, status: int, fields: Fields) -> Fields:
        """Return the response's fields for the client."""
        if _ANSWERED.isdisjoint(name.lower() for name, _ in fields):
            return fields
        changed = ((name, self._answered(name.lower(), value, status)) for name, value in fields)
        return tuple((name, value) for name, value in changed if value is not None)

    def _answered(self, name: bytes, value: bytes, status: int) -> bytes | None:
        """Return the value for the client; None to drop the field."""
        if name == b"location":
            return self._redirect(value, again=status in (307, 308) or self._is_safe)
        if name in _URLS:
            return self._url_here(value)
        if name == b"set-cookie":
            return self._cookie(value)
        if name in _ECHOED:
            return self._echo(value)
        if name == b"link":
            return _in_brackets(value, self._url_here)
        if name == b"refresh" and (parts := _REFRESH.fullmatch(value)):
            return parts[1] + self._redirect(parts[2], again=self._is_safe) + parts[3]
        # It names another port or protocol of the upstream's host, which means something else at the client's.
        return None if name == b"alt-svc" else value

    @property
    def _is_safe(self) -> bool:
        """Whether a client that follows a redirect keeps the method, whatever the status."""
        return self._request.method in (b"GET", b"HEAD")

    def _redirect(self, value: bytes, *, again: bool) -> bytes:
        """Translate a redirect. ``again``: the client follows it with the method of its request.

        An upstream that redirects to itself under another name or scheme may insist on that name. The translation would
        be the URL just requested, in an endless loop, so such a redirect stays unchanged.
        """
        here = self._url_here(value)
        url = _URL.fullmatch(value)
        if url and again and not self._is_called_so(url):
            path = (_URL.fullmatch(here) or [b"", b"", b"", here])[3].partition(b"#")[0]
            if _as_path(path) == self._request.target:
                return value
        return here

    def _url_here(self, value: bytes) -> bytes:
        """Return a URL or path of the upstream as the client reaches it; any other stays unchanged."""
        url = _URL.fullmatch(value)
        if not (self._is_upstream(url) if url else value.startswith(b"/")):
            return value
        inside = _below(url[3] if url else value, self._upstream.base_path)
        if inside is None:  # the tunnel does not reach that path
            return value
        path = self._path_here(inside)
        if url and self._client:
            return (self._told or b"http") + b"://" + self._client + path
        if path == value:
            return value
        # Browsers treat the text after two slashes, of either kind, as a host.
        return b"/." + path if re.match(rb"/[/\\]", path) else _as_path(path)

    def _path_here(self, inside: bytes) -> bytes:
        """Return a path below the base path for the client: with the prefix if its request had it."""
        prefix = self._advertise
        # A path that itself starts with the prefix would lose it on the way back.
        if prefix and any(_below(path, prefix) is not None for path in (self._request.target, inside)):
            return prefix + inside
        return inside

    def _is_called_so(self, url: re.Match[bytes]) -> bool:
        """Whether the URL has the upstream's scheme, host and port as they were given to serve."""
        scheme = url[1] or self._upstream.scheme.encode()
        return _canonical(scheme, url[2]) == (self._upstream.scheme.encode(), self._upstream.authority.lower())

    def _is_upstream(self, url: re.Match[bytes]) -> bool:
        scheme, authority = _canonical(url[1] or self._upstream.scheme.encode(), url[2])
        return scheme in self._schemes and authority in _authorities(self._upstream)

    def _echo(self, value: bytes) -> bytes:
        """Return an origin that the upstream repeats, as the client sent it."""
        for name in _ORIGINS:
            asked = get_all(self._request.fields, name)
            if len(asked) == 1 and self._own and value == self._sent(name, asked[0]):
                return asked[0]
        return value

    def _cookie(self, value: bytes) -> bytes:
        """Return a cookie that the client keeps, and sends back for the same paths."""
        parts = value.split(b";")
        kept = parts[:1]
        for part in parts[1:]:
            name, equals, text = part.partition(b"=")
            attribute, text = name.strip().lower(), text.strip()
            if attribute == b"domain" and self._is_domain_there(text):
                continue  # so that only the client's host gets it
            if attribute == b"path" and (path := self._cookie_path(text)) != text:
                part = name + equals + path
            kept.append(part)
        return b";".join(kept)

    def _is_domain_there(self, domain: bytes) -> bool:
        """Whether a cookie's domain is the upstream's or above it, and not the client's."""
        domain = domain.lower().removeprefix(b".")
        if _covers(domain, _host(self._client)):
            return False
        return any(_covers(domain, _host(each)) for each in _authorities(self._upstream))

    def _cookie_path(self, path: bytes) -> bytes:
        top, base = path.rstrip(b"/"), self._upstream.base_path
        if not path.startswith(b"/"):
            return path  # not a path: the client uses its default
        if (base + b"/").startswith(top + b"/"):
            return b"/"  # everything that the tunnel reaches, with and without the prefix
        inside = _below(path, base)
        return path if inside is None else self._path_here(inside)


def without_prefix(path: bytes, prefix: bytes) -> bytes:
    """Return the path without a prefix that ends at a segment boundary; unchanged if it does not start with it."""
    inside = _below(path, prefix) if prefix else None
    return path if inside is None else _as_path(inside)


def _below(path: bytes, prefix: bytes) -> bytes | None:
    """Return the rest after ``prefix``; None unless the path starts with it up to a segment boundary."""
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    return rest if rest[:1] in (b"/", b"", b"?", b"#") else None


def _as_path(rest: bytes) -> bytes:
    return rest if rest.startswith(b"/") else b"/" + rest


def _members(fields: Fields, name: bytes) -> list[bytes]:
    """Return the non-empty members of a list field, in their original case."""
    members = (member.strip() for value in get_all(fields, name) for member in value.split(b","))
    return [member for member in members if member]


def _canonical(scheme: bytes, authority: bytes) -> tuple[bytes, bytes]:
    """Return scheme and authority in lower case, without the scheme's default port."""
    scheme = scheme.lower()
    return scheme, authority.lower().removesuffix(_DEFAULT_PORTS.get(scheme, b"\0"))


@lru_cache(maxsize=64)
def _is_local(upstream: Upstream) -> bool:
    """Whether the upstream's name means the local machine, so that it means another one at the client."""
    host = canonical_host(upstream.host)
    return host is not None and (is_loopback(host) or is_unspecified(host))


@lru_cache(maxsize=64)
def _authorities(upstream: Upstream) -> frozenset[bytes]:
    """Return the upstream's authority, and its other names on serve's own machine."""
    authority = upstream.authority.lower()
    if not _is_local(upstream):
        return frozenset((authority,))
    port = _PORT.search(authority)
    return frozenset((authority, *(name + (port[0] if port else b"") for name in _HERE)))


def _host(authority: bytes) -> bytes:
    """Return the host in lower case, without the port; an IPv6 address keeps its brackets."""
    return _PORT.sub(b"", authority.lower())


def _covers(domain: bytes, host: bytes) -> bool:
    """Whether a cookie with that domain is sent to the host (RFC 6265 section 5.1.3)."""
    return host == domain or host.endswith(b"." + domain)


def _in_brackets(value: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return the value with each URL in angle brackets changed."""
    return _IN_BRACKETS.sub(lambda found: found[0] if found[1] is None else b"<%b>" % change(found[1]), value)
