"""Changes to a head on its way to the upstream and back, and the framing of a request's body there. Pure.

The upstream gets what the client sent. Serve only adds Host, the header fields of its settings, and
``Connection: close`` if the connection to the upstream ends with the response. Fields that name an address of the
client or the upstream change together with Host: see `addresses`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..errors import ErrorCode, ProtocolError, SettingError, UpstreamBroken
from ..protocol.heads import Fields, RequestHead, ResponseHead, is_upgrade, tokens
from ..protocol.hello import Feature, Features
from ..upstream import Upstream
from .addresses import Addresses, without_prefix
from .encoding import LAST_CHUNK, encode_chunk
from .http1 import BadMessage, ResponseEvent, ResponseReader, content_length, end_to_end

_CHUNKED: Final[Fields] = ((b"Transfer-Encoding", b"chunked"),)
_CLOSE: Final[Fields] = ((b"Connection", b"close"),)
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Methods that may be sent twice (RFC 9110 section 9.2.2). The second response to PUT and DELETE may differ."""


class RequestBody:
    """Frames body bytes for the upstream, and enforces the declared length.

    The upstream would read any further bytes as the next request on that connection.
    """

    def __init__(self, length: int | None) -> None:
        self._left = length
        """Bytes left; None for an unknown length, which uses the chunked coding."""
        self.whole = length == 0
        """Whether all of it has been framed."""

    @property
    def length(self) -> int:
        """Remaining bytes according to the head; 0 if it declares no length."""
        return self._left or 0

    @property
    def chunked(self) -> bool:
        """Whether the head must declare the chunked coding."""
        return self._left is None

    def encode(self, data: bytes) -> bytes:
        """Return the bytes to send for ``data``, which must not be empty. Raises `ProtocolError` past the length."""
        if self._left is None:
            return encode_chunk(data)
        self._left -= len(data)
        if self._left < 0:
            raise ProtocolError("The request's body is longer than its Content-Length.")
        self.whole = self._left == 0
        return data

    def end(self) -> bytes:
        """Return the bytes to send at the body's end. Raises `ProtocolError` if it is shorter than declared."""
        if self._left:
            raise ProtocolError("The request's body is shorter than its Content-Length.", code=ErrorCode.TRUNCATED)
        self.whole = True
        return LAST_CHUNK if self._left is None else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """Translates requests for one upstream, and its responses."""

    upstream: Upstream
    advertise: bytes = b""
    """Prefix to remove from paths: empty, or it starts with ``/`` and does not end with one."""

    def request(self, head: RequestHead, features: Features, *, chunked: bool, upgrade: bool, close: bool) -> bytes:
        """Return the request's head for the upstream. Raises `ProtocolError` if it must not be sent there.

        ``close`` tells the upstream that no request follows. So an unread rest of a body can never become a request.
        """
        if head.method == b"CONNECT":
            raise ProtocolError("CONNECT is not supported.")
        target = self.upstream.request_target(self.target(head))
        fields = ((b"Host", self.upstream.authority), *self._request_fields(head, features, upgrade))
        fields += (_CLOSE if close else ()) + (_CHUNKED if chunked else ())
        lines = [b"%b: %b\r\n" % field for field in fields]
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (head.method, target, b"".join(lines))

    def target(self, head: RequestHead) -> bytes:
        """Return the target without the advertised prefix. The upstream gets it after its base path."""
        return without_prefix(head.target, self.advertise)

    def _request_fields(self, head: RequestHead, features: Features, upgrade: bool) -> Fields:
        dropped = {b"host", *(name.lower() for name, _ in self.upstream.fields)}
        if Feature.INTERIM not in features:  # the client would never receive the 100 that it waits for
            dropped.add(b"expect")
        kept = tuple(field for field in end_to_end(head.fields, upgrade=upgrade) if field[0].lower() not in dropped)
        return self._addresses(head).to_upstream(kept) + self.upstream.fields

    def response(self, head: ResponseHead, request: RequestHead) -> ResponseHead:
        """Return the response's head for the client: end-to-end fields, and addresses that the client can reach."""
        fields = end_to_end(head.fields, upgrade=head.status == 101)
        return replace(head, fields=self._addresses(request).to_client(head.status, fields))

    def _addresses(self, request: RequestHead) -> Addresses:
        return Addresses(self.upstream, self.advertise, request)


def advertised(text: str) -> bytes:
    """Return the prefix of ``--advertise``; empty for ``/``. Raises `SettingError`."""
    prefix = text.rstrip("/")
    if prefix and not re.fullmatch(r"/[!-~]*", prefix):
        raise SettingError(f"--advertise: not a path prefix: {text!r}.", hint="Use for example --advertise /v1.")
    return prefix.encode("ascii")


def request_body(head: RequestHead, features: Features) -> RequestBody | None:
    """Return the body that the head declares. None: only its first frame will show, since v1 drops Transfer-Encoding.

    Raises `ProtocolError` if its framing is not valid HTTP.
    """
    try:
        length = content_length(head.fields)
    except BadMessage as exc:
        raise ProtocolError(f"{exc}.") from exc
    codings = tokens(head.fields, b"transfer-encoding")
    if codings not in ([], [b"chunked"]) or (codings and length is not None):
        raise ProtocolError("The request's body uses a transfer coding that the tunnel does not support.")
    if codings:
        return RequestBody(None)
    if length is None and Feature.FIELDS not in features:
        return None
    return RequestBody(length or 0)


def response_events(reader: ResponseReader, data: bytes) -> Iterator[ResponseEvent]:
    """Return the events in the upstream's bytes; ``b""`` means its end. Raises `UpstreamBroken`."""
    try:
        yield from reader.feed(data) if data else reader.eof()
    except BadMessage as exc:
        raise UpstreamBroken(f"The model server's response is not valid: {exc}.") from exc


def wants_upgrade(head: RequestHead, features: Features) -> bool:
    """Whether the exchange may switch to another protocol."""
    return Feature.UPGRADE in features and is_upgrade(head.fields)


def repeatable(head: RequestHead, body: RequestBody) -> bool:
    """Whether the request may be sent again after a kept connection turned out to be dead."""
    return head.method in _IDEMPOTENT and body.whole
