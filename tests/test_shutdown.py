"""A tunnel is closed while one step of the shutdown fails or hangs: everything else of it is closed all the same."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiortc import RTCIceTransport

from llmtunnel.config import ProxySettings, ServeSettings
from llmtunnel.endpoints.clients import Clients
from llmtunnel.endpoints.drains import Drains
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.endpoints.origin import Origin
from llmtunnel.endpoints.pool import UpstreamPool
from llmtunnel.endpoints.upstream_connection import UpstreamConnection
from llmtunnel.endpoints.watch import UpstreamWatch
from llmtunnel.session.carrier import Carrier
from llmtunnel.session.handlers import Handlers
from llmtunnel.session.link import Link
from llmtunnel.session.links import Links
from llmtunnel.session.local_tcp import DialWay, ListenWay, SharedListener
from llmtunnel.session.mux import Session
from llmtunnel.session.peers import Peers
from llmtunnel.session.ways import DirectWay, RelayWay
from llmtunnel.signaling.client import SignalClient
from llmtunnel.transport import tasks
from llmtunnel.transport.pipe import PipeChannel
from llmtunnel.transport.webrtc import WebRtcChannel, WebRtcPeer
from llmtunnel.transport.websocket import WebSocket
from llmtunnel.tunnel import Proxy, Server
from llmtunnel.upstream import Upstream as Address
from signal_server.connection import SignalConnection
from signal_server.limits import Limits as SignalLimits
from signal_server.server import SignalServer

from .support.embedded import PATIENCE, Upstream, descriptors, fields_of, quicker, settings, started, until

CLOSE = 0.15
"""Seconds for an orderly close, and for a step that hangs."""

ON_EACH_PATH = [
    (Server, "_close_local"),
    (Proxy, "_close_local"),
    (Peers, "aclose"),
    (Links, "aclose"),
    (Link, "aclose"),
    (SharedListener, "aclose"),
    (SignalClient, "aclose"),
    (WebSocket, "aclose"),
    (Session, "aclose"),
    (Carrier, "aclose"),
    (Handlers, "wait"),
    (DirectWay, "aclose"),
    (WebRtcPeer, "_say_goodbye"),
    (RTCIceTransport, "stop"),
    (Gateway, "aclose"),
    (Clients, "stop_accepting"),
    (Clients, "_break_off"),
    (Clients, "_cut_off"),
    (Origin, "aclose"),
    (UpstreamWatch, "aclose"),
    (Drains, "aclose"),
    (UpstreamPool, "aclose"),
]
STEPS = [
    *(("direct", *step) for step in ON_EACH_PATH),
    ("direct", WebRtcChannel, "aclose"),
    ("direct", SignalConnection, "aclose"),
    ("relay", PipeChannel, "aclose"),
    ("relay", RelayWay, "aclose"),
    ("tcp", PipeChannel, "aclose"),
    ("tcp", ListenWay, "aclose"),
    ("tcp", DialWay, "aclose"),
]
CALLS = [("direct", UpstreamConnection, "abort")]
"""Steps that wait for nothing, and so can only fail."""


class Fault:
    """A step that does its work and then fails, or does not end, from `armed` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, failure: str) -> None:
        self.armed = False
        self.met = 0
        original = getattr(owner, name)

        def called(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            if not self.armed:
                return result
            self.met += 1
            if asyncio.iscoroutine(result):
                return self._fail(result, failure)
            raise ValueError("injected")

        monkeypatch.setattr(owner, name, called)

    async def _fail(self, work: Any, failure: str) -> None:
        await work
        if failure == "raises":
            raise ValueError("injected")
        await asyncio.Event().wait()


def both(signal: str, upstream: str, path: str) -> tuple[Server, Proxy]:
    common = settings(signal, room="r", secret="a secret", timeouts=quicker(close=CLOSE), path=path)
    fields = fields_of(common)
    return (
        Server(ServeSettings(**fields, upstream=Address.parse(upstream))),
        Proxy(ProxySettings(**fields, listen="127.0.0.1:0")),
    )


async def closed_while_a_request_runs(path: str, fault: Fault, *, signal_first: bool) -> float:
    """Close both sides and the signal server while a response goes on; the seconds that this takes."""
    loop = asyncio.get_running_loop()
    async with Upstream() as upstream:
        signal = SignalServer("127.0.0.1", 0, limits=SignalLimits(close=CLOSE))
        await signal.start()
        serve, proxy = both(signal.url, upstream.url, path)
        async with started(serve, proxy):
            await proxy.wait(timeout=PATIENCE)
            await until(lambda: str(proxy.status.peers[0].path) == path, f"the session is on {path}")
            host, _, port = proxy.url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /endless HTTP/1.1\r\nHost: %s\r\n\r\n" % proxy.url.removeprefix("http://").encode())
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            fault.armed = True
            begun = loop.time()
            for each in (signal, proxy, serve) if signal_first else (proxy, serve, signal):
                await each.aclose()
            took = loop.time() - begun
            fault.armed = False
            writer.close()
    return took


@pytest.mark.parametrize(
    ("path", "owner", "name", "failure"),
    [(*step, failure) for step in STEPS for failure in ("raises", "hangs")] + [(*call, "raises") for call in CALLS],
    ids=lambda value: value.__name__ if isinstance(value, type) else value,
)
async def test_each_step_may_fail_or_hang_and_everything_is_closed_all_the_same(
    path: str,
    owner: type,
    name: str,
    failure: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`run` fails where a task is left; a socket that nobody has closed warns, which fails too."""
    monkeypatch.setattr(tasks, "STEP", 4 * CLOSE)
    caplog.set_level(logging.INFO)
    fault = Fault(monkeypatch, owner, name, failure)
    before = descriptors()
    took = await closed_while_a_request_runs(path, fault, signal_first=owner.__module__.startswith("signal_server"))
    assert fault.met, "the step is one of the shutdown"
    assert took < 15.0  # a few steps of each level
    await until(lambda: (descriptors() or 0) <= (before or 0), "every descriptor is closed")
    if failure == "raises":
        assert "injected" in caplog.text
    else:
        assert "has not ended after" in caplog.text or "did not close in order" in caplog.text
