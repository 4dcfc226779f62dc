"""Every exchange twice, over raw sockets: with the upstream directly and through the tunnel. Both must be the same.

What may differ, all of it, and why:

- hop-by-hop fields, and those that Connection names: they speak of one connection (RFC 9110 section 7.6.1)
- the HTTP version and a body's framing, chunked, sized or closed: they belong to each connection too (RFC 9112)
- Host at the upstream, which is its own, and X-Forwarded-Host, the client's: model servers refuse a foreign Host
- Location, and its like, where it names the upstream's own origin: it names the one that the client knows; the other
  way round, Origin and Referer that name the client's (`tests/endpoints/test_addresses.py` has them all)
- how much of a body arrived before the connection broke, and of a request body that the upstream did not read
- no answer, or one that is not HTTP, is 502 from the tunnel
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from ..support.answered import EXPECTATIONS, RESPONSES, TRUNCATED, UNANSWERED
from ..support.exchanges import (
    BODIED_METHODS,
    CLIENT_HOST,
    METHODS,
    OWN_ORIGIN,
    REQUESTS,
    TARGETS,
    Exchange,
    request,
    response,
)
from ..support.processes import Address, Tunnel
from ..support.raw_client import Broken, Client, Fields, Response, fetch
from ..support.raw_server import Request, Step
from ..support.upstream import Upstream, wait_until

WHOLE = (*METHODS, *BODIED_METHODS, *TARGETS, *REQUESTS, *RESPONSES, *EXPECTATIONS)
HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
OF_THE_TUNNEL = {b"host", b"x-forwarded-host"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What client and upstream saw of one exchange, without what may differ."""

    responses: tuple[object, ...]
    requests: tuple[object, ...]


def observe(address: Address, exchange: Exchange, upstream: Upstream) -> tuple[list[Response], list[Request]]:
    """Carry the exchange out; what the client got and the upstream received, all of it."""
    upstream.requests.clear()
    with Client(address) as client:
        responses = converse(client, exchange)
        check_connection_afterwards(client, exchange, responses[-1])
    received = [one for one in upstream.requests if one.target != b"/afterwards"]
    if not exchange.unread:
        wait_until(lambda: all(one.whole for one in received), "the request bodies arrive whole")
    return responses, received


def converse(client: Client, exchange: Exchange) -> list[Response]:
    """Send the requests; all responses, the interim ones too."""
    if exchange.waits:
        return converse_waiting(client, exchange.requests[0])
    responses = []
    if exchange.pipelined:
        client.send(b"".join(exchange.requests))
    for one in exchange.requests:
        if not exchange.pipelined:
            client.send(one, piece=exchange.piece)
        responses += client.responses(one.lstrip().partition(b" ")[0])
    return responses


