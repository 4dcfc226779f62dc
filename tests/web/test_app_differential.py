"""What a script asks for, twice in the same browser: in an app that was opened directly, and in its frame through the
tunnel. Both must be the same, for the script and for the upstream.

What may differ, and why:

- Fields of one connection, as in `tests/e2e/test_differential.py`, and Host, X-Forwarded-Host and X-Forwarded-Proto.
- Accept-Encoding is identity: a worker's response has to be decoded. If it was encoded nevertheless, the response lacks
  Content-Encoding and Content-Length.
- Priority and the client hints (Sec-CH-UA): a worker does not see them, and they are for the connection.
- Cache-Control and Pragma of a conditional request: no HTTP cache could answer it in place of the upstream.
- A body of more than 256 KiB is chunked, since it is sent on while it arrives.
- Fields of a response that would have effects outside the app (`llmtunnel/web/app/policy.js`).
- Cookies come in the order of RFC 6265, in which browsers differ.
- Statuses above 599 are 502: a worker cannot give them to the browser. So is what is not an answer of HTTP.
- Chromium passes fields between a page and its worker as UTF-8, so those that are not ASCII arrive changed or empty.
- With WWW-Authenticate: Basic or Digest, browsers ask the person for a password. They do not for a worker's response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from llmtunnel.invite import Invite

from ..e2e.test_differential import HOP_BY_HOP
from ..support.browser import CHROMIUM_FIRST, Page, View, browser
from ..support.exchanges import OWN_ORIGIN
from ..support.page_host import PageHost
from ..support.processes import Processes, Signal
from ..support.raw_server import Request, reply
from ..support.upstream import Upstream
from .fetches import BROKEN, FETCHES, SILENT, Fetch
from .node import HERE
from .test_app import WORDS, show

pytestmark = pytest.mark.timeout(120)

PAGE = (HERE / "exchanges.html").read_bytes()
INDEX = reply(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE), PAGE)
SMALL = 256 * 1024
OF_A_CONNECTION = {each.decode() for each in HOP_BY_HOP}
CHANGED = re.compile(r"host|x-forwarded-(?:host|proto)|accept-encoding|priority|sec-ch-.*")
"""Fields of requests that differ."""
DROPPED = {"content-encoding", "content-security-policy"}
"""Fields of responses that an app's script does not get."""
LOST_BY_CHROMIUM = {
    *("request fields that are not ASCII", "response fields that are not UTF-8", "a reason that is not ASCII"),
}
IMPOSSIBLE = {"the status 600", "the status 999"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What script and upstream saw of one exchange, without what may differ."""

    results: list[Any]
    requests: list[tuple[object, ...]]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module", params=CHROMIUM_FIRST)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def window(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=kind) as page:
        yield page


@pytest.fixture(scope="module")
def direct(window: Page, upstream: Upstream) -> dict[str, Seen]:
    """What is seen without the tunnel, by the exchange's name."""
    upstream.answers[b"/"] = INDEX
    window.open(upstream.url)
    window.until("window.ready")
    return {each.name: observe(window, upstream, each) for each in (*FETCHES, *BROKEN)}


@pytest.fixture(scope="module")
def app(
    direct: dict[str, Seen],
    window: Page,
    host: PageHost,
    lasting: Processes,
    signal: Signal,
    upstream: Upstream,
    kind: str,
) -> Iterator[View]:
    """The app's frame. Nothing of what it asks for goes past the tunnel."""
    invite = Invite(room=f"invite-692130{len(kind)}", secret=WORDS, signal=signal.url)
    lasting.serve(invite.room, upstream.url, signal.url, "--secret", WORDS)
    window.open(f"{host.url}site.json")
    window.until("location.pathname === '/site.json' && document.readyState === 'complete'")
    upstream.answers[b"/"] = INDEX
    yield show(window, host, invite)
    assert host.strays == []


def observe(view: View, upstream: Upstream, exchange: Fetch) -> Seen:
    """Carry it out."""
    upstream.requests.clear()
    upstream.answers.clear()
    upstream.answers[b"/"] = INDEX
    own = upstream.url.encode()
    for target, steps in exchange.answers.items():
        upstream.answers[target] = tuple(
            step.replace(OWN_ORIGIN, own) if isinstance(step, bytes) else step for step in steps
        )
    results = view.js(f"all({json.dumps(exchange.asks)})")
    return Seen(
        results=[visible(each, encoded="compressed" in exchange.name) for each in results],
        requests=[asked(each) for each in upstream.requests[:]],
    )


def visible(result: Any, *, encoded: bool) -> Any:
    """A result without the fields that may differ."""
    if "headers" not in result:
        return result
    named = ",".join(value for name, value in result["headers"] if name == "connection")
    dropped = OF_A_CONNECTION | DROPPED | {each.strip().lower() for each in named.split(",")}
    if encoded:
        dropped.add("content-length")
    return result | {"headers": [each for each in result["headers"] if each[0] not in dropped]}


def asked(request: Request) -> tuple[object, ...]:
    """A request without what may differ."""
    boundary = re.search(rb"boundary=(\S+)", b"".join(request.values(b"content-type")))
    # Firefox's boundaries differ in length.
    dropped = OF_A_CONNECTION | ({"content-length"} if boundary or request.length > SMALL else set())
    if request.values(b"if-none-match"):
        dropped |= {"cache-control", "pragma"}
    fields = sorted((name.decode().lower(), plain(name.lower(), value)) for name, value in request.fields)
    kept = [each for each in fields if each[0] not in dropped and not CHANGED.fullmatch(each[0])]
    body = request.body.replace(boundary[1], b"boundary") if boundary else request.digest
    return request.method, request.target, kept, body


def plain(name: bytes, value: bytes) -> str:
    """A field's value without what a browser chooses at random, and cookies in no order."""
    text = value.decode("latin-1")
    if name == b"cookie":
        return "; ".join(sorted(text.split("; ")))
    return re.sub(r"boundary=\S+", "boundary=", text)


@pytest.mark.parametrize("exchange", [each for each in FETCHES if each.name not in IMPOSSIBLE], ids=str)
def test_an_exchange_of_an_app_equals_the_direct_one(
    exchange: Fetch, direct: dict[str, Seen], app: View, upstream: Upstream, kind: str
) -> None:
    there, here = direct[exchange.name], observe(app, upstream, exchange)
    if kind == "chromium" and exchange.name in LOST_BY_CHROMIUM:
        assert here != there, "Chromium loses it no longer: it should be the same everywhere"
        assert [outline(each) for each in here.results] == [outline(each) for each in there.results]
    else:
        assert here == there


def outline(result: dict[str, Any]) -> object:
    """A result without its texts."""
    return result["status"], result["hash"]


@pytest.mark.parametrize("exchange", BROKEN, ids=str)
def test_a_truncated_response_never_looks_whole_to_an_app(
    exchange: Fetch, direct: dict[str, Seen], app: View, upstream: Upstream
) -> None:
    [there], [here] = direct[exchange.name].results, observe(app, upstream, exchange).results
    assert here["broken"] == "TypeError"
    if "failed" in there:  # Firefox fails where no byte of the body comes, and the app has the head already
        assert there == {"failed": "TypeError"}
    else:
        assert here == there


@pytest.mark.parametrize("exchange", [*SILENT, *(each for each in FETCHES if each.name in IMPOSSIBLE)], ids=str)
def test_what_no_browser_takes_from_a_worker_is_a_502_with_a_reason(
    exchange: Fetch, app: View, window: Page, upstream: Upstream
) -> None:
    [result] = observe(app, upstream, exchange).results
    assert (result["status"], result["size"] > 50) == (502, True)
    window.until("peer.state.requests === 0")
