"""Serve's own responses to a proxy that measures the tunnel: a source, a sink, tokens. The upstream is not involved.

    GET /small                       a few bytes
    GET /source                      bytes, until the client stops reading
    POST /sink                       reads bytes; returns how many arrived, and how fast
    GET /tokens?rate=50&count=100    events as a model streams them, at this rate per second

Such a request has ``bench`` in its head (protocol/README.md section 4), which only `llmtunnel bench` sets: no HTTP
request that a client sends to a proxy becomes one. Bytes and seconds are limited for each request and for all peers
together, since anyone who has the code could make new peers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl

from ..bucket import Bucket
from ..config import KIB, MIB
from ..protocol.heads import Fields, ResponseHead
from ..session.stream import Stream
from .admission import Admission, Refused
from .ledger import Totals
from .responses import Failure, standard_reason

logger = logging.getLogger(__name__)

MOST_BYTES: Final = 256_000_000
"""Maximum bytes of one request's or response's body."""
MOST_SECONDS: Final = 15.0
"""Maximum seconds for one request."""
MOST_STREAMS: Final = 80
"""Maximum simultaneous requests of all peers. A measurement has 64, and may overlap with requests just cancelled."""
BUDGET: Final = 1024
"""Burst for all peers together, in MiB: two long measurements on a fast network."""
BUDGET_EVERY: Final = 1.0
"""Seconds for one more MiB. In the long run, measurements use no more than a slow download."""
REQUEST_COST: Final = 16 * KIB
"""Minimum bytes that a request counts as, for its processor time."""
TOKEN_COST: Final = 4 * KIB
"""Bytes that a token counts as."""
MOST_RATE: Final = 100
"""Maximum tokens per second of one request."""
MOST_TOKENS: Final = 1000
"""Maximum tokens of one request."""

LOGGED_AFTER: Final = 30.0
"""Seconds without a request after which the next one is logged as a new measurement."""

BLOCK: Final = bytes(64 * KIB)
SMALL: Final = b'{"object":"list","data":[]}\n'
TOKEN: Final = b'data: {"choices":[{"index":0,"delta":{"content":"token "}}]}\n\n'

_STEP: Final = 0.05
"""Seconds between two points of a `Flow`."""
_WARM_UP: Final = 0.25
"""Share of a transfer's time that its rate excludes, since windows and rates grow meanwhile."""


class Flow:
    """Arrival of bytes over time. Pure: ``now`` is in seconds."""

    def __init__(self, now: float) -> None:
        self.bytes = 0
        self._began = self._last = now
        self._points: list[tuple[float, int]] = [(0.0, 0)]

    def add(self, size: int, now: float) -> None:
        """Record arriving bytes."""
        self.bytes += size
        self._last = now
        if now - self._began - self._points[-1][0] >= _STEP:
            self._points.append((now - self._began, self.bytes))

    @property
    def seconds(self) -> float:
        """Seconds until the last byte."""
        return self._last - self._began

    @property
    def rate(self) -> float:
        """Bytes per second, without the warm-up; 0 if unknown."""
        points = [*self.points, (self.seconds, self.bytes)]
        began, before = next(point for point in points if point[0] >= _WARM_UP * self.seconds)
        if began >= self.seconds:  # everything arrived within one step
            began, before = 0.0, 0
        return (self.bytes - before) / (self.seconds - began) if self.seconds > began else 0.0

    @property
    def points(self) -> list[tuple[float, int]]:
        """Seconds since the start, with the bytes until then, a few times per second."""
        return self._points

    def as_dict(self) -> dict[str, object]:
        """Return the sink's response."""
        points = [[round(at, 3), count] for at, count in self.points]
        return {"bytes": self.bytes, "seconds": self.seconds, "bytes_per_second": self.rate, "points": points}


async def tokens(query: str) -> AsyncIterator[bytes]:
    """Yield the events that a query asks for, on time; a late one follows at once."""
    asked = dict(parse_qsl(query))
    rate, count = _number(asked.get("rate"), MOST_RATE), _number(asked.get("count"), MOST_TOKENS)
    began = time.perf_counter()
    for index in range(count):
        await asyncio.sleep(max(0.0, began + index / rate - time.perf_counter()))
        yield TOKEN


def _number(text: str | None, most: int) -> int:
    return max(1, min(int(text), most)) if text and text.isascii() and text.isdigit() and len(text) < 9 else 1


