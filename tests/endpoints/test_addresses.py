"""Which fields change on the way to the upstream and back, and which never do."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmtunnel.endpoints.addresses import Addresses
from llmtunnel.endpoints.forwarding import advertised
from llmtunnel.protocol.heads import Fields, RequestHead
from llmtunnel.upstream import Upstream

CLIENT = b"127.0.0.1:8000"
TLS = (b"X-Forwarded-Proto", b"https")


def addresses(
    url: str = "http://up:1",
    *fields: tuple[bytes, bytes],
    host: bytes = CLIENT,
    advertise: str = "/",
    method: bytes = b"GET",
    target: bytes = b"/asked",
) -> Addresses:
    forwarded = ((b"X-Forwarded-Host", host),) if host else ()
    head = RequestHead(method=method, target=target, fields=(*fields, *forwarded))
    return Addresses(Upstream.parse(url), advertised(advertise), head)


def sent(name: bytes, value: bytes, of: Addresses) -> bytes:
    """The value that the upstream gets of a field of the client."""
    fields = of.to_upstream(((name, value),))
    assert [field for field, _ in fields] == [name]
    return fields[0][1]


def answered(name: bytes, value: bytes, of: Addresses, status: int = 200) -> bytes | None:
    """The value that the client gets of a field of the upstream; None: it does not get the field."""
    fields = of.to_client(status, ((b"X", b"y"), (name, value)))
    assert fields[0] == (b"X", b"y")
    return fields[1][1] if fields[1:] else None


# -- to the upstream


@pytest.mark.parametrize("name", [b"Origin", b"oRIGIN", b"Sec-WebSocket-Origin"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"127.0.0.1:8000", b"http://127.0.0.1:8000"),
        (b"localhost:8000", b"http://localhost:8000"),
        (b"LocalHost:8000", b"HTTP://localhost:8000"),
        (b"gradio.localhost:8000", b"http://gradio.localhost:8000"),
        (b"[::1]:8000", b"http://[::1]:8000"),
        (b"localhost.:8000", b"http://localhost.:8000"),
        (b"localhost", b"http://localhost"),
        (b"localhost", b"http://localhost:80"),
        (b"localhost:80", b"http://localhost"),
    ],
)
def test_an_own_origin_becomes_the_upstreams(host: bytes, origin: bytes, name: bytes) -> None:
    assert sent(name, origin, addresses("http://up:1/base", host=host)) == b"http://up:1"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("17863", b"http://localhost:17863"),
        ("http://up", b"http://up"),
        ("https://up:443/base", b"https://up"),
        ("http://[::1]:5", b"http://[::1]:5"),
    ],
)
def test_the_upstreams_origin_is_its_scheme_and_the_host_that_it_gets(url: str, origin: bytes) -> None:
    assert sent(b"Origin", b"http://127.0.0.1:8000", addresses(url)) == origin


FOREIGN = [
    b"null",
    b"",
    b"http://127.0.0.1:8001",  # another port of this machine
    b"http://127.0.0.1",
    b"https://127.0.0.1:8000",
    b"http://localhost:8000",  # another name: browsers tell them apart
    b"http://127.0.0.1.:8000",
    b"http://[::ffff:7f00:1]:8000",
    b"http://127.1:8000",
    b"http://127.0.0.1:08000",
    b"ws://127.0.0.1:8000",
    b"http:127.0.0.1:8000",
    b"//127.0.0.1:8000",
    b"127.0.0.1:8000",
    b"http://127.0.0.1:8000@evil.example",
    b"http://evil.example/http://127.0.0.1:8000",
    b"http://127.0.0.1:8000 http://evil.example",
    b"http://127.0.0.1:8000, http://evil.example",
    b"file://",
    b"vscode-webview://127.0.0.1:8000",
    b"https://\xff.example",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("name", [b"Origin", b"Sec-WebSocket-Origin", b"Referer"])
def test_a_foreign_address_stays_byte_for_byte(name: bytes, origin: bytes) -> None:
    assert sent(name, origin, addresses()) == origin


def test_an_origin_with_a_path_is_no_origin() -> None:
    assert sent(b"Origin", b"http://127.0.0.1:8000/", addresses()) == b"http://127.0.0.1:8000/"


def test_a_repeated_field_stays() -> None:
    fields = ((b"Origin", b"http://127.0.0.1:8000"), (b"origin", b"http://127.0.0.1:8000"))
    assert addresses().to_upstream(fields) == fields


@pytest.mark.parametrize("origin", [b"http://127.0.0.1:8000", b"http://up:1", b"http://other"])
def test_without_the_clients_host_no_origin_changes(origin: bytes) -> None:
    assert sent(b"Origin", origin, addresses(host=b"")) == origin


@pytest.mark.parametrize("of", ["http://localhost:8888", "HTTP://LOCALHOST:8888", "https://localhost:8888"])
def test_a_page_that_is_called_on_this_machine_as_the_upstream_is_on_its_own_does_not_pass_for_it(of: str) -> None:
    changed = addresses("8888")
    assert sent(b"Origin", of.encode(), changed) == b"http://foreign.invalid"
    assert sent(b"Referer", of.encode() + b"/tree", changed) == b"http://foreign.invalid/"
    asked = addresses("8888", (b"Origin", of.encode()))  # what an upstream says to any origin is for the page again
    assert answered(b"Access-Control-Allow-Origin", b"http://foreign.invalid", asked) == of.encode()
    assert answered(b"Access-Control-Allow-Origin", b"http://localhost:3000", asked) == b"http://localhost:3000"


def test_a_name_that_means_the_same_everywhere_stays_byte_for_byte() -> None:
    assert sent(b"Origin", b"https://gpu.lan", addresses("http://gpu.lan")) == b"https://gpu.lan"
    assert sent(b"Origin", b"http://gpu.lan", addresses("http://gpu.lan")) == b"http://gpu.lan"


def test_a_proxy_that_is_called_as_the_upstream_is_changes_nothing() -> None:
    same = addresses("8888", host=b"localhost:8888")
    assert sent(b"Origin", b"http://localhost:8888", same) == b"http://localhost:8888"
    assert sent(b"Referer", b"http://localhost:8888/tree", same) == b"http://localhost:8888/tree"


@pytest.mark.parametrize(
    ("proto", "origin", "becomes"),
    [
        (b"https", b"https://ai.example", b"https://up:1"),
        (b"https", b"https://ai.example:443", b"https://up:1"),
        (b"HTTPS", b"https://ai.example", b"https://up:1"),
        (b"wss", b"https://ai.example", b"https://up:1"),
        (b"https, http", b"https://ai.example", b"https://up:1"),
        (b"https", b"http://ai.example", b"http://ai.example"),
        (b"http", b"https://ai.example", b"https://ai.example"),
        (b"http", b"http://ai.example", b"http://up:1"),
        (b"gopher", b"http://ai.example", b"http://up:1"),
        (b"", b"http://ai.example", b"http://up:1"),
    ],
)
def test_the_clients_scheme_is_what_a_tls_terminator_says(proto: bytes, origin: bytes, becomes: bytes) -> None:
    of = addresses("http://up:1", (b"X-Forwarded-Proto", proto), host=b"ai.example")
    assert sent(b"Origin", origin, of) == becomes


def test_own_is_what_the_listener_was_called_and_not_what_a_client_says_of_it() -> None:
    forged = (b"X-Forwarded-Host", b"localhost:3000")  # a page may send it, where a preflight lets it
    of = addresses("http://up:1", forged)
    assert sent(b"Origin", b"http://localhost:3000", of) == b"http://localhost:3000"
    assert sent(b"Origin", b"http://127.0.0.1:8000", of) == b"http://up:1"
    original = addresses("http://up:1", forged, (b"Host", CLIENT), host=b"")  # as an original proxy tells it
    assert sent(b"Origin", b"http://localhost:3000", original) == b"http://localhost:3000"
    assert sent(b"Origin", b"http://127.0.0.1:8000", original) == b"http://up:1"
    joined = addresses(host=b"localhost:3000, 127.0.0.1:8000")  # as the wire without `fields` has two
    assert sent(b"Origin", b"http://localhost:3000", joined) == b"http://localhost:3000"
    assert sent(b"Origin", b"http://127.0.0.1:8000", joined) == b"http://up:1"


@pytest.mark.parametrize("name", [b"Referer", b"Destination"])
@pytest.mark.parametrize(
    ("url", "advertise", "path", "becomes"),
    [
        ("http://up:1", "/", b"/a//b?c=http://127.0.0.1:8000/", b"http://up:1/a//b?c=http://127.0.0.1:8000/"),
        ("http://up:1", "/", b"", b"http://up:1"),
        ("http://up:1", "/", b"/\xff%2F", b"http://up:1/\xff%2F"),
        ("http://up:1/base", "/", b"/a", b"http://up:1/base/a"),
        ("http://up:1/base", "/", b"/", b"http://up:1/base/"),
        ("http://up:1/base", "/v1", b"/v1/a", b"http://up:1/base/a"),
        ("http://up:1/base", "/v1", b"/v1", b"http://up:1/base/"),
        ("http://up:1/base", "/v1", b"/v1beta", b"http://up:1/base/v1beta"),
        ("http://up:1", "/v1", b"/v1?a", b"http://up:1/?a"),
    ],
)
def test_an_own_url_becomes_the_one_that_the_upstream_knows(
    name: bytes, url: str, advertise: str, path: bytes, becomes: bytes
) -> None:
    assert sent(name, b"http://127.0.0.1:8000" + path, addresses(url, advertise=advertise)) == becomes


@pytest.mark.parametrize(
    ("name", "value", "becomes"),
    [
        (b"Destination", b"/v1/b", b"/base/b"),
        (b"Destination", b"//evil/b", b"//evil/b"),
        (b"Destination", b"http://up:1/other", b"http://up:1/other"),
        (b"Referer", b"/v1/b", b"/v1/b"),
        (
            b"If",
            b'<http://127.0.0.1:8000/v1/b> (<urn:uuid:1> ["a<b>"])',
            b'<http://up:1/base/b> (<urn:uuid:1> ["a<b>"])',
        ),
        (b"If", b"</v1/b> (Not <DAV:no-lock>)", b"</base/b> (Not <DAV:no-lock>)"),
        (b"X-Origin", b"http://127.0.0.1:8000", b"http://127.0.0.1:8000"),
    ],
)
def test_webdav_names_resources_as_the_upstream_does(name: bytes, value: bytes, becomes: bytes) -> None:
    assert sent(name, value, addresses("http://up:1/base", advertise="/v1")) == becomes


def test_two_tunnels_in_a_row_are_as_one() -> None:
    """The upstream of the first is the proxy of the second, whose client is the first one's serve."""
    first = addresses("http://second:2", TLS, (b"Origin", b"https://ai.example"), host=b"ai.example")
    origin = sent(b"Origin", b"https://ai.example", first)
    forwarded = (TLS, (b"Origin", origin), (b"X-Forwarded-Host", b"ai.example"))
    second = addresses("7860", *forwarded, host=b"second:2")
    assert sent(b"Origin", origin, second) == b"https://localhost:7860"
    for name, value, seen in (
        (b"Location", b"https://localhost:7860/a", b"https://ai.example/a"),
        (b"Access-Control-Allow-Origin", b"https://localhost:7860", b"https://ai.example"),
        (b"Set-Cookie", b"a=b; Domain=localhost", b"a=b"),
    ):
        between = answered(name, value, second, 302)
        assert between is not None
        assert answered(name, between, first, 302) == seen


