"""The phases of a measurement, and their order: each sends requests to one address, for a given time.

The client costs very little, so the figures describe the whole way: the proxy's listener, the tunnel, and serve. Each
phase starts with requests that do not count. A figure is None if it could not be measured, or says what limited it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any, Final

from ..endpoints.bench import BLOCK, MOST_BYTES, MOST_RATE, MOST_SECONDS, MOST_TOKENS, TOKEN, Flow
from ..errors import UpstreamBroken
from ..summary import size
from .client import Address, Client, Declined, client
from .figures import Figures, Requests, Times, Tokens, Transfer, percentile

CONNECTIONS: Final = 16
STREAMS: Final = (1, 16, 64)
RATE: Final = MOST_RATE // 2
"""Tokens per second of each stream: like a fast model on a good GPU for one user."""
UNCOUNTED: Final = 5
"""Number of small requests before those that count."""
RELAY_BYTES: Final = 8_000_000
"""Maximum bytes in each direction over a relay, whose traffic costs money, or has a daily limit."""
BUSY: Final = 0.9
"""Share of one processor's time above which the processor is what limits this side."""

PROCESSOR: Final = "this process uses all of a processor"
SETTLED: Final = 5.0
"""Maximum seconds for cancelled data to leave the path."""

DECLINED: Final = (413, 429)
"""Statuses with which serve limits a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one phase."""

    seconds: float
    bytes: int = MOST_BYTES
    """Maximum bytes of bulk data in each direction."""


