"""HTTP/1.1 messages, bytes to events, for the gateway (requests) and the origin (responses). Pure: no socket, no clock.

h11 parses, one `h11.Connection` for each message; it writes nothing, since it would add and reorder. A reader is fed
bytes as they come and gives events: a head, then ``bytes`` of body, then `END`. What was read beyond the message
is its `rest`. How messages become bytes again stands in `encoding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

import h11

from ..config import Limits
from ..protocol.heads import Fields, RequestHead, ResponseHead, get_all, is_upgrade, tokens


class End(Enum):
    """The message is whole."""

    END = "end"


END: Final = End.END


class BadMessage(Exception):
    """Bytes that are not an HTTP/1.1 message, or not one that we take.

    ``status`` is what to answer a client; the text is for people, and holds nothing of the message.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived:
    """A request's head, and what HTTP/1.1 says about its body and its connection."""

    head: RequestHead
    """The target in origin form (or ``*``), byte for byte; the fields as they came."""
    host: bytes
    """Whom the client asked: the target's authority where it has one, else the Host field; may be empty."""
    length: int | None
    """Body bytes; 0: none; None: unknown, it was chunked."""
    version: bytes
    """``1.0`` or ``1.1``."""

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants its connection to go on (RFC 9112 section 9.3)."""
        options = tokens(self.head.fields, b"connection")
        if self.version == b"1.0":
            return b"keep-alive" in options and b"close" not in options
        return b"close" not in options

    @property
    def upgrade(self) -> bool:
        """Whether it asks for another protocol; one with a body is not taken at its word."""
        return self.version == b"1.1" and self.length == 0 and is_upgrade(self.head.fields)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body (RFC 9110 section 10.1.1)."""
        return self.version == b"1.1" and self.length != 0 and b"100-continue" in tokens(self.head.fields, b"expect")


