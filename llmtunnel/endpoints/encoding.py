"""Serialize HTTP/1.1 messages. h11 could do this, but it adds fields. Pure, like `http1`."""

from __future__ import annotations

from typing import Final

from ..errors import ErrorCode, ProtocolError
from ..protocol.heads import Fields, ResponseHead
from .http1 import BadMessage, RequestHeadReceived, content_length, end_to_end

LAST_CHUNK: Final = b"0\r\n\r\n"
"""The end of a complete chunked body, without trailers."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_CHUNKED: Final[Fields] = ((b"Transfer-Encoding", b"chunked"),)
_CLOSE: Final[Fields] = ((b"Connection", b"close"),)
_KEEP_ALIVE: Final[Fields] = ((b"Connection", b"keep-alive"),)


def encode_response(head: ResponseHead) -> bytes:
    """Return the head's bytes for a client."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, _lines(head.fields))


def encode_chunk(data: bytes) -> bytes:
    """Return one chunk (RFC 9112 section 7.1). Empty data gives nothing, since an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _lines(fields: Fields) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class ResponseEncoder:
    """Frames one response: with its length, else chunked, else (HTTP/1.0) until the connection closes."""

    def __init__(self, request: RequestHeadReceived) -> None:
        self._method = request.head.method
        self._version = request.version
        self.keep_alive = request.keep_alive
        """Whether the connection can be used again after this response; may be set to False before the head."""
        self.until_close = False
        """Whether the body ends with the connection, so that only a reset shows that it is incomplete."""
        self._chunked = False
        self._remaining: int | None = None

    def head(self, head: ResponseHead) -> bytes:
        """Return the final head's bytes. Raises `ProtocolError` if the head contradicts itself."""
        try:
            length = content_length(head.fields)
        except BadMessage as exc:
            raise ProtocolError(f"The response is not valid: {exc}.") from exc
        if self._method == b"HEAD" or head.status in (204, 304):
            self._remaining = 0
        elif length is not None:
            self._remaining = length
        elif self._version == b"1.1":
            self._chunked = True
        else:
            self.until_close, self.keep_alive = True, False
        fields = end_to_end(head.fields) + (_CHUNKED if self._chunked else ()) + self._connection()
        return encode_response(ResponseHead(status=head.status, reason=head.reason, fields=fields))

    def data(self, data: bytes) -> bytes:
        """Return body bytes. Raises `ProtocolError` if they exceed the declared length."""
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining < 0:
                raise ProtocolError("The response is longer than its Content-Length.")
        return encode_chunk(data) if self._chunked else data

    def end(self) -> bytes:
        """Return the bytes that end the body. Raises `ProtocolError` if it is shorter than declared."""
        if self._remaining:
            raise ProtocolError(f"The response ended {self._remaining} bytes early.", code=ErrorCode.TRUNCATED)
        return LAST_CHUNK if self._chunked else b""

    def _connection(self) -> Fields:
        if not self.keep_alive:
            return _CLOSE
        return _KEEP_ALIVE if self._version == b"1.0" else ()
