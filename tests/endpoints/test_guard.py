from __future__ import annotations

import json
import re

import pytest

from llmtunnel.config import Limits
from llmtunnel.endpoints.guard import Guard, Verdict, readable
from llmtunnel.endpoints.http1 import BadMessage, RequestHeadReceived, RequestReader
from llmtunnel.endpoints.listen import parse_listen
from llmtunnel.endpoints.responses import Failure
from llmtunnel.errors import SettingError
from llmtunnel.listener import ListenerPolicy
from llmtunnel.protocol.heads import ResponseHead, get_all

APP = b"https://app.example"
KEY = "k-0123456789"


def received(*lines: bytes, line: bytes = b"GET / HTTP/1.1") -> RequestHeadReceived:
    (event, *_) = RequestReader(Limits()).feed(b"\r\n".join((line, *lines)) + b"\r\n\r\n")
    assert isinstance(event, RequestHeadReceived)
    return event


def judged(
    *lines: bytes,
    line: bytes = b"GET / HTTP/1.1",
    listen: str = "127.0.0.1:8000",
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    key: str | None = None,
    no_auth: bool = False,
) -> Verdict:
    policy = ListenerPolicy(allow_hosts=hosts, allow_origins=origins, api_key=key, no_auth=no_auth)
    return Guard(policy, parse_listen(listen)).judge(received(*lines, line=line))


def refusal(verdict: Verdict) -> Failure:
    assert isinstance(verdict.answer, Failure)
    return verdict.answer


def code(verdict: Verdict) -> str:
    """Why it was refused; empty where it passes."""
    return refusal(verdict).code if verdict.answer else ""


# -- Host


OURS = [
    b"127.0.0.1:8000",
    b"127.0.0.1",
    b"127.0.0.2:8000",
    b"127.255.255.254",
    b"localhost:8000",
    b"LOCALHOST:8000",
    b"localhost.:8000",
    b"localhost:",
    b"localhost:9000",  # mapped to our port by ssh -L, say
    b"jupyter.localhost:8000",
    b"Jupyter.LocalHost.:8000",
    b"a.b-c.localhost",
    b"[::1]:8000",
    b"[0:0:0:0:0:0:0:1]",
    b"[0000::0001]:8000",
]
"""By what a browser and programs on this machine may call any listener: names that nobody else has."""
UNMARKED = {
    b"0.0.0.0:8000": "127.0.0.1:8000",
    b"0.0.0.0": "127.0.0.1",
    b"0:8000": "127.0.0.1:8000",
    b"0x0:8000": "127.0.0.1:8000",
    b"000.0.0.0:8000": "127.0.0.1:8000",
    b"[::]:8000": "[::1]:8000",
    b"[0:0:0:0:0:0:0:0]": "[::1]",
    b"[::0.0.0.0]:8000": "[::1]:8000",
    b"[::ffff:0.0.0.0]:8000": "127.0.0.1:8000",
    b"[::ffff:127.0.0.1]:8000": "127.0.0.1:8000",
    b"[::FFFF:7f00:1]": "127.0.0.1",
    b"[0:0:0:0:0:ffff:7f00:0001]:8000": "127.0.0.1:8000",
    b"[::ffff:10.0.0.5]:8000": "10.0.0.5:8000",
    b"127.1:8000": "127.0.0.1:8000",
    b"2130706433": "127.0.0.1",
    b"0x7f000001": "127.0.0.1",
    b"0x7f.1:8000": "127.0.0.1:8000",
    b"0177.0.0.1:8000": "127.0.0.1:8000",
    b"127.0.0.01:8000": "127.0.0.1:8000",
    b"[::1%25lo]:8000": "[::1]:8000",
    b"[::1%lo]": "[::1]",
}
"""Spellings that are refused, and what to call instead."""
FOREIGN = [
    b"evil.example",
    b"evil.example:8000",
    b"localhost.evil.example",
    b"notlocalhost",
    b"127.0.0.1.evil.example",
    b"127.0.0.1.nip.io:8000",
    b"localhost.localdomain",
    b"null",
]
NO_HOSTS = [
    b"localhost..",
    b"a..localhost",
    b"[::1]evil.example",
    b"[localhost]",
    b"localhost:80:80",
    b"localhost:99999",
    b"localhost:port",
    b"user@localhost",
    b"localhost@evil.example",
    b"evil.example#localhost",
    b"localhost, evil.example",
    b"localhost/evil",
    b"loc\xe0lhost",
]
LISTENS = [
    "127.0.0.1:8000",
    "[::1]:8000",
    "127.0.0.2:8000",
    "10.0.0.5:8000",
    "gpu.lan:8000",
    "0.0.0.0:8000",
    "[::]:8000",
]