# -- to the client


@pytest.mark.parametrize("name", [b"Location", b"Content-Location", b"SourceMap", b"X-SourceMap"])
@pytest.mark.parametrize(
    ("url", "value", "seen"),
    [
        ("7860", b"http://localhost:7860/a", b"http://127.0.0.1:8000/a"),
        ("7860", b"http://127.0.0.1:7860/a", b"http://127.0.0.1:8000/a"),
        ("7860", b"http://[::1]:7860/a", b"http://127.0.0.1:8000/a"),
        ("http://127.0.0.1:7860", b"http://localhost:7860/a", b"http://127.0.0.1:8000/a"),
        ("http://[::1]:7860", b"http://LOCALHOST:7860/a", b"http://127.0.0.1:8000/a"),
        ("http://127.0.0.9:7860", b"http://127.0.0.9:7860/a", b"http://127.0.0.1:8000/a"),
        ("7860", b"http://0.0.0.0:7860/a", b"http://127.0.0.1:8000/a"),
        ("http://0.0.0.0:7860", b"http://127.0.0.1:7860/a", b"http://127.0.0.1:8000/a"),
        ("http://127.0.0.1", b"http://localhost/a", b"http://127.0.0.1:8000/a"),
        ("http://127.0.0.1", b"http://localhost:80/a", b"http://127.0.0.1:8000/a"),
        # another server, or another name that may be another server
        ("7860", b"http://localhost/a", b"http://localhost/a"),
        ("7860", b"http://localhost:7861/a", b"http://localhost:7861/a"),
        ("7860", b"https://localhost:7860/a", b"https://localhost:7860/a"),
        ("7860", b"http://gpu.lan:7860/a", b"http://gpu.lan:7860/a"),
        ("http://gpu.lan:7860", b"http://localhost:7860/a", b"http://localhost:7860/a"),
        ("http://gpu.lan", b"https://gpu.lan/asked", b"https://gpu.lan/asked"),
        ("https://gpu.lan", b"http://gpu.lan/asked", b"http://gpu.lan/asked"),
        ("7860", b"http:/localhost:7860/a", b"http:/localhost:7860/a"),
        ("7860", b"http://localhost:7860\\@evil/a", b"http://localhost:7860\\@evil/a"),
        ("7860", b"http://user@localhost:7860/a", b"http://user@localhost:7860/a"),
        # paths
        ("7860", b"/a", b"/a"),
        ("7860", b"/\\evil", b"/\\evil"),
        ("7860", b"a", b"a"),
        ("http://localhost:7860/base", b"/base/a", b"/a"),
        ("http://localhost:7860/base", b"/base", b"/"),
        ("http://localhost:7860/base", b"/base//evil", b"/.//evil"),
        ("http://localhost:7860/base", b"/base/\\evil", b"/./\\evil"),
        ("http://localhost:7860/base", b"http://localhost:7860/base//evil", b"http://127.0.0.1:8000//evil"),
        ("http://localhost:7860/base", b"http://127.0.0.1:7860/other", b"http://127.0.0.1:7860/other"),
    ],
)
def test_an_upstreams_url_becomes_the_one_that_the_client_reaches(
    name: bytes, url: str, value: bytes, seen: bytes
) -> None:
    assert answered(name, value, addresses(url), 302) == seen