class Bench:
    """Answers measurements. `handle` is the handler of streams whose request has ``bench``."""

    def __init__(self, admission: Admission, totals: Totals, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``admission`` limits each peer's requests and their bodies. ``totals`` counts all of them."""
        self._admission = admission
        self._totals = totals
        self._clock = clock
        self._budget = Bucket(BUDGET, every=BUDGET_EVERY)
        self._owed = 0
        """Bytes since the last MiB was taken from the budget."""
        self._last = ("", 0.0)
        """The peer and the time of the last request."""

    async def handle(self, stream: Stream) -> None:
        """Answer one stream. Raises `StreamReset` or `PeerLost` if it ends early."""
        totals, now = self._totals, self._clock()
        if self._last[0] != stream.peer or now - self._last[1] > LOGGED_AFTER:
            logger.info("%s measures the tunnel", stream.peer)
        self._last = stream.peer, now
        totals.active += 1
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await self._answer(stream)
        except TimeoutError:
            return  # the stream is reset: the client did not read, or did not send
        finally:
            totals.active -= 1
            totals.requests += 1

    async def _answer(self, stream: Stream) -> None:
        request = stream.request
        path, _, query = request.target.decode("latin-1").partition("?")
        try:
            with self._admission.admitted(stream.peer), self._place():
                match request.method, path:
                    case b"GET", "/small":
                        await self._respond(stream, SMALL)
                    case b"GET", "/source":
                        await self._source(stream)
                    case b"POST", "/sink":
                        await self._sink(stream)
                    case b"GET", "/tokens":
                        await self._tokens(stream, query)
                    case _:
                        raise Refused(Failure(status=404, code="not_found", message="Serve has no such measurement."))
        except Refused as exc:
            head, body = exc.told.response()
            await self._respond(stream, body, head=head)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Apply the limits for all peers together. Raises `Refused`."""
        if self._totals.active > MOST_STREAMS:
            raise _later(f"Serve answers at most {MOST_STREAMS} measuring requests at once.")
        if not self._spend(REQUEST_COST):
            raise _later("Serve has reached its limit for measurements. Try again in some minutes.")
        yield

    def _spend(self, size: int) -> bool:
        """Take bytes from the budget. Returns False if it is empty."""
        self._owed += size
        while self._owed >= MIB:
            if not self._budget.take(self._clock()):
                self._owed = MIB  # so that the next request waits for its own
                return False
            self._owed -= MIB
        return True

    async def _source(self, stream: Stream) -> None:
        await self._head(stream, ((b"Content-Type", b"application/octet-stream"),))
        end, sent = self._clock() + MOST_SECONDS / 1.5, 0
        while sent < MOST_BYTES and self._clock() < end and self._spend(len(BLOCK)):
            await self._send(stream, BLOCK)
            sent += len(BLOCK)
            await asyncio.sleep(0)  # on a fast path, no write waits, so let other requests run
        await stream.send_end()

    async def _sink(self, stream: Stream) -> None:
        flow = None
        while (flow is None or flow.bytes < MOST_BYTES) and (data := await stream.receive()):
            now = self._clock()
            flow = flow or Flow(now)
            flow.add(len(data), now)
            self._totals.bytes_up += len(data)
            self._admission.check_length(flow.bytes)
            if not self._spend(len(data)):
                break
        flow = flow or Flow(self._clock())
        await self._respond(stream, json.dumps(flow.as_dict()).encode())

    async def _tokens(self, stream: Stream, query: str) -> None:
        await self._head(stream, ((b"Content-Type", b"text/event-stream"),))
        async for event in tokens(query):
            if not self._spend(TOKEN_COST):
                break
            await self._send(stream, event)
        await stream.send_end()

    async def _respond(self, stream: Stream, body: bytes, *, head: ResponseHead | None = None) -> None:
        fields = ((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body)))
        await stream.send_response(head or _ok(fields))
        await self._send(stream, body)
        await stream.send_end()

    async def _head(self, stream: Stream, fields: Fields) -> None:
        await stream.send_response(_ok(fields))

    async def _send(self, stream: Stream, data: bytes) -> None:
        await stream.send(data)
        self._totals.bytes_down += len(data)


def _ok(fields: Fields) -> ResponseHead:
    return ResponseHead(status=200, reason=standard_reason(200), fields=fields)


def _later(message: str) -> Refused:
    return Refused(Failure(status=429, code="too_many_requests", message=message, retry_after=60))
