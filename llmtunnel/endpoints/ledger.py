"""The ledger: what passes and what has passed, of all exchanges of one side. Gateway and origin write, views read.

It is written on the tunnel's loop alone; any thread may read: each figure is one that was true a moment ago.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ..protocol.heads import RequestHead, ResponseHead
from ..status import ActiveRequest, RequestRecord
from .meter import Meter, metered

logger = logging.getLogger(__name__)

RECORDS: Final = 100
"""Finished exchanges that are remembered."""

_NOTHING: Final = Meter(streamed=False)
"""Of an exchange that no model answers."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """Of all exchanges, or of those with one peer."""

    requests: int = 0
    """That ended."""
    active: int = 0
    """Under way."""
    bytes_up: int = 0
    """Body bytes, of both."""
    bytes_down: int = 0


class Entry:
    """One exchange: its endpoint writes down what happens, from `Ledger.begin` to `Ledger.end`."""

    def __init__(self, request: RequestHead, totals: Totals, of_peer: Callable[[str], Totals]) -> None:
        self.status: int | None = None
        """Of the final head; None until the client is told one."""
        self.bytes_up = self.bytes_down = 0
        self.error = ""
        """Why it does not end whole."""
        self.peer = ""
        totals.active += 1
        self._totals = [totals]
        """What its figures are part of."""
        self._of_peer = of_peer
        self._request = request
        self._method = request.method.decode("ascii", "backslashreplace")
        self._started = time.time()
        self._clock = time.perf_counter()
        self._first_byte: float | None = None
        self._meter: Meter | None = None

    def reached(self, peer: str) -> None:
        """This peer has a part in it."""
        self.peer = peer
        totals = self._of_peer(peer)
        totals.active += 1
        self._totals.append(totals)

    def responded(self, head: ResponseHead) -> None:
        """The client was told this final head, which somebody behind us gave."""
        self.status = head.status
        self._first_byte = self._elapsed()
        self._meter = metered(self._request, head)

    def up(self, data: bytes) -> None:
        """Body bytes have passed to the upstream."""
        self.bytes_up += len(data)
        for totals in self._totals:
            totals.bytes_up += len(data)

    def down(self, data: bytes) -> None:
        """Body bytes pass to the client."""
        self.bytes_down += len(data)
        for totals in self._totals:
            totals.bytes_down += len(data)
        if self._meter:
            self._meter.feed(data, time.perf_counter())

    def active(self) -> ActiveRequest:
        """What is true of it now."""
        meter = self._meter or _NOTHING
        return ActiveRequest(
            method=self._method,
            path=self._request.path,
            peer=self.peer,
            started=self._started,
            status=self.status,
            first_byte_ms=self._first_byte,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            model=meter.model,
            tokens=meter.tokens,
        )

    def end(self) -> RequestRecord:
        """Nothing more will be written: what there is to remember."""
        for totals in self._totals:
            totals.active -= 1
            totals.requests += 1
        meter = self._meter or _NOTHING
        meter.end(time.perf_counter())
        return RequestRecord(
            method=self._method,
            path=self._request.path,
            status=self.status,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            first_byte_ms=self._first_byte,
            duration_ms=self._elapsed(),
            error=self.error,
            peer=self.peer,
            started=self._started,
            model=meter.model,
            tokens=meter.tokens,
            tokens_per_second=meter.tokens_per_second,
        )

    def _elapsed(self) -> float:
        return round((time.perf_counter() - self._clock) * 1000, 3)


class Ledger:
    """`begin` and `end` each exchange; the rest is for views."""

    def __init__(self, on_record: Callable[[RequestRecord], None] = lambda record: None) -> None:
        """``on_record`` is called at the end of each exchange."""
        self.totals = Totals()
        self._on_record = on_record
        self._entries: dict[Entry, None] = {}  # in the order of their beginning
        self._records: deque[RequestRecord] = deque(maxlen=RECORDS)
        self._peers: dict[str, Totals] = {}

    def begin(self, request: RequestHead) -> Entry:
        """An exchange begins."""
        entry = Entry(request, self.totals, lambda peer: self._peers.setdefault(peer, Totals()))
        self._entries[entry] = None
        return entry

    def end(self, entry: Entry) -> None:
        """It has ended, well or not."""
        del self._entries[entry]
        record = entry.end()
        self._records.append(record)
        logger.info("%s", record)
        self._on_record(record)

    def requests(self, limit: int) -> tuple[RequestRecord, ...]:
        """The last that ended, oldest first."""
        records = tuple(self._records)
        return records[max(len(records) - limit, 0) :]

    def active(self) -> tuple[ActiveRequest, ...]:
        """Those under way, oldest first."""
        return tuple(entry.active() for entry in tuple(self._entries))  # a copy first: the loop goes on meanwhile

    def of(self, peer: str) -> Totals:
        """Of the exchanges with one peer."""
        return self._peers.get(peer) or Totals()

    def keep(self, peers: Collection[str]) -> None:
        """Forget all other peers."""
        self._peers = {peer: totals for peer, totals in self._peers.items() if peer in peers}
