"""Parse HTTP/1.1 messages into events: requests for the gateway, responses for the origin. Pure: no socket, no clock.

h11 parses requests, with one `h11.Connection` each. It is not used to write messages, since it would add and reorder
fields. Responses are parsed here, since h11 rejects much that other clients accept. A reader gets bytes as they arrive,
and returns events: a head, then ``bytes`` of the body, then `END`. Bytes after the message are its `rest`. `encoding`
turns messages into bytes again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import h11

from ..config import Limits
from ..protocol.heads import MAX_INTERIM, Fields, RequestHead, ResponseHead, get_all, is_upgrade, tokens


class End(Enum):
    """The end of a complete message."""

    END = "end"


END: Final = End.END


class BadMessage(Exception):
    """Bytes that are not an HTTP/1.1 message, or not one that is accepted.

    ``status`` is the HTTP status for a client. The text is for people, and contains no part of the message.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeadReceived:
    """A request's head, with HTTP/1.1's rules for its body and its connection."""

    head: RequestHead
    """The head: its target in origin form (or ``*``), byte for byte, and its fields as they arrived."""
    host: bytes
    """The authority of the target, or else the Host field; may be empty."""
    length: int | None
    """Length of the body in bytes; 0: no body; None: unknown, since it is chunked."""
    version: bytes
    """``1.0`` or ``1.1``."""

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants to keep its connection open (RFC 9112 section 9.3)."""
        options = tokens(self.head.fields, b"connection")
        if self.version == b"1.0":
            return b"keep-alive" in options and b"close" not in options
        return b"close" not in options

    @property
    def upgrade(self) -> bool:
        """Whether it asks for another protocol. A request with a body cannot."""
        return self.version == b"1.1" and self.length == 0 and is_upgrade(self.head.fields)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body (RFC 9110 section 10.1.1)."""
        return self.version == b"1.1" and self.length != 0 and b"100-continue" in tokens(self.head.fields, b"expect")


