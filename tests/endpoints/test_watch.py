from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from llmtunnel.config import Limits, Timeouts
from llmtunnel.endpoints import watch
from llmtunnel.endpoints.forwarding import Forwarding
from llmtunnel.endpoints.pool import UpstreamPool
from llmtunnel.endpoints.probe import PROBE_FIELD
from llmtunnel.endpoints.watch import UpstreamWatch
from llmtunnel.status import Health, UpstreamStatus
from llmtunnel.upstream import Upstream

from ..support.scripted_upstream import OK, Scripted, answer, rig
from .test_models import OLLAMA, OPENAI

UP = UpstreamStatus(health=Health.UP)


def sized(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


NONE = sized(b"", b"404 Not Found")


class Eye:
    """A watch of a scripted upstream, and what it saw."""

    def __init__(self, upstream: Scripted, on_change: Callable[[UpstreamStatus], None] | None = None) -> None:
        self.seen: asyncio.Queue[UpstreamStatus] = asyncio.Queue()
        address, limits = Upstream.parse(f"http://127.0.0.1:{upstream.port}/b", headers=["X-Key: k"]), Limits()
        self.upstream = upstream
        self.pool = UpstreamPool(address, timeouts=Timeouts(), limits=limits)
        self.watch = UpstreamWatch(
            self.pool, Forwarding(upstream=address), limits=limits, on_change=on_change or self.seen.put_nowait
        )

    async def next(self) -> UpstreamStatus:
        """What it sees next that is new."""
        async with asyncio.timeout(10):
            return await self.seen.get()

    async def answers(self, *responses: bytes) -> list[bytes]:
        """Give these, one a connection; the requests' heads."""
        heads = []
        for response in responses:
            peer = await self.upstream.peer()
            heads.append(await peer.head())
            peer.say(response)
        return heads


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.02)
    monkeypatch.setattr(watch, "PERIOD_DOWN", 0.05)


@asynccontextmanager
async def watching(on_change: Callable[[UpstreamStatus], None] | None = None) -> AsyncIterator[Eye]:
    upstream = Scripted()
    async with upstream.listening():
        eye = Eye(upstream, on_change)
        eye.watch.start()
        try:
            yield eye
        finally:
            await eye.watch.aclose()
            await eye.pool.aclose()


async def test_nothing_is_known_before_the_first_look() -> None:
    async with watching() as eye:
        assert eye.watch.status == UpstreamStatus() == UpstreamStatus(health=Health.UNKNOWN)


@pytest.mark.parametrize(
    ("responses", "models"),
    [
        ([sized(OPENAI)], ("a", "b")),
        ([NONE, sized(OLLAMA)], ("a:8b",)),
        ([NONE, NONE, b"HTTP/1.0 200 OK\r\n\r\n" + OPENAI], ("a", "b")),
    ],
)
async def test_its_models_are_seen_in_either_dialect(responses: list[bytes], models: tuple[str, ...]) -> None:
    async with watching() as eye:
        await eye.answers(*responses[:-1])
        peer = await eye.upstream.peer()
        await peer.head()
        peer.say(responses[-1])
        if b"HTTP/1.0" in responses[-1]:
            peer.close()
        assert await eye.next() == eye.watch.status == UpstreamStatus(health=Health.UP, models=models)
        assert await peer.ended()


@pytest.mark.parametrize("response", [NONE, OK, sized(b"", b"503 Loading"), sized(b" " * 600_000)])
async def test_whatever_answers_is_up(response: bytes) -> None:
    async with watching() as eye:
        await eye.answers(*[response] * 3)
        assert await eye.next() == UP


async def test_it_asks_as_a_request_would_be_put_and_says_that_it_is_a_probe() -> None:
    async with watching() as eye:
        [head] = await eye.answers(sized(OPENAI))
        lines = head.split(b"\r\n")
        assert lines[0] == b"GET /b/v1/models HTTP/1.1"
        assert b"Host: 127.0.0.1:%d" % eye.upstream.port in lines
        assert b"X-Key: k" in lines
        assert PROBE_FIELD + b": 1" in lines
        assert b"Connection: close" in lines, "it holds no worker behind its answer"