RequestEvent = RequestReceived | bytes | End
ResponseEvent = ResponseHead | bytes | End

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) HTTP/(\d)\.(\d)")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE)
_HOP_BY_HOP: Final = frozenset(
    (b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"),
)
_UPGRADE: Final = frozenset((b"connection", b"upgrade"))
_DEFAULTS: Final = Limits()


class RequestReader:
    """Reads one request of a client."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._head = b""
        self._http: h11.Connection | None = None
        self._ended = False

    @property
    def begun(self) -> bool:
        """Whether there was more than empty lines."""
        return bool(self._head) or self._http is not None

    @property
    def rest(self) -> bytes:
        """What was fed beyond the end of the request."""
        return self._http.trailing_data[0] if self._http else self._head

    def feed(self, data: bytes) -> list[RequestEvent]:
        """Take bytes as they came. Raises `BadMessage`, after which the reader is of no more use."""
        if self._http:
            return self._read_body(self._http, data)
        searched = max(0, len(self._head) - 2)
        self._head = (self._head + data).lstrip(b"\r\n")  # RFC 9112 section 2.2: empty lines may come before
        blank = _BLANK_LINE.search(self._head, searched)
        size = blank.end() if blank else len(self._head)
        if size > self._limits.head:
            raise BadMessage(431, f"the request's head has more than {self._limits.head} bytes")
        if blank:
            return self._read_head(self._head[:size], self._head[size:])
        if self._head and self._head[0] <= 0x20:  # TLS, say: it would never have a line's end
            raise BadMessage(400, "this is not HTTP/1.1")
        return []

    def _read_head(self, head: bytes, rest: bytes) -> list[RequestEvent]:
        line, _, lines = head.partition(b"\n")
        method, target, version = _request_line(line.removesuffix(b"\r"))
        http = self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        # h11 takes ASCII targets only, and we pass every byte: it gets a stand-in.
        http.receive_data(b"%b / HTTP/%b\r\n%b" % (method, version, lines))
        event = next(_events(http), None)
        assert isinstance(event, h11.Request)
        if len(event.headers) > self._limits.fields:
            raise BadMessage(431, f"the request has more than {self._limits.fields} header fields")
        return [_received(event, target), *self._read_body(http, rest)]

    def _read_body(self, http: h11.Connection, data: bytes) -> list[RequestEvent]:
        if data:
            http.receive_data(data)
        if self._ended:
            return []
        body, ending = _body(_events(http))
        if isinstance(ending, BadMessage):
            raise ending
        self._ended = ending is END
        return [*body, END] if self._ended else [*body]


class ResponseReader:
    """Reads the response, interim heads and all, that an upstream gives to one request.

    After the head of a 101, `rest` and what is read from then on belong to the new protocol.
    """

    def __init__(self, method: bytes, *, upgrade: bool = False, limits: Limits = _DEFAULTS) -> None:
        self._limits = limits
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head)
        self._http.send(_asked(method, upgrade))
        self._in_body = False
        self._done = False

    @property
    def rest(self) -> bytes:
        """What was fed beyond the end of the response, or beyond a 101."""
        return self._http.trailing_data[0]

    @property
    def keep_alive(self) -> bool:
        """Once the response has ended: whether the connection can take another request."""
        return self._http.their_state is h11.DONE and not self.rest

    def feed(self, data: bytes) -> Iterator[ResponseEvent]:
        """Take bytes as they came; iterate over the events to their end before the next call.

        Raises `BadMessage` behind the events that came before it; the reader is of no more use then.
        """
        if data:
            self._http.receive_data(data)
        return self._read()

    def eof(self) -> Iterator[ResponseEvent]:
        """The upstream closed: a body without a length ends here.

        Raises `BadMessage` where the response is not whole.
        """
        if not self._done:
            self._http.receive_data(b"")
        try:
            yield from self._read()
        except BadMessage as exc:
            raise BadMessage(502, "the connection closed before the response was whole") from exc

    def _read(self) -> Iterator[ResponseEvent]:
        if self._done:
            return
        events = _events(self._http)
        if not self._in_body:
            yield from self._heads(events)
        if self._in_body:
            body, ending = _body(events)
            yield from body
            if isinstance(ending, BadMessage):
                raise ending
            if ending is END:
                self._done = True
                yield END

    def _heads(self, events: Iterator[h11.Event]) -> Iterator[ResponseHead]:
        for event in events:
            assert isinstance(event, h11.InformationalResponse | h11.Response)
            if len(event.headers) > self._limits.fields:
                raise BadMessage(502, f"the response has more than {self._limits.fields} header fields")
            self._done = event.status_code == 101
            self._in_body = isinstance(event, h11.Response)
            yield _response_head(event)
            if self._in_body:
                return


def end_to_end(fields: Fields, *, upgrade: bool = False) -> Fields:
    """The fields that pass through a proxy: without the hop-by-hop ones (RFC 9110 section 7.6.1).

    With ``upgrade`` the head asks for, or grants, another protocol: Connection, what it names and Upgrade stay.
    """
    if upgrade:
        return tuple(field for field in fields if field[0].lower() not in _HOP_BY_HOP)
    # Content-Length frames the body: naming it in Connection must not hide one.
    dropped = {*_HOP_BY_HOP, *_UPGRADE, *tokens(fields, b"connection")} - {b"content-length"}
    return tuple(field for field in fields if field[0].lower() not in dropped)


def content_length(fields: Fields) -> int | None:
    """The body's length as the head tells it. Raises `BadMessage` where it is no number, or two."""
    lengths = {length.strip() for value in get_all(fields, b"content-length") for length in value.split(b",")}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > 19:
        raise BadMessage(502, "the Content-Length is not one number")
    return int(length)


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, raw target and version (``1.0`` or ``1.1``)."""
    match = _REQUEST_LINE.fullmatch(line)
    if not match:
        raise BadMessage(400, "the request line is not one of HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadMessage(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        raise BadMessage(501, "CONNECT is not supported: this is a reverse proxy for one service")
    return method, target, b"1.0" if minor == b"0" else b"1.1"


def _received(event: h11.Request, raw_target: bytes) -> RequestReceived:
    method, version = bytes(event.method), bytes(event.http_version)
    authority, target = _origin_form(method, raw_target)
    fields = _fields(event)
    chunked = bool(get_all(fields, b"transfer-encoding"))
    length = content_length(fields)
    if chunked and (length is not None or version == b"1.0"):
        raise BadMessage(400, "Transfer-Encoding does not go with Content-Length, nor with HTTP/1.0")
    return RequestReceived(
        head=RequestHead(method=method, target=target, fields=fields),
        host=authority or b"".join(get_all(fields, b"host")),
        length=None if chunked else length or 0,
        version=version,
    )


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Authority (empty where the target has none) and path with query (RFC 9112 section 3.2)."""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return b"", target
    match = _ABSOLUTE.fullmatch(target)
    if not match:
        raise BadMessage(400, "the request target is neither a path nor a URL")
    authority, rest = match.groups()
    if not rest:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, rest if rest.startswith(b"/") else b"/" + rest


def _response_head(event: h11.InformationalResponse | h11.Response) -> ResponseHead:
    fields = _fields(event)
    if get_all(fields, b"transfer-encoding"):  # it overrides (RFC 9112 section 6.3), so the length goes no further
        fields = tuple(field for field in fields if field[0].lower() != b"content-length")
    return ResponseHead(status=event.status_code, reason=bytes(event.reason), fields=fields)


def _fields(event: h11.Request | h11.InformationalResponse | h11.Response) -> Fields:
    return tuple((bytes(name), bytes(value)) for name, value in event.headers.raw_items())


@lru_cache(maxsize=64)
def _asked(method: bytes, upgrade: bool) -> h11.Request:
    """What h11 must know of the request to read its response."""
    fields = [(b"Host", b"upstream")]
    if upgrade:
        fields += [(b"Connection", b"upgrade"), (b"Upgrade", b"another")]
    return h11.Request(method=method, target=b"/", headers=fields)


def _events(http: h11.Connection) -> Iterator[h11.Event]:
    """What h11 makes of the bytes so far, up to the message's end."""
    try:
        while isinstance(event := http.next_event(), h11.Event):
            yield event
            if isinstance(event, h11.EndOfMessage):
                return
    except h11.RemoteProtocolError as exc:
        # h11 quotes the offending bytes behind a colon: they may be a secret.
        raise BadMessage(exc.error_status_hint, str(exc).partition(": b")[0]) from exc


def _body(events: Iterator[h11.Event]) -> tuple[list[bytes], End | BadMessage | None]:
    """The body bytes of these events in one piece, if there are any, and how the message ended, if it did."""
    parts: list[bytes] = []
    ending: End | BadMessage | None = None
    try:
        for event in events:
            if isinstance(event, h11.Data):
                parts.append(event.data)
            else:
                ending = END
    except BadMessage as exc:
        ending = exc
    return [b"".join(parts)] if parts else [], ending
