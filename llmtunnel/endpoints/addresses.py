"""Addresses in header fields: the client's become the upstream's, and the upstream's become the client's. Pure.

    client                                                    upstream
    Host: 127.0.0.1:8000                                 ->   Host: localhost:7860
    Origin: http://127.0.0.1:8000                        ->   Origin: http://localhost:7860
    Location: http://127.0.0.1:8000/a                    <-   Location: http://localhost:7860/a

Servers compare Origin and Referer with Host to tell their own pages from foreign ones. `forwarding` replaces Host, so
the two that name the same address change with it. Any other address stays as it is, so that its page is foreign to the
upstream too.

Two addresses are the client's:

- Its *own* origin is the scheme and Host of this request, exactly. The scheme is http, or what a TLS terminator in
  front of the proxy says in X-Forwarded-Proto. The proxy appends Host to X-Forwarded-Host. An earlier member of that
  list is never taken for own, since a page of another origin may be able to set it.
- Answers lead to the first member of X-Forwarded-Host, which is what the outermost proxy was called.
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
"""A URL in angle brackets, as Link and If have it; a quoted string is matched so that it can be left alone."""
_REFRESH: Final = re.compile(rb"([^;,]*[;,]\s*(?:url\s*=\s*)?[\"']?)(.*?)([\"']?)", re.DOTALL | re.IGNORECASE)
"""What stands before the URL, the URL, and its closing quote (HTML, 4.2.5.3)."""

_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
_SCHEMES: Final = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}
"""Values of X-Forwarded-Proto. Traefik says ws and wss for WebSockets, whose pages have an Origin of http and https."""
_HERE: Final = (LOCALHOST.encode(), b"127.0.0.1", b"[::1]", b"0.0.0.0", b"[::]")
"""What a server on serve's own machine may call itself, whichever of them serve was given."""

_FOREIGN: Final = b"http://foreign.invalid"
"""Stands for a foreign address that is spelled like the upstream's. RFC 2606 keeps the name from ever being anybody's;
``null`` would not do, since ComfyUI takes it for no origin at all."""

_ORIGINS: Final = frozenset((b"origin", b"sec-websocket-origin"))
"""Request fields with an origin. Tornado reads the second one, of the WebSocket drafts, where the first is absent."""
_SENT: Final = _ORIGINS | {b"referer", b"destination", b"if"}
"""Request fields that change. Destination and If are WebDAV's (RFC 4918 sections 10.3 and 10.4)."""
_ECHOED: Final = frozenset((b"access-control-allow-origin", b"timing-allow-origin", b"sec-websocket-origin"))
"""Response fields that repeat the request's Origin."""
_URLS: Final = frozenset((b"content-location", b"sourcemap", b"x-sourcemap", b"service-worker-allowed"))
"""Response fields that are a URL or a path, beside Location, which `_redirect` treats."""
_ANSWERED: Final = _ECHOED | _URLS | {b"location", b"refresh", b"link", b"set-cookie", b"alt-svc"}
"""Response fields that change."""