Measure = Callable[[Address, Bounds], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of a measurement."""

    name: str
    """Name for people."""
    share: float
    """Share of the total time."""
    measure: Measure
    put: Callable[[Figures, Any], Figures]
    """Adds the result to the figures."""


async def latency(address: Address, bounds: Bounds) -> Times | None:
    """Send small requests, one after the other on one connection."""
    limited, times = _Limits(), list[float]()
    async with client(address) as one:
        with limited, suppress(TimeoutError):
            async with asyncio.timeout(bounds.seconds + SETTLED):
                for _ in range(UNCOUNTED):
                    await one.get("/small")
                began = now = time.perf_counter()
                while not times or now - began < bounds.seconds:
                    before = now
                    await one.get("/small")
                    now = time.perf_counter()
                    times.append(now - before)
    if not times:
        limited.complain()
    return Times.of(times, sum(times), limited_by=limited.told)


async def requests(address: Address, bounds: Bounds) -> Requests | None:
    """Send small requests on several connections at once."""
    limited, ended = _Limits(), 0
    began = time.perf_counter()
    counts_from, end = began + bounds.seconds / 5, began + bounds.seconds

    async def work(one: Client) -> None:
        nonlocal ended
        with limited:
            while time.perf_counter() < end or not ended:
                await one.get("/small")
                ended += time.perf_counter() >= counts_from

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(address)) for _ in range(CONNECTIONS)]
        limited.begin()
        with suppress(TimeoutError):
            await _all(bounds.seconds, [work(one) for one in clients])
    seconds = time.perf_counter() - counts_from
    if not ended:
        limited.complain()
        return None
    return Requests(
        per_second=ended / seconds,
        connections=CONNECTIONS - limited.declined,
        samples=ended,
        seconds=seconds,
        limited_by=limited.words,
    )


async def download(address: Address, bounds: Bounds) -> Transfer | None:
    """Read one endless response, as long as time and bytes permit."""
    limited, begun, enough = _Limits(), asyncio.Event(), asyncio.Event()
    flow: Flow | None = None

    def take(data: bytes) -> None:
        nonlocal flow
        now = time.perf_counter()
        begun.set()
        flow = flow or Flow(now)
        flow.add(len(data), now)
        if flow.bytes >= bounds.bytes:
            enough.set()

    async with client(address) as one:
        asking = asyncio.ensure_future(one.get("/source", take))
        waiting = [asyncio.ensure_future(each.wait()) for each in (begun, enough)]
        try:
            with limited:
                for event, seconds in zip(waiting, (SETTLED, bounds.seconds), strict=True):
                    limited.begin()
                    await asyncio.wait((asking, event), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    asking.result()
        finally:
            for task in (asking, *waiting):
                task.cancel()
            await asyncio.wait((asking, *waiting))
    await _settle(address)
    if flow is None or not flow.rate:
        limited.complain()
        return None
    words = limited.words
    if flow.bytes >= bounds.bytes:
        words = _stopped(bounds)
    elif asking.done() and not asking.cancelled() and not limited.told:
        words = "serve has reached its limit for measurements"
    return _transfer(flow.as_dict(), words)


async def upload(address: Address, bounds: Bounds) -> Transfer | None:
    """Send one request with an endless body, as long as time and bytes permit. Serve measures what arrives."""
    limited, sent, cut = _Limits(), 0, True

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent, cut
        end = time.perf_counter() + bounds.seconds
        while sent < bounds.bytes and time.perf_counter() < end:
            yield BLOCK
            sent += len(BLOCK)
        cut = False

    answer = b""
    async with client(address) as one:
        limited.begin()
        with limited, suppress(TimeoutError):
            # Data in transit must arrive too.
            async with asyncio.timeout(min(2 * bounds.seconds + SETTLED, MOST_SECONDS)):
                answer = await one.post("/sink", body())
    await _settle(address)
    words = limited.words
    if sent >= bounds.bytes:
        words = _stopped(bounds)
    elif cut and answer:
        words = "serve has reached its limit for measurements"
    if not answer:
        limited.complain()
        return None
    return _transfer(_parsed(answer), words)


async def tokens(address: Address, bounds: Bounds, *, streams: int) -> Tokens | None:
    """Read streams of tokens that the other side sends steadily."""
    count = min(max(round(RATE * bounds.seconds), 10), MOST_TOKENS)
    limited, arrivals = _Limits(), list[_Arrivals]()

    async def work(index: int, one: Client) -> None:
        await asyncio.sleep(index / RATE / streams)  # so that the streams' tokens do not arrive at the same moment
        arrivals.append(_Arrivals())
        with limited:
            await one.get(f"/tokens?rate={RATE}&count={count}", arrivals[-1].feed)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(address)) for _ in range(streams)]
        limited.begin()
        with suppress(TimeoutError):
            await _all(bounds.seconds + SETTLED, [work(index, one) for index, one in enumerate(clients)])
    answered = [each for each in arrivals if each.gaps]
    if not answered:
        limited.complain()
        return None
    gaps = [gap for each in answered for gap in each.gaps]
    samples = len(gaps) + len(answered)
    seconds = max(each.ends[1] for each in answered) - min(each.ends[0] for each in answered)
    return Tokens(
        streams=len(answered),
        sent_per_second=float(RATE * len(answered)),
        per_second=(samples - 1) / seconds if seconds else 0.0,
        gap_p50_ms=percentile(gaps, 0.5) * 1000,
        gap_p99_ms=percentile(gaps, 0.99) * 1000,
        samples=samples,
        seconds=seconds,
        limited_by=limited.words,
    )


def _add(figures: Figures, found: Tokens | None) -> Figures:
    return figures if found is None else replace(figures, tokens=(*figures.tokens, found))


WARM_UP: Final = Phase(name="warm-up", share=0.0, measure=latency, put=lambda figures, found: figures)
"""The phase before the others, which does not count."""
PHASES: Final = (
    Phase(name="latency", share=0.15, measure=latency, put=lambda figures, found: replace(figures, latency=found)),
    Phase(name="requests", share=0.15, measure=requests, put=lambda figures, found: replace(figures, requests=found)),
    Phase(name="download", share=0.2, measure=download, put=lambda figures, found: replace(figures, download=found)),
    Phase(name="upload", share=0.2, measure=upload, put=lambda figures, found: replace(figures, upload=found)),
    *(
        Phase(name=f"tokens in {count} streams", share=0.1, measure=partial(tokens, streams=count), put=_add)
        for count in STREAMS
    ),
)


class _Arrivals:
    """Arrival times of one stream's tokens, however the bytes are split."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        """Seconds between two tokens; 0 for tokens that arrive together."""
        self.ends: list[float] = []
        """Arrival times of the first and the last token."""
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Process arriving bytes of the stream."""
        now = time.perf_counter()
        had = self._bytes // len(TOKEN)
        self._bytes += len(data)
        came = self._bytes // len(TOKEN) - had
        if not came or len(self.gaps) + came > MOST_TOKENS:  # more than was asked for: memory is bounded
            return
        if self.ends:
            self.gaps.append(now - self.ends[-1])
        self.gaps += [0.0] * (came - 1)
        self.ends = [self.ends[0] if self.ends else now, now]


class _Limits:
    """What limits a figure: a limit of serve, or this process's processor time. Each ``with`` is one request."""

    def __init__(self) -> None:
        self.declined = 0
        """Number of requests that serve rejected."""
        self._last: Declined | None = None
        self._began = (0.0, 0.0)

    def begin(self) -> None:
        """Start to count processor time."""
        self._began = (time.perf_counter(), time.process_time())

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> bool:
        if isinstance(exc, Declined) and exc.status in DECLINED:
            self.declined += 1
            self._last = exc
            return True
        return False

    def complain(self) -> None:
        """Raise `Declined` if a limit of serve is why there is no figure."""
        if self._last:
            raise self._last

    @property
    def told(self) -> str:
        """Serve's message about its limit; empty if it accepted every request."""
        return f"serve: {self._last.message}" if self._last else ""

    @property
    def words(self) -> str:
        """The limit for people; empty if unknown."""
        if self.told:
            return self.told
        wall, used = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        return PROCESSOR if used > BUSY * wall else ""


async def _all(seconds: float, works: list[Any]) -> None:
    """Run all works in parallel, for a maximum time. The first failure ends all of them, and is raised."""
    try:
        async with asyncio.timeout(seconds + SETTLED), asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work, name="measuring")
    except BaseExceptionGroup as raised:
        raise raised.exceptions[0] from None


async def _settle(address: Address) -> None:
    """Wait until small requests succeed again, both beside and after the bulk data that is still in transit."""
    with suppress(TimeoutError, Declined):
        async with asyncio.timeout(SETTLED), client(address) as one:
            for _ in range(2):
                await one.get("/small")


def _stopped(bounds: Bounds) -> str:
    return f"stopped after {size(bounds.bytes)}{', the most over a relay' if bounds.bytes == RELAY_BYTES else ''}"


def _parsed(answer: bytes) -> dict[str, object]:
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError) as exc:
        raise UpstreamBroken("The other side did not say how many bytes of an upload arrived.") from exc
    return told if isinstance(told, dict) else {}


def _transfer(told: dict[str, Any], limited_by: str) -> Transfer | None:
    """Return the transfer that a `Flow` describes. The other side may send any values."""
    try:
        count, seconds, rate = int(told["bytes"]), float(told["seconds"]), float(told["bytes_per_second"])
        points = tuple((float(at), int(passed)) for at, passed in told["points"][:1000] if isfinite(at))
    except (LookupError, TypeError, ValueError, OverflowError) as exc:
        raise UpstreamBroken("The other side did not say how many bytes of an upload arrived.") from exc
    if not (rate > 0 and isfinite(rate) and isfinite(seconds)):
        return None
    return Transfer(bytes_per_second=rate, bytes=count, seconds=seconds, limited_by=limited_by, points=points)
