"""HTTP/1.1: what clients and upstreams send."""

from __future__ import annotations

from random import Random
from typing import Final

from llmtunnel.config import Limits
from llmtunnel.endpoints.http1 import END, BadMessage, RequestReader, ResponseReader
from llmtunnel.protocol.heads import RequestHead, ResponseHead

from . import mutations
from .wire import check_clean

REQUESTS: Final = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /a?b=%2F HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT http://h:1/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1;a=b\r\nx\r\n0\r\nT: 1\r\n\r\n",
    b"\r\nOPTIONS * HTTP/1.0\nConnection: keep-alive, x\n\n",
    b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
]
RESPONSES: Final = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \xfc\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
    b"HTTP/1.0 200 \r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
]


def requests(rng: Random) -> None:
    """A client's bytes: a head, body, an end, in that order; or `BadMessage`."""
    reader, seen = RequestReader(Limits(head=2000, fields=20)), list[object]()
    for piece in mutations.pieces(rng, mutations.of_bytes(rng, rng.choice(REQUESTS))):
        try:
            seen += reader.feed(piece)
        except BadMessage as exc:
            assert 400 <= exc.status <= 599
            break
        assert isinstance(reader.rest, bytes)
    _check_order(seen, heads_first=1)


def responses(rng: Random) -> None:
    """An upstream's bytes: interim heads, a head, body, an end; or `BadMessage`."""
    method = rng.choice([b"GET", b"HEAD", b"POST"])
    reader = ResponseReader(method, upgrade=rng.random() < 0.3, limits=Limits(head=2000, fields=20))
    seen: list[object] = []
    try:
        for piece in mutations.pieces(rng, mutations.of_bytes(rng, rng.choice(RESPONSES))):
            for event in reader.feed(piece):
                seen.append(event)  # noqa: PERF402 - what came before an error counts
            assert isinstance(reader.rest, bytes) and isinstance(reader.keep_alive, bool)
        for event in reader.eof():
            seen.append(event)  # noqa: PERF402
    except BadMessage as exc:
        assert 400 <= exc.status <= 599
    _check_order(seen, heads_first=None)


def _check_order(seen: list[object], *, heads_first: int | None) -> None:
    kinds = [2 if event is END else 1 if isinstance(event, bytes) else 0 for event in seen]
    assert kinds == sorted(kinds)
    assert kinds.count(2) <= 1
    assert heads_first is None or kinds.count(0) <= heads_first
    assert b"" not in seen
    for event in seen:
        head = getattr(event, "head", event)
        if isinstance(head, RequestHead | ResponseHead):
            check_clean(head)
