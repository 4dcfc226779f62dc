"""Every exchange that a page can make, twice: over a raw socket with the upstream, and by a page through the tunnel.

Both must be the same. What may differ, beside what differs through any tunnel (`tests/e2e/test_differential.py`):

- Connection with what it names, Expect, TE, and the version of HTTP: a page has no connection (`OF_A_CONNECTION`).
- A request's framing. A page states the length of what is not a stream, also 0 for the methods that have a body.
- Interim responses: a page gets the final response only.
- Targets have only ASCII: a page escapes other characters, as browsers do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmtunnel.invite import Invite

from ..e2e.test_differential import OF_THE_TUNNEL, WHOLE, answer, end_to_end, observe
from ..support.answered import TRUNCATED, UNANSWERED
from ..support.browser import Page
from ..support.exchanges import CLIENT_HOST, MEGABYTES_20, Exchange
from ..support.raw_client import Broken, Fields, fetch
from ..support.raw_server import Request
from ..support.upstream import Upstream, wait_until
from .test_peer import call, connect, forget, invite, upstream, window

__all__ = ["forget", "invite", "upstream", "window"]

PIECE = 99_991
OF_A_CONNECTION = {
    *("hop-by-hop request fields", "HTTP/1.0 client, body without a length", "a client of HTTP/1.0 with a body"),
    *("a client of HTTP/1.0", "a client of HTTP/1.0 without Host"),
    *("100-continue accepted", "100-continue refused", "100-continue answered at once"),
}
NOT_ASCII = {"target with UTF-8", "target with bytes that are not UTF-8"}
LARGE_TOO = {"20 MB up, sized", "20 MB down, chunked"}
"""They would differ from the other large ones only between serve and its upstream."""
OURS = [each for each in WHOLE if each.name not in OF_A_CONNECTION | NOT_ASCII | LARGE_TOO]
FRAMING = {b"content-length", b"transfer-encoding", b"expect"}


@pytest.fixture(scope="module")
def page(window: Page, invite: Invite) -> Iterator[Page]:
    """The page, connected."""
    connect(window, invite)
    yield window
    window.js("peer.close()")
    assert window.problems == []


def described(request: Request, exchange: Exchange) -> dict[str, object]:
    """The request for the page, as the upstream has received it from the raw client."""
    fields = [(name, value) for name, value in request.fields if name.lower() not in OF_THE_TUNNEL]
    return {
        "method": latin(request.method),
        "target": latin(request.target),
        "headers": [[latin(name), latin(value)] for name, value in (*fields, (b"X-Forwarded-Host", CLIENT_HOST))],
        "body": content(request, exchange),
    }


def content(request: Request, exchange: Exchange) -> dict[str, object] | None:
    """The request's body. The upstream has not kept a large one, or one that it does not read."""
    if not (request.length or request.chunked or exchange.unread):
        return None
    kept = request.whole and request.length == len(request.body)
    body: dict[str, object] = {"latin1": latin(request.body)} if kept else {"pattern": len(MEGABYTES_20)}
    return body | {"piece": PIECE} if request.chunked else body


def latin(data: bytes) -> str:
    return data.decode("latin-1")


def seen(came: dict[str, Any]) -> tuple[object, ...]:
    """A response as the page got it."""
    fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in came["headers"])
    return (came["status"], came["reason"].encode("latin-1"), end_to_end(fields), came["size"], came["hash"])


def asked(request: Request) -> tuple[object, ...]:
    """A request without what may differ."""
    own = FRAMING | OF_THE_TUNNEL
    fields: Fields = tuple(each for each in end_to_end(request.fields) if each[0].lower() not in own)
    return request.method, request.target, fields, request.chunked


@pytest.mark.parametrize("exchange", OURS, ids=str)
def test_an_exchange_of_a_page_equals_the_direct_one(exchange: Exchange, page: Page, upstream: Upstream) -> None:
    answer(exchange, upstream, b"http://" + CLIENT_HOST)
    responses, direct = observe(upstream.address, exchange, upstream)
    answer(exchange, upstream, upstream.url.encode())
    upstream.requests.clear()
    came = [call(page, "exchange", described(each, exchange)) for each in direct]
    final = [each for each in responses if each.status >= 200]
    expected = [
        (each.status, each.reason, end_to_end(each.fields), len(each.body), hashlib.sha256(each.body).hexdigest())
        for each in final
    ]
    assert [each["broken"] for each in came] == [None] * len(final)
    assert [seen(each) for each in came] == expected
    received = upstream.requests[:]
    assert [asked(each) for each in received] == [asked(each) for each in direct]
    if not exchange.unread:
        wait_until(lambda: all(each.whole for each in received), "the request bodies arrive whole")
        assert [(each.length, each.digest) for each in received] == [(each.length, each.digest) for each in direct]


@pytest.mark.parametrize("exchange", TRUNCATED, ids=str)
def test_a_truncated_response_never_looks_whole_to_a_page(exchange: Exchange, page: Page, upstream: Upstream) -> None:
    answer(exchange, upstream, b"")
    direct = fetch(upstream.address, exchange.requests[0])
    assert not direct.whole
    target = latin(upstream.requests[0].target)
    came = call(page, "exchange", {"target": target})
    assert came["broken"].startswith("StreamReset: ")
    assert seen(came)[:3] == (direct.status, direct.reason, end_to_end(direct.fields))
    assert came["hash"] == hashlib.sha256(b"x" * came["size"]).hexdigest() and came["size"] <= 1000


@pytest.mark.parametrize("exchange", UNANSWERED, ids=str)
def test_an_upstream_that_does_not_answer_in_http_is_a_502_with_a_reason_for_a_page(
    exchange: Exchange, page: Page, upstream: Upstream
) -> None:
    answer(exchange, upstream, b"")
    with pytest.raises(Broken):
        fetch(upstream.address, exchange.requests[0])
    target = latin(upstream.requests[0].target)
    came = call(page, "send", {"target": target})
    assert came["status"] == 502
    assert {"message", "type", "code"} <= json.loads(came["text"])["error"].keys()


@pytest.mark.parametrize("target", ["/café", "/a b", "//\x00", "a/b", ""])
def test_a_target_that_is_not_escaped_is_not_sent(target: str, page: Page, upstream: Upstream) -> None:
    assert call(page, "fails", {"target": target}).startswith("SettingError: ")
    assert upstream.requests == []
