"""HTTP proxies that the environment names for the signal server, and what is said where they are the reason."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ConnectFailed, SignalUnreachable, TunnelError
from llmtunnel.signaling.client import SignalClient
from llmtunnel.transport import websocket
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.relay import open_relay
from llmtunnel.transport.websocket import proxy_for

from ..support.embedded import until
from .test_websocket import gated, greeting, pump

Run = Callable[..., Any]
TIMEOUTS = Timeouts(signal=2, close=1, connect=2)
SIGNAL = "wss://signal.example"
PASSWORD = "pass-word-of-the-proxy"


class Proxy:
    """An HTTP proxy that answers every CONNECT with these bytes, after which it closes; or passes bytes on (None)."""

    def __init__(self, answer: bytes | None) -> None:
        self.asked: list[str] = []
        self._answer = answer

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        self.asked.append(head)
        if self._answer is None:
            port = int(head.split()[1].rpartition(":")[2])
            there, out = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(pump(reader, out), pump(there, writer))
        elif self._answer == b"silence":
            await reader.read()
        else:
            writer.write(self._answer)
        writer.close()


@asynccontextmanager
async def proxying(answer: bytes | None) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(answer)
    async with await asyncio.start_server(proxy.take, "127.0.0.1", 0) as server:
        yield proxy, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "WS_PROXY", "WSS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def failure(kind: str) -> TunnelError:
    """What is said by a connect to the signal server, or to its relay."""
    if kind == "signal server":
        with pytest.raises(SignalUnreachable) as refused:
            await SignalClient.connect(SIGNAL, timeouts=TIMEOUTS, limits=Limits())
        return refused.value
    with pytest.raises(ConnectFailed) as failed:
        await open_relay(SIGNAL, "ticket", identity=Identity(), server=True, timeouts=TIMEOUTS)
    return failed.value


ANSWERS = {
    "which asks for a password": (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "asks for a user name and password"),
    "which forbids it": (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "refused to connect to signal.example"),
    "which fails": (b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", "refused to connect to signal.example"),
    "which closes": (b"", "closed the connection"),
    "which is silent": (b"silence", "No answer came in time through"),
}


@pytest.mark.parametrize("kind", ["signal server", "relay"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("case", ANSWERS)
async def test_a_proxy(monkeypatch: pytest.MonkeyPatch, case: str, scheme: str, kind: str) -> None:
    answer, expected = ANSWERS[case]

    async with proxying(answer) as (proxy, address):
        monkeypatch.setenv("HTTPS_PROXY", scheme + address)
        error = await failure(kind)
        assert f"http://{address}" in error.message, error.message
        assert expected in error.message, error.message
        assert "Is it running" not in error.hint
        assert proxy.asked[0].startswith("CONNECT signal.example:443 ")


@pytest.mark.parametrize("kind", ["signal server", "relay"])
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("http://127.0.0.1:9", "Cannot reach the HTTP proxy http://127.0.0.1:9: nothing listens there"),
        ("127.0.0.1:9", "Cannot reach the HTTP proxy http://127.0.0.1:9: nothing listens there"),
        ("proxy.invalid:3128", "Cannot look up the HTTP proxy http://proxy.invalid:3128"),
        ("socks5h://127.0.0.1:9", "HTTPS_PROXY names socks5h://127.0.0.1:9, which is not an HTTP proxy"),
        ("http://", "which is not an HTTP proxy"),
        ("http://[::1", "which is not an HTTP proxy"),
        ("http://proxy:port", "which is not an HTTP proxy"),
    ],
)
async def test_a_proxy_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, named: str, expected: str, kind: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", named)
    assert expected in (await failure(kind)).message


@pytest.mark.parametrize("answer", [answer for answer, _ in ANSWERS.values()])
async def test_a_proxys_password_is_sent_to_it_and_never_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(0)

    async with proxying(answer) as (proxy, address):
        for scheme in ("http://", ""):
            monkeypatch.setenv("HTTPS_PROXY", f"{scheme}user:{PASSWORD}@{address}")
            error = await failure("signal server")
            said = f"{error.message} {error.hint} {error!r} {proxy_for(SIGNAL)}"
            assert PASSWORD not in said
            assert "rejected the user" in said or b"407" not in answer
            basic = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
            assert f"Proxy-Authorization: Basic {basic}" in proxy.asked[-1]
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_proxy_that_works_is_used_also_where_its_scheme_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    async with proxying(None) as (proxy, address), gated(tmp_path, stuck=0) as (gate, url):
        monkeypatch.setenv("HTTPS_PROXY", scheme + address)
        # By a name, which the proxy of the test resolves: no proxy is used for addresses of this machine.
        assert await greeting(url.replace("127.0.0.1", "signal.example")) == "hello"
        assert (len(proxy.asked), gate.came) == (1, 1)
        await until(lambda: not any("take" in repr(task.get_coro()) for task in asyncio.all_tasks()))


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        (SIGNAL, {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        (SIGNAL, {"https_proxy": "p:1"}, "http://p:1"),
        (SIGNAL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "signal.example"}, "None"),
        (SIGNAL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}, "None"),
        (SIGNAL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "None"),
        (SIGNAL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.example"}, "http://p:1"),
        (SIGNAL, {"HTTP_PROXY": "http://p:1"}, "None"),
        (SIGNAL, {"HTTPS_PROXY": "https://p:1"}, "None"),
        ("ws://signal.example", {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:1"}, "None"),
        ("wss://127.0.0.1:1", {"HTTPS_PROXY": "http://p:1"}, "None"),
        ("ws://signal.example", {"WS_PROXY": "http://p:1"}, "http://p:1"),
    ],
)
def test_which_proxy_is_used(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(proxy_for(url)) == expected


def test_without_a_proxy_it_gets_no_blame(run: Run) -> None:
    assert websocket.proxy_failure(SIGNAL, TimeoutError()) is None