@pytest.mark.parametrize(
    ("target", "value", "seen"),
    [
        (b"/v1/x", b"http://up:1/base/a", b"http://127.0.0.1:8000/v1/a"),
        (b"/v1/x", b"/base/a", b"/v1/a"),
        (b"/v1", b"/base/a", b"/v1/a"),
        (b"/v1?x", b"/base", b"/v1"),
        (b"/v1/x", b"/base/v1/a", b"/v1/v1/a"),
        (b"/x", b"/base/a", b"/a"),
        (b"/v1beta", b"/base/a", b"/a"),
        (b"/x", b"/base/v1/a", b"/v1/v1/a"),  # without it, the tunnel would take the path's own /v1 off
        (b"/v1/x", b"/other", b"/other"),
    ],
)
def test_an_advertised_prefix_comes_back_where_the_request_had_it(target: bytes, value: bytes, seen: bytes) -> None:
    assert answered(b"Location", value, addresses("http://up:1/base", advertise="/v1", target=target), 302) == seen


TERMINATED = ("http://127.0.0.1:7860", TLS)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"https://127.0.0.1:7860/a", b"https://ai.example/a"),  # as uvicorn has it, which believes X-Forwarded-Proto
        (b"http://127.0.0.1:7860/a", b"https://ai.example/a"),  # as a server has it that does not
        (b"//127.0.0.1:7860/a", b"https://ai.example/a"),
        (b"https://localhost:7860/a", b"https://ai.example/a"),
        (b"https://127.0.0.1/a", b"https://127.0.0.1/a"),
        (b"https://ai.example/a", b"https://ai.example/a"),  # as one has it that believes X-Forwarded-Host
        (b"/a", b"/a"),
    ],
)
def test_behind_a_tls_terminator_redirects_lead_to_its_address(value: bytes, seen: bytes) -> None:
    assert answered(b"Location", value, addresses(*TERMINATED, host=b"ai.example"), 307) == seen


