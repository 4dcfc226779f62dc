from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from llmtunnel.endpoints.page import COMES_BACK
from llmtunnel.endpoints.responses import Failure
from llmtunnel.protocol.heads import Fields, RequestHead, get_all

CHROME = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
BROWSER: Fields = ((b"Accept", CHROME), (b"Sec-Fetch-Mode", b"navigate"))
DOWN = Failure(status=502, code="upstream_unreachable", message="It is down. Is `llmtunnel serve` <b>up</b>?")


def asked(*fields: tuple[bytes, bytes], method: bytes = b"GET") -> RequestHead:
    return RequestHead(method=method, target=b"/", fields=fields)


@pytest.mark.parametrize(
    ("fields", "is_page"),
    [
        (BROWSER, True),
        (((b"accept", b"TEXT/HTML;q=0.5"), (b"sec-fetch-mode", b"navigate")), True),
        (((b"Accept", CHROME),), True),  # a browser to an address that it does not trust
        ((), False),
        (((b"Accept", b"*/*"),), False),
        (((b"Accept", b"application/json"), (b"Sec-Fetch-Mode", b"navigate")), False),
        (((b"Accept", CHROME), (b"Sec-Fetch-Mode", b"cors")), False),
        (((b"Accept", CHROME), (b"Sec-Fetch-Mode", b"no-cors")), False),
        (((b"Accept", b"text/htmlx, a/b"),), False),
    ],
)
def test_a_browser_that_navigates_gets_a_page_and_everything_else_json(fields: Fields, is_page: bool) -> None:
    head, body = DOWN.response(asked(*fields))
    [kind] = get_all(head.fields, b"content-type")
    assert kind == (b"text/html; charset=utf-8" if is_page else b"application/json")
    assert body.startswith(b"<!doctype html>" if is_page else b'{"error": ')
    assert get_all(head.fields, b"content-length") == [b"%d" % len(body)]
    assert head.status == 502


def test_the_page_is_stored_nowhere_and_lets_in_its_own_style_and_script_alone() -> None:
    head, body = DOWN.response(asked(*BROWSER))
    assert get_all(head.fields, b"cache-control") == [b"no-store"]
    [policy] = get_all(head.fields, b"content-security-policy")
    page = body.decode()
    for kind in ("style", "script"):
        [text] = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy.decode()
    assert policy.startswith(b"default-src 'none'; ")
    assert b"unsafe" not in policy and b"*" not in policy
    assert not re.search(r"(src|href|url\()=?[\"']?(https?:)?//", page), "nothing comes from elsewhere"


def test_what_it_says_is_escaped_and_commands_are_shown_as_such() -> None:
    page = DOWN.response(asked(*BROWSER))[1].decode()
    assert "It is down. Is <code>llmtunnel serve</code> &lt;b&gt;up&lt;/b&gt;?" in page
    assert "<title>The model server does not answer</title>" in page
    hostile = Failure(status=403, code='x"><script>', message="</main><script>alert(1)</script>")
    page = hostile.response(asked(*BROWSER))[1].decode()
    assert "<script>" not in page
    assert "<title>Forbidden</title>" in page


@pytest.mark.parametrize(
    ("method", "failure", "reloads"),
    [
        (b"GET", DOWN, True),
        (b"GET", Failure(status=503, code="no_peer", message="."), True),
        (b"POST", DOWN, False),
        (b"HEAD", DOWN, False),
        (b"GET", Failure(status=502, code="upstream_broken", message="."), False),  # it may be so for ever
        (b"GET", Failure(status=401, code="invalid_api_key", message="."), False),
        (b"GET", Failure(status=403, code="foreign_host", message="."), False),
    ],
)
def test_only_a_get_of_what_comes_back_reloads_by_itself(method: bytes, failure: Failure, reloads: bool) -> None:
    head, body = failure.response(asked(*BROWSER, method=method))
    [policy] = get_all(head.fields, b"content-security-policy")
    assert (b"<script>" in body) is (b"script-src" in policy) is (b"connect-src 'self'" in policy) is reloads
    assert (b"Try now" in body) is reloads
    assert (b"send it again" in body) is (method == b"POST")
    assert b"http-equiv" not in body and not get_all(head.fields, b"refresh")


def test_a_503_tells_programs_and_browsers_alike_when_to_ask_again() -> None:
    failure = Failure(status=503, code="no_peer", message=".")
    for fields in (BROWSER, ()):
        assert get_all(failure.response(asked(*fields))[0].fields, b"retry-after") == [b"2"]


def test_each_code_that_comes_back_is_one_that_the_tunnel_answers_with() -> None:
    from pathlib import Path

    import llmtunnel.endpoints

    folder = Path(llmtunnel.endpoints.__file__).parent
    source = "".join(path.read_text("utf-8") for path in folder.glob("*.py") if path.name != "page.py")
    assert [code for code in COMES_BACK if f'"{code}"' not in source] == []
