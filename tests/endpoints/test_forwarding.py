from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.endpoints.forwarding import (
    Forwarding,
    RequestBody,
    advertised,
    repeatable,
    request_body,
    wants_upgrade,
)
from llmtunnel.errors import ErrorCode, ProtocolError, SettingError
from llmtunnel.protocol.heads import Fields, RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.upstream import Upstream

V1 = frozenset({Feature.SSE})


def request(target: bytes = b"/", fields: Fields = (), method: bytes = b"GET") -> RequestHead:
    return RequestHead(method=method, target=target, fields=fields)


def sent(
    head: RequestHead,
    *,
    url: str = "http://h:1",
    advertise: str = "/",
    headers: tuple[str, ...] = (),
    features: frozenset[Feature] = ALL_FEATURES,
    chunked: bool = False,
    upgrade: bool = False,
    close: bool = False,
) -> bytes:
    forwarding = Forwarding(upstream=Upstream.parse(url, headers=headers), advertise=advertised(advertise))
    return forwarding.request(head, features, chunked=chunked, upgrade=upgrade, close=close)


def test_a_request_gets_the_upstreams_host_and_nothing_that_its_client_did_not_send() -> None:
    fields = ((b"X-b", b"\xe9 \xff"), (b"hOST", b"client"), (b"X-B", b""), (b"Cookie", b"a=1"), (b"Cookie", b"b=2"))
    assert sent(request(b"/%2F//..;+\xff?", fields)) == (
        b"GET /%2F//..;+\xff? HTTP/1.1\r\nHost: h:1\r\nX-b: \xe9 \xff\r\nX-B: \r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
    )


@pytest.mark.parametrize("upgrade", [False, True])
def test_the_clients_own_origin_becomes_the_upstreams_in_its_place_and_an_upgrade_too(upgrade: bool) -> None:
    fields = ((b"oRigin", b"http://c:8000"), (b"REFERER", b"http://c:8000/p/a"), (b"X-Forwarded-Host", b"c:8000"))
    asked = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")) if upgrade else ()
    head = sent(request(b"/p/b", fields + asked), url="http://h:1/base", advertise="/p", upgrade=upgrade)
    assert head.startswith(b"GET /base/b HTTP/1.1\r\nHost: h:1\r\noRigin: http://h:1\r\nREFERER: http://h:1/base/a\r\n")
    replaced = sent(request(b"/", fields), headers=("Origin: https://other",))
    assert replaced.endswith(b"\r\nOrigin: https://other\r\n\r\n")
    assert b"oRigin" not in replaced


def test_hop_by_hop_fields_stay_behind() -> None:
    fields = (
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"websocket"),
        (b"Content-Length", b"3"),
    )
    assert sent(request(fields=fields)) == b"GET / HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\n"


def test_an_upgrade_keeps_the_fields_that_ask_for_it() -> None:
    fields = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"x"))
    head = request(fields=fields)
    assert wants_upgrade(head, ALL_FEATURES)
    assert not wants_upgrade(head, V1)
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in sent(head, upgrade=True)


def test_a_body_of_unknown_length_goes_in_chunks() -> None:
    head = request(fields=((b"transfer-encoding", b"chunked"), (b"A", b"b")))
    assert sent(head, chunked=True) == b"GET / HTTP/1.1\r\nHost: h:1\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_fields_of_the_upstreams_settings_replace_the_clients() -> None:
    head = request(fields=((b"authorization", b"mine"), (b"A", b"b")))
    assert sent(head, headers=("Authorization: Bearer x", "X-Y: z")).endswith(
        b"Host: h:1\r\nA: b\r\nAuthorization: Bearer x\r\nX-Y: z\r\n\r\n"
    )


def test_expect_is_passed_on_only_where_the_client_can_hear_of_the_100() -> None:
    head = request(fields=((b"Expect", b"100-continue"),))
    assert b"Expect" in sent(head)
    assert b"Expect" not in sent(head, features=ALL_FEATURES - {Feature.INTERIM})