RequestEvent = RequestHeadReceived | bytes | End
ResponseEvent = ResponseHead | bytes | End

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) HTTP/(\d)\.(\d)")
_STATUS_LINE: Final = re.compile(rb"(?:HTTP/1\.([01])|ICY)[ \t]+([1-9]\d\d)(?:[ \t](.*))?", re.IGNORECASE | re.DOTALL)
"""ICY is SHOUTcast's version of HTTP/1.0."""
_CHUNK_SIZE: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CODINGS: Final = (b"gzip", b"x-gzip", b"deflate", b"compress", b"br", b"zstd")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE)
_HOP_BY_HOP: Final = frozenset(
    (b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"),
)
_NOT_PASSED: Final = _HOP_BY_HOP | {b"connection", b"upgrade"}
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
        """Whether anything but empty lines has arrived."""
        return bool(self._head) or self._http is not None

    @property
    def rest(self) -> bytes:
        """Bytes after the end of the request."""
        return self._http.trailing_data[0] if self._http else self._head

    def feed(self, data: bytes) -> list[RequestEvent]:
        """Process bytes as they arrive. Raises `BadMessage`, after which the reader cannot be used."""
        if self._http:
            return self._read_body(self._http, data)
        searched = max(0, len(self._head) - 2)
        self._head = (self._head + data).lstrip(b"\r\n")  # RFC 9112 section 2.2 allows empty lines before
        blank = _BLANK_LINE.search(self._head, searched)
        size = blank.end() if blank else len(self._head)
        if size > self._limits.head:
            raise BadMessage(431, f"the request's head has more than {self._limits.head} bytes")
        if blank:
            return self._read_head(self._head[:size], self._head[size:])
        if self._head and self._head[0] <= 0x20:  # TLS, for example, which never contains a line end
            raise BadMessage(400, "this is not HTTP/1.1")
        return []

    def _read_head(self, head: bytes, rest: bytes) -> list[RequestEvent]:
        line, _, lines = head.partition(b"\n")
        method, target, version = _request_line(line.removesuffix(b"\r"))
        http = self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        # h11 only accepts ASCII targets, and every byte is forwarded here, so it gets a placeholder.
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
    """Reads an upstream's response to one request, including interim heads.

    It accepts errors of servers that curl and browsers accept, if the meaning is clear: a status line in lower case or
    without a reason, folded and repeated fields, LF for CRLF, ``identity`` and a repeated ``chunked``. It rejects
    anything ambiguous, and the error names it.

    After the head of a 101, `rest` and everything read later belong to the new protocol.
    """

    def __init__(self, method: bytes, *, upgrade: bool = False, limits: Limits = _DEFAULTS) -> None:
        self._method = method
        self._upgrade = upgrade
        self._limits = limits
        self._head = b""
        self._interim = 0
        self._body: _Body | None = None
        self._reusable = False
        self._done = False

    @property
    def rest(self) -> bytes:
        """Bytes after the end of the response, or after a 101."""
        return self._body.rest if self._body else self._head

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can be used again, once the response has ended."""
        return self._done and self._reusable and not self.rest

    def feed(self, data: bytes) -> Iterator[ResponseEvent]:
        """Process bytes as they arrive. Iterate over all events before the next call.

        Raises `BadMessage` after the events that precede it. The reader cannot be used after that.
        """
        if self._body is None:
            searched = max(0, len(self._head) - 2)
            self._head += data
            if not self._done:
                yield from self._read_heads(searched)
            data, self._head = (self._head, b"") if self._in_body else (b"", self._head)
        yield from self._read_body(data)

    def eof(self) -> Iterator[ResponseEvent]:
        """Process the end of the connection, which ends a body without a length.

        Raises `BadMessage` if the response is incomplete.
        """
        if self._done:
            return
        if not isinstance(self._body, _Unsized):
            raise BadMessage(502, "the connection closed before the response was complete")
        self._done = True
        yield END

    @property
    def _in_body(self) -> bool:
        return self._body is not None

    def _read_body(self, data: bytes) -> Iterator[ResponseEvent]:
        if self._body is None:
            return
        parts: list[bytes] = []
        failure = None
        try:
            parts += self._body.feed(data)
        except BadMessage as exc:
            failure = exc
        if parts:
            yield b"".join(parts)
        if failure:
            raise failure
        if self._body.whole and not self._done:
            self._done = True
            yield END

    def _read_heads(self, searched: int) -> Iterator[ResponseHead]:
        while not (self._body or self._done):
            empty = len(self._head) - len(self._head.lstrip(b"\r\n"))
            if empty:  # extra line ends that a server sends after its previous response
                self._head, searched = self._head[empty:], 0
            blank = _BLANK_LINE.search(self._head, searched)
            size = blank.end() if blank else len(self._head)
            if size > self._limits.head:
                raise BadMessage(502, f"its head has more than {self._limits.head} bytes")
            if not blank:
                if b"\n" in self._head:
                    _status_line(self._head.partition(b"\n")[0])
                return
            head, self._head, searched = self._head[:size], self._head[size:], 0
            yield self._read_head(head)

    def _read_head(self, head: bytes) -> ResponseHead:
        first, *lines = (line.removesuffix(b"\r") for line in head.rstrip(b"\r\n").split(b"\n"))
        version, status, reason = _status_line(first)
        if lines and _STATUS_LINE.fullmatch(lines[0]):
            if _status_line(lines[0])[1] != status:
                raise BadMessage(502, "it has two status lines that differ")
            del lines[0]
        fields = _response_fields(lines, self._limits.response_fields)
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise BadMessage(502, f"it has more than {MAX_INTERIM} interim heads")
            return ResponseHead(status=status, reason=reason, fields=fields)
        fields = self._begin_body(version, status, fields)
        return ResponseHead(status=status, reason=reason, fields=fields)

    def _begin_body(self, version: bytes, status: int, fields: Fields) -> Fields:
        """Determine how the body ends (RFC 9112 section 6.3). Returns the fields, with one length at most."""
        if status == 101:
            if not self._upgrade:
                raise BadMessage(502, "it switches the protocol without a request for that")
            self._done = True
            return fields
        told = bool(get_all(fields, b"content-length"))
        chunked = _is_chunked(fields)
        if chunked:  # it takes precedence, so the length is dropped
            length = None
            fields = tuple(field for field in fields if field[0].lower() != b"content-length")
        else:
            length = content_length(fields)
            fields = tuple(_with_one_length(fields))
        bodiless = self._method == b"HEAD" or status in (204, 304)
        if bodiless:
            self._body = _Sized(0)
        elif chunked:
            self._body = _Chunked(self._limits.head)
        else:
            self._body = _Unsized() if length is None else _Sized(length)
        # Servers and their proxies disagree on whether a body follows, or where it ends.
        doubtful = (chunked and (told or status in (204, 304))) or (status == 204 and bool(length))
        options = tokens(fields, b"connection")
        ends = not isinstance(self._body, _Unsized)
        self._reusable = version == b"1.1" and b"close" not in options and ends and not doubtful
        return fields


class _Sized:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.rest = b""

    @property
    def whole(self) -> bool:
        return not self._left

    def feed(self, data: bytes) -> Iterator[bytes]:
        taken = data if len(data) <= self._left else data[: self._left]
        self._left -= len(taken)
        self.rest += data[len(taken) :]
        if taken:
            yield taken


class _Unsized:
    """A body that ends with its connection."""

    rest = b""
    whole = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data


class _Chunked:
    """The chunked coding (RFC 9112 section 7.1). Lines may end in LF alone. Extensions and trailers are dropped."""

    def __init__(self, limit: int) -> None:
        """``limit``: maximum bytes of a chunk's size and extensions, and of all trailers together."""
        self.rest = b""
        self.whole = False
        self._limit = limit
        self._left = 0
        self._state = self._size
        self._trailers = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        data, at = self.rest + data, 0
        try:
            while at < len(data) and not self.whole:
                if self._left:
                    part = data[at : at + self._left]
                    at += len(part)
                    self._left -= len(part)
                    if not self._left and data.startswith(b"\r\n", at):  # the usual end of a chunk
                        at += 2
                        self._state = self._size
                    yield part
                    continue
                end = data.find(b"\n", at)
                if (end if end >= 0 else len(data)) - at > self._limit:
                    raise BadMessage(502, f"a line of its chunked body has more than {self._limit} bytes")
                if end < 0:
                    return
                line, at = data[at:end].removesuffix(b"\r"), end + 1
                self._state(line)
        finally:
            self.rest = data[at:]

    def _size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        if not match:
            raise BadMessage(502, "the size of one of its chunks is not a hexadecimal number")
        self._left = int(match[1], 16)
        self._state = self._end if self._left else self._trailer

    def _end(self, line: bytes) -> None:
        if line:
            raise BadMessage(502, "one of its chunks is longer than its size")
        self._state = self._size

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if self._trailers > self._limit:
            raise BadMessage(502, f"its trailers have more than {self._limit} bytes")
        self.whole = not line


_Body = _Sized | _Unsized | _Chunked


def _status_line(line: bytes) -> tuple[bytes, int, bytes]:
    """Return version (``1.0`` or ``1.1``), status and reason."""
    match = _STATUS_LINE.fullmatch(line.removesuffix(b"\r"))
    if not match:
        raise BadMessage(502, "it does not begin with an HTTP/1.1 status line")
    minor, status, reason = match.groups()
    if b"\r" in (reason or b"") or b"\0" in (reason or b""):
        raise BadMessage(502, "its reason contains a control byte")
    return b"1.1" if minor == b"1" else b"1.0", int(status), (reason or b"").strip(b" \t")


def _response_fields(lines: list[bytes], limit: int) -> Fields:
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):  # folded: RFC 9112 section 5.2
            if not fields:
                raise BadMessage(502, "its first header line begins with a space")
            name, value = fields[-1]
            fields[-1] = (name, b"%b %b" % (value, line.strip(b" \t")))
        else:
            name, colon, value = line.partition(b":")
            if not colon:
                raise BadMessage(502, "one of its header lines has no colon")
            fields.append((name.rstrip(b" \t"), value.strip(b" \t")))  # RFC 9112 section 5.1
            if len(fields) > limit:
                raise BadMessage(502, f"it has more than {limit} header fields")
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise BadMessage(502, "the name of one of its header fields is not a token")
        if b"\0" in value or b"\r" in value:
            raise BadMessage(502, "the value of one of its header fields contains a NUL or a lone CR")
    return tuple(fields)


