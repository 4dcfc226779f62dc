"""What serve exposes, between processes: what a user sees on both sides."""

from __future__ import annotations

import json

from .exchanges import request, sized, streamed
from .processes import Processes, Signal
from .raw import Client, fetch, get
from .upstream import Upstream


def test_a_proxy_gets_what_serve_exposes_and_is_told_what_it_does_not(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    flags = ("--policy", "ollama", "--allow", "/slow", "--deny", "/api/ps", "--max-requests", "1", "--max-body", "1kB")
    serve = processes.serve("exposed", own_upstream.url, signal.url, *flags)
    proxy = processes.proxy("exposed", signal.url)
    proxy.process.wait_event("ready")

    assert get(proxy.address, "/api/tags").status == 200
    refused = {
        b"/api/pull": "POST /api/pull is not let through by serve's --policy ollama and --allow.",
        b"/api/ps/": "POST /api/ps/ is refused by serve's --deny '/api/ps'.",
        b"/api/x/../chat": "POST /api/x/../chat is not in normal form: it has a dot segment;"
        " refused under serve's --policy ollama and --allow and --deny.",
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
