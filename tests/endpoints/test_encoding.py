from __future__ import annotations

import pytest

from llmtunnel.config import Limits
from llmtunnel.endpoints.encoding import ResponseEncoder, encode_chunk
from llmtunnel.endpoints.http1 import RequestHeadReceived, RequestReader
from llmtunnel.errors import ProtocolError
from llmtunnel.protocol.heads import Fields, ResponseHead


def encoder(request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> ResponseEncoder:
    received = RequestReader(Limits()).feed(request)[0]
    assert isinstance(received, RequestHeadReceived)
    return ResponseEncoder(received)


def ok(*fields: tuple[bytes, bytes], status: int = 200) -> ResponseHead:
    return ResponseHead(status=status, reason=b"OK", fields=fields)


SIZED: Fields = ((b"Content-Length", b"3"),)


def test_an_empty_chunk_is_never_written() -> None:
    assert encode_chunk(b"") == b""
    assert encode_chunk(b"a" * 16) == b"10\r\n" + b"a" * 16 + b"\r\n"


def test_a_sized_body_passes_as_it_is() -> None:
    response = encoder()
    assert response.head(ok(*SIZED)) == b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    assert response.data(b"abc") + response.end() == b"abc"
    assert response.keep_alive


def test_a_body_of_unknown_length_is_chunked() -> None:
    response = encoder()
    assert response.head(ok((b"Set-Cookie", b"a"))).endswith(b"Set-Cookie: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert response.data(b"abc") + response.end() == b"3\r\nabc\r\n0\r\n\r\n"


def test_a_client_of_http_1_0_gets_a_body_of_unknown_length_until_the_close() -> None:
    response = encoder(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert response.head(ok()) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert response.data(b"abc") + response.end() == b"abc"
    assert response.until_close
    assert not response.keep_alive


def test_a_client_of_http_1_0_may_keep_its_connection_with_a_sized_body() -> None:
    response = encoder(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Connection: keep-alive\r\n" in response.head(ok(*SIZED))


@pytest.mark.parametrize(("request_line", "status"), [(b"HEAD", 200), (b"GET", 304), (b"GET", 204)])
def test_a_response_without_a_body_keeps_its_length(request_line: bytes, status: int) -> None:
    response = encoder(request_line + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Content-Length: 3\r\n" in response.head(ok(*SIZED, status=status))
    assert response.end() == b""


@pytest.mark.parametrize("body", [b"ab", b"abcd"])
def test_a_body_that_is_not_as_long_as_told_never_ends_well(body: bytes) -> None:
    response = encoder()
    response.head(ok(*SIZED))
    with pytest.raises(ProtocolError):
        response.data(body) + response.end()


def test_two_lengths_are_refused() -> None:
    with pytest.raises(ProtocolError):
        encoder().head(ok(*SIZED, (b"content-length", b"4")))


def test_a_connection_that_will_close_says_so() -> None:
    response = encoder(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert response.head(ok(*SIZED)).endswith(b"Connection: close\r\n\r\n")
