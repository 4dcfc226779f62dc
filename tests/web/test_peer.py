"""A page is a peer of a real serve: it finds serve, proves the code, and sends requests to its upstream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from llmtunnel.invite import Invite

from ..support.browser import BROWSERS, Page
from ..support.processes import Process, Processes, Signal
from ..support.raw_server import reply
from ..support.upstream import Upstream, pattern, wait_until
from .site import opened

SIZE = 20_000_000
WORDS = "tulip-mango-onion-cedar-fruit"
LONG = "--resume-for", "30"
NO_SIGNAL = "WebSocket", "connection to the server at ws:", "connection to ws:"
"""What browsers say about a signal server that is not there, or stops."""
rooms = count(4_821_309)


@pytest.fixture(scope="module", params=BROWSERS)
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened("peer.html", request.param, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    """The page, with no peer of another test, and without a problem at the end."""
    yield window
    window.js("window.peer?.close()")
    problems = [each for each in window.problems if not any(words in each for words in NO_SIGNAL)]
    window.problems.clear()
    assert problems == []


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(autouse=True)
def forget(upstream: Upstream) -> None:
    upstream.answers.clear()
    upstream.requests.clear()


def new_invite(signal: Signal) -> Invite:
    return Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)


def serve(started: Processes, invite: Invite, upstream: Upstream, *flags: str) -> Process:
    return started.serve(invite.room, upstream.url, invite.signal, "--secret", invite.secret, *LONG, *flags)


@pytest.fixture(scope="module")
def invite(lasting: Processes, signal: Signal, upstream: Upstream) -> Invite:
    """That of a serve which no test kills."""
    made = new_invite(signal)
    serve(lasting, made, upstream)
    return made


def connect(page: Page, invite: Invite, phase: str = "connected") -> None:
    page.js(f"connect({json.dumps(invite.code)})")
    reach(page, phase)


def begin_stream(page: Page, count: int) -> None:
    """Begin a stream of so many events, of which the first one has come: each one more waits for `acknowledge`."""
    call(page, "begin", f"/acknowledged?count={count}")
    page.until("seen.endsWith('data: 0\\n\\n')")


def reach(page: Page, phase: str) -> None:
    page.until(f"['failed', {json.dumps(phase)}].includes(peer.state.phase)")
    state = page.js("peer.state")
    assert state["phase"] == phase, state


def call(page: Page, function: str, argument: object) -> Any:
    return page.js(f"{function}({json.dumps(argument)})")


def test_a_request_and_its_answer_are_those_of_http(page: Page, invite: Invite, upstream: Upstream) -> None:
    upstream.answers[b"/a?b=c"] = reply(
        b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhi"
    )
    connect(page, invite)
    asked = {"method": "POST", "target": "/a?b=c", "headers": [["X-One", "1"], ["Host", "evil"]], "body": "hello"}
    answer = call(page, "send", asked)
    assert (answer["status"], answer["text"]) == (201, "hi")
    assert [value for name, value in answer["headers"] if name == "Set-Cookie"] == ["a=1", "b=2"]
    [request] = upstream.requests
    assert (request.method, request.target, request.body) == (b"POST", b"/a?b=c", b"hello")
    assert request.values(b"content-length") == [b"5"] and request.values(b"x-one") == [b"1"]
    assert request.values(b"host") == [upstream.url.removeprefix("http://").encode()]
    headed = call(page, "send", {"method": "HEAD", "target": "/"})
    assert headed == {"status": 200, "headers": [["Content-Length", "2"]], "text": None}
    state = page.js("peer.state")
    assert state["peer"].startswith("serve-") and state["path"] == "direct" and state["problem"] is None


@pytest.mark.parametrize(
    "request_",
    [
        {"target": "no path"},
        {"target": "/", "method": "A B"},
        {"target": "/", "headers": [["A", "b\r\nC: d"]]},
        {"target": "/", "headers": [["A", "\u0100"]]},
    ],
    ids=["target", "method", "field", "character"],
)
def test_what_is_no_request_is_not_sent(page: Page, invite: Invite, request_: dict[str, object]) -> None:
    connect(page, invite)
    assert call(page, "fails", request_).startswith("SettingError: ")


def test_megabytes_go_both_ways_at_once(page: Page, invite: Invite) -> None:
    connect(page, invite)
    echoed = call(page, "echo", SIZE)
    assert echoed["size"] == SIZE
    assert echoed["sent"] == echoed["came"]


def test_each_event_is_seen_before_the_next_one_is_sent(page: Page, invite: Invite, upstream: Upstream) -> None:
    connect(page, invite)
    call(page, "begin", "/acknowledged?count=10")
    for number in range(10):
        page.until(f"seen.endsWith('data: {number}\\n\\n')")
        upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "".join(f"data: {number}\n\n" for number in range(10))


def test_a_request_that_is_aborted_ends_at_the_upstream(page: Page, invite: Invite, upstream: Upstream) -> None:
    connect(page, invite)
    call(page, "begin", "/endless")
    page.until("seen.length > 20")
    page.js("abort.abort()")
    page.until("over")
    assert page.js("over").startswith("AbortError: ")
    wait_until(lambda: upstream.requests[0].left is not None, "the upstream to see its client leave")
    assert page.js("peer.state.requests") == 0


def test_a_request_whose_body_fails_fails_with_it(page: Page, invite: Invite, upstream: Upstream) -> None:
    connect(page, invite)
    body = "new ReadableStream({pull: controller => controller.error(new Error('out of paper'))})"
    failed = f"fails({{method: 'POST', target: '/echo', body: {body}}})"
    assert page.js(failed) == "Error: out of paper"
    assert page.js("peer.state.requests") == 0
    assert not any(request.whole for request in upstream.requests)


def test_a_page_that_is_left_ends_its_requests_at_once(page: Page, invite: Invite, upstream: Upstream) -> None:
    connect(page, invite)
    call(page, "begin", "/endless")
    page.until("seen.length > 20")
    page.open(f"{page.js('location.origin + location.pathname')}?left")
    page.until("location.search === '?left' && window.ready")
    took = wait_until(lambda: upstream.requests[0].left is not None, "the upstream to see its client leave")
    assert took < float(LONG[1]) / 2, "serve would wait that long for a page that may come back"


def test_a_body_that_nobody_wants_ends_at_the_upstream(page: Page, invite: Invite, upstream: Upstream) -> None:
    connect(page, invite)
    page.js("peer.request({target: '/endless'}).then(({body}) => body.cancel())")
    wait_until(lambda: upstream.requests[0].left is not None, "the upstream to see its client leave")


def test_many_requests_share_the_session(page: Page, invite: Invite, upstream: Upstream) -> None:
    connect(page, invite)
    targets = [f"/tokens?name=t{number}&count=5" for number in range(20)]
    texts = page.js(
        f"Promise.all({json.dumps(targets)}.map(target => send({{target}}))).then(all => all.map(each => each.text))"
    )
    assert texts == ["".join(f"data: t{name} {each}\n\n" for each in range(5)) for name in range(20)]


def test_a_wrong_code_is_said(page: Page, invite: Invite) -> None:
    wrong = Invite(room=invite.room, secret="mango-mango-onion-cedar-fruit", signal=invite.signal)
    connect(page, wrong, "failed")
    problem = page.js("peer.state.problem")
    assert problem["name"] == "AuthenticationFailed"
    assert problem["message"] == "Wrong code: it does not match the one that serve shows."
    assert call(page, "fails", {"target": "/"}) == f"AuthenticationFailed: {problem['message']}"


def test_a_signal_server_that_is_not_there_is_said(page: Page) -> None:
    page.js(f"connect({json.dumps(Invite(room='invite-4821309', secret=WORDS, signal='ws://127.0.0.1:9').code)})")
    page.until("peer.state.problem")
    assert page.js("peer.state.phase") == "signal"
    assert page.js("peer.state.problem.message") == "Cannot reach the signal server ws://127.0.0.1:9."


def test_a_private_signal_server_admits_a_page_with_a_token(
    processes: Processes, page: Page, upstream: Upstream
) -> None:
    token = "only-for-friends"
    invite = new_invite(processes.signal("--access-token", token))
    serve(processes, invite, upstream, "--signal-token", token)
    for given, problem in (
        ("", f"The signal server {invite.signal} is private: it requires an access token."),
        ("wrong", f"The signal server {invite.signal} does not accept the access token."),
    ):
        page.js(f"connect({json.dumps(invite.code)}, {json.dumps(given)} || null)")
        reach(page, "failed")
        assert page.js("peer.state.problem.message") == problem
    page.js(f"connect({json.dumps(invite.code)}, {json.dumps(token)})")
    reach(page, "connected")
    assert token not in page.js("JSON.stringify(peer.state)")


def test_serve_that_comes_later_and_comes_again_is_found(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    connect(page, invite, "waiting")
    first = serve(processes, invite, upstream)
    reach(page, "connected")
    name = page.js("peer.state.peer")
    first.stop()
    reach(page, "waiting")
    assert page.js("peer.state.problem.message") == "The other side has stopped."
    serve(processes, invite, upstream)
    reach(page, "connected")
    assert page.js("peer.state.peer") != name
    assert call(page, "send", {"target": "/"})["text"] == "ok"


def test_a_page_that_is_shown_again_finds_a_serve_that_it_has_not_heard_of(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    """A phone that slept may have lost its connection to the signal server without noticing."""
    invite = new_invite(signal)
    connect(page, invite, "waiting")
    page.js("void Object.assign(window, {lost: 0, tamper: () => { window.lost += 1; return '{}'; }})")
    serve(processes, invite, upstream)
    page.until("lost > 0")
    page.js("window.tamper = null")
    page.js("document.dispatchEvent(new Event('visibilitychange'))")
    reach(page, "connected")


def test_a_stream_outlives_its_connection(page: Page, invite: Invite, upstream: Upstream) -> None:
    body = pattern(0, SIZE)
    upstream.answers[b"/pattern"] = reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE, body)
    connect(page, invite)
    call(page, "begin", "/pattern")
    for part in (SIZE // 4, SIZE // 2):
        page.until(f"size > {part}")
        page.js("cut()")
    page.until("over")
    assert page.js("phases").count("suspended") >= 2
    assert page.js("over") == hashlib.sha256(body).hexdigest()
    assert len(upstream.requests) == 1


def test_a_change_of_the_network_moves_a_stream_before_it_is_cut(
    page: Page, invite: Invite, upstream: Upstream
) -> None:
    connect(page, invite)
    begin_stream(page, 2)
    page.js("dispatchEvent(new Event('online'))")
    page.until("connections.length === 2 && connections[0].connectionState === 'closed'")
    upstream.acknowledge()
    page.until("seen.endsWith('data: 1\\n\\n')")
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\n"
    assert "suspended" not in page.js("phases")


def test_a_stream_outlives_a_serve_that_is_silent_for_a_while(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    process = serve(processes, invite, upstream)
    connect(page, invite)
    begin_stream(page, 2)
    process.freeze()
    reach(page, "suspended")
    process.thaw()
    reach(page, "connected")
    for _ in range(2):
        upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\n"


def test_the_browser_sees_one_fingerprint(page: Page, invite: Invite) -> None:
    connect(page, invite)
    lines = [line for sdp in page.js("described") for line in sdp.split("\r\n") if line.startswith("a=fingerprint")]
    assert len(lines) == 1 and lines[0].startswith("a=fingerprint:sha-256 ")


def test_a_signal_server_that_names_another_certificate_connects_nobody(page: Page, invite: Invite) -> None:
    other = ":".join(["AB"] * 32)
    # Its relay carries nothing either.
    page.js(
        f"""window.tamper = data => typeof data === 'string'
            ? data.replace(/sha-256 [0-9A-F:]+/, 'sha-256 {other}') : new ArrayBuffer(0)"""
    )
    page.js(f"connect({json.dumps(invite.code)})")
    page.until("peer.state.problem")
    told = "Cannot reach the peer: the DTLS handshake failed, or the certificate is not the announced one."
    assert page.js("peer.state.problem.message") == told, "at once, while the relay is still tried"
    assert "somebody may be between" in page.js("peer.state.problem.hint")
    assert other in page.js("described[0]")
    assert "connected" not in page.js("phases")
    page.js("peer.close()")
    page.js("window.tamper = null")


def test_a_stream_outlives_the_signal_server(processes: Processes, page: Page, upstream: Upstream) -> None:
    signal = processes.signal()
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    connect(page, invite)
    begin_stream(page, 3)
    signal.process.kill()
    page.until("peer.state.problem")
    upstream.acknowledge()
    page.until("seen.endsWith('data: 1\\n\\n')")
    processes.signal(listen=f"127.0.0.1:{signal.port}")
    upstream.acknowledge()
    page.until("seen.endsWith('data: 2\\n\\n')")
    page.js("cut()")
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert not page.js("over").startswith(("PeerLost", "StreamReset"))


def test_an_invite_for_one_proxy_admits_one_page(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream, "--once")
    connect(page, invite)
    page.js("window.first = peer")
    connect(page, invite, "failed")
    problem = page.js("peer.state.problem")
    assert (problem["name"], problem["message"]) == (
        "Unwelcome",
        "The code is for one proxy only, and one has used it.",
    )
    assert page.js("first.state.phase") == "connected"
    page.js("first.close()")
