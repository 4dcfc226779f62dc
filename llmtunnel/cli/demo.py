"""``llmtunnel demo``: both sides, a signal server and a toy model on this machine, and one request through them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from signal_server.server import SignalServer

from ..config import IceServers, ProxySettings, ServeSettings
from ..endpoints.toy import MODEL, Toy, ask, text_of
from ..errors import StreamError
from ..invite import Invite
from ..paths import Path
from ..status import ErrorNotice, Notice, Phase, RequestFinished, Role
from ..summary import duration, printable, size
from ..tunnel import Proxy, Server
from ..upstream import Upstream
from .console import Console
from .lines import sentence
from .parsers import PROG

HOST = "127.0.0.1"
PROMPT = "What are you?"
CONNECT = 30.0
"""Maximum time for two peers on one machine to connect, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Notice):
    """``demo`` only: a piece of the toy's response arrived through the tunnel."""

    event: ClassVar[str] = "token"
    text: str
    """The piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFinished(Notice):
    """``demo`` only: the result."""

    event: ClassVar[str] = "demo"
    identical: bool
    """Whether the response through the tunnel equals the direct one, byte for byte."""
    size: int
    """Bytes of the response."""
    path: Path
    """The path that carried the response."""
    first_token_ms: float
    """Milliseconds to the first token through the tunnel."""
    first_token_direct_ms: float
    """Milliseconds to the first token without the tunnel."""
    url: str
    """Where proxy listens, or listened."""
    curl: str
    """A command that sends a request to the toy through the tunnel."""


async def demo(console: Console, *, stay: bool) -> int:
    """Run the demo. Returns 0 if both responses are the same. ``stay``: keep running until cancelled."""
    async with Toy() as toy, SignalServer(HOST, 0) as signal:
        console.say(f"toy model server   {toy.url}  (a toy: it has no model)\nsignal server      {signal.url}\n")
        async with _tunnel(toy.url, signal.url, console) as proxy:
            finished = await _compare(toy.url, proxy, console)
            console.record(finished)
            console.say(_summary(finished))
            if finished.identical:
                console.say(_next_steps(finished, stay=stay))
            if finished.identical and stay:
                proxy.subscribe(partial(_say_request, console))
                await proxy.wait_stopped()
    return 0 if finished.identical else 1


@asynccontextmanager
async def _tunnel(upstream: str, signal: str, console: Console) -> AsyncIterator[Proxy]:
    """Connect a serve and a proxy with an invite, through the signal server and over WebRTC."""
    invite = Invite.generate(signal)
    common: dict[str, Any] = {
        "room": invite.room,
        "secret": invite.secret,
        "signal": invite.signal,
        "ice": IceServers(stun=()),
        "loopback": True,
        "path": "direct",  # as between two machines; on one machine, local TCP would be used
    }
    serve = Server(ServeSettings(**common, invite=invite, upstream=Upstream.parse(upstream)))
    proxy = Proxy(ProxySettings(**common, listen=f"{HOST}:0"))
    begun = time.perf_counter()
    console.say("serve and proxy    connecting\n")
    async with AsyncExitStack() as stack:
        for role, tunnel in ((Role.SERVE, serve), (Role.PROXY, proxy)):
            stack.callback(tunnel.subscribe(partial(_relay, console, role)))
            stack.push_async_callback(tunnel.aclose)
            await tunnel.start()
        await proxy.wait(Phase.READY, timeout=CONNECT)
        took = duration((time.perf_counter() - begun) * 1000)
        console.say(f"connected          after {took}; the proxy listens on {proxy.url}\n")
        yield proxy


def _relay(console: Console, role: Role, notice: Notice) -> None:
    """Write every notice for programs, and errors for people."""
    console.record(notice, role=role)
    if isinstance(notice, ErrorNotice):
        console.say(f"{printable(sentence(notice))}\n")


def _say_request(console: Console, notice: Notice) -> None:
    if isinstance(notice, RequestFinished):
        console.say(f"{printable(sentence(notice))}\n")


async def _compare(direct_url: str, proxy: Proxy, console: Console) -> DemoFinished:
    """Get one response through the tunnel, shown as it arrives, and the same one directly."""
    console.say(f"\n> {PROMPT}\n")
    through, first_token_ms = await _listen(proxy.url, console)
    console.say("\n\nThe same question without the tunnel, to compare\n\n")
    direct, first_token_direct_ms = await _listen(direct_url, None)
    return DemoFinished(
        identical=through == direct,
        size=len(through),
        path=next((peer.path for peer in proxy.status.peers), Path.UNKNOWN),
        first_token_ms=first_token_ms,
        first_token_direct_ms=first_token_direct_ms,
        url=proxy.url,
        curl=_curl(proxy.url),
    )


async def _listen(url: str, console: Console | None) -> tuple[bytes, float]:
    """Return the response's bytes, and the milliseconds to its first word. Shows each word as it arrives."""
    body, told, first = b"", 0, None
    begun = time.perf_counter()
    async for data in ask(url, PROMPT):
        body += data
        end = body.rfind(b"\n") + 1
        text = "".join(map(text_of, body[told:end].split(b"\n")))
        told = max(told, end)
        if text and first is None:
            first = (time.perf_counter() - begun) * 1000
        if text and console is not None:
            console.say(text)
            console.record(Token(text=text))
    if first is None:
        raise StreamError("The toy model's response contains no words.")
    return body, round(first, 1)


def _summary(finished: DemoFinished) -> str:
    same = "the same as the direct one" if finished.identical else "NOT the same as the direct one"
    times = f"{duration(finished.first_token_ms)} (direct: {duration(finished.first_token_direct_ms)})"
    return (
        f"path               {finished.path}\n"
        f"first token after  {times}\n"
        f"answer             {size(finished.size)}, {same}\n"
    )


def _next_steps(finished: DemoFinished, *, stay: bool) -> str:
    """Return what to type next. The command to try by hand only appears while its port is open."""
    by_hand = (
        f"The demo keeps running until Ctrl-C. Try it from another terminal:\n  {finished.curl}\n"
        if stay
        else f"The demo ends here. To keep it running and try it by hand:\n  {PROG} demo --stay\n"
    )
    return (
        f"\n{by_hand}\nNext, share a model server. On the machine where it runs, Ollama for example:\n  {PROG} serve\n"
        "It shows the command to run on your laptop.\n"
    )


def _curl(url: str) -> str:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    return f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
