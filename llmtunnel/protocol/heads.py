"""The heads of requests and responses between HTTP and the wire: raw bytes, with order and case preserved."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields in order: the name in the sender's case, the value as raw bytes without surrounding white space."""

FIELD: Final = 160
"""Bytes of memory that a field takes in addition to its name and value."""


MAX_INTERIM: Final = 1_000
"""Maximum number of interim heads in a response. A server that sends 102 every 10 s may work for nearly three hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """An HTTP request without its body."""

    method: bytes
    target: bytes
    """The request target byte for byte: ``/path?query`` or ``*``."""
    fields: Fields = ()
    client: int = 0
    """The id of the first stream that the same client connection used on this session; 0: this stream is the first."""
    last: bool = False
    """Whether the client closes its connection after the response (``Connection: close``, or HTTP/1.0 without keep-
    alive)."""
    bench: bool = False
    """Whether it measures the tunnel. Serve answers it itself, and the upstream never gets it. No client's request is
    one."""

    @property
    def path(self) -> str:
        """The target without its query, for people to read. A query may contain a key."""
        return self.target.partition(b"?")[0].decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """An HTTP response without its body. A status under 200 (except 101) is an interim one: another head follows."""

    status: int
    reason: bytes = b""
    fields: Fields = ()

    @property
    def interim(self) -> bool:
        """Whether another head follows on the same stream."""
        return self.status < 200 and self.status != 101


def cost(head: RequestHead | ResponseHead) -> int:
    """Return about how many bytes a head takes in memory."""
    start = head.target if isinstance(head, RequestHead) else head.reason
    return FIELD + len(start) + sum(FIELD + len(name) + len(value) for name, value in head.fields)


def get_all(fields: Fields, name: bytes) -> list[bytes]:
    """Return the values of every field with this name (in lower case), in order."""
    size = len(name)
    return [value for key, value in fields if len(key) == size and key.lower() == name]


def tokens(fields: Fields, name: bytes) -> list[bytes]:
    """Return the comma-separated members of a list field, in lower case (RFC 9110 section 5.6.1)."""
    return [member.strip().lower() for value in get_all(fields, name) for member in value.split(b",") if member.strip()]


def is_upgrade(fields: Fields) -> bool:
    """Return whether a head requests or grants another protocol (RFC 9110 section 7.8)."""
    return b"upgrade" in tokens(fields, b"connection") and bool(get_all(fields, b"upgrade"))


_CARRIES_HTTP: Final = re.compile(rb"h2c?(-.*)?|(http|tls)(/.*)?")


def leaves_http(protocol: bytes) -> bool:
    """Return whether a protocol of an Upgrade field, in lower case, is not a kind of HTTP.

    After an upgrade to HTTP/2 (``h2c``, which RFC 9113 section 3.1 has deprecated) or to TLS, more requests would
    follow in an opaque pipe. No policy, limit or record would apply to them.
    """
    return not _CARRIES_HTTP.fullmatch(protocol)


def is_websocket(protocol: bytes) -> bool:
    """Return whether a protocol of an Upgrade field, in lower case, is WebSocket."""
    return protocol == b"websocket"


def keep_upgrades(fields: Fields, keeps: Callable[[bytes], bool]) -> Fields:
    """Return the fields without the Upgrade protocols for which ``keeps`` is false, and without what belongs to those.

    A client offers an upgrade, and a server is free to ignore it (RFC 9110 section 7.8). If no protocol is left, the
    request no longer asks for an upgrade.
    """
    offered = get_all(fields, b"upgrade")
    if not offered:
        return fields
    protocols = [each.strip() for value in offered for each in value.split(b",") if each.strip()]
    kept = [each for each in protocols if keeps(each.lower())]
    if kept and len(kept) == len(protocols):
        return fields
    gone = {b"http2-settings"} if kept else {b"http2-settings", b"upgrade"}
    found: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        match name.lower():
            case b"upgrade" if kept:
                found.append((name, b", ".join(kept)))
                kept = []
            case b"connection":
                options = [each.strip() for each in value.split(b",")]
                if left := [each for each in options if each and each.lower() not in gone]:
                    found.append((name, b", ".join(left)))
            case b"upgrade" | b"http2-settings":
                pass
            case _:
                found.append((name, value))
    return tuple(found)


def is_preflight(head: RequestHead) -> bool:
    """Return whether the request is a CORS preflight (https://fetch.spec.whatwg.org/#cors-preflight-fetch)."""
    fields = head.fields
    return head.method == b"OPTIONS" and bool(get_all(fields, b"origin") and get_all(fields, PREFLIGHT_METHOD))


PREFLIGHT_METHOD: Final = b"access-control-request-method"
"""The field in which a preflight names the method of the request."""
