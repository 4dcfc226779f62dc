"""A server's metrics in Prometheus' format, on an address of their own. Needs prometheus-client.

`METRICS` is the whole list. To add one, add what it counts to `Statistics`, and its row here and in README.md. No label
may contain a room, an address or a peer: their number is unlimited, and metrics are read by people whom they do not
concern.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .accounts import netloc
from .server import SignalServer, State
from .statistics import Histogram

PREFIX: Final = "llmtunnel_signal_"
EVERY: Final = 0.5
"""Seconds between two measurements of the event loop's lag."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows. With a ``label``, one number for each of its values."""

    name: str
    help: str
    read: Callable[[SignalServer], float | Mapping[str, float]]
    label: str = ""

    def family(self, server: SignalServer) -> Metric:
        """Return its current value."""
        family = CounterMetricFamily(PREFIX + self.name, self.help, labels=[self.label] if self.label else [])
        value = self.read(server)
        if isinstance(value, Mapping):
            for label, count in value.items():
                family.add_metric([label], count)
        else:
            family.add_metric([], value)
        return family


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number as it is now."""

    name: str
    help: str
    read: Callable[[SignalServer], float]

    def family(self, server: SignalServer) -> Metric:
        """Return its current value."""
        return GaugeMetricFamily(PREFIX + self.name, self.help, value=self.read(server))


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram."""

    name: str
    help: str
    read: Callable[[SignalServer], Histogram]

    def family(self, server: SignalServer) -> Metric:
        """Return its current value."""
        histogram = self.read(server)
        bounds = [f"{bound:g}" for bound in histogram.bounds] + ["+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        return HistogramMetricFamily(PREFIX + self.name, self.help, buckets=buckets, sum_value=histogram.sum)


METRICS: Final = (
    Gauge("members", "Members that are connected to this instance.", lambda server: server.members),
    Gauge("rooms", "Rooms that one of them is in.", lambda server: server.rooms),
    Gauge("open_connections", "Open connections: members, pipe ends, and new ones.", lambda server: len(server)),
    Gauge("open_pipes", "Open pipes of the relay.", lambda server: len(server.relay) if server.relay else 0),
    Gauge("draining", "1 while the server drains, otherwise 0.", lambda server: server.state is State.DRAINING),
    Gauge(
        "redis_reached",
        "1 while Redis is reached, 0 while it is lost, and without --redis.",
        lambda server: server.shared is not None and server.shared.reached.is_set(),
    ),
    Gauge(
        "redis_latency_seconds",
        "Time that a message to this instance itself takes through Redis; 0 while there is none.",
        lambda server: (server.shared.latency or 0.0) if server.shared else 0.0,
    ),
    Gauge(
        "instances",
        "Instances that share the rooms, as this one knows; 0 without --redis.",
        lambda server: len(server.shared.addresses) if server.shared else 0,
    ),
    Gauge(
        "unshared",
        "Rooms and messages of which this instance has not told the others yet.",
        lambda server: server.shared.behind if server.shared else 0,
    ),
    Counter("connections_total", "Accepted connections.", lambda server: server.statistics.connections),
    Counter(
        "evicted_total",
        "Dropped connections that had joined no room in time, or whose place another one needed.",
        lambda server: server.statistics.evicted,
    ),
    Counter("joins_total", "Joins, including those of members that came back.", lambda server: server.statistics.joins),
    Counter(
        "messages_total",
        "Accepted messages of clients, without those in pipes.",
        lambda server: server.statistics.messages,
    ),
    Counter(
        "refused_total",
        "Rejected messages and pipes.",
        lambda server: {code.value: count for code, count in server.statistics.refused.items()},
        label="code",
    ),
    Counter("pipes_total", "Pipes of which both ends have connected.", lambda server: server.statistics.pipes),
    Counter(
        "relayed_bytes_total",
        "Bytes that pipes have carried, in both directions.",
        lambda server: server.statistics.relayed,
    ),
    Distribution(
        "loop_lag_seconds",
        "Time by which the event loop was late, measured twice a second.",
        lambda server: server.statistics.loop_lag,
    ),
)
"""All metrics, besides those of the process, which prometheus-client reads from the system."""


class _Collector(Collector):
    def __init__(self, server: SignalServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        for each in METRICS:
            yield each.family(self._server)


class Metrics:
    """Answers ``/metrics`` on an address: ``async with Metrics(server, host, port)``. Raises `OSError`.

    It has no protection, so the address should be one that only the operator reaches.
    """

    def __init__(self, server: SignalServer, host: str, port: int) -> None:
        self._statistics = server.statistics
        self._host, self._port = host, port
        self.registry = CollectorRegistry()
        """Not the library's global one, since a process may have several servers."""
        self.registry.register(_Collector(server))
        ProcessCollector(registry=self.registry)
        self._runner: web.ServerRunner | None = None
        self._server: asyncio.Server | None = None
        self._lag: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where to read the metrics."""
        assert self._server is not None, "started"
        return f"http://{netloc(*self._server.sockets[0].getsockname()[:2])}/metrics"

    async def __aenter__(self) -> Self:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await runner.setup()
        self._runner = runner
        assert runner.server is not None, "set up"
        try:
            self._server = await asyncio.get_running_loop().create_server(runner.server, self._host, self._port)
        except BaseException:
            await self._aclose()
            raise
        self._lag = asyncio.create_task(self._measure(), name="measuring the event loop")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._aclose()

    async def _aclose(self) -> None:
        if self._lag is not None:
            self._lag.cancel()
            await asyncio.wait([self._lag])
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/metrics":
            response = web.Response(status=404, text="The metrics are at /metrics.\n")
        else:
            encode, kind = choose_encoder(request.headers.get("Accept", ""))
            response = web.Response(body=encode(self.registry), headers={"Content-Type": kind})
        response.force_close()  # an idle connection would occupy a file
        return response

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            self._statistics.loop_lag.observe(max(0.0, loop.time() - due))
