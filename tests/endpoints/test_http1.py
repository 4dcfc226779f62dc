from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.config import Limits
from llmtunnel.endpoints.http1 import (
    END,
    BadMessage,
    RequestHeadReceived,
    RequestReader,
    ResponseReader,
    content_length,
    end_to_end,
)
from llmtunnel.protocol import fields
from llmtunnel.protocol.heads import RequestHead, ResponseHead

LIMITS = Limits(head=2048, fields=20, response_fields=30)


def read(data: bytes, limits: Limits = LIMITS) -> RequestHeadReceived:
    head = RequestReader(limits).feed(data)[0]
    assert isinstance(head, RequestHeadReceived)
    return head


def refused(data: bytes, limits: Limits = LIMITS) -> int:
    with pytest.raises(BadMessage) as caught:
        RequestReader(limits).feed(data)
    return caught.value.status


def outcome(feed: Callable[[bytes], Iterable[object]], pieces: list[bytes]) -> list[object]:
    """The events of those pieces, body bytes joined; of what was refused the status alone."""
    events: list[object] = []
    body = b""
    try:
        for event in (event for piece in pieces for event in feed(piece)):
            if isinstance(event, bytes):
                body += event
            else:
                events.append(event)
    except BadMessage as bad:
        return [bad.status]
    return [*events, body]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a?x=%2F//../;+ HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\nPOST /caf\xe9 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: v\r\n\r\nre",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /bare-lf HTTP/1.1\nHost: a\n\nrest",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 3000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 30 + b"\r\n",
]