def no_auth(listen: str) -> bool:
    return not listen.startswith(("127", "[::1"))


@pytest.mark.parametrize("listen", LISTENS)
@pytest.mark.parametrize("host", OURS)
def test_a_client_may_call_it_by_every_name_of_this_very_machine(host: bytes, listen: str) -> None:
    assert code(judged(b"Host: " + host, listen=listen, no_auth=no_auth(listen))) == ""


@pytest.mark.parametrize("host", [b"Host.Docker.Internal:8000", b"host.docker.internal."])
def test_a_client_may_call_it_by_what_was_allowed(host: bytes) -> None:
    assert code(judged(b"Host: " + host, hosts=("HOST.docker.internal",))) == ""


@pytest.mark.parametrize("listen", LISTENS)
@pytest.mark.parametrize("host", UNMARKED)
def test_an_address_of_this_machine_that_browsers_do_not_mark_is_refused_and_another_named(
    host: bytes, listen: str
) -> None:
    told = refusal(judged(b"Host: " + host, listen=listen, no_auth=no_auth(listen)))
    assert (told.status, told.code) == (403, "foreign_host")
    assert f"Use {UNMARKED[host]}." in told.message
    assert "--allow-host" not in told.message  # which would be refused


@pytest.mark.parametrize("host", UNMARKED)
def test_the_address_that_a_refusal_names_is_one_that_works(host: bytes) -> None:
    named = UNMARKED[host].encode()
    assert code(judged(b"Host: " + named, listen="0.0.0.0:8000", no_auth=True)) == ""


@pytest.mark.parametrize("listen", LISTENS)
@pytest.mark.parametrize("host", FOREIGN)
def test_any_other_host_is_refused_until_the_flag_that_is_named_allows_it(host: bytes, listen: str) -> None:
    told = refusal(judged(b"Host: " + host, listen=listen, no_auth=no_auth(listen)))
    assert (told.status, told.code) == (403, "foreign_host")
    _, mark, name = told.message.partition("--allow-host ")
    assert mark
    assert code(judged(b"Host: " + host, listen=listen, no_auth=no_auth(listen), hosts=(name.removesuffix("."),))) == ""


@pytest.mark.parametrize("listen", LISTENS)
@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_is_refused_and_no_flag_is_named(host: bytes, listen: str) -> None:
    told = refusal(judged(b"Host: " + host, listen=listen, no_auth=no_auth(listen)))
    assert (told.status, told.code) == (403, "foreign_host")
    assert "--allow-host" not in told.message


def test_the_refusal_names_the_flag_with_the_name_that_was_called() -> None:
    told = refusal(judged(b"Host: Gpu.Lan:8000"))
    assert "--allow-host gpu.lan." in told.message
    head, body = told.response()
    assert head.status == 403
    assert json.loads(body)["error"]["type"] == "tunnel_error"


def test_what_a_client_says_reaches_a_terminal_only_as_printable_text() -> None:
    told = refusal(judged(b"Host: \x1b[31mevil\xff" + b"x" * 500))
    assert told.message.isprintable()
    assert len(told.message) < 600


