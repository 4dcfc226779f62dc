"""An end-to-end exchange where POSIX-only things are absent, and Ctrl-C after it."""

from __future__ import annotations

import signal as signals
import sys

from ..support.exchanges import request, sized
from ..support.processes import Process, Processes, Proxy
from ..support.raw_client import Client, fetch
from ..support.upstream import Upstream

COMMON = ("--stun", "none", "--json", "-v")


def start(processes: Processes, *arguments: str) -> Process:
    """A command without what only POSIX has."""
    return processes.start("-m", "tests.support.without_posix", *arguments, name=arguments[0])


def test_signal_serve_and_proxy_work_without_what_only_posix_has(processes: Processes, own_upstream: Upstream) -> None:
    signal = start(processes, "signal", "--listen", "127.0.0.1:0")
    url = signal.wait_line(r"listening on (ws://\S+)")[1]
    place = ("--room", "portable", "--signal", url)
    serve = start(processes, "serve", *place, "--upstream", own_upstream.url, *COMMON)
    proxy = start(processes, "proxy", *place, "--listen", "127.0.0.1:0", "--allow-host", "client.example", *COMMON)
    address = Proxy(proxy, proxy.wait_event("listening")["url"]).address
    proxy.wait_event("ready")

    assert fetch(address, sized(b"POST", b"/portable", b"hello")).body == b"ok"
    assert own_upstream.requests[-1].body == b"hello"
    with Client(address) as client:
        client.send(request(b"GET", b"/tokens?name=p&count=10"))
        assert client.response(b"GET").body.count(b"data: p") == 10
    assert len(fetch(address, request(b"GET", b"/big?size=3000000")).body) == 3_000_000

    if sys.platform == "win32":
        return  # no Ctrl-C there for one process alone: the fixture ends them
    for process in (proxy, serve, signal):
        process.interrupt()
        assert process.wait_exit() == 128 + signals.SIGINT
    for process in (proxy, serve):
        assert process.events[-1]["event"] == "stopped"