def _is_chunked(fields: Fields) -> bool:
    codings = [coding for coding in tokens(fields, b"transfer-encoding") if coding != b"identity"]
    if others := {*codings} - {b"chunked"}:
        named = next((coding for coding in _CODINGS if coding in others), None)
        raise BadMessage(
            502,
            f"its Transfer-Encoding is {named.decode() if named else 'neither chunked nor identity'}, not requested",
        )
    return bool(codings)


def _with_one_length(fields: Fields) -> Iterator[tuple[bytes, bytes]]:
    """Return the fields, with equal lengths (repeated, or as ``5, 5``) merged into one."""
    seen = False
    for name, value in fields:
        if name.lower() != b"content-length":
            yield name, value
        elif not seen:
            seen = True
            yield name, value.partition(b",")[0].strip()


def end_to_end(fields: Fields, *, upgrade: bool = False) -> Fields:
    """Return the fields that a proxy forwards: without hop-by-hop fields (RFC 9110 section 7.6.1).

    With ``upgrade``, the head asks for or grants another protocol. Connection, the fields it names and Upgrade stay.
    """
    if upgrade:
        return tuple(field for field in fields if field[0].lower() not in _HOP_BY_HOP)
    dropped = _NOT_PASSED
    if named := tokens(fields, b"connection"):
        # Content-Length frames the body, so naming it in Connection must not remove it.
        dropped = dropped.union(named) - {b"content-length"}
    return tuple(field for field in fields if field[0].lower() not in dropped)