async def test_one_that_is_down_is_looked_at_until_it_is_up() -> None:
    upstream = Scripted()
    async with upstream.listening():
        port = upstream.port
    eye = Eye(upstream)
    eye.watch.start()
    seen = await eye.next()
    assert seen.health is Health.DOWN
    assert seen.detail == f"The model server at http://127.0.0.1:{port} does not answer yet. Checking every 0.05 s."
    async with upstream.listening(port=port):
        await eye.answers(sized(OLLAMA))
        assert (await eye.next()).models == ("a:8b",)
        await eye.watch.aclose()
        await eye.pool.aclose()


async def test_one_that_goes_down_is_told_from_one_that_has_not_come_up_yet() -> None:
    upstream = Scripted()
    async with upstream.listening():
        eye = Eye(upstream)
        eye.watch.start()
        await eye.answers(sized(OLLAMA))
        assert (await eye.next()).health is Health.UP
    eye.watch.doubt()
    assert (await eye.next()).detail.endswith(" does not answer any more. Checking every 0.05 s.")
    await eye.watch.aclose()
    await eye.pool.aclose()


@pytest.mark.parametrize("nonsense", [b"", b"SSH-2.0\r\n\r\n", sized(OPENAI)[:-3]])
async def test_one_that_breaks_off_or_speaks_no_http_is_down(nonsense: bytes) -> None:
    async with watching() as eye:
        peer = await eye.upstream.peer()
        await peer.head()
        peer.say(nonsense)
        peer.close()
        seen = await eye.next()
        assert seen.health is Health.DOWN
        assert seen.detail.startswith("The model server's response is not valid: ")


async def test_one_that_takes_connections_and_does_not_answer_is_busy_and_keeps_its_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watching() as eye:
        await eye.answers(sized(OLLAMA))
        assert (await eye.next()).models == ("a:8b",)
        monkeypatch.setattr(watch, "PATIENCE", 0.05)
        eye.watch.doubt()
        busy = await eye.upstream.peer()
        assert await busy.ended()
        assert eye.watch.status == UpstreamStatus(health=Health.UP, models=("a:8b",))
        assert eye.seen.empty()


async def test_one_that_is_up_is_left_alone_until_a_request_fails() -> None:
    async with watching() as eye:
        await eye.answers(sized(OPENAI))
        await eye.next()
        await asyncio.sleep(0.2)
        assert eye.upstream.accepted == 1
        eye.watch.doubt()
        await eye.answers(sized(OLLAMA))
        assert (await eye.next()).models == ("a:8b",)


async def test_it_can_be_closed_at_any_time_and_more_than_once() -> None:
    async with watching() as eye:
        await eye.upstream.peer()
        await eye.watch.aclose()
        await eye.watch.aclose()


# -- an origin's


async def test_an_origins_looks_leave_no_record_and_a_502_has_it_look_again() -> None:
    async with rig() as tunnel:
        tunnel.origin.watch.start()
        first = await tunnel.upstream.peer()
        await first.head()
        first.say(sized(OPENAI))
        assert await first.ended()
        stream = await tunnel.ask()
        asked = await tunnel.upstream.peer()
        await asked.head()
        asked.close()
        head, _ = await answer(stream)
        assert head.status == 502
        assert (await tunnel.record()).status == 502
        again = await tunnel.upstream.peer()
        assert (await again.head()).startswith(b"GET /v1/models ")
        again.say(sized(OPENAI))
        assert await again.ended()
        assert (tunnel.ledger.totals.requests, tunnel.ledger.totals.active) == (1, 0)


async def test_a_defect_that_ends_the_watch_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    def defective(status: UpstreamStatus) -> None:
        raise AttributeError("a defect")

    async with watching(defective) as eye:
        await eye.answers(*[NONE] * 2)
        async with asyncio.timeout(10):
            while "AttributeError: a defect" not in caplog.text:  # noqa: ASYNC110 (a log has no event)
                await asyncio.sleep(0.01)