def converse_waiting(client: Client, whole: bytes) -> list[Response]:
    """Send the head, and the body only if 100 is the answer."""
    head, _, body = whole.partition(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    first = client.response(b"POST")
    if first.status != 100:
        return [first]
    client.send(body)
    return [first, *client.responses(b"POST")]


def check_connection_afterwards(client: Client, exchange: Exchange, last: Response) -> None:
    """The connection either answers another request or says that it will not, and then ends."""
    if exchange.unread:
        return  # the rest of the body stands between: the client's next request may never be read
    if not goes_on(exchange.requests[-1], last):
        assert client.ended(), "the connection goes on after it was to end"
        return
    client.send(request(b"GET", b"/afterwards"))
    assert client.responses(b"GET")[-1].body == b"ok"


def goes_on(asked: bytes, last: Response) -> bool:
    """Whether the connection is to be used again (RFC 9112 section 9.3)."""
    if b"connection: close" in asked.lower() or b" HTTP/1.0\r\n" in asked or last.version == b"HTTP/1.0":
        return False
    bodiless = asked.startswith(b"HEAD") or last.status in (204, 304)
    framed = bodiless or last.values(b"content-length") or last.values(b"transfer-encoding")
    return bool(framed) and b"close" not in b",".join(last.values(b"connection")).lower()


def comparable(responses: list[Response], requests: list[Request], exchange: Exchange) -> Seen:
    """Without what may differ."""
    return Seen(
        responses=tuple((one.status, one.reason, end_to_end(one.fields), one.body, one.whole) for one in responses),
        requests=tuple(comparable_request(one, exchange) for one in requests),
    )


def comparable_request(one: Request, exchange: Exchange) -> object:
    """A request as the upstream must have received it."""
    fields = tuple((name, value) for name, value in end_to_end(one.fields) if name.lower() not in OF_THE_TUNNEL)
    head = (one.method, one.target, fields, one.chunked)
    return head if exchange.unread else (*head, one.length, one.digest)


def end_to_end(fields: Fields) -> Fields:
    """The fields that an intermediary passes on."""
    named = {
        word.strip().lower() for name, value in fields if name.lower() == b"connection" for word in value.split(b",")
    }
    return tuple((name, value) for name, value in fields if name.lower() not in HOP_BY_HOP | named)


def answer(exchange: Exchange, upstream: Upstream, origin: bytes) -> None:
    """Have the upstream answer as the exchange says."""
    for one in exchange.requests:
        steps: list[Step] = [
            step.replace(OWN_ORIGIN, origin) if isinstance(step, bytes) else step for step in exchange.answer
        ]
        if steps:
            upstream.answers[one.lstrip().split(b" ")[1]] = tuple(steps)


@pytest.mark.parametrize("exchange", WHOLE, ids=str)
def test_an_exchange_through_the_tunnel_equals_the_direct_one(
    exchange: Exchange, tunnel: Tunnel, upstream: Upstream
) -> None:
    answer(exchange, upstream, b"http://" + CLIENT_HOST)
    direct = comparable(*observe(upstream.address, exchange, upstream), exchange)
    answer(exchange, upstream, upstream.url.encode())
    tunnelled = comparable(*observe(tunnel.address, exchange, upstream), exchange)
    assert tunnelled == direct


@pytest.mark.parametrize("exchange", TRUNCATED, ids=str)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"], ids=["1.1", "1.0"])
def test_a_truncated_response_never_looks_whole(
    exchange: Exchange, version: bytes, tunnel: Tunnel, upstream: Upstream
) -> None:
    answer(exchange, upstream, b"")
    asked = exchange.requests[0].replace(b"HTTP/1.1", version)
    direct, tunnelled = fetch(upstream.address, asked), fetch(tunnel.address, asked)
    assert not direct.whole
    assert not tunnelled.whole
    assert (tunnelled.status, tunnelled.reason) == (direct.status, direct.reason)
    assert end_to_end(tunnelled.fields) == end_to_end(direct.fields)
    assert (b"x" * 1000).startswith(tunnelled.body)


@pytest.mark.parametrize("exchange", UNANSWERED, ids=str)
def test_an_upstream_that_does_not_answer_in_http_is_a_502_with_a_reason(
    exchange: Exchange, tunnel: Tunnel, upstream: Upstream
) -> None:
    answer(exchange, upstream, b"")
    with pytest.raises(Broken):
        fetch(upstream.address, exchange.requests[0])
    tunnelled = fetch(tunnel.address, exchange.requests[0])
    assert (tunnelled.status, tunnelled.whole) == (502, True)
    assert tunnelled.values(b"content-type")[0].startswith(b"application/json")
    error = json.loads(tunnelled.body)["error"]
    assert error["message"]
    assert error["type"]
    assert "code" in error


def test_a_redirect_to_a_host_that_only_begins_as_the_upstreams_is_left_alone(
    tunnel: Tunnel, upstream: Upstream
) -> None:
    elsewhere = upstream.url.encode() + b"0.example.com/"
    upstream.answers[b"/"] = (response(b"302 Found", b"Location: " + elsewhere, b"Content-Length: 0"),)
    assert fetch(tunnel.address, request(b"GET", b"/")).values(b"location") == [elsewhere]


def test_the_upstream_is_called_by_its_own_name_and_told_the_clients(tunnel: Tunnel, upstream: Upstream) -> None:
    fetch(tunnel.address, request(b"GET", b"/host"))
    received = upstream.requests[0]
    assert received.values(b"host") == [upstream.url.removeprefix("http://").encode()]
    assert received.values(b"x-forwarded-host") == [CLIENT_HOST]


def test_a_client_of_http_1_0_without_host_gives_none_to_forward(tunnel: Tunnel, upstream: Upstream) -> None:
    assert fetch(tunnel.address, b"GET /host HTTP/1.0\r\n\r\n").body == b"ok"
    received = upstream.requests[0]
    assert received.values(b"host") == [upstream.url.removeprefix("http://").encode()]


def test_an_absolute_target_is_refused_or_asks_the_upstream_alone(tunnel: Tunnel, upstream: Upstream) -> None:
    got = fetch(tunnel.address, request(b"GET", b"http://client.example:1234/absolute?q"))
    targets = [one.target for one in upstream.requests]
    assert (got.status, targets) in [(400, []), (200, [b"/absolute?q"])]


BAD_REQUESTS = {
    "both lengths": request(
        b"POST",
        b"/",
        b"Content-Length: 4",
        b"Transfer-Encoding: chunked",
        body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    "two different lengths": request(b"POST", b"/", b"Content-Length: 4", b"Content-Length: 5", body=b"12345"),
    "a negative length": request(b"POST", b"/", b"Content-Length: -1"),
    "a length that is no number": request(b"POST", b"/", b"Content-Length: 0x10"),
    "a length with a sign": request(b"POST", b"/", b"Content-Length: +4", body=b"1234"),
    "chunked twice": request(b"POST", b"/", b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "a coding that is not chunked": request(b"POST", b"/", b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": request(b"GET", b"/", b"Host: other.example"),
    "a space before the colon": request(b"GET", b"/", b"X-A : 1"),
    "a name with a space": request(b"GET", b"/", b"X A: 1"),
    "a name with a control byte": request(b"GET", b"/", b"X\x01A: 1"),
    "a line without a colon": request(b"GET", b"/", b"nonsense"),
    "a value with NUL": request(b"GET", b"/", b"X-A: a\x00b"),
    "a value with a bare CR": request(b"GET", b"/", b"X-A: a\rX-B: b"),
    "a target with a space": request(b"GET", b"/a b"),
    "a target with a control byte": request(b"GET", b"/a\x01b"),
    "a target that is no path": request(b"GET", b"a/b"),
    "a star that is not OPTIONS": request(b"GET", b"*"),
    "a method that is no token": request(b"GE(T", b"/"),
    "no version": b"GET /\r\n\r\n",
    "another protocol": b"SSH-2.0-client\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    "a head without end": b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 300_000,
    "fields without number": request(b"GET", b"/", *[b"X: y"] * 5000),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_before_the_upstream_hears_of_it(
    name: str, tunnel: Tunnel, upstream: Upstream
) -> None:
    with Client(tunnel.address) as client:
        client.send(BAD_REQUESTS[name])
        response = client.response(b"GET")
        assert response.status in (400, 405, 414, 431, 501, 505), response
        assert response.whole
        assert client.ended()
    assert not upstream.requests
    assert fetch(tunnel.address, request(b"GET", b"/")).body == b"ok"


BAD_BODIES = {
    "a chunk size that is no number": b"3\r\nabc\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": b"3\r\nabcdef\r\n0\r\n\r\n",
    "an endless chunk size": b"3\r\nabc\r\n" + b"1" * 100_000,
    "a chunk size beyond counting": b"3\r\nabc\r\n" + b"f" * 40 + b"\r\nabc\r\n",
    "a negative chunk size": b"3\r\nabc\r\n-1\r\nabc\r\n",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_never_reaches_the_upstream_as_whole(name: str, tunnel: Tunnel, upstream: Upstream) -> None:
    with Client(tunnel.address) as client:
        client.send(request(b"POST", b"/bad-body", b"Transfer-Encoding: chunked", body=BAD_BODIES[name]))
        try:
            response = client.response(b"POST")
        except Broken:
            pass
        else:
            assert response.status in (400, 431), response
            assert client.ended()
    assert not any(one.whole for one in upstream.requests)
    assert fetch(tunnel.address, request(b"GET", b"/")).body == b"ok"


def test_a_body_that_the_client_breaks_off_never_reaches_the_upstream_as_whole(
    tunnel: Tunnel, upstream: Upstream
) -> None:
    for framing in (b"Content-Length: 100", b"Transfer-Encoding: chunked"):
        upstream.requests.clear()
        with Client(tunnel.address) as client:
            client.send(request(b"POST", b"/broken-off", framing, body=b"3\r\nabc\r\n"))
            wait_until(lambda: upstream.requests, "the upstream is asked while the body still comes")
        wait_until(lambda: upstream.requests[0].left, "the upstream's connection ends", timeout=5)
        assert not upstream.requests[0].whole


def test_bytes_beyond_the_upstreams_length_do_not_reach_the_next_client(tunnel: Tunnel, upstream: Upstream) -> None:
    overlong = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"
    upstream.answers[b"/overlong"] = (overlong,)
    for _ in range(3):
        assert fetch(tunnel.address, request(b"GET", b"/overlong")).body == b"ok"
        assert fetch(tunnel.address, request(b"GET", b"/")).body == b"ok"