def test_two_hosts_are_no_request() -> None:
    with pytest.raises(BadMessage):
        judged(b"Host: localhost", b"Host: localhost")


def test_a_forwarded_host_is_not_believed() -> None:
    trusted = (b"X-Forwarded-Host: localhost", b"Forwarded: host=localhost", b"X-Host: localhost")
    assert code(judged(b"Host: evil.example", *trusted)) == "foreign_host"
    assert code(judged(b"Host: localhost", b"X-Forwarded-Host: evil.example")) == ""


@pytest.mark.parametrize(
    ("target", "host", "found"),
    [
        (b"http://localhost:8000/a", b"localhost:8000", ""),
        (b"http://LOCALHOST/a", b"evil.example", ""),  # RFC 9112 section 3.2.2: the target's counts
        (b"http://evil.example/a", b"localhost", "foreign_host"),
        (b"http://evil.example", b"evil.example", "foreign_host"),
    ],
)
def test_an_absolute_targets_authority_counts_as_host(target: bytes, host: bytes, found: str) -> None:
    assert code(judged(b"Host: " + host, line=b"GET " + target + b" HTTP/1.1")) == found


def test_no_host_is_fine_from_what_is_no_browser() -> None:
    old = b"GET / HTTP/1.0"
    assert code(judged(line=old)) == ""
    assert code(judged(b"Origin: http://localhost", line=old)) == "foreign_host"
    assert code(judged(b"Sec-Fetch-Site: none", line=old)) == "foreign_host"
    assert code(judged(b"Host:", b"Sec-Fetch-Site: same-origin")) == "foreign_host"


@pytest.mark.parametrize(
    ("listen", "host", "found"),
    [
        ("[::1]:8000", b"[::1]:8000", ""),
        ("[::1]:8000", b"localhost", ""),
        ("127.0.0.2:8000", b"127.0.0.2:8000", ""),
        ("192.168.1.5:8000", b"192.168.1.5:8000", ""),
        ("192.168.1.5:8000", b"192.168.1.6:8000", "foreign_host"),
        ("192.168.1.5:8000", b"evil.example", "foreign_host"),
        ("[fe80::1%eth0]:8000", b"[fe80::1]:8000", ""),
        ("gpu.lan:8000", b"GPU.lan:8000", ""),
        ("gpu.lan:8000", b"10.0.0.1:8000", ""),
        ("gpu.lan:8000", b"evil.example", "foreign_host"),
        ("0.0.0.0:8000", b"10.0.0.1:8000", ""),  # an address cannot be rebound
        ("0.0.0.0:8000", b"[2001:db8::1]:8000", ""),
        ("[::]:8000", b"10.0.0.1:8000", ""),
        ("0.0.0.0:8000", b"gpu.lan", "foreign_host"),
        ("0.0.0.0:8000", b"localhost", ""),
        ("[::]:8000", b"[2001:db8::1]:8000", ""),
        ("[::]:8000", b"gpu.lan", "foreign_host"),
        ("0:8000", b"10.0.0.1:8000", ""),
        ("127.1:8000", b"10.0.0.1:8000", "foreign_host"),
    ],
)
def test_what_it_is_called_follows_what_it_listens_on(listen: str, host: bytes, found: str) -> None:
    assert code(judged(b"Host: " + host, listen=listen, no_auth=True)) == found


# -- Origin and Sec-Fetch-Site

