"""What serve exposes, between processes: what a user sees on both sides."""

from __future__ import annotations

import json

import pytest

from ..support.exchanges import request, sized, streamed
from ..support.processes import Processes, Signal
from ..support.raw_client import Client, fetch, get
from ..support.upstream import Upstream


def test_a_proxy_gets_what_serve_exposes_and_is_told_what_it_does_not(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    flags = ("--policy", "ollama", "--allow", "/slow", "--deny", "/api/ps", "--max-requests", "1", "--max-body", "1kB")
    serve = processes.serve("exposed", own_upstream.url, signal.url, *flags)
    proxy = processes.proxy("exposed", signal.url)
    proxy.process.wait_event("ready")

    assert get(proxy.address, "/api/tags").status == 200
    refused = {
        b"/api/pull": "POST /api/pull is not allowed by serve's --policy ollama and --allow.",
        b"/api/ps/": "POST /api/ps/ is rejected by serve's --deny '/api/ps'.",
        b"/api/x/../chat": "POST /api/x/../chat is not in normal form: it contains a dot segment (. or ..)."
        " Serve rejects such paths because of --policy ollama and --allow and --deny.",
    }
    for target, message in refused.items():
        response = fetch(proxy.address, sized(b"POST", target, b"{}"))
        assert response.status == 403
        assert json.loads(response.body)["error"] == {"message": message, "type": "tunnel_error", "code": "not_allowed"}
        event = serve.wait_event("request", path=target.decode())
        assert (event["status"], event["error"]) == (403, message)
    assert fetch(proxy.address, sized(b"POST", b"/api/chat", b"." * 1001)).status == 413
    assert fetch(proxy.address, sized(b"POST", b"/api/chat", b"." * 5_000_000)).status == 413  # while it still comes
    assert fetch(proxy.address, streamed(b"POST", b"/api/embed", *[b"." * 50_000] * 100)).status == 413
    assert fetch(proxy.address, sized(b"POST", b"/api/chat", b"." * 1000)).status == 200

    with Client(proxy.address) as client:
        client.send(request(b"GET", b"/slow"))
        assert client.head().status == 200
        busy = get(proxy.address, "/api/tags")
        assert (busy.status, busy.values(b"retry-after")) == (429, [b"1"])
    serve.wait_event("request", path="/slow")
    assert get(proxy.address, "/api/tags").status == 200

    whole = [one.target for one in own_upstream.requests if one.target != b"/api/embed"]
    assert whole == [b"/api/tags", b"/api/chat", b"/slow", b"/api/tags"]
    assert all(one.target != b"/api/embed" or not one.whole for one in own_upstream.requests)


JDK = (
    b"Connection: Upgrade, HTTP2-Settings\r\n%b: %b\r\nHost: 127.0.0.1:8000\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\n\r\n"
)
"""The fields of each request of the JDK's HttpClient, byte for byte."""


@pytest.mark.parametrize("flags", [(), ("--policy", "openai")])
def test_the_jdks_offer_of_http2_is_dropped_and_its_requests_pass(
    flags: tuple[str, ...], processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    processes.serve("jdk", own_upstream.url, signal.url, *flags)
    proxy = processes.proxy("jdk", signal.url)
    proxy.process.wait_event("ready")
    sent = (
        b"GET /v1/models HTTP/1.1\r\n" + JDK % (b"Content-Length", b"0"),
        b"GET /v1/models/org%2Fmodel HTTP/1.1\r\n" + JDK % (b"Content-Length", b"0"),
        b"POST /v1/chat/completions HTTP/1.1\r\n" + JDK % (b"Content-Length", b"7") + b'{"a":1}',
        b"POST /v1/embeddings HTTP/1.1\r\n" + JDK % (b"Transfer-encoding", b"chunked") + b"2\r\nhi\r\n0\r\n\r\n",
    )
    for each in sent:
        assert fetch(proxy.address, each).status == 200
    received = own_upstream.requests
    assert [one.target for one in received] == [each.split(b" ")[1] for each in sent]
    assert [one.body for one in received] == [b"", b"", b'{"a":1}', b"hi"]
    for one in received:
        fields = {name.lower(): value for name, value in one.fields}
        assert not fields.keys() & {b"upgrade", b"http2-settings"}
        assert fields.get(b"connection") == (b"close" if one.body else None)


@pytest.mark.parametrize("flag", ["--allow", "--deny"])
def test_a_method_that_does_not_exist_ends_serve_with_those_that_do(flag: str, processes: Processes) -> None:
    process = processes.start("-m", "llmtunnel", "serve", "1", flag, "FETCH /v1/models", name="serve")
    assert process.wait_exit() == 2
    assert process.wait_line("'FETCH' is not an HTTP method")
    assert process.wait_line("Use GET, HEAD, POST")
