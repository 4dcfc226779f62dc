"""Check a request's head against the listener's rules before any part of it is forwarded. Pure.

A web page that the user visits can make the browser send requests to this machine. The guard uses three signs:

- Host: a page whose own name points at 127.0.0.1 (DNS rebinding) uses that name for the proxy.
- Origin: a page of another site that posts, or reads with a script, has that site as its origin.
- Sec-Fetch-Site: covers what a page loads without a script, such as an image. Browsers send it only to addresses and
  names that they know as loopback. So the proxy rejects other addresses that reach this machine (0.0.0.0).

Other machines that can reach the listener need its key.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, replace
from typing import Final

from ..errors import SettingError
from ..listener import (
    OPAQUE,
    ListenerPolicy,
    canonical_host,
    is_address,
    is_loopback,
    is_unspecified,
    netloc,
    parse_authority,
    parse_origin,
    usual_address,
)
from ..protocol.heads import Fields, ResponseHead, get_all, is_preflight, keep_upgrades, leaves_http, tokens
from .http1 import RequestHeadReceived
from .listen import Listen
from .responses import Failure

_WEB: Final = ("http", "https")
_PREFLIGHT_AGE: Final = b"600"
"""Seconds for which a browser may cache the preflight (Chromium's own limit is 7200)."""
_ZONE: Final = re.compile(rb"%[^]]*(?=\])")
"""The zone of an IPv6 address, which is an interface of one machine (RFC 6874)."""
_SHOWN: Final = 260
"""Maximum characters of a client's Host or Origin that a response repeats. A host name has up to 253."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision about a request."""

    request: RequestHeadReceived
    """The request to forward: without the listener's key, and without an upgrade to HTTP/2 or TLS."""
    answer: Failure | ResponseHead | None = None
    """The response to send instead of the peer's; None: forward the request."""
    cors: Fields = ()
    """Fields that let the requesting page read the response: see `readable`."""


class Guard:
    """Applies a policy to requests. Call `judge`."""

    def __init__(self, policy: ListenerPolicy, listen: Listen) -> None:
        """Raises `SettingError` if other machines could reach the listener without a key."""
        host = canonical_host(listen.host.partition("%")[0])  # clients do not name our interfaces
        if not (policy.api_key or policy.no_auth or (host and is_loopback(host))):
            raise SettingError(
                f"--listen {netloc(listen.host, listen.port)} would let other machines use the model without a key.",
                hint="Set a key that clients must send (TUNNEL_API_KEY, --api-key-file or --api-key), or use --no-auth,"
                " or listen on 127.0.0.1.",
            )
        self._hosts = {host, *map(canonical_host, policy.allow_hosts)}
        # The addresses of a name, or of "any", may be mapped by a container or a router.
        self._by_any_address = host is None or is_unspecified(host) or not is_address(host)
        self._origins = frozenset(map(parse_origin, policy.allow_origins))
        self._key = policy.api_key.encode() if policy.api_key else None

    def judge(self, request: RequestHeadReceived) -> Verdict:
        """Return whether the request may pass, and how."""
        if refusal := self._refusal(request):
            return Verdict(request=request, answer=refusal)
        cors = self._cors(request)
        if cors and is_preflight(request.head):  # browsers send preflights without the key
            return Verdict(request=request, answer=_preflight_answer(request, cors))
        fields = self._without_key(request.head.fields)
        if fields is None:
            return Verdict(request=request, answer=_KEY_WANTED, cors=cors)
        fields = keep_upgrades(fields, leaves_http)
        if fields is not request.head.fields:
            request = replace(request, head=replace(request.head, fields=fields))
        return Verdict(request=request, cors=cors)

    # -- web pages

    def _refusal(self, request: RequestHeadReceived) -> Failure | None:
        fields = request.head.fields
        origins = get_all(fields, b"origin")
        sites = tokens(fields, b"sec-fetch-site")
        if not self._is_our_host(request.host, from_browser=bool(origins or sites)):
            return _foreign_host(request.host)
        if origins and not (len(origins) == 1 and self._is_our_origin(origins[0], request.host)):
            return _foreign_origin(origins[0])
        if b"cross-site" in sites and not origins:
            return _FOREIGN_SITE
        return None

    def _is_our_host(self, host: bytes, *, from_browser: bool) -> bool:
        """Whether clients may use this host name. Any port is accepted, since one may be mapped to ours."""
        if not host:  # allowed by HTTP/1.0, but browsers always send it
            return not from_browser
        asked = parse_authority(host.decode("latin-1"))
        if asked is None or usual_address(asked.host):
            return False
        if is_loopback(asked.host) or asked.host in self._hosts:
            return True
        return self._by_any_address and is_address(asked.host)

    def _is_our_origin(self, value: bytes, host: bytes) -> bool:
        """Whether it is a page of this machine, an allowed one, or one that came through this listener."""
        origin = parse_origin(value.decode("latin-1"))
        if origin is None:
            return False
        if origin in self._origins:
            return True
        if origin.scheme not in _WEB:
            return False
        return is_loopback(origin.host) or origin == parse_origin(f"{origin.scheme}://{host.decode('latin-1')}")

    def _cors(self, request: RequestHeadReceived) -> Fields:
        """Return CORS fields for an allowed page; with a key, for every page that passed the checks.

        Without a key, the upstream answers other pages, including preflights, as if it were asked directly.
        """
        origins = get_all(request.head.fields, b"origin")
        if not origins:
            return ()
        if self._key is None and parse_origin(origins[0].decode("latin-1")) not in self._origins:
            return ()
        return ((b"Access-Control-Allow-Origin", origins[0]), (b"Vary", b"Origin"))

    # -- the key

    def _without_key(self, fields: Fields) -> Fields | None:
        """Return the fields to forward; None if a key is required and missing."""
        if self._key is None:
            return fields
        kept = tuple(field for field in fields if not self._has_key(*field))
        return kept if len(kept) < len(fields) else None

    def _has_key(self, name: bytes, value: bytes) -> bool:
        assert self._key is not None
        if name.lower() == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                return False
            value = value.lstrip(b" ")
        elif name.lower() != b"x-api-key":
            return False
        return hmac.compare_digest(value, self._key)


def readable(head: ResponseHead, cors: Fields) -> ResponseHead:
    """Add the CORS fields to a response, unless the upstream itself says who may read it."""
    if not cors or get_all(head.fields, b"access-control-allow-origin"):
        return head
    return replace(head, fields=head.fields + cors)


def _preflight_answer(request: RequestHeadReceived, cors: Fields) -> ResponseHead:
    """Grant what the browser's preflight asks for (https://fetch.spec.whatwg.org/#cors-preflight-fetch)."""
    asked = request.head.fields
    granted = [(b"Access-Control-Allow-Methods", get_all(asked, b"access-control-request-method")[0])]
    if names := get_all(asked, b"access-control-request-headers"):
        granted.append((b"Access-Control-Allow-Headers", b", ".join(names)))
    granted += [
        (b"Access-Control-Allow-%b-Network" % network, b"true")
        for network in (b"Private", b"Local")  # Chromium has sent the first; drafts used the second for a while
        if b"true" in tokens(asked, b"access-control-request-%b-network" % network.lower())
    ]
    granted.append((b"Access-Control-Max-Age", _PREFLIGHT_AGE))
    return ResponseHead(status=204, reason=b"No Content", fields=(*cors, *granted))


_KEY_WANTED: Final = Failure(
    status=401,
    code="invalid_api_key",
    message="This proxy needs its --api-key. Send it as Authorization: Bearer or as X-Api-Key.",
)
_FOREIGN_SITE: Final = Failure(
    status=403,
    code="foreign_origin",
    message="A page of another web site sent this request. To allow that, start the proxy with --allow-origin and the"
    " site's origin, and let the page use CORS.",
)


def _foreign_host(host: bytes) -> Failure:
    asked = parse_authority(_ZONE.sub(b"", host).decode("latin-1"))
    called = f"The request names the host {_quoted(host)}"
    if asked is None:
        message = f"{called}, which is not a host name. Use the address that the proxy listens on, or localhost."
    elif usual := usual_address(asked.host) or (b"%" in host and asked.host):
        message = (
            f"{called}. Browsers do not mark requests of web pages to an address in this spelling, so the proxy rejects"
            f" it. Use {netloc(usual, asked.port)}."
        )
    else:
        message = (
            f"{called}, which this proxy does not know. A hostile web page could send that."
            f" If it is your own name for the proxy, start it with --allow-host {asked.host[:_SHOWN]}."
        )
    return Failure(status=403, code="foreign_host", message=message)


def _foreign_origin(value: bytes) -> Failure:
    origin = parse_origin(value.decode("latin-1"))
    if origin is None:
        message = f"The request's Origin is not valid: {_quoted(value)}. It must be a single origin."
    elif origin == OPAQUE:
        message = (
            "A page without an origin (null) sent this request: one that was opened from a file, or a sandboxed frame"
            " of any web site. Open your page at http://localhost. Or start the proxy with --allow-origin null: then"
            " every web site can use the model."
        )
    else:
        message = (
            f"A web page of another origin sent this request: {_quoted(value)}. Start the proxy with"
            f" --allow-origin {str(origin)[:_SHOWN]} to allow that."
        )
        if origin.scheme in _WEB and (usual := usual_address(origin.host)):
            message += f" If it is a page on this machine, open it at {origin._replace(host=usual)} instead."
    return Failure(status=403, code="foreign_origin", message=message)


def _quoted(value: bytes) -> str:
    """Return a value for a message, with only characters that are safe on a terminal."""
    return re.sub(rb"[^ -~]", b"?", value[:_SHOWN]).decode("ascii") or "none"