HOST = b"Host: localhost:8000"


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost",
        b"http://localhost:3000",
        b"https://localhost:8443",
        b"http://127.0.0.1:5173",
        b"http://127.8.8.8",
        b"https://[::1]:3000",
        b"HTTP://LocalHost:3000",
        b"http://jupyter.localhost:8000",
        b"https://tauri.localhost",
        b"http://a.b.localhost.:3000",
    ],
)
def test_a_page_of_this_machine_may_ask(origin: bytes) -> None:
    verdict = judged(HOST, b"Origin: " + origin, b"Sec-Fetch-Site: cross-site")
    assert code(verdict) == ""
    assert verdict.cors == ()


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"null",
        b"file://",
        b"app://.",
        b"app://-",
        b"app://obsidian.md",
        b"vscode-webview://0m3v5d1rqk",
        b"vscode-file://vscode-app",
        b"tauri://localhost",
        b"capacitor://localhost",
        b"ionic://localhost",
        b"chrome-extension://localhost",
        b"chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        b"moz-extension://0f4e0f6c-1c4e-4f0a-9d2c-0123456789ab",
        b"safari-web-extension://0F4E0F6C-1C4E-4F0A-9D2C-0123456789AB",
        b"ftp://localhost",
        b"http://localhost.evil.example",
        b"http://127.0.0.1.evil.example",
        b"http://0.0.0.0:8000",
        b"http://[::]",
        b"http://[::ffff:7f00:1]:3000",
        b"http://127.1",
        b"http://192.168.1.5",
        b"https://app.example:444",
        b"http://app.example",
        b"https://sub.app.example",
        b"https://app.example.evil.example",
    ],
)
def test_a_page_of_any_other_origin_is_refused_until_the_flag_that_is_named_allows_it(origin: bytes) -> None:
    page = b"Origin: " + origin
    told = refusal(judged(HOST, page, origins=(APP.decode(),)))
    assert (told.status, told.code) == (403, "foreign_origin")
    named = re.search(r"--allow-origin (\S+?)(:? |$)", told.message)
    assert named, told.message
    verdict = judged(HOST, page, b"Sec-Fetch-Site: cross-site", origins=(APP.decode(), named[1]))
    assert code(verdict) == ""
    assert verdict.cors[0] == (b"Access-Control-Allow-Origin", origin)


def test_the_refusal_of_a_page_without_an_origin_says_whom_the_flag_lets_in() -> None:
    told = refusal(judged(HOST, b"Origin: null"))
    assert "--allow-origin null: then every web site can use the model" in told.message


@pytest.mark.parametrize(
    ("origin", "instead"),
    [
        (b"http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        (b"http://[::]:3000", "http://[::1]:3000"),
        (b"https://[::ffff:7f00:1]", "https://127.0.0.1"),
    ],
)
def test_the_refusal_of_a_page_of_this_machine_says_how_to_open_it(origin: bytes, instead: str) -> None:
    assert f"open it at {instead} instead" in refusal(judged(HOST, b"Origin: " + origin)).message


@pytest.mark.parametrize("allowed", ["null", "file://", "app://.", "tauri://localhost"])
@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"file://", b"app://.", b"tauri://localhost"])
def test_an_application_that_was_allowed_lets_no_other_in(origin: bytes, allowed: str) -> None:
    verdict = judged(HOST, b"Origin: " + origin, origins=(allowed,))
    assert code(verdict) == ("" if origin.decode() == allowed else "foreign_origin")


