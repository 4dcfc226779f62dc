"""What changes in a head on its way to the upstream and back, and how a request's body is framed there. Pure.

A request gets what its client sent and nothing else: no field is added but Host, those of the upstream's settings, and
``Connection: close`` where the connection to the upstream ends with the response. Fields that name an address of the
client or the upstream change with Host: `addresses`.
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
"""Methods that may be sent twice (RFC 9110 section 9.2.2); not PUT and DELETE, whose second answer may differ."""


class RequestBody:
    """Frames body bytes for the upstream, and holds the peer to the length that it told.

    More bytes than told would be read as the next request on that connection.
    """

    def __init__(self, length: int | None) -> None:
        self._left = length
        """None: of unknown length, so it goes in chunks."""
        self.whole = length == 0
        """All of it has been framed."""

    @property
    def length(self) -> int:
        """Bytes still to come as the head tells it; 0 where it does not."""
        return self._left or 0

    @property
    def chunked(self) -> bool:
        """Whether the head must say so."""
        return self._left is None

    def encode(self, data: bytes) -> bytes:
        """The bytes to send for ``data``, which is not empty. Raises `ProtocolError` past the length."""
        if self._left is None:
            return encode_chunk(data)
        self._left -= len(data)
        if self._left < 0:
            raise ProtocolError("The request's body is longer than its Content-Length.")
        self.whole = self._left == 0
        return data

    def end(self) -> bytes:
        """The bytes to send at the body's end. Raises `ProtocolError` short of the length."""
        if self._left:
            raise ProtocolError("The request's body is shorter than its Content-Length.", code=ErrorCode.TRUNCATED)
        self.whole = True
        return LAST_CHUNK if self._left is None else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """How requests are put to one upstream."""

    upstream: Upstream
    advertise: bytes = b""
    """A prefix that is taken off paths: empty, or begins with ``/`` and does not end with one."""

    def request(self, head: RequestHead, features: Features, *, chunked: bool, upgrade: bool, close: bool) -> bytes:
        """The request's head as the upstream gets it. Raises `ProtocolError` where it must not go there.

        ``close`` tells the upstream that no request follows, so that whatever it leaves unread of a body is never one.
        """
        if head.method == b"CONNECT":
            raise ProtocolError("CONNECT is not supported.")
        target = self.upstream.request_target(self.target(head))
        fields = ((b"Host", self.upstream.authority), *self._request_fields(head, features, upgrade))
        fields += (_CLOSE if close else ()) + (_CHUNKED if chunked else ())
        lines = [b"%b: %b\r\n" % field for field in fields]
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (head.method, target, b"".join(lines))

    def target(self, head: RequestHead) -> bytes:
        """The target without the advertised prefix; the upstream gets it behind its base path."""
        return without_prefix(head.target, self.advertise)

    def _request_fields(self, head: RequestHead, features: Features, upgrade: bool) -> Fields:
        dropped = {b"host", *(name.lower() for name, _ in self.upstream.fields)}
        if Feature.INTERIM not in features:  # the client would never hear of the 100 that it waits for
            dropped.add(b"expect")
        kept = tuple(field for field in end_to_end(head.fields, upgrade=upgrade) if field[0].lower() not in dropped)
        return self._addresses(head).to_upstream(kept) + self.upstream.fields

    def response(self, head: ResponseHead, request: RequestHead) -> ResponseHead:
        """The response's head as the client gets it: end-to-end fields, and addresses that it can reach."""
        fields = end_to_end(head.fields, upgrade=head.status == 101)
        return replace(head, fields=self._addresses(request).to_client(head.status, fields))

    def _addresses(self, request: RequestHead) -> Addresses:
        return Addresses(self.upstream, self.advertise, request)


def advertised(text: str) -> bytes:
    """The prefix that ``--advertise`` names: empty for ``/``. Raises `SettingError`."""
    prefix = text.rstrip("/")
    if prefix and not re.fullmatch(r"/[!-~]*", prefix):
        raise SettingError(f"--advertise: not a path prefix: {text!r}.", hint="Use for example --advertise /v1.")
    return prefix.encode("ascii")


def request_body(head: RequestHead, features: Features) -> RequestBody | None:
    """The body that the head tells of; None where only its first frame will tell: v1 drops Transfer-Encoding.

    Raises `ProtocolError` where its framing is not HTTP's.
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
    """What the upstream's bytes say; ``b""``: that it has ended. Raises `UpstreamBroken`."""
    try:
        yield from reader.feed(data) if data else reader.eof()
    except BadMessage as exc:
        raise UpstreamBroken(f"The model server's response is not valid: {exc}.") from exc


def wants_upgrade(head: RequestHead, features: Features) -> bool:
    """Whether the exchange may become an opaque pipe."""
    return Feature.UPGRADE in features and is_upgrade(head.fields)


def repeatable(head: RequestHead, body: RequestBody) -> bool:
    """Whether the request may be sent again when a kept connection turns out to have died."""
    return head.method in _IDEMPOTENT and body.whole