def test_answers_lead_to_what_the_outermost_proxy_was_called() -> None:
    outer = addresses("http://up:1", TLS, (b"X-Forwarded-Host", b"ai.example"))
    assert answered(b"Location", b"http://up:1/a", outer, 302) == b"https://ai.example/a"
    forged = addresses("http://up:1", (b"X-Forwarded-Host", b"evil/x"))
    assert answered(b"Location", b"http://up:1/a", forged, 302) == b"/a"


@pytest.mark.parametrize(
    ("url", "fields", "location"),
    [
        ("http://gpu.lan", (TLS,), b"https://gpu.lan/asked?q"),  # it insists on https
        ("http://gpu.lan", (TLS,), b"https://gpu.lan/asked?q#f"),
        ("7860", (), b"http://127.0.0.1:7860/asked?q"),  # it insists on another of its names
        ("http://127.0.0.1:7860/base", (), b"http://localhost:7860/base/asked?q"),
    ],
)
@pytest.mark.parametrize("name", [b"Location", b"Refresh"])
def test_a_redirect_is_not_turned_into_the_url_that_was_asked_for(
    name: bytes, url: str, fields: Fields, location: bytes
) -> None:
    value = b"0; url=" + location if name == b"Refresh" else location
    of = addresses(url, *fields, target=b"/asked?q")
    assert answered(name, value, of, 301) == value
    assert answered(name, value.replace(b"asked", b"other"), of, 301) != value.replace(b"asked", b"other")
    posted = addresses(url, *fields, target=b"/asked?q", method=b"POST")  # a form's answer: the client asks by GET now
    assert answered(name, value, posted, 303) != value
    if name == b"Location":
        assert answered(name, value, posted, 307) == value


