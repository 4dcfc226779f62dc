"""How much later things come: a small answer, and the events of streams."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from .client import Address, Connection, connect
from .harness import tunnel
from .report import Row, ms, percentile
from .upstream import STAMP_SIZE, STAMP_TIME

Delays = list[float]
"""Seconds, one a request or an event."""
ROUNDS = 4
"""Direct and tunnel take turns, so that what else the machine does meets both."""


async def get(quick: bool) -> list[Row]:
    """A small GET on a connection that stays, one after another."""
    count = 25 if quick else 250
    async with tunnel() as rig, connect(rig.upstream) as upstream, connect(rig.address) as proxy:
        direct, through = Delays(), Delays()
        for _ in range(ROUNDS):
            direct += await _gets(upstream, count)
            through += await _gets(proxy, count)
    return [
        _compare("small GET, p50", direct, through, 0.5),
        _compare("small GET, p99", direct, through, 0.99),
    ]


async def _gets(client: Connection, count: int) -> Delays:
    return [(await client.exchange("/small")).seconds for _ in range(count)]


async def sse(quick: bool) -> list[Row]:
    """One stream of events, 100 a second."""
    load = Load(streams=1, rate=100, seconds=0.5 if quick else 4)
    direct, through = await _measure(load)
    return [
        _compare("SSE event, p50", direct, through, 0.5),
        _compare("SSE event, p99", direct, through, 0.99),
    ]


async def streams(quick: bool) -> list[Row]:
    """64 streams of 30 tokens a second each."""
    load = Load(streams=64, rate=30, seconds=1 if quick else 8)
    async with tunnel() as rig:
        direct = await load.delays(rig.upstream)
        before, began = rig.processor(), time.perf_counter()
        through = await load.delays(rig.address)
        lasted = time.perf_counter() - began
        serve, proxy = (100 * (now - then) / lasted for now, then in zip(rig.processor(), before, strict=True))
    return [
        _compare("64 streams of 30 tokens/s, p50", direct, through, 0.5),
        _compare("64 streams of 30 tokens/s, p99", direct, through, 0.99),
        Row(figure="64 streams of 30 tokens/s: processor, serve / proxy", tunnel=f"{serve:.0f} / {proxy:.0f} %"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Streams of events that run at the same time."""

    streams: int
    rate: float
    """Events a second in each stream."""
    seconds: float

    async def delays(self, address: Address) -> Delays:
        """Of every event, from its writing by the upstream to its arrival here."""
        delays = Delays()
        spread = 1 / self.rate / self.streams  # tokens of different streams do not come at the same moment
        async with asyncio.TaskGroup() as group:
            for index in range(self.streams):
                group.create_task(self._stream(address, index * spread, delays), name=f"stream-{index}")
        return delays

    async def _stream(self, address: Address, pause: float, delays: Delays) -> None:
        await asyncio.sleep(pause)
        async with connect(address) as client:
            stamps = Stamps(delays)
            await client.exchange(
                f"/v1/chat/completions?count={int(self.rate * self.seconds)}&rate={self.rate}", sink=stamps.feed
            )
            assert stamps.seen == int(self.rate * self.seconds)


class Stamps:
    """Reads the events of one stream, however the bytes were cut on their way."""

    def __init__(self, delays: Delays) -> None:
        self.seen = 0
        self._delays = delays
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes of the body."""
        now = time.perf_counter_ns()
        data = self._rest + data
        whole = len(data) - len(data) % STAMP_SIZE
        for start in range(0, whole, STAMP_SIZE):
            self._delays.append((now - int(data[start : start + STAMP_SIZE][STAMP_TIME])) / 1e9)
            self.seen += 1
        self._rest = data[whole:]


async def _measure(load: Load) -> tuple[Delays, Delays]:
    async with tunnel() as rig:
        return await load.delays(rig.upstream), await load.delays(rig.address)


def _compare(figure: str, direct: Delays, through: Delays, share: float) -> Row:
    plain, late = percentile(direct, share), percentile(through, share)
    return Row(figure=figure, direct=ms(plain), tunnel=ms(late), result=f"+{ms(late - plain)}")
