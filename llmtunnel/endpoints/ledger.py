"""The ledger: figures of all exchanges of one side, running and finished. Gateway and origin write, views read.

Only the tunnel's loop writes. Any thread may read, and may see figures that are slightly out of date.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ..protocol.heads import Fields, RequestHead, ResponseHead
from ..status import ActiveRequest, Percentiles, RequestRecord, Sample
from ..status import Fields as Shown
from .meter import Meter, metered

logger = logging.getLogger(__name__)

RECORDS: Final = 500
"""Number of finished exchanges kept: some kB each at most, see the limits below."""

SAMPLES: Final = 3600
"""Number of samples kept: the last hour, at one per second; 1 MB."""

MAX_PATH: Final = 1000
"""Maximum characters kept of a path."""
MAX_FIELDS: Final = 64
"""Maximum header fields kept of a head, and maximum characters kept of a field's name."""
MAX_VALUE: Final = 200
"""Maximum characters kept of a field's value."""

SHOWN: Final = frozenset(
    (
        *(b"accept", b"accept-encoding", b"content-encoding", b"content-length", b"content-type"),
        *(b"retry-after", b"server", b"transfer-encoding", b"user-agent"),
    )
)
"""Fields whose values are kept. Any other one may contain a credential or private text."""

_BODILESS: Final = (204, 304)
"""Statuses whose Content-Length does not describe a body that follows."""

_NOTHING: Final = Meter(streamed=False)
"""Meter of an exchange that no model answers."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """Totals of all exchanges, or of those with one peer."""

    requests: int = 0
    """Finished exchanges."""
    failed: int = 0
    """Exchanges that ended with an error, or with a status of 400 or more."""
    active: int = 0
    """Running exchanges."""
    bytes_up: int = 0
    """Body bytes of finished and running exchanges."""
    bytes_down: int = 0


class Entry:
    """One exchange. Its endpoint records what happens, from `Ledger.begin` to `Ledger.end`."""

    def __init__(self, id: int, request: RequestHead, totals: Totals, of_peer: Callable[[str], Totals]) -> None:
        self.status: int | None = None
        """Status of the final head; None until one is sent to the client."""
        self.bytes_up = self.bytes_down = 0
        self.error = ""
        """Why the exchange is incomplete."""
        self.peer = ""
        totals.active += 1
        self._totals = [totals]
        """The totals that its figures count towards."""
        self._of_peer = of_peer
        self._id = id
        self._request = request
        self._response: ResponseHead | None = None
        self._method = request.method.decode("ascii", "backslashreplace")
        self._started = time.time()
        self._clock = time.perf_counter()
        self._queued: float | None = None
        self._first_byte: float | None = None
        self._first_body: float | None = None
        self._meter: Meter | None = None

    def reached(self, peer: str) -> None:
        """Record that this peer handles the exchange."""
        self.peer = peer
        totals = self._of_peer(peer)
        totals.active += 1
        self._totals.append(totals)

    def passed_on(self) -> None:
        """Record that the request's head was forwarded."""
        self._queued = self._elapsed()

    def responded(self, head: ResponseHead) -> None:
        """Record the final head sent to the client, if it came from the other side."""
        self.status = head.status
        self._first_byte = self._elapsed()
        self._response = head
        self._meter = metered(self._request, head)

    def up(self, data: bytes) -> None:
        """Record body bytes sent to the upstream."""
        self.bytes_up += len(data)
        for totals in self._totals:
            totals.bytes_up += len(data)

    def down(self, data: bytes) -> None:
        """Record body bytes sent to the client."""
        if not self.bytes_down:
            self._first_body = self._elapsed()
        self.bytes_down += len(data)
        for totals in self._totals:
            totals.bytes_down += len(data)
        if self._meter:
            self._meter.feed(data, time.perf_counter())

    @property
    def tokens(self) -> int:
        """Tokens of its response so far."""
        return (self._meter or _NOTHING).tokens or 0

    def active(self) -> ActiveRequest:
        """Return the current state."""
        return ActiveRequest(**self._known())

    def end(self) -> RequestRecord:
        """Finish the exchange, and return its record."""
        meter = self._meter or _NOTHING
        meter.end(time.perf_counter())
        record = RequestRecord(
            **self._known(),
            duration_ms=self._elapsed(),
            error=self.error or meter.error,
            tokens_per_second=meter.tokens_per_second,
        )
        for totals in self._totals:
            totals.active -= 1
            totals.requests += 1
            totals.failed += record.failed
        return record

    def _known(self) -> dict[str, Any]:
        """Return the fields of a `Request`."""
        meter = self._meter or _NOTHING
        path, token, response = self._request.path, meter.first_token, self._response
        return {
            "id": self._id,
            "method": self._method,
            "path": path if len(path) <= MAX_PATH else path[: MAX_PATH - 1] + "…",
            "peer": self.peer,
            "started": self._started,
            "status": self.status,
            "queued_ms": self._queued,
            "first_byte_ms": self._first_byte,
            "first_body_ms": self._first_body,
            "first_token_ms": None if token is None else self._since_start(token),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "total_up": _length(self._request.fields),
            "total_down": self._total_down(),
            "progress": meter.progress,
            "model": meter.model,
            "tokens": meter.tokens,
            "request_fields": _shown(self._request.fields),
            "response_fields": _shown(response.fields) if response else (),
        }

    def _total_down(self) -> int | None:
        if self._response is None or self._method == "HEAD" or self._response.status in _BODILESS:
            return None
        return _length(self._response.fields)

    def _elapsed(self) -> float:
        return self._since_start(time.perf_counter())

    def _since_start(self, moment: float) -> float:
        return round((moment - self._clock) * 1000, 3)


