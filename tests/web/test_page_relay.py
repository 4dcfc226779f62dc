"""A page whose network blocks UDP: it reaches serve through the signal server's relay, sealed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from ..support.browser import Page
from ..support.processes import Processes, Signal
from ..support.raw_server import reply
from ..support.upstream import Upstream, pattern, wait_until
from .test_page_keys import connected
from .test_peer import NO_SIGNAL, SIZE, begin_stream, call, connect, forget, new_invite, reach, serve, upstream, window

__all__ = ["forget", "upstream", "window"]

EXPECTED = *NO_SIGNAL, "ICE failed"
"""What browsers say about a pipe that is cut, and a network that blocks UDP."""


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    """The page, which UDP does not reach."""
    window.js("window.udp = false")
    yield window
    window.js("window.peer?.close()")
    window.js("void Object.assign(window, {udp: true, keeps: false, hurried: false, later: 0, tamper: null})")
    problems = [each for each in window.problems if not any(words in each for words in EXPECTED)]
    window.problems.clear()
    assert problems == []


def path(page: Page) -> str | None:
    return page.js("peer.state.path")  # type: ignore[no-any-return]


def test_where_udp_is_blocked_the_relay_carries_everything(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    process = serve(processes, invite, upstream)
    connect(page, invite)
    assert path(page) == "relay"
    assert page.js("peer.state.peer") is None, "serve has shown no certificate; the signal server names one"
    event = process.wait_event("peer-connected")
    assert event["peer"].startswith("browser-") and event["path"] == "relay"
    assert event["agent"] in ("llmtunnel page (Chrome)", "llmtunnel page (Firefox)")
    assert call(page, "send", {"target": "/"})["text"] == "ok"
    echoed = call(page, "echo", SIZE)
    assert echoed["size"] == SIZE and echoed["sent"] == echoed["came"]
    call(page, "begin", "/endless")
    page.until("seen.length > 20")
    page.js("abort.abort()")
    page.until("over")
    wait_until(lambda: upstream.requests[-1].left is not None, "the upstream to see its client leave")


def test_a_serve_that_permits_the_relay_alone_is_reached(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    page.js("window.udp = true")
    invite = new_invite(signal)
    serve(processes, invite, upstream, "--path", "relay")
    connect(page, invite)
    assert path(page) == "relay"
    assert call(page, "send", {"target": "/"})["text"] == "ok"


def test_a_serve_that_permits_no_relay_is_not_reached_by_it(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    page.js("window.udp = true")
    invite = new_invite(signal)
    serve(processes, invite, upstream, "--path", "direct")
    connect(page, invite)
    assert path(page) == "direct"


def test_a_serve_that_permits_local_tcp_alone_says_why_not(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream, "--path", "tcp")
    page.js(f"connect({json.dumps(invite.code)})")
    reach(page, "failed")
    assert page.js("peer.state.problem.message") == "Serve lets only local TCP carry requests, which a page cannot use."
    assert page.js("peer.state.problem.hint") == "Start serve without --path tcp."


def test_a_signal_server_without_a_relay_leaves_nothing(processes: Processes, page: Page, upstream: Upstream) -> None:
    invite = new_invite(processes.signal("--no-relay"))
    serve(processes, invite, upstream)
    page.js(f"connect({json.dumps(invite.code)})")
    page.until("pipes.length === 0 && connections.length > 0 && peer.state.phase === 'connecting'")


def test_a_stream_outlives_its_pipes(processes: Processes, page: Page, signal: Signal, upstream: Upstream) -> None:
    body = pattern(0, SIZE)
    upstream.answers[b"/pattern"] = reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE, body)
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    connect(page, invite)
    call(page, "begin", "/pattern")
    for part in (SIZE // 4, SIZE // 2):
        page.until(f"size > {part}")
        page.js("cutPipes()")
    page.until("over")
    assert page.js("phases").count("suspended") >= 2
    assert page.js("over") == hashlib.sha256(body).hexdigest()
    assert len(upstream.requests) == 1 and path(page) == "relay"


def test_a_stream_moves_from_the_relay_to_a_direct_path_and_back(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    """Serve knows the page by its key on both, and the page knows serve by the session's ticket."""
    invite = new_invite(signal)
    process = serve(processes, invite, upstream)
    connect(page, invite)
    name = connected(process)
    begin_stream(page, 3)
    page.js("window.udp = true")
    page.js("dispatchEvent(new Event('online'))")
    page.until("peer.state.path === 'direct'")
    upstream.acknowledge()
    page.until("seen.endsWith('data: 1\\n\\n')")
    assert page.js("peer.state.peer").startswith("serve-")
    page.js("window.udp = false")
    page.js("cut()")
    page.until("peer.state.path === 'relay'")
    upstream.acknowledge()
    page.until("seen.endsWith('data: 2\\n\\n')")
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert len(upstream.requests) == 1
    assert name not in [event["peer"] for event in process.events if event["event"] == "peer-lost"]


