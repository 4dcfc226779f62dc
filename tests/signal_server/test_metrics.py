"""What the metrics say, and that they say nothing of anybody."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from signal_server import metrics as metrics_module
from signal_server.limits import Limits
from signal_server.messages import Code
from signal_server.metrics import METRICS, PREFIX, Counter, Distribution, Gauge, Metrics
from signal_server.statistics import Histogram, Statistics

from ..support.embedded import until
from ..support.signal_clients import Meeting, meeting
from .test_relay import come, next_of, tickets

KINDS = {Counter: "counter", Gauge: "gauge", Distribution: "histogram"}
README = Path(__file__).resolve().parents[2] / "signal_server/README.md"


class Scraped:
    """A server whose metrics somebody reads."""

    def __init__(self, here: Meeting, metrics: Metrics) -> None:
        self.here = here
        self.metrics = metrics

    async def text(self) -> str:
        async with self.here.http.get(self.metrics.url) as response:
            assert response.status == 200
            return await response.text()

    async def values(self) -> dict[str, float]:
        """All that are not 0, without the prefix, with their labels behind them."""
        families = text_string_to_metric_families(await self.text())
        return {
            "/".join([sample.name.removeprefix(PREFIX), *sample.labels.values()]): sample.value
            for family in families
            for sample in family.samples
            if sample.value
        }


@asynccontextmanager
async def scraped(limits: Limits | None = None) -> AsyncIterator[Scraped]:
    async with meeting(limits) as here, Metrics(here.server, "127.0.0.1", 0) as metrics:
        yield Scraped(here, metrics)


async def test_a_new_server_has_counted_nothing_and_names_every_code() -> None:
    async with scraped() as seen:
        text = await seen.text()
        assert not [name for name in await seen.values() if not name.startswith(("process_", "loop_lag"))]
    for code in Code:
        assert f'{PREFIX}refused_total{{code="{code.value}"}} 0.0' in text


async def test_members_rooms_joins_and_messages_are_counted() -> None:
    async with scraped() as seen:
        serve, proxy = await seen.here.members("serve", "proxy")
        await proxy.say("offer", sdp="o", to=serve.id)
        await serve.hear("offer")
        values = await seen.values()
        expected = {"members": 2, "rooms": 1, "open_connections": 2, "joins_total": 2, "messages_total": 3}
        assert {name: values[name] for name in expected} == expected
        assert values["connections_total"] == 2
        await serve.socket.close()
        assert (await proxy.hear("peer-left"))["peerId"] == serve.id
        assert (await seen.values())["members"] == 1


async def test_pipes_and_their_bytes_are_counted() -> None:
    async with scraped() as seen:
        serve, proxy = await seen.here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        left, right = await come(seen.here, mine), await come(seen.here, others)
        await left.send_bytes(b"x" * 1000)
        await next_of(right)
        await right.send_bytes(b"y" * 10)
        await next_of(left)
        values = await seen.values()
        assert (values["open_pipes"], values["pipes_total"], values["relayed_bytes_total"]) == (1, 1, 1010)


async def test_refusals_are_counted_by_their_code() -> None:
    async with scraped(Limits(rate=1.0)) as seen:
        here = seen.here
        peer = await here.peer()
        await peer.refused("offer", sdp="x")
        await peer.refused("nonsense")
        await here.member("serve")
        await (await here.peer()).refused("join", room="R", role="serve")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await come(here, "no-such-ticket")
        large = await here.peer()
        await large.refused("offer", sdp="x" * 70_000)
        fast = await here.peer()
        for _ in range(1000):
            await fast.say("bye")
        await fast.hear("error")
        values = await seen.values()
        refused = {name.partition("/")[2]: value for name, value in values.items() if name.startswith("refused")}
        expected = ["not-joined", "unknown-type", "room-full", "no-relay", "too-large", "too-fast"]
        assert refused == dict.fromkeys(expected, 1)


async def test_connections_that_join_nothing_are_counted_when_they_are_dropped() -> None:
    async with scraped(Limits(join=0.05)) as seen:
        peer = await seen.here.peer()
        await peer.closed()
        assert (await seen.values())["evicted_total"] == 1


async def test_draining_shows() -> None:
    async with scraped() as seen:
        await seen.here.server.drain(0)
        assert (await seen.values())["draining"] == 1


async def test_a_blocked_loop_shows_in_its_lag() -> None:
    async with scraped() as seen:
        lag = seen.here.server.statistics.loop_lag

        await until(lambda: sum(lag.counts) > 0)
        before, seconds = lag.sum, metrics_module.EVERY + 0.3
        time.sleep(seconds)  # noqa: ASYNC251
        await until(lambda: lag.sum > before)
        assert (await seen.values())["loop_lag_seconds_sum"] >= before + seconds - metrics_module.EVERY


async def test_the_process_shows_its_files_and_their_limit() -> None:
    async with scraped() as seen:
        values = await seen.values()
        if sys.platform == "linux":
            assert 0 < values["process_open_fds"] < values["process_max_fds"]


async def test_nothing_names_a_room_an_address_or_a_peer() -> None:
    async with scraped() as seen:
        peers = [await seen.here.member(role, room="room-secret", address="2001:db8::7") for role in ("proxy", "serve")]
        await peers[1].refused("join", room="room-secret")
        text = await seen.text()
    assert not [word for word in ("room-secret", "2001:db8", "127.0.0.1", *(peer.id for peer in peers)) if word in text]
    labels = {label for _, label in re.findall(r'^(\w+)\{(\w+)="', text, re.MULTILINE)}
    assert labels <= {"code", "le"}


async def test_another_path_is_not_found_and_the_main_address_has_no_metrics() -> None:
    async with scraped() as seen:
        async with seen.here.http.get(seen.metrics.url.removesuffix("/metrics")) as response:
            assert response.status == 404
        async with seen.here.http.get(seen.here.server.url.replace("ws", "http", 1) + "/metrics") as response:
            assert "joins" not in await response.text()


async def test_openmetrics_is_spoken_to_those_who_ask_for_it() -> None:
    async with scraped() as seen:
        asking = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with seen.here.http.get(seen.metrics.url, headers=asking) as response:
            assert response.content_type == "application/openmetrics-text"
            assert (await response.text()).endswith("# EOF\n")


async def test_two_servers_in_a_process_count_apart() -> None:
    async with scraped() as first, scraped() as second:
        await first.here.member()
        assert (await first.values())["members"] == 1
        assert "members" not in await second.values()


def test_a_histogram_counts_values_up_to_and_with_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 1, 2], 14.5)


def test_statistics_of_two_servers_share_nothing() -> None:
    first = Statistics()
    first.refused[Code.NO_RELAY] += 1
    first.loop_lag.observe(1)
    second = Statistics()
    assert (second.refused[Code.NO_RELAY], second.loop_lag.sum) == (0, 0)


def test_the_readme_lists_all_metrics_with_their_kind_and_meaning() -> None:
    text = README.read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{PREFIX}(\w+)(?:\{{(\w+)\}})?` \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [
        (each.name, each.label if isinstance(each, Counter) else "", KINDS[type(each)], each.help.rstrip("."))
        for each in METRICS
    ]