@pytest.mark.parametrize(
    "origin",
    [
        b"",
        b"*",
        b"NULL",
        b"file:///home/me/page.html",
        b"http://localhost@evil.example",
        b"http://evil.example#localhost",
        b"http://localhost:99999",
        b"http://localhost/",
        b"http://localhost http://evil.example",
        b"http://localhost, http://evil.example",
        b"//localhost",
        b"localhost",
        b"http://loc\xe0lhost",
        b"null, null",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_refused_and_no_flag_is_named(origin: bytes) -> None:
    told = refusal(judged(HOST, b"Origin: " + origin, origins=(APP.decode(), "null", "file://")))
    assert (told.status, told.code) == (403, "foreign_origin")
    assert "--allow-origin" not in told.message


def test_two_origins_are_refused_whatever_they_are() -> None:
    ours = b"Origin: http://localhost"
    assert code(judged(HOST, ours, ours)) == "foreign_origin"
    assert code(judged(HOST, ours, b"Origin: https://evil.example")) == "foreign_origin"


def test_a_page_that_came_through_the_listener_itself_may_ask_it_back() -> None:
    asked = {"listen": "192.168.1.5:8000", "no_auth": True}
    ours = b"Host: 192.168.1.5:8000"
    assert code(judged(ours, b"Origin: http://192.168.1.5:8000", **asked)) == ""  # type: ignore[arg-type]
    for other in (b"http://192.168.1.5", b"http://192.168.1.5:8001", b"http://192.168.1.6:8000"):
        assert code(judged(ours, b"Origin: " + other, **asked)) == "foreign_origin"  # type: ignore[arg-type]
    rebound = (b"Host: evil.example", b"Origin: http://evil.example")
    assert code(judged(*rebound, **asked)) == "foreign_host"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("site", "found"),
    [
        (b"cross-site", "foreign_origin"),
        (b"Cross-Site", "foreign_origin"),
        (b"same-origin, cross-site", "foreign_origin"),
        (b"same-origin", ""),
        (b"same-site", ""),
        (b"none", ""),
        (b"", ""),
    ],
)
def test_what_another_site_loads_without_a_script_is_refused(site: bytes, found: str) -> None:
    assert code(judged(HOST, b"Sec-Fetch-Site: " + site)) == found


def test_a_page_that_was_allowed_may_ask_across_sites() -> None:
    verdict = judged(HOST, b"Origin: " + APP, b"Sec-Fetch-Site: cross-site", origins=(APP.decode(),))
    assert code(verdict) == ""
    assert verdict.cors == ((b"Access-Control-Allow-Origin", APP), (b"Vary", b"Origin"))


def test_an_allowed_origin_is_compared_without_case_and_with_the_schemes_own_port() -> None:
    assert code(judged(HOST, b"Origin: https://app.example", origins=("HTTPS://App.Example:443",))) == ""
    extension = "chrome-extension://abcdef"
    assert code(judged(HOST, b"Origin: " + extension.encode(), origins=(extension,))) == ""


def test_an_upgrade_is_held_to_the_same_rules() -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket")
    assert code(judged(HOST, *upgrade)) == ""
    assert code(judged(HOST, b"Origin: https://evil.example", *upgrade)) == "foreign_origin"
    assert code(judged(b"Host: evil.example", *upgrade)) == "foreign_host"


# -- preflights

ASK = (HOST, b"Origin: " + APP, b"Access-Control-Request-Method: POST")
OPTIONS = b"OPTIONS /v1/chat/completions HTTP/1.1"


def test_a_preflight_of_an_allowed_page_is_answered_in_the_peers_place_and_without_the_key() -> None:
    asked = (b"Access-Control-Request-Headers: authorization,content-type",)
    verdict = judged(*ASK, *asked, line=OPTIONS, origins=(APP.decode(),), key=KEY)
    assert verdict.answer == ResponseHead(
        status=204,
        reason=b"No Content",
        fields=(
            (b"Access-Control-Allow-Origin", APP),
            (b"Vary", b"Origin"),
            (b"Access-Control-Allow-Methods", b"POST"),
            (b"Access-Control-Allow-Headers", b"authorization,content-type"),
            (b"Access-Control-Max-Age", b"600"),
        ),
    )


@pytest.mark.parametrize("network", [b"Private", b"Local"])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_preflight_may_ask_for_the_private_network(network: bytes, key: str | None) -> None:
    asked = b"Access-Control-Request-%b-Network: true" % network
    answer = judged(*ASK, asked, line=OPTIONS, origins=(APP.decode(),), key=key).answer
    assert isinstance(answer, ResponseHead)
    granted = [field for field in answer.fields if field[0].endswith(b"-Network")]
    assert granted == [(b"Access-Control-Allow-%b-Network" % network, b"true")]


LOCAL_PAGES = [b"http://localhost:3000", b"http://jupyter.localhost:8000", b"https://[::1]:3000", b"http://127.0.0.1"]


@pytest.mark.parametrize("origin", [*LOCAL_PAGES, APP, b"null", b"https://gpu.lan:8000"])
def test_with_a_key_the_preflight_of_every_page_that_may_ask_is_answered_here(origin: bytes) -> None:
    page = (b"Host: gpu.lan:8000", b"Origin: " + origin, b"Access-Control-Request-Method: POST")
    verdict = judged(*page, line=OPTIONS, hosts=("gpu.lan",), origins=(APP.decode(), "null"), key=KEY)
    assert isinstance(verdict.answer, ResponseHead)
    assert get_all(verdict.answer.fields, b"access-control-allow-origin") == [origin]
    assert get_all(verdict.answer.fields, b"access-control-allow-methods") == [b"POST"]
    with_key = judged(
        *page[:2], b"X-Api-Key: " + KEY.encode(), hosts=("gpu.lan",), origins=(APP.decode(), "null"), key=KEY
    )
    assert with_key.answer is None
    assert with_key.cors[0] == (b"Access-Control-Allow-Origin", origin)  # a preflight that says yes promises that


def test_with_a_key_nothing_but_a_preflight_is_answered_without_it() -> None:
    page = (HOST, b"Origin: http://localhost:3000")
    asks = b"Access-Control-Request-Method: POST"
    assert code(judged(HOST, asks, line=OPTIONS, key=KEY)) == "invalid_api_key"  # no browser's
    assert code(judged(*page, line=OPTIONS, key=KEY)) == "invalid_api_key"
    assert code(judged(*page, asks, line=b"POST / HTTP/1.1", key=KEY)) == "invalid_api_key"
    for origin in (b"https://evil.example", b"null"):
        assert code(judged(HOST, b"Origin: " + origin, asks, line=OPTIONS, key=KEY)) == "foreign_origin"
    assert code(judged(b"Host: evil.example", *page[1:], asks, line=OPTIONS, key=KEY)) == "foreign_host"


@pytest.mark.parametrize("origin", LOCAL_PAGES)
def test_without_a_key_the_pages_of_this_machine_are_the_upstreams_to_answer(origin: bytes) -> None:
    verdict = judged(HOST, b"Origin: " + origin, ASK[2], line=OPTIONS, origins=(APP.decode(),))
    assert (verdict.answer, verdict.cors) == (None, ())


def test_other_preflights_are_refused_or_the_upstreams_to_answer() -> None:
    assert code(judged(*ASK, line=OPTIONS)) == "foreign_origin"
    assert judged(*ASK[:2], line=OPTIONS, origins=(APP.decode(),)).answer is None  # no preflight: just OPTIONS


# -- upgrades

JDK = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Content-Length: 0",
    HOST,
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
    b"Upgrade: h2c",
    b"User-Agent: Java-http-client/17.0.15",
)