def test_a_redirect_of_the_upstream_to_itself_stays_one() -> None:
    of = addresses("http://up:1", target=b"/asked")
    assert answered(b"Location", b"http://up:1/asked", of, 302) == b"http://127.0.0.1:8000/asked"
    root = addresses("http://gpu.lan", TLS, target=b"/")
    assert answered(b"Location", b"https://gpu.lan", root, 301) == b"https://gpu.lan"


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"5", b"5"),
        (b"0; url=http://up:1/base/a", b"0; url=http://127.0.0.1:8000/a"),
        (b"0;URL='http://up:1/base/a;b,c'", b"0;URL='http://127.0.0.1:8000/a;b,c'"),
        (b'1.5, url = "/base/a"', b'1.5, url = "/a"'),
        (b"3; /base/a", b"3; /a"),
        (b"0; url=http://other/", b"0; url=http://other/"),
    ],
)
def test_refresh_is_a_redirect_too(value: bytes, seen: bytes) -> None:
    assert answered(b"Refresh", value, addresses("http://up:1/base")) == seen


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"</base/a.css>; rel=preload", b"</a.css>; rel=preload"),
        (b"<http://up:1/base/a>;rel=next, <b>;rel=prev", b"<http://127.0.0.1:8000/a>;rel=next, <b>;rel=prev"),
        (b'<https://cdn/a>; title="</base/a> \\" </base/b>"', b'<https://cdn/a>; title="</base/a> \\" </base/b>"'),
    ],
)
def test_links_lead_to_the_client_s_side(value: bytes, seen: bytes) -> None:
    assert answered(b"Link", value, addresses("http://up:1/base")) == seen