@pytest.mark.parametrize(
    ("advertise", "target", "forwarded"),
    [
        ("/v1", b"/v1", b"/"),
        ("/v1", b"/v1?x", b"/?x"),
        ("/v1", b"/v1/", b"/"),
        ("/v1", b"/v1/models", b"/models"),
        ("/v1/", b"/v1/models", b"/models"),
        ("/v1", b"/v1//models", b"//models"),
        ("/v1", b"/v1beta", b"/v1beta"),
        ("/v1", b"/v1%2Fmodels", b"/v1%2Fmodels"),
        ("/v1", b"/api/v1", b"/api/v1"),
        ("/v1", b"*", b"*"),
        ("/", b"/v1", b"/v1"),
        ("", b"/v1", b"/v1"),
    ],
)
def test_the_advertised_prefix_is_taken_off_at_a_segments_end(advertise: str, target: bytes, forwarded: bytes) -> None:
    assert sent(request(target), advertise=advertise).split()[1] == forwarded


@pytest.mark.parametrize("text", ["v1", "/v 1", "/é", "http://h/v1"])
def test_an_advertised_prefix_that_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        advertised(text)


@pytest.mark.parametrize("target", [b"", b"?x", b"http://evil/", b"@evil", b"v1"])
@pytest.mark.parametrize("advertise", ["/", "/v1"])
def test_no_request_names_another_origin(target: bytes, advertise: str) -> None:
    with pytest.raises(ProtocolError):
        sent(request(target), advertise=advertise)


def test_connect_is_not_carried() -> None:
    with pytest.raises(ProtocolError):
        sent(request(method=b"CONNECT"))


@pytest.mark.parametrize(
    ("url", "location", "seen"),
    [
        ("http://h:1", b"http://h:1/a?b#c", b"http://client:8000/a?b#c"),
        ("http://h:1", b"HTTP://H:1/a", b"http://client:8000/a"),
        ("http://h:1", b"http://h:1", b"http://client:8000"),
        ("http://h:1", b"http://h:1?x", b"http://client:8000?x"),
        ("http://h:1", b"//h:1/a", b"http://client:8000/a"),
        ("http://h", b"http://h:80/a", b"http://client:8000/a"),
        ("https://h:443", b"https://h/a", b"http://client:8000/a"),
        ("http://[::1]:1", b"http://[::1]:1/a", b"http://client:8000/a"),
        ("http://h:1/base", b"http://h:1/base/a", b"http://client:8000/a"),
        ("http://h:1/base", b"http://h:1/base", b"http://client:8000"),
        ("http://h:1/base", b"/base/a", b"/a"),
        ("http://h:1/base", b"/base//evil", b"/.//evil"),
        # not the upstream's own, or not to be reached through the tunnel
        ("http://h:1", b"https://h:1/a", b"https://h:1/a"),
        ("http://h:1", b"http://h:2/a", b"http://h:2/a"),
        ("http://h:1", b"http://h/a", b"http://h/a"),
        ("http://h:1", b"http://h:1@evil/a", b"http://h:1@evil/a"),
        ("http://h:1", b"http://evil/http://h:1/", b"http://evil/http://h:1/"),
        ("http://h:1/base", b"http://h:1/other", b"http://h:1/other"),
        ("http://h:1/base", b"http://h:1/baseball", b"http://h:1/baseball"),
        ("http://h:1/base", b"/other", b"/other"),
        ("http://h:1", b"/a?b", b"/a?b"),
        ("http://h:1", b"a", b"a"),
        ("http://h:1", b"?a", b"?a"),
        ("http://h:1", b"", b""),
    ],
)
def test_a_location_in_the_upstream_leads_to_the_client_s_side(url: str, location: bytes, seen: bytes) -> None:
    forwarding = Forwarding(upstream=Upstream.parse(url))
    head = ResponseHead(status=302, fields=((b"LOCATION", location), (b"Content-Location", location)))
    asked = request(fields=((b"X-Forwarded-Host", b"client:8000"),))
    assert forwarding.response(head, asked).fields == ((b"LOCATION", seen), (b"Content-Location", seen))