def test_an_upgrade_to_http2_is_dropped_with_its_settings_and_the_request_passes() -> None:
    verdict = judged(*JDK)
    assert verdict.answer is None
    assert not verdict.request.upgrade
    assert verdict.request.head.fields == (
        (b"Content-Length", b"0"),
        (b"Host", b"localhost:8000"),
        (b"User-Agent", b"Java-http-client/17.0.15"),
    )
    assert verdict.request.keep_alive


def test_a_page_can_read_the_response_unless_the_upstream_said_who_may() -> None:
    cors = ((b"Access-Control-Allow-Origin", APP), (b"Vary", b"Origin"))
    plain = ResponseHead(status=200, fields=((b"Vary", b"Accept"),))
    assert readable(plain, cors).fields == ((b"Vary", b"Accept"), *cors)
    said = ResponseHead(status=200, fields=((b"access-control-allow-origin", b"*"),))
    assert readable(said, cors) == said
    assert readable(plain, ()) == plain


# -- the key


@pytest.mark.parametrize(
    "field",
    [
        b"Authorization: Bearer " + KEY.encode(),
        b"authorization: bearer   " + KEY.encode(),
        b"X-Api-Key: " + KEY.encode(),
        b"x-API-key: " + KEY.encode(),
    ],
)
def test_who_sends_the_key_passes_and_the_key_does_not(field: bytes) -> None:
    verdict = judged(HOST, field, b"X-Other: 1", key=KEY)
    assert verdict.answer is None
    assert verdict.request.head.fields == ((b"Host", b"localhost:8000"), (b"X-Other", b"1"))