def content_length(fields: Fields) -> int | None:
    """Return the body's length according to the head. Raises `BadMessage` unless it is a single number."""
    lengths = {length.strip() for value in get_all(fields, b"content-length") for length in value.split(b",")}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > 19:
        raise BadMessage(502, "the Content-Length is not a single number")
    return int(length)


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Return method, raw target and version (``1.0`` or ``1.1``)."""
    match = _REQUEST_LINE.fullmatch(line)
    if not match:
        raise BadMessage(400, "the request line is not valid HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadMessage(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    if method == b"CONNECT":
        raise BadMessage(501, "CONNECT is not supported: this is a reverse proxy for one service")
    return method, target, b"1.0" if minor == b"0" else b"1.1"


def _received(event: h11.Request, raw_target: bytes) -> RequestHeadReceived:
    method, version = bytes(event.method), bytes(event.http_version)
    authority, target = _origin_form(method, raw_target)
    fields = _fields(event)
    chunked = bool(get_all(fields, b"transfer-encoding"))
    length = content_length(fields)
    if chunked and (length is not None or version == b"1.0"):
        raise BadMessage(400, "Transfer-Encoding cannot be combined with Content-Length or HTTP/1.0")
    return RequestHeadReceived(
        head=RequestHead(method=method, target=target, fields=fields),
        host=authority or b"".join(get_all(fields, b"host")),
        length=None if chunked else length or 0,
        version=version,
    )


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Return the authority (empty if the target has none) and the path with query (RFC 9112 section 3.2)."""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return b"", target
    match = _ABSOLUTE.fullmatch(target)
    if not match:
        raise BadMessage(400, "the request target is neither a path nor a URL")
    authority, rest = match.groups()
    if not rest:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, rest if rest.startswith(b"/") else b"/" + rest


def _fields(event: h11.Request) -> Fields:
    return tuple((bytes(name), bytes(value)) for name, value in event.headers.raw_items())


def _events(http: h11.Connection) -> Iterator[h11.Event]:
    """Return h11's events for the bytes so far, up to the message's end."""
    try:
        while isinstance(event := http.next_event(), h11.Event):
            yield event
            if isinstance(event, h11.EndOfMessage):
                return
    except h11.RemoteProtocolError as exc:
        # h11 quotes the invalid bytes after a colon: they may be a secret.
        raise BadMessage(exc.error_status_hint, str(exc).partition(": b")[0]) from exc


def _body(events: Iterator[h11.Event]) -> tuple[list[bytes], End | BadMessage | None]:
    """Return the body bytes of these events in one piece, if any, and how the message ended, if it did."""
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