RESPONSES = [
    (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: \xff\r\n\r\nhello"),
    (b"GET", b"HTTP/1.1 200 Gr\xfc\xdfe\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    (b"GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204\r\n\r\n"),
    (b"GET", b"HTTP/1.0 200 OK\r\n\r\nuntil it closes"),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"),
    (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
    (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    (b"GET", b"nonsense\r\n\r\n"),
]

CUTS = st.lists(st.integers(0, 4000), max_size=8)


@pytest.mark.parametrize("data", REQUESTS, ids=range(len(REQUESTS)))
def test_a_request_reads_the_same_byte_by_byte_as_whole(data: bytes) -> None:
    whole, pieces = RequestReader(LIMITS), RequestReader(LIMITS)
    assert outcome(whole.feed, [data]) == outcome(pieces.feed, [bytes((byte,)) for byte in data])


@given(st.sampled_from(REQUESTS), CUTS)
def test_a_request_reads_the_same_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    whole, pieces = RequestReader(LIMITS), RequestReader(LIMITS)
    result = outcome(whole.feed, [data])
    assert result == outcome(pieces.feed, split(data, cuts))
    if END in result:
        assert whole.rest == pieces.rest


@given(st.sampled_from(RESPONSES), CUTS)
def test_a_response_reads_the_same_however_it_is_split(case: tuple[bytes, bytes], cuts: list[int]) -> None:
    def feed_all(pieces: list[bytes]) -> list[object]:
        reader = ResponseReader(case[0], limits=LIMITS)
        return outcome(lambda data: reader.feed(data) if data else reader.eof(), [*filter(None, pieces), b""])

    assert feed_all([case[1]]) == feed_all(split(case[1], cuts))


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_waited_on_and_raises_nothing_else(data: bytes) -> None:
    for feed in (RequestReader(LIMITS).feed, ResponseReader(b"GET").feed):
        outcome(feed, [data, b"\r\n\r\n"])


def test_a_request_keeps_target_bytes_order_and_case() -> None:
    request = read(b"GET //a/..%2f\xe9?;+? HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\nx-a: \xff2 \r\n\r\n")
    fields = ((b"Host", b"h:1"), (b"X-A", b"1"), (b"x-a", b"\xff2"))
    assert request.head == RequestHead(method=b"GET", target=b"//a/..%2f\xe9?;+?", fields=fields)
    assert (request.host, request.length, request.version) == (b"h:1", 0, b"1.1")


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://example.org:81/a//b?c", b"/a//b?c", b"example.org:81"),
        (b"HTTPS://example.org", b"/", b"example.org"),
        (b"http://example.org?q", b"/?q", b"example.org"),
        (b"http://[::1]:8/%41", b"/%41", b"[::1]:8"),
    ],
)
def test_an_absolute_target_gives_its_path_byte_for_byte_and_its_authority(
    target: bytes, path: bytes, host: bytes
) -> None:
    request = read(b"GET %b HTTP/1.1\r\nHost: other\r\n\r\n" % target)
    assert (request.head.target, request.host) == (path, host)


def test_options_may_ask_about_the_server_as_a_whole() -> None:
    assert read(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").head.target == b"*"
    assert read(b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n").head.target == b"*"
    assert refused(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n") == 400


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"GET /\r\n\r\n"),
        (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, b"\x16\x03\x01\x02"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2048),
        (431, b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20 + b"\r\n"),
        (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (501, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ],
)
def test_a_request_that_breaks_the_rules_is_refused_with_a_status(status: int, data: bytes) -> None:
    assert refused(data) == status


def test_an_error_quotes_nothing_of_the_message() -> None:
    with pytest.raises(BadMessage) as caught:
        RequestReader(LIMITS).feed(b"GET / HTTP/1.1\r\nHost: a\r\nBad Field: secret\r\n\r\n")
    assert "secret" not in str(caught.value)


def test_what_follows_a_request_is_left_for_the_next() -> None:
    reader = RequestReader(LIMITS)
    one = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab"
    assert reader.feed(one + b"GET")[1:] == [b"ab", END]
    assert reader.feed(b" /") == []
    assert reader.rest == b"GET /"


@pytest.mark.parametrize(
    ("keeps", "head"),
    [
        (True, b"HTTP/1.1\r\nHost: a\r\n"),
        (False, b"HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n"),
        (False, b"HTTP/1.0\r\n"),
        (True, b"HTTP/1.0\r\nConnection: Keep-Alive\r\n"),
    ],
)
def test_a_request_says_whether_its_connection_goes_on(keeps: bool, head: bytes) -> None:
    assert read(b"GET / " + head + b"\r\n").keep_alive is keeps


def test_an_upgrade_with_a_body_is_not_taken_as_one() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    assert read(head + b"\r\n").upgrade
    assert not read(head + b"Content-Length: 1\r\n\r\n").upgrade


def test_a_response_of_each_framing_ends_whole() -> None:
    for method, data in RESPONSES[:6]:
        reader = ResponseReader(method)
        assert [*reader.feed(data), *reader.eof()][-1] is END


@pytest.mark.parametrize("data", [data for _, data in RESPONSES[6:8]] + [b"", b"HTTP/1.1 20"])
def test_a_response_that_is_cut_short_is_told_from_a_whole_one(data: bytes) -> None:
    reader = ResponseReader(b"GET")
    assert END not in reader.feed(data)
    with pytest.raises(BadMessage, match="before the response was complete"):
        [*reader.eof()]


def test_a_response_tells_whether_its_connection_can_be_used_again() -> None:
    def reusable(data: bytes) -> bool:
        reader = ResponseReader(b"GET")
        assert [*reader.feed(data)][-1] is END
        return reader.keep_alive

    assert reusable(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
    assert not reusable(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab")
    assert not reusable(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na")
    assert not reusable(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na")


def test_what_came_before_rubbish_in_a_body_is_told_first() -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\nzz\r\n"
    events = ResponseReader(b"GET").feed(data)
    assert isinstance(next(events), ResponseHead)
    assert next(events) == b"ab"
    with pytest.raises(BadMessage):
        next(events)


def test_after_a_101_the_bytes_belong_to_the_new_protocol() -> None:
    reader = ResponseReader(b"GET", upgrade=True)
    [head] = reader.feed(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\n\x00HTTP/1.1")
    assert isinstance(head, ResponseHead)
    assert head.status == 101
    assert reader.rest == b"\x00HTTP/1.1"
    assert [*reader.eof()] == []


def test_a_101_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(BadMessage):
        next(ResponseReader(b"GET").feed(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\n"))


def test_a_length_beside_chunks_goes_no_further() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    head, *body = ResponseReader(b"GET").feed(data)
    assert isinstance(head, ResponseHead)
    assert head.fields == ((b"Transfer-Encoding", b"chunked"),)
    assert body == [b"a", END]


def test_hop_by_hop_fields_do_not_pass() -> None:
    kept = ((b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"Content-Length", b"1"))
    dropped = ((b"Connection", b"close, X-Mine, content-length"), (b"x-mine", b"1"), (b"Keep-Alive", b"timeout=5"))
    dropped += ((b"TE", b"trailers"), (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c"), (b"Trailer", b"T"))
    assert end_to_end(kept[:1] + dropped + kept[1:]) == kept


def test_an_upgrade_keeps_the_fields_that_ask_for_it() -> None:
    fields = ((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"x"))
    assert end_to_end((*fields, (b"Keep-Alive", b"5")), upgrade=True) == fields


@pytest.mark.parametrize("value", [b"", b"a", b"+1", b"1, 2", b"9" * 20])
def test_a_length_that_is_not_one_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadMessage):
        content_length(((b"Content-Length", value),))


# -- what servers get wrong: (accepted by) curl 8 and Chromium, as their sources say, and by us

OK = b"HTTP/1.1 200 OK\r\n"
SIZED = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"

ACCEPTED = {  # name: response, whether another may follow on its connection
    "Transfer-Encoding: identity, until the close": (OK + b"Transfer-Encoding: identity\r\n\r\nhello", False),
    "Transfer-Encoding: identity, sized": (OK + b"Transfer-Encoding: identity\r\n" + SIZED + b"\r\nhello", True),
    "Transfer-Encoding empty": (OK + b"Transfer-Encoding:\r\n" + SIZED + b"\r\nhello", True),
    "chunked, identity": (OK + b"Transfer-Encoding: Chunked, identity\r\n\r\n" + CHUNKS, True),
    "chunked in two fields": (OK + CHUNKED + CHUNKED + b"\r\n" + CHUNKS, True),
    "chunked, chunked": (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, True),
    "Content-Length beside chunked": (OK + SIZED + CHUNKED + b"\r\n" + CHUNKS, False),
    "Content-Length that is none beside chunked": (OK + b"Content-Length: x\r\n" + CHUNKED + b"\r\n" + CHUNKS, False),
    "Content-Length twice": (OK + SIZED + SIZED + b"\r\nhello", True),
    "Content-Length: 5, 5": (OK + b"Content-Length: 5, 5\r\n\r\nhello", True),
    "200 fields and more": (OK + SIZED + b"A: b\r\n" * 999 + b"\r\nhello", True),
    "obs-fold": (OK + SIZED + b"X-Folded: a\r\n\t  b\r\n \r\n\r\nhello", True),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", True),
    "bare LF in chunks": (OK + CHUNKED + b"\r\n5;x=y\nhello\n0\nX: y\n\n", True),
    "spaces about a chunk's size": (OK + CHUNKED + b"\r\n 0005 \r\nhello\r\n0 \r\n\r\n", True),
    "no reason": (b"HTTP/1.1 200\r\n" + SIZED + b"\r\nhello", True),
    "a space for a reason": (b"HTTP/1.1 200 \r\n" + SIZED + b"\r\nhello", True),
    "two spaces": (b"HTTP/1.1  200  OK\r\n" + SIZED + b"\r\nhello", True),
    "HTTP/1.0 keep-alive": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + SIZED + b"\r\nhello", False),
    "HTTP/1.0 chunked": (b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n" + CHUNKS, False),
    "small letters": (b"http/1.1 200 ok\r\ncontent-length: 5\r\n\r\nhello", True),
    "ICY": (b"ICY 200 OK\r\nicy-name: x\r\n\r\nhello", False),
    "spaces before the colon": (OK + b"Content-Length \t: 5\r\n\r\nhello", True),
    "two status lines": (OK + b"HTTP/1.1 200 OK\r\n" + SIZED + b"\r\nhello", True),
    "empty lines before": (b"\r\n\n\r\n" + OK + SIZED + b"\r\nhello", True),
    "control bytes in a value": (OK + b"X: a\x01\x0b\x7fb\r\n" + SIZED + b"\r\nhello", True),
    "an empty value": (OK + b"X:\r\n" + SIZED + b"\r\nhello", True),
    "a status of 999": (b"HTTP/1.1 999 Denied\r\n" + SIZED + b"\r\nhello", True),
}

BODILESS = {
    "204 with a length": (b"HTTP/1.1 204 No Content\r\n" + SIZED + b"\r\n", False),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\n" + SIZED + b"\r\nhello", False),
    "204 chunked": (b"HTTP/1.1 204 No Content\r\n" + CHUNKED + b"\r\n0\r\n\r\n", False),
    "204 with a length of 0": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\n" + SIZED + b"\r\n", True),
    "304 chunked": (b"HTTP/1.1 304 Not Modified\r\n" + CHUNKED + b"\r\n", False),
}

REFUSED = {  # name: response, what the error names
    "gzip, chunked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "Transfer-Encoding is gzip"),
    "gzip": (OK + b"Transfer-Encoding: GZIP\r\n" + SIZED + b"\r\nhello", "Transfer-Encoding is gzip"),
    "xchunked": (OK + b"Transfer-Encoding: xchunked\r\n\r\n", "neither chunked nor identity"),
    "chunked;q=1": (OK + b"Transfer-Encoding: chunked;q=1\r\n\r\n", "neither chunked nor identity"),
    "two lengths": (OK + SIZED + b"Content-Length: 6\r\n\r\n", "Content-Length is not a single number"),
    "Content-Length: 5, 6": (OK + b"Content-Length: 5, 6\r\n\r\n", "Content-Length is not a single number"),
    "no number": (OK + b"Content-Length: 0x5\r\n\r\n", "Content-Length is not a single number"),
    "an empty length": (OK + b"Content-Length:\r\n\r\n", "Content-Length is not a single number"),
    "more than 1,000 fields": (OK + b"A: b\r\n" * 1001 + b"\r\n", "more than 1000 header fields"),
    "a head of more than 32 KiB": (OK + b"A: " + b"b" * 33_000 + b"\r\n\r\n", "more than 32768 bytes"),
    "a fold at the beginning": (OK + b" X: y\r\n\r\n", "begins with a space"),
    "no colon": (OK + b"X\r\n\r\n", "no colon"),
    "no name": (OK + b": x\r\n\r\n", "not a token"),
    "a space in a name": (OK + b"X Y: z\r\n\r\n", "not a token"),
    "NUL": (OK + b"X: a\0b\r\n\r\n", "NUL"),
    "a lone CR": (OK + b"X: a\rb\r\n\r\n", "lone CR"),
    "a lone CR in the reason": (b"HTTP/1.1 200 O\rK\r\n\r\n", "control byte"),
    "status lines that differ": (OK + b"HTTP/1.1 404 Not Found\r\n\r\n", "two status lines"),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\n\r\n", "status line"),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", "status line"),
    "HTTP/0.9": (b"<html>\n", "status line"),
    "ssh, which waits": (b"SSH-2.0-OpenSSH_9.6\r\n", "status line"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "status line"),
    "a status below 100": (b"HTTP/1.1 099 OK\r\n\r\n", "status line"),
    "an unasked 101": (b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "switches the protocol"),
    "a chunk's size that is none": (OK + CHUNKED + b"\r\n0x5\r\nhello\r\n", "hexadecimal"),
    "an empty chunk's size": (OK + CHUNKED + b"\r\n\r\n", "hexadecimal"),
    "a chunk's size beyond measure": (OK + CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n", "hexadecimal"),
    "a chunk longer than its size": (OK + CHUNKED + b"\r\n4\r\nhello\r\n", "longer than its size"),
    "an endless chunk line": (OK + CHUNKED + b"\r\n5;" + b"x" * 40_000, "a line of its chunked body"),
    "endless trailers": (OK + CHUNKED + b"\r\n0\r\n" + b"X: y\r\n" * 10_000, "trailers"),
    "endless interim heads": (b"HTTP/1.1 102 Processing\r\n\r\n" * 1001, "interim heads"),
}


def response_of(data: bytes, pieces: int, method: bytes = b"GET") -> tuple[ResponseHead, bytes, ResponseReader]:
    """The final head and the body that come of these bytes, given in so many pieces, and the reader."""
    reader, head, body = ResponseReader(method), None, b""
    step = max(1, len(data) // pieces)
    events = [event for start in range(0, len(data), step) for event in reader.feed(data[start : start + step])]
    for event in [*events, *reader.eof()]:
        if isinstance(event, ResponseHead):
            head = event
        elif isinstance(event, bytes):
            body += event
    assert head is not None
    return head, body, reader


@pytest.mark.parametrize("pieces", [1, 7, 100_000])
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_response_that_can_be_meant_in_one_way_only_is_taken(name: str, pieces: int) -> None:
    data, reusable = ACCEPTED[name]
    head, body, reader = response_of(data, pieces)
    assert body == b"hello"
    assert reader.keep_alive is reusable
    lengths = [value for key, value in head.fields if key.lower() == b"content-length"]
    assert lengths in ([], [b"5"])
    fields.check(tuple(field for field in head.fields if field[0].lower() != b"transfer-encoding"))


@pytest.mark.parametrize("pieces", [1, 100_000])
@pytest.mark.parametrize("name", BODILESS)
def test_a_response_without_a_body_has_none_whatever_its_head_says(name: str, pieces: int) -> None:
    data, reusable = BODILESS[name]
    _, body, reader = response_of(data, pieces)
    assert body == b""
    assert reader.keep_alive is reusable
    assert response_of(ACCEPTED["Content-Length twice"][0][:-5], 1, b"HEAD")[1] == b""


@pytest.mark.parametrize("pieces", [1, 100_000])
@pytest.mark.parametrize("name", REFUSED)
def test_a_response_that_can_be_meant_in_two_ways_is_refused_by_an_error_that_names_it(name: str, pieces: int) -> None:
    data, named = REFUSED[name]
    reader, step = ResponseReader(b"GET"), max(1, len(data) // pieces)
    with pytest.raises(BadMessage, match=named) as caught:
        for start in range(0, len(data), step):
            [*reader.feed(data[start : start + step])]
    assert caught.value.status == 502


def test_folded_and_spaced_fields_go_on_as_one_line_without_the_spaces() -> None:
    head, _, _ = response_of(ACCEPTED["obs-fold"][0], 1)
    assert (b"X-Folded", b"a b ") in head.fields
    head, _, _ = response_of(ACCEPTED["spaces before the colon"][0], 1)
    assert (b"Content-Length", b"5") in head.fields


def test_requests_stay_strict_where_responses_are_not() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\n"
    for strange in (
        b"Transfer-Encoding: identity\r\n",
        CHUNKED + CHUNKED,
        b"Transfer-Encoding: chunked, chunked\r\n",
        SIZED + CHUNKED,
        b"Content-Length : 5\r\n",
        b"X: a\rb\r\n",
        b"A: b\r\n" * 201,
    ):
        assert refused(post + strange + b"\r\n", Limits()) in (400, 431, 501)
    assert refused(post.replace(b"HTTP", b"http") + b"\r\n") == 400
    assert refused(post + CHUNKED + b"\r\n5\nhello\n0\n\n  x\r\n") == 400


def test_many_tiny_chunks_take_time_by_their_number_alone() -> None:
    """Each must not move all that comes behind it."""
    body = b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    started = time.process_time()
    _, read_body, _ = response_of(OK + CHUNKED + b"\r\n" + body, 2)
    assert read_body == b"x" * 100_000
    assert time.process_time() - started < 3  # 0.2 s; some 30 s where each moves the rest


@given(st.sampled_from([*ACCEPTED.values(), *BODILESS.values()]), CUTS)
def test_an_odd_response_reads_the_same_however_it_is_split(case: tuple[bytes, bool], cuts: list[int]) -> None:
    def feed_all(pieces: list[bytes]) -> list[object]:
        reader = ResponseReader(b"GET")
        return outcome(lambda data: reader.feed(data) if data else reader.eof(), [*filter(None, pieces), b""])

    assert feed_all([case[0]]) == feed_all(split(case[0], cuts))
