"""What serve answers to a proxy that measures, and what it holds that proxy to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from llmtunnel.config import MIB, Exposure
from llmtunnel.endpoints import bench
from llmtunnel.endpoints.admission import Admission
from llmtunnel.endpoints.bench import Bench, Flow
from llmtunnel.endpoints.ledger import Totals
from llmtunnel.errors import StreamReset
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.session.stream import Stream
from tests.support.gateway_rig import tunnel
from tests.support.scripted_upstream import answer


@dataclass
class Measured:
    """A proxy's session with a serve that answers measurements."""

    bench: Bench
    totals: Totals
    open: object

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        stream = await self.begin(target, method, ended=not body)
        if body:
            with suppress(StreamReset):  # the answer may not wait for all of it
                await stream.send(body)
                await stream.send_end()
        head, said = await answer(stream)
        return head.status, said

    async def begin(self, target: str, method: str = "GET", *, ended: bool = True) -> Stream:
        head = RequestHead(method=method.encode(), target=target.encode(), bench=True)
        stream: Stream = await self.open(head, ended=ended)  # type: ignore[operator]
        return stream


@asynccontextmanager
async def measured(exposure: Exposure | None = None, *, now: list[float] | None = None) -> AsyncIterator[Measured]:
    totals, clock = Totals(), (lambda: now[0]) if now else asyncio.get_running_loop().time
    answers = Bench(Admission(exposure or Exposure(), clock=clock), totals, clock=clock)
    async with tunnel(answers.handle) as rig:
        yield Measured(answers, totals, rig.proxy.open)


async def test_small_requests_tokens_and_an_upload_are_answered_and_counted() -> None:
    async with measured() as serve:
        assert await serve.ask("/small") == (200, bench.SMALL)
        assert await serve.ask("/tokens?rate=100&count=3") == (200, 3 * bench.TOKEN)
        status, said = await serve.ask("/sink", "POST", bytes(300_000))
        told = json.loads(said)
        assert (status, told["bytes"]) == (200, 300_000)
        assert told["bytes_per_second"] > 0 and told["points"][0] == [0, 0]
        assert (serve.totals.requests, serve.totals.failed, serve.totals.active) == (3, 0, 0)
        assert serve.totals.bytes_up == 300_000
        assert serve.totals.bytes_down == len(bench.SMALL) + 3 * len(bench.TOKEN) + len(said)


@pytest.mark.parametrize("target", ["/", "/v1/models", "/small/..", "//small", "/sink"])
async def test_nothing_else_is_answered(target: str) -> None:
    async with measured() as serve:
        status, said = await serve.ask(target)
        assert status == 404 and b"not_found" in said


@pytest.mark.parametrize("query", ["", "rate=0&count=x", "rate=-1&count=²", "count=1&rate=" + "9" * 5000])
async def test_tokens_that_are_asked_for_wrongly_are_few(query: str) -> None:
    async with measured() as serve:
        assert await serve.ask(f"/tokens?{query}") == (200, bench.TOKEN)


async def test_tokens_are_bounded_in_rate_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_TOKENS", 20)
    async with measured() as serve:
        began = asyncio.get_running_loop().time()
        status, said = await serve.ask("/tokens?rate=99999999&count=99999999")
        assert (status, said) == (200, 20 * bench.TOKEN)
        assert asyncio.get_running_loop().time() - began >= 19 / bench.MOST_RATE


async def test_a_source_ends_whole_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_BYTES", 3 * len(bench.BLOCK))
    async with measured() as serve:
        status, said = await serve.ask("/source")
        assert (status, len(said)) == (200, 3 * len(bench.BLOCK))
        status, said = await serve.ask("/sink", "POST", bytes(5 * len(bench.BLOCK)))
        assert status == 200 and json.loads(said)["bytes"] <= 4 * len(bench.BLOCK)


async def test_a_client_that_does_not_read_holds_a_request_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_SECONDS", 0.3)
    async with measured() as serve:
        stream = await serve.begin("/source")
        upload = await serve.begin("/sink", "POST", ended=False)
        for waits in (stream, upload):
            with pytest.raises(StreamReset):
                while True:
                    await waits.response()
        assert serve.totals.active == 0
        assert 0 < serve.totals.bytes_down <= 8 * MIB, "credit bounds what is sent to a client that reads nothing"


async def test_all_that_is_measured_has_one_budget_which_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BUDGET", 2)
    monkeypatch.setattr(bench, "REQUEST_COST", MIB // 2)
    now = [1000.0]
    async with measured(now=now) as serve:
        statuses = [(await serve.ask("/small"))[0] for _ in range(8)]
        assert statuses[:4] == [200] * 4 and statuses[5:] == [429] * 3
        status, said = await serve.ask("/small")
        assert status == 429 and b"has reached its limit for measurements" in said
        now[0] += 3 * bench.BUDGET_EVERY
        assert (await serve.ask("/small"))[0] == 200
        status, said = await serve.ask("/source")
        assert status in (200, 429) and len(said) < 4 * MIB, "the source ends with the budget"


async def test_a_few_requests_at_once_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_STREAMS", 2)
    async with measured() as serve:
        begun = [await serve.begin("/sink", "POST", ended=False) for _ in range(2)]
        status, said = await serve.ask("/small")
        assert status == 429 and b"2 measuring requests at once" in said
        for each in begun:
            await each.send_end()
            assert (await answer(each))[0].status == 200
        assert (await serve.ask("/small"))[0] == 200


async def test_serves_limits_hold_for_measurements_too() -> None:
    async with measured(Exposure(max_requests=1, max_requests_per_minute=4, max_body=1000)) as serve:
        first = await serve.begin("/sink", "POST", ended=False)
        status, said = await serve.ask("/small")
        assert status == 429 and b"--max-requests" in said
        await first.send(bytes(1001))
        assert (await answer(first))[0].status == 413
        assert [(await serve.ask("/small"))[0] for _ in range(4)] == [200, 200, 200, 429]


def test_a_rate_leaves_the_beginning_out() -> None:
    flow = Flow(100.0)
    for step in range(1, 101):  # the first second brings 10 bytes a step, the other three 1000
        flow.add(10 if step <= 25 else 1000, 100 + step * 0.04)
    assert flow.seconds == pytest.approx(4.0)
    assert flow.rate == pytest.approx(25_000, rel=0.05)
    assert flow.bytes == 250 + 75_000


def test_a_rate_of_next_to_nothing_is_no_error() -> None:
    assert Flow(1.0).rate == 0.0
    flow = Flow(1.0)
    flow.add(5, 1.0)
    assert flow.rate == 0.0
    flow.add(5, 1.01)
    assert flow.rate == pytest.approx(1000.0)