@pytest.mark.parametrize(
    ("url", "host", "value", "seen"),
    [
        # a domain that the client would refuse goes, so that the cookie is the client's host's alone
        ("http://gpu.lan", CLIENT, b"a=b; Domain=gpu.lan; Secure", b"a=b; Secure"),
        ("http://gpu.lan", CLIENT, b"a=b;domain=.GPU.lan", b"a=b"),
        ("http://x.gpu.lan", CLIENT, b"a=b; Domain=gpu.lan", b"a=b"),
        ("7860", CLIENT, b"a=b; Domain=localhost", b"a=b"),
        ("7860", b"localhost:8000", b"a=b; Domain=localhost", b"a=b; Domain=localhost"),
        ("http://gpu.lan.example", b"ai.example", b"a=b; Domain=lan.example", b"a=b"),
        ("http://gpu.ai.example", b"ai.example", b"a=b; Domain=ai.example", b"a=b; Domain=ai.example"),
        ("http://gpu.lan", CLIENT, b"a=b; Domain=other.lan", b"a=b; Domain=other.lan"),
        ("http://gpu.lan", CLIENT, b"a=b; Domain=pu.lan", b"a=b; Domain=pu.lan"),
        # paths
        ("http://up:1", CLIENT, b"a=b; Path=/", b"a=b; Path=/"),
        ("http://up:1", CLIENT, b"a=b; Path=/app; HttpOnly", b"a=b; Path=/app; HttpOnly"),
        ("http://up:1/base", CLIENT, b"a=b; Path=/base", b"a=b; Path=/"),
        ("http://up:1/base", CLIENT, b"a=b; path=/base/", b"a=b; path=/"),
        ("http://up:1/base", CLIENT, b"a=b; Path=/base/app/;HttpOnly", b"a=b; Path=/app/;HttpOnly"),
        ("http://up:1/base/b", CLIENT, b"a=b; Path=/base", b"a=b; Path=/"),
        ("http://up:1/base", CLIENT, b"a=b; Path=/", b"a=b; Path=/"),
        ("http://up:1/base", CLIENT, b"a=b; Path=/baseball", b"a=b; Path=/baseball"),
        ("http://up:1/base", CLIENT, b"a=b; Path=", b"a=b; Path="),
        ("http://up:1/base", CLIENT, b"a=b; Path", b"a=b; Path"),
        # the rest stays byte for byte
        (
            "http://gpu.lan/base",
            CLIENT,
            b"path=/base; Max-Age=1;; x; SameSite = Lax ",
            b"path=/base; Max-Age=1;; x; SameSite = Lax ",
        ),
        ("http://gpu.lan/base", CLIENT, b"domain=gpu.lan", b"domain=gpu.lan"),
    ],
)
def test_a_cookie_comes_back_to_the_paths_that_it_was_set_for(url: str, host: bytes, value: bytes, seen: bytes) -> None:
    assert answered(b"Set-Cookie", value, addresses(url, host=host)) == seen


@pytest.mark.parametrize(
    ("target", "path", "seen"),
    [
        (b"/v1/x", b"/base/app", b"/v1/app"),
        (b"/x", b"/base/app", b"/app"),
        (b"/v1/x", b"/base", b"/"),  # the app's pages may ask without the prefix
        (b"/v1/x", b"/", b"/"),
    ],
)
def test_a_cookies_path_has_the_advertised_prefix_where_the_request_had_it(
    target: bytes, path: bytes, seen: bytes
) -> None:
    of = addresses("http://up:1/base", advertise="/v1", target=target)
    assert answered(b"Set-Cookie", b"a=b; Path=" + path, of) == b"a=b; Path=" + seen


@pytest.mark.parametrize("name", [b"Access-Control-Allow-Origin", b"Timing-Allow-Origin", b"Sec-WebSocket-Origin"])
def test_an_origin_that_the_upstream_repeats_is_the_one_that_the_client_sent(name: bytes) -> None:
    for own in (b"http://127.0.0.1:8000", b"HTTP://127.0.0.1:8000"):
        of = addresses("7860", (b"Origin", own))
        assert answered(name, sent(b"Origin", own, of), of) == own
        assert answered(name, b"*", of) == b"*"
        assert answered(name, b"http://other", of) == b"http://other"
    foreign = addresses("7860", (b"Origin", b"http://localhost:3000"))
    assert answered(name, b"http://localhost:3000", foreign) == b"http://localhost:3000"
    assert answered(name, b"http://localhost:7860", foreign) == b"http://localhost:7860"


@pytest.mark.parametrize("name", [b"Link", b"Refresh", b"Location", b"Set-Cookie"])
@pytest.mark.parametrize("piece", [b'"\\', b"<", b";", b" ", b"://", b"/.", b'"<', b"=", b"\\"])
def test_no_value_takes_long(name: bytes, piece: bytes) -> None:
    value = b"0;" + piece * 60_000 + b"x"
    started = time.process_time()
    assert answered(name, value, addresses("http://up:1/base")) == value
    assert (
        time.process_time() - started < 2
    )  # some milliseconds, but minutes where a pattern is tried from each byte on