def _length(fields: Fields) -> int | None:
    """Return the Content-Length; None if there is none."""
    for name, value in fields:
        if len(name) == 14 and name.lower() == b"content-length":
            return int(value) if value.isdigit() and len(value) <= 18 else None
    return None


def _shown(fields: Fields) -> Shown:
    """Return the names, with the values of those in `SHOWN`."""
    pairs = []
    for name, value in fields[:MAX_FIELDS]:
        hidden = _hidden(name[:MAX_FIELDS])
        pairs.append((hidden[0], value[:MAX_VALUE].decode("latin-1")) if hidden[1] else hidden[2])
    return tuple(pairs)


@lru_cache(maxsize=256)  # names repeat, so this halves the cost of a head
def _hidden(name: bytes) -> tuple[str, bool, tuple[str, None]]:
    """Return a name as text, whether its value is shown, and the pair to keep if it is not."""
    text = name.decode("latin-1")
    return text, name.lower() in SHOWN, (text, None)


class Ledger:
    """The exchanges of one side. Call `begin` and `end` for each; the other methods are for views."""

    def __init__(self, on_record: Callable[[RequestRecord], None] = lambda record: None) -> None:
        """``on_record`` is called at the end of each exchange."""
        self.totals = Totals()
        self.bench = Totals()
        """Of requests that measure the tunnel, which count nowhere else."""
        self._on_record = on_record
        self._entries: dict[Entry, None] = {}  # in the order of their start
        self._records: deque[RequestRecord] = deque(maxlen=RECORDS)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._begun = self._ended = self._tokens = 0
        self._spread: tuple[int, Percentiles | None, Percentiles | None] = (0, None, None)
        """Number of finished exchanges, with the percentiles of first byte and first token at that time."""
        self._peers: dict[str, Totals] = {}

    def begin(self, request: RequestHead) -> Entry:
        """Start an exchange."""
        self._begun += 1
        entry = Entry(self._begun, request, self.totals, lambda peer: self._peers.setdefault(peer, Totals()))
        self._entries[entry] = None
        return entry

    def end(self, entry: Entry) -> None:
        """Finish an exchange, successful or not."""
        del self._entries[entry]
        record = entry.end()
        self._tokens += record.tokens or 0
        self._records.append(record)
        self._ended += 1
        logger.info("%s", record)
        self._on_record(record)

    def sample(self, rtt: float | None) -> None:
        """Record the current figures, with this round-trip time in seconds."""
        totals = self.totals
        self._samples.append(
            Sample(
                time=time.time(),
                rtt=rtt,
                active=totals.active,
                bytes_up=totals.bytes_up,
                bytes_down=totals.bytes_down,
                tokens=self.tokens,
            )
        )

    @property
    def tokens(self) -> int:
        """Tokens of all responses, including running ones."""
        return self._tokens + sum(entry.tokens for entry in tuple(self._entries))

    def first_byte(self) -> Percentiles | None:
        """Return percentiles of the time to the response's head, over the records."""
        return self._spreads()[1]

    def first_token(self) -> Percentiles | None:
        """Return percentiles of the time to the first token, over the records."""
        return self._spreads()[2]

    def _spreads(self) -> tuple[int, Percentiles | None, Percentiles | None]:
        ended = self._ended  # read before the records, so that a new one counts the next time
        if self._spread[0] != ended:
            records = tuple(self._records)
            first_bytes = [each.first_byte_ms for each in records if each.first_byte_ms is not None]
            first_tokens = [each.first_token_ms for each in records if each.first_token_ms is not None]
            self._spread = ended, Percentiles.of(first_bytes), Percentiles.of(first_tokens)
        return self._spread

    def samples(self) -> tuple[Sample, ...]:
        """Return the samples, oldest first."""
        return tuple(self._samples)

    def records(self, limit: int) -> tuple[RequestRecord, ...]:
        """Return the last finished exchanges, oldest first."""
        records = tuple(self._records)
        return records[max(len(records) - limit, 0) :]

    def active(self) -> tuple[ActiveRequest, ...]:
        """Return the running exchanges, oldest first."""
        return tuple(entry.active() for entry in tuple(self._entries))  # a copy, since the loop keeps running

    def of(self, peer: str) -> Totals:
        """Return the totals of one peer."""
        return self._peers.get(peer) or Totals()

    def keep(self, peers: Collection[str]) -> None:
        """Forget all other peers."""
        self._peers = {peer: totals for peer, totals in self._peers.items() if peer in peers}