class Addresses:
    """The addresses of one request. `to_upstream` changes its fields, `to_client` those of its response."""

    def __init__(self, upstream: Upstream, advertise: bytes, request: RequestHead) -> None:
        """``request`` is the head as the proxy sent it; ``advertise``: see `Forwarding`."""
        self._upstream = upstream
        self._advertise = advertise
        self._request = request

    @cached_property
    def _told(self) -> bytes | None:
        """``http`` or ``https`` where X-Forwarded-Proto says so; the outermost proxy's word comes first."""
        told = _members(self._request.fields, b"x-forwarded-proto")
        return _SCHEMES.get(told[0].lower()) if told else None

    @cached_property
    def _hosts(self) -> list[bytes]:
        """What the proxies were called, the outermost first. An original proxy sends Host, ours never does."""
        return [host for name in (b"x-forwarded-host", b"host") for host in _members(self._request.fields, name)]

    @cached_property
    def _own(self) -> tuple[bytes, bytes] | None:
        """The client's own origin, canonical; None where it did not say Host."""
        return _canonical(self._told or b"http", self._hosts[-1]) if self._hosts else None

    @property
    def _client(self) -> bytes:
        """The host, and port, that answers lead to; empty where it is not known."""
        return self._hosts[0] if self._hosts and _HOST.fullmatch(self._hosts[0]) else b""

    @cached_property
    def _schemes(self) -> set[bytes]:
        """By which the upstream may take itself to be called.

        One that believes X-Forwarded-Proto goes by that, as uvicorn and gunicorn do for requests from loopback. One
        that does not compares hosts alone, as a rule.
        """
        ours = self._upstream.scheme.encode()
        return {ours, self._told or ours}

    @property
    def _upstream_origin(self) -> bytes:
        return (b"https" if b"https" in self._schemes else b"http") + b"://" + self._upstream.authority

    # -- to the upstream

    def to_upstream(self, fields: Fields) -> Fields:
        """The request's fields as the upstream gets them. A field that is repeated stays as it is."""
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
        """Whether the upstream would take a foreign address for its own, since Host is the upstream's.

        A page at localhost:8888 of the client's machine is not one of the upstream at localhost:8888 of serve's. If
        both are a JupyterLab, what one shows must not use the other.
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
        """As `Forwarding` makes the target: the prefix comes off, the base path goes in front."""
        return self._upstream.base_path + without_prefix(path, self._advertise)

    # -- to the client

    def to_client(self, status: int, fields: Fields) -> Fields:
        """The response's fields as the client gets them."""
        if _ANSWERED.isdisjoint(name.lower() for name, _ in fields):
            return fields
        changed = ((name, self._answered(name.lower(), value, status)) for name, value in fields)
        return tuple((name, value) for name, value in changed if value is not None)

    def _answered(self, name: bytes, value: bytes, status: int) -> bytes | None:
        """The value that the client gets; None: the field is left out."""
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
        # It names another port or protocol of the upstream's host; at the client's, something else listens there.
        return None if name == b"alt-svc" else value

    @property
    def _is_safe(self) -> bool:
        """Whether a client that follows a redirect asks by the same method again, whatever the status."""
        return self._request.method in (b"GET", b"HEAD")

    def _redirect(self, value: bytes, *, again: bool) -> bytes:
        """A redirect; ``again``: the client follows it by the method of its request.

        Where the upstream leads to itself by another name or scheme than the one that it was called by, it may insist
        on that one. Translated, it would be the URL just requested, for ever: so it stays.
        """
        here = self._url_here(value)
        url = _URL.fullmatch(value)
        if url and again and not self._is_called_so(url):
            path = (_URL.fullmatch(here) or [b"", b"", b"", here])[3].partition(b"#")[0]
            if _as_path(path) == self._request.target:
                return value
        return here

    def _url_here(self, value: bytes) -> bytes:
        """A URL or path of the upstream, as the client reaches it; any other as it is."""
        url = _URL.fullmatch(value)
        if not (self._is_upstream(url) if url else value.startswith(b"/")):
            return value
        inside = _below(url[3] if url else value, self._upstream.base_path)
        if inside is None:  # the tunnel does not lead there
            return value
        path = self._path_here(inside)
        if url and self._client:
            return (self._told or b"http") + b"://" + self._client + path
        if path == value:
            return value
        # Browsers take what follows two slashes, of either kind, for a host.
        return b"/." + path if re.match(rb"/[/\\]", path) else _as_path(path)

    def _path_here(self, inside: bytes) -> bytes:
        """A path below the base path, as the client has to ask for it: with the prefix where its request had it."""
        prefix = self._advertise
        # A path that begins with the prefix by itself would lose it on the way back.
        if prefix and any(_below(path, prefix) is not None for path in (self._request.target, inside)):
            return prefix + inside
        return inside

    def _is_called_so(self, url: re.Match[bytes]) -> bool:
        """Whether the URL has the upstream's scheme, host and port as serve was given them."""
        scheme = url[1] or self._upstream.scheme.encode()
        return _canonical(scheme, url[2]) == (self._upstream.scheme.encode(), self._upstream.authority.lower())

    def _is_upstream(self, url: re.Match[bytes]) -> bool:
        scheme, authority = _canonical(url[1] or self._upstream.scheme.encode(), url[2])
        return scheme in self._schemes and authority in _authorities(self._upstream)

    def _echo(self, value: bytes) -> bytes:
        """An origin that the upstream repeats, as the client sent it."""
        for name in _ORIGINS:
            asked = get_all(self._request.fields, name)
            if len(asked) == 1 and self._own and value == self._sent(name, asked[0]):
                return asked[0]
        return value

    def _cookie(self, value: bytes) -> bytes:
        """A cookie that the client keeps, and sends back to the same paths."""
        parts = value.split(b";")
        kept = parts[:1]
        for part in parts[1:]:
            name, equals, text = part.partition(b"=")
            attribute, text = name.strip().lower(), text.strip()
            if attribute == b"domain" and self._is_domain_there(text):
                continue  # the client's host alone gets it then
            if attribute == b"path" and (path := self._cookie_path(text)) != text:
                part = name + equals + path
            kept.append(part)
        return b";".join(kept)

    def _is_domain_there(self, domain: bytes) -> bool:
        """Whether a cookie's domain is the upstream's, or above it, and not the client's."""
        domain = domain.lower().removeprefix(b".")
        if _covers(domain, _host(self._client)):
            return False
        return any(_covers(domain, _host(each)) for each in _authorities(self._upstream))

    def _cookie_path(self, path: bytes) -> bytes:
        top, base = path.rstrip(b"/"), self._upstream.base_path
        if not path.startswith(b"/"):
            return path  # no path: the client takes its own default
        if (base + b"/").startswith(top + b"/"):
            return b"/"  # all that the tunnel leads to, with the prefix and without
        inside = _below(path, base)
        return path if inside is None else self._path_here(inside)