def test_other_services_of_the_upstreams_host_are_not_told() -> None:
    assert answered(b"Alt-Svc", b'h3=":443"; ma=86400', addresses()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Strict-Transport-Security", b"max-age=1"),
        (b"Content-Security-Policy", b"frame-ancestors http://up:1"),
        (b"WWW-Authenticate", b'Bearer resource_metadata="http://up:1/x"'),
        (b"X-Upstream", b"http://up:1/base/a"),
    ],
)
def test_other_fields_stay(name: bytes, value: bytes) -> None:
    assert answered(name, value, addresses("http://up:1/base")) == value


# -- any of them

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(lambda name: not name[-1].isdigit())
hosts = st.one_of(
    st.sampled_from(["localhost", "127.0.0.1", "[::1]"]),
    names,
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda one: f"[{one}]"),
)
ports = st.one_of(st.sampled_from(["", ":8888"]), st.integers(1, 65535).map(":{}".format))
authorities = st.builds(str.__add__, hosts, ports)
schemes = st.sampled_from(["http", "https"])
segments = st.text("abcv1.~%-", min_size=1, max_size=4)
paths = st.lists(segments, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts))
prefixes = st.sampled_from(["/", "/v1", "/a/b"])


class Tunnel(NamedTuple):
    """A request through one, and the client's own origin as a browser says it."""

    upstream: Upstream
    advertise: bytes
    target: bytes
    forwarded: Fields
    own: bytes

    def addresses(self, *fields: tuple[bytes, bytes]) -> Addresses:
        head = RequestHead(method=b"POST", target=self.target, fields=(*fields, *self.forwarded))
        return Addresses(self.upstream, self.advertise, head)


@st.composite
def tunnels(draw: st.DrawFn) -> Tunnel:
    scheme, host = draw(schemes), draw(authorities)
    told = (TLS,) if scheme == "https" else ()
    return Tunnel(
        upstream=Upstream.parse(f"{draw(schemes)}://{draw(authorities)}{draw(paths)}"),
        advertise=advertised(draw(prefixes)),
        target=(draw(prefixes) + draw(paths)).replace("//", "/").encode(),
        forwarded=(*told, (b"X-Forwarded-Host", host.encode())),
        own=browsers(f"{scheme}://{host}".encode()),
    )


def browsers(origin: bytes) -> bytes:
    """The origin as a browser says it: without its scheme's own port."""
    return origin.removesuffix(b":443" if origin.lower().startswith(b"https") else b":80")


@given(tunnels(), paths, st.text("a=&?/", max_size=5))
def test_an_own_url_that_comes_back_leads_where_it_led(tunnel: Tunnel, path: str, query: str) -> None:
    of = tunnel.addresses()
    there = sent(b"Referer", tunnel.own + f"{path or '/'}?{query}".encode(), of)
    back = answered(b"Location", there, of, 303)
    assert back is not None
    assert back.startswith(tunnel.own)
    assert sent(b"Referer", back, of) == there


@given(tunnels())
def test_an_own_origin_that_comes_back_is_the_clients(tunnel: Tunnel) -> None:
    of = tunnel.addresses((b"Origin", tunnel.own))
    assert answered(b"Access-Control-Allow-Origin", sent(b"Origin", tunnel.own, of), of) == tunnel.own


@given(tunnels(), st.one_of(st.binary(max_size=30), st.builds("{}://{}".format, schemes, authorities).map(str.encode)))
def test_a_foreign_origin_is_never_one_of_serves_machine(tunnel: Tunnel, foreign: bytes) -> None:
    assume(browsers(foreign).lower() != tunnel.own)
    there = sent(b"Origin", foreign, tunnel.addresses())
    assert there in (foreign, b"http://foreign.invalid")
    if tunnel.upstream.host in ("localhost", "::1") or tunnel.upstream.host.startswith("127."):
        assert there.partition(b"://")[2].lower() != tunnel.upstream.authority.lower()
