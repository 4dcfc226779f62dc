"""Keep a client's connection alive while the upstream is silent, because of a queue or a long prompt.

A client, or a load balancer before it, may close a connection that is silent for a minute. An event stream may contain
comments, which clients skip (HTML Living Standard, "Server-sent events"). So a request for one can be answered before
its response exists. In exchange, its status is 200, and a later error is sent as an event. All other fields of the real
head are lost as well: cookies, request ids, rate limits.

The early head has no Content-Encoding, so the body must not be encoded either. The upstream is asked not to compress.
If it compresses anyway, the body is decoded here.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from ..config import MIB
from ..errors import ProtocolError
from ..protocol.heads import Fields, RequestHead, ResponseHead, get_all, tokens
from ..transport.tasks import stop

COMMENT: Final = b": waiting for the model\n\n"
HEAD: Final = ResponseHead(
    status=200,
    reason=b"OK",
    fields=((b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")),
)
LONGEST_BODY: Final = 1 * MIB
"""Maximum bytes of a request to parse for ``stream``. A larger prompt contains pictures."""
LONGEST_ERROR: Final = 65_536
"""Maximum bytes of an error's body that an event contains."""

_PIECE: Final = 65_536
"""Maximum bytes to decode at once: compressed data may expand a thousandfold."""
_GZIP: Final = zlib.MAX_WBITS | 16
_RAW: Final = -zlib.MAX_WBITS
_CODINGS: Final = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}
_NEVER: Final = re.compile(rb"\s*(identity|\*)\s*;\s*q=0(\.0*)?\s*", re.IGNORECASE)
_PATHS: Final = re.compile(rb".*/(?:chat/completions|completions|responses|messages)")


class Warmer:
    """The keep-alive of one exchange. ``seconds`` is the silence after which it sends a comment, repeatedly."""

    def __init__(self, seconds: float) -> None:
        self.begun = False
        """Whether the client has received an early head."""
        self._seconds = seconds
        self._body: bytearray | None = bytearray()

    def feed(self, data: bytes) -> None:
        """Process a part of the request's body."""
        if self._body is not None:
            self._body += data
            if len(self._body) > LONGEST_BODY:
                self._body = None

    async def wait(self, head: Coroutine[Any, Any, ResponseHead], tell: Callable[[], bool]) -> ResponseHead:
        """Wait for the head. Meanwhile, ``tell`` sends something to the client, and returns whether it did."""
        coming = asyncio.create_task(head, name="a response's head")
        try:
            while not (await asyncio.wait((coming,), timeout=self._seconds))[0]:
                if (self.begun or self._asks_for_events()) and tell():
                    self.begun = True
            return coming.result()
        finally:
            await stop(coming)

    def _asks_for_events(self) -> bool:
        try:
            asked = json.loads(self._body or b"")
        except (ValueError, RecursionError):  # incomplete, or not JSON
            return False
        return isinstance(asked, dict) and asked.get("stream") is True


def error_event(status: int, body: bytes) -> bytes:
    """Return an error as an event that OpenAI's clients raise: the upstream's own error if it has that format."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or "error" not in told:
        text = body.decode("utf-8", "replace").strip() or f"The model server answered with HTTP status {status}."
        told = {"error": {"message": text, "type": "upstream_error", "code": status}}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def unreadable(status: int, coding: str) -> bytes:
    """Return the error text for a body in a content coding that cannot be decoded."""
    return (
        f"The model server answered with HTTP status {status}, and compressed with {coding!r} although the request"
        " rules that out. Turn compression off there, or start the proxy without --keepalive."
    ).encode()


def is_event_stream(head: ResponseHead) -> bool:
    """Whether a response is the event stream that was promised to the client, after decoding."""
    kinds = [value.partition(b";")[0].strip().lower() for value in get_all(head.fields, b"content-type")]
    return head.status == 200 and kinds == [b"text/event-stream"] and Decoder(head).unknown is None


def may_ask(request: RequestHead, host: bytes, cors: Fields) -> bool:
    """Whether a request may be one for events, and its client can use an early head.

    ``cors``: the listener's own CORS fields for the requesting page. Without them, only the upstream's head can let a
    page of another origin read the response.
    """
    path = request.target.partition(b"?")[0]
    plain = not get_all(request.fields, b"content-encoding") and _takes_identity(request.fields)
    readable = bool(cors) or all(
        origin.partition(b"://")[2].lower() == host.lower() for origin in get_all(request.fields, b"origin")
    )
    return request.method == b"POST" and bool(_PATHS.fullmatch(path)) and plain and readable


def asking_for_identity(fields: Fields) -> Fields:
    """Return the fields of a request that may get an early head: its response must not be compressed."""
    return tuple((name, b"identity" if name.lower() == b"accept-encoding" else value) for name, value in fields)


def _takes_identity(fields: Fields) -> bool:
    """Whether the client accepts an uncompressed response (RFC 9110 section 12.5.3)."""
    members = [member for value in get_all(fields, b"accept-encoding") for member in value.split(b",")]
    refused = {match[1].lower() for member in members if (match := _NEVER.fullmatch(member))}
    named = any(member.partition(b";")[0].strip().lower() == b"identity" for member in members)
    return b"identity" not in refused and (named or b"*" not in refused)


class Decoder:
    """Removes the content coding from a response's body."""

    def __init__(self, head: ResponseHead) -> None:
        codings = [each for each in tokens(head.fields, b"content-encoding") if each != b"identity"]
        self.unknown: str | None = None
        """A coding, or several, that the standard library cannot decode; then nothing is decoded."""
        if len(codings) > 1 or (codings and codings[0] not in _CODINGS):
            self.unknown = b", ".join(codings).decode("ascii", "backslashreplace")
        self._bits = _CODINGS[codings[0]] if codings and not self.unknown else 0
        self._decoder = zlib.decompressobj(self._bits) if self._bits else None
        self._begun = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode bytes, in pieces. Raises `ProtocolError` if they are not encoded that way."""
        if self._decoder is None:
            yield data
            return
        try:
            while data:
                piece = self._decompress(data)
                data = self._decoder.unconsumed_tail
                if self._decoder.eof:  # gzip may continue with another member
                    data = self._decoder.unused_data
                    self._decoder = zlib.decompressobj(self._bits)
                if piece:
                    yield piece
        except zlib.error as exc:
            raise ProtocolError("The response's body does not match its Content-Encoding.") from exc

    def _decompress(self, data: bytes) -> bytes:
        assert self._decoder is not None
        begun, self._begun = self._begun, True
        try:
            return self._decoder.decompress(data, _PIECE)
        except zlib.error:
            if begun or self._bits != zlib.MAX_WBITS:
                raise
            self._bits = _RAW  # which some servers send as deflate
            self._decoder = zlib.decompressobj(_RAW)
            return self._decoder.decompress(data, _PIECE)