@pytest.mark.parametrize(
    ("location", "seen"), [(b"http://h:1/a", b"/a"), (b"http://h:1", b"/"), (b"http://h:1//evil", b"/.//evil")]
)
def test_a_location_is_made_relative_where_the_clients_host_is_not_known(location: bytes, seen: bytes) -> None:
    head = ResponseHead(status=302, fields=((b"Location", location),))
    assert Forwarding(upstream=Upstream.parse("http://h:1")).response(head, request()).fields[0][1] == seen


def test_a_response_keeps_status_reason_and_end_to_end_fields() -> None:
    head = ResponseHead(
        status=299,
        reason=b"Fine \xff",
        fields=(
            (b"Set-Cookie", b"a"),
            (b"connection", b"x-hop"),
            (b"X-Hop", b"1"),
            (b"Transfer-Encoding", b"chunked"),
            (b"set-cookie", b"b"),
        ),
    )
    assert Forwarding(upstream=Upstream.parse("1")).response(head, request()) == ResponseHead(
        status=299, reason=b"Fine \xff", fields=((b"Set-Cookie", b"a"), (b"set-cookie", b"b"))
    )


@pytest.mark.parametrize(
    ("fields", "features", "chunked", "whole"),
    [
        ((), ALL_FEATURES, False, True),
        (((b"Content-Length", b"0"),), ALL_FEATURES, False, True),
        (((b"Content-Length", b"3"),), V1, False, False),
        (((b"Transfer-Encoding", b"Chunked"),), ALL_FEATURES, True, False),
    ],
)
def test_a_head_tells_of_its_body(fields: Fields, features: frozenset[Feature], chunked: bool, whole: bool) -> None:
    body = request_body(request(fields=fields), features)
    assert body is not None
    assert (body.chunked, body.whole) == (chunked, whole)


def test_a_v1_head_without_framing_leaves_the_body_open() -> None:
    assert request_body(request(), V1) is None


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Content-Length", b"-1"),),
        ((b"Content-Length", b"1, 2"),),
        ((b"Content-Length", b"1"), (b"Content-Length", b"2")),
        ((b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")),
        ((b"Transfer-Encoding", b"gzip"),),
        ((b"Transfer-Encoding", b"chunked, chunked"),),
    ],
)
def test_framing_that_smuggles_is_refused(fields: Fields) -> None:
    with pytest.raises(ProtocolError):
        request_body(request(fields=fields), ALL_FEATURES)


def test_no_byte_past_the_told_length_is_framed() -> None:
    body = RequestBody(5)
    assert body.encode(b"abc") == b"abc"
    with pytest.raises(ProtocolError, match="longer"):
        body.encode(b"de\r\n")


def test_a_body_that_ends_short_of_its_length_is_truncated() -> None:
    body = RequestBody(5)
    body.encode(b"abcd")
    with pytest.raises(ProtocolError) as caught:
        body.end()
    assert caught.value.code is ErrorCode.TRUNCATED
    assert not body.whole


@given(st.lists(st.binary(min_size=1, max_size=50)))
def test_pieces_are_framed_as_chunks_or_as_they_are(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    sized, chunked = RequestBody(len(whole)), RequestBody(None)
    assert b"".join(map(sized.encode, pieces)) + sized.end() == whole
    framed = b"".join(map(chunked.encode, pieces)) + chunked.end()
    assert framed == b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    assert sized.whole and chunked.whole


def test_only_what_changes_nothing_and_has_no_body_is_repeated() -> None:
    assert repeatable(request(method=b"HEAD"), RequestBody(0))
    assert not repeatable(request(method=b"POST"), RequestBody(0))
    assert not repeatable(request(), RequestBody(5))
    assert not repeatable(request(), RequestBody(None))