def without_prefix(path: bytes, prefix: bytes) -> bytes:
    """The path without a prefix that ends where a segment does; as it is where that is not in front."""
    inside = _below(path, prefix) if prefix else None
    return path if inside is None else _as_path(inside)


def _below(path: bytes, prefix: bytes) -> bytes | None:
    """What stands behind ``prefix``; None where that is not in front, up to a segment's end."""
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    return rest if rest[:1] in (b"/", b"", b"?", b"#") else None


def _as_path(rest: bytes) -> bytes:
    return rest if rest.startswith(b"/") else b"/" + rest


def _members(fields: Fields, name: bytes) -> list[bytes]:
    """The members of a list field in their own case, without empty ones."""
    members = (member.strip() for value in get_all(fields, name) for member in value.split(b","))
    return [member for member in members if member]


def _canonical(scheme: bytes, authority: bytes) -> tuple[bytes, bytes]:
    """Scheme and authority in lower case, without the scheme's own port; nothing else is taken for the same."""
    scheme = scheme.lower()
    return scheme, authority.lower().removesuffix(_DEFAULT_PORTS.get(scheme, b"\0"))


@lru_cache(maxsize=64)
def _is_local(upstream: Upstream) -> bool:
    """Whether the upstream's name means serve's own machine there, and the client's at the client."""
    host = canonical_host(upstream.host)
    return host is not None and (is_loopback(host) or is_unspecified(host))


@lru_cache(maxsize=64)
def _authorities(upstream: Upstream) -> frozenset[bytes]:
    """The upstream's authority, and what else that may be called on serve's own machine."""
    authority = upstream.authority.lower()
    if not _is_local(upstream):
        return frozenset((authority,))
    port = _PORT.search(authority)
    return frozenset((authority, *(name + (port[0] if port else b"") for name in _HERE)))


def _host(authority: bytes) -> bytes:
    """Without the port, in lower case; an IPv6 address keeps its brackets."""
    return _PORT.sub(b"", authority.lower())


def _covers(domain: bytes, host: bytes) -> bool:
    """Whether a cookie of that domain goes to the host (RFC 6265 section 5.1.3)."""
    return host == domain or host.endswith(b"." + domain)


def _in_brackets(value: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The value with each URL in angle brackets changed."""
    return _IN_BRACKETS.sub(lambda found: found[0] if found[1] is None else b"<%b>" % change(found[1]), value)