def test_a_direct_path_that_opens_after_the_relay_takes_over(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    """On the same link: to serve, the page's certificate is new, and its key is the session's."""
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    connect(page, invite)
    assert path(page) == "relay"
    begin_stream(page, 2)
    page.js("admitUdp()")
    page.until("peer.state.path === 'direct'")
    assert page.js("connections.length") == 1
    upstream.acknowledge()
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\n"
    assert "suspended" not in page.js("phases")


def test_a_better_path_is_looked_for_while_the_relay_carries(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    page.js("window.hurried = true")
    connect(page, invite)
    assert path(page) == "relay"
    page.until("connections[0].connectionState === 'closed'")
    page.js("window.udp = true")
    begin_stream(page, 2)
    page.js("window.later = 60_000")  # its clock jumps ahead, so that the first search is due
    page.until("peer.state.path === 'direct'")
    upstream.acknowledge()
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\n"
    assert "suspended" not in page.js("phases")


def test_a_code_for_one_proxy_holds_on_every_path(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream, "--once")
    page.js("window.keeps = true")
    connect(page, invite)
    assert path(page) == "relay"
    page.js("peer.close()")
    page.js("window.udp = true")
    connect(page, invite)
    assert path(page) == "direct", "it is the same page"
    page.js("peer.close()")
    page.js("window.udp = false")
    page.js("window.keeps = false")
    connect(page, invite, "failed")
    assert page.js("peer.state.problem.name") == "Unwelcome", "this key is another one"


def test_a_wrong_code_is_said_through_the_relay_too(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    page.js(f"connect({json.dumps(invite.code.replace('tulip', 'mango'))})")
    reach(page, "failed")
    assert page.js("peer.state.problem.message") == "Wrong code: it does not match the one that serve shows."


def test_a_relay_that_changes_what_passes_ends_the_pipe_and_nothing_is_lost(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    connect(page, invite)
    begin_stream(page, 2)
    page.js(
        """window.tamper = (data) => {
            if (data instanceof ArrayBuffer) {
                new Uint8Array(data)[data.byteLength - 1] ^= 1;
                window.tamper = null;
            }
            return data;
        }"""
    )
    upstream.acknowledge()
    page.until("window.tamper === null")
    page.until("seen.endsWith('data: 1\\n\\n')")
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\n"
    assert "suspended" in page.js("phases")


def test_a_browser_without_x25519_says_that_it_cannot_use_the_relay(
    processes: Processes, page: Page, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream, "--path", "relay")
    page.js(
        """window.generateKey = SubtleCrypto.prototype.generateKey;
        SubtleCrypto.prototype.generateKey = function (algorithm, ...rest) {
            if (algorithm.name === 'X25519') { return Promise.reject(new DOMException('no', 'NotSupportedError')); }
            return window.generateKey.call(this, algorithm, ...rest);
        }"""
    )
    try:
        page.js("window.hurried = true")
        page.js(f"connect({json.dumps(invite.code)})")
        page.until("peer.state.problem?.message.includes('X25519')")
        told = "No network path to the peer came up within 30 s. This browser cannot use the relay: it lacks X25519."
        assert page.js("peer.state.problem.message") == told
        assert "newer browser" in page.js("peer.state.problem.hint")
    finally:
        page.js("SubtleCrypto.prototype.generateKey = window.generateKey")


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_stream_outlives_a_signal_server_whose_relay_carries_it(
    processes: Processes, page: Page, upstream: Upstream, how: str
) -> None:
    signal = processes.signal("--drain", "2")
    invite = new_invite(signal)
    serve(processes, invite, upstream)
    connect(page, invite)
    assert path(page) == "relay"
    begin_stream(page, 2)
    signal.process.kill() if how == "killed" else signal.process.stop()
    reach(page, "suspended")
    upstream.acknowledge()
    processes.signal(listen=f"127.0.0.1:{signal.port}")
    page.until("seen.endsWith('data: 1\\n\\n')")
    assert path(page) == "relay"
    upstream.acknowledge()
    page.until("over")
    assert page.js("seen") == "data: 0\n\ndata: 1\n\n"
    assert len(upstream.requests) == 1