def test_the_key_is_removed_wherever_it_stands_and_what_is_not_the_key_stays() -> None:
    both = (b"Authorization: Bearer " + KEY.encode(), b"X-Api-Key: " + KEY.encode())
    assert len(judged(HOST, *both, key=KEY).request.head.fields) == 1
    for_upstream = judged(HOST, b"Authorization: Basic abc", b"X-Api-Key: " + KEY.encode(), key=KEY).request
    assert for_upstream.head.fields[1:] == ((b"Authorization", b"Basic abc"),)


@pytest.mark.parametrize(
    "field",
    [
        b"X: y",
        b"Authorization: Bearer other",
        b"Authorization: Bearer",
        b"Authorization: " + KEY.encode(),
        b"Authorization: Basic " + KEY.encode(),
        b"Authorization: Bearer " + KEY.encode()[:-1],
        b"Authorization: Bearer " + KEY.encode() + b"x",
        b"Authorization: Bearer " + KEY.upper().encode(),
        b"Authorization: Bearer " + KEY.encode() + b", Bearer x",
        b"X-Api-Key: Bearer " + KEY.encode(),
        b"X-Api-Key: \xff",
        b"X-Api-Key:",
        b"Cookie: api_key=" + KEY.encode(),
    ],
)
def test_who_does_not_send_the_key_is_told_how(field: bytes) -> None:
    told = refusal(judged(HOST, field, key=KEY))
    assert (told.status, told.code) == (401, "invalid_api_key")
    head, body = told.response()
    assert get_all(head.fields, b"www-authenticate") == [b'Bearer realm="llmtunnel"']
    assert KEY.encode() not in body
    assert b"Authorization: Bearer" in body


def test_an_allowed_page_can_read_that_the_key_is_wanted() -> None:
    assert judged(HOST, b"Origin: " + APP, origins=(APP.decode(),), key=KEY).cors


def test_the_key_opens_no_door_to_foreign_pages() -> None:
    sent = b"Authorization: Bearer " + KEY.encode()
    assert code(judged(b"Host: evil.example", sent, key=KEY)) == "foreign_host"
    assert code(judged(HOST, b"Origin: https://evil.example", sent, key=KEY)) == "foreign_origin"


def test_without_a_key_credentials_are_the_upstreams() -> None:
    request = judged(HOST, b"Authorization: Bearer upstream").request
    assert (b"Authorization", b"Bearer upstream") in request.head.fields


# -- other machines


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:8000", "[::]:8000", "0.0.0.0", "[::]", "::", "192.168.1.5:0", "gpu.lan", "0:80", "[::ffff:10.0.0.5]:1"],
)
def test_where_other_machines_reach_it_a_key_or_no_auth_is_needed(listen: str) -> None:
    with pytest.raises(SettingError) as caught:
        Guard(ListenerPolicy(), parse_listen(listen))
    assert all(name in caught.value.hint for name in ("TUNNEL_API_KEY", "--api-key-file", "--api-key", "--no-auth"))
    Guard(ListenerPolicy(api_key=KEY), parse_listen(listen))
    Guard(ListenerPolicy(no_auth=True), parse_listen(listen))


@pytest.mark.parametrize(
    "listen", ["8000", ":8000", "localhost", "LocalHost.:1", "a.localhost", "127.0.0.9:1", "127.1", "[::1]", "::1"]
)
def test_on_loopback_nothing_is_needed(listen: str) -> None:
    assert code(Guard(ListenerPolicy(), parse_listen(listen)).judge(received(HOST))) == ""
