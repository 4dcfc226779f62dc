"""Serve's checks of its upstream: whether it answers, and which models it lists. They count towards no limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ..config import Limits
from ..errors import UpstreamError, UpstreamUnreachable
from ..protocol.heads import RequestHead, ResponseHead
from ..status import Health, UpstreamStatus
from ..transport.tasks import report, stop
from .forwarding import Forwarding, response_events
from .http1 import END, ResponseReader
from .models import ACCEPT, MAX_ANSWER, Answer, look
from .pool import UpstreamPool
from .probe import PROBE_FIELD
from .upstream_connection import UpstreamConnection

PERIOD_UP: Final = 30.0
"""Seconds between two checks of an upstream that is up. Each check adds a line to its log."""
PERIOD_DOWN: Final = 3.0
"""Seconds between two checks of an upstream that is down, since somebody waits for it."""
PAUSE: Final = 1.0
"""Minimum seconds between two checks, however often requests fail."""
PATIENCE: Final = 5.0
"""Maximum time for a response, in seconds. An upstream that accepts connections but does not answer is busy."""


class UpstreamWatch:
    """Checks of one upstream. Call `start`, then `aclose`; `status` is the last result."""

    def __init__(
        self,
        pool: UpstreamPool,
        forwarding: Forwarding,
        *,
        limits: Limits,
        on_change: Callable[[UpstreamStatus], None] = lambda status: None,
    ) -> None:
        self.status = UpstreamStatus()
        self._has_answered = False
        self._pool = pool
        self._forwarding = forwarding
        self._limits = limits
        self._on_change = on_change
        self._doubted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Check at once, then repeatedly."""
        self._task = asyncio.create_task(self._run(), name="upstream watch")
        self._task.add_done_callback(report)

    def doubt(self) -> None:
        """Check soon, since a request has failed."""
        self._doubted.set()

    async def aclose(self) -> None:
        """Stop checking. Idempotent."""
        if self._task is not None:
            await stop(self._task)

    async def _run(self) -> None:
        while True:
            self._doubted.clear()
            seen = await self.look()
            if seen.health is Health.DOWN:
                seen = replace(seen, detail=f"{seen.detail} Checking every {PERIOD_DOWN:g} s.")
            self._see(seen)
            await asyncio.sleep(PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout((PERIOD_UP if self.status.health is Health.UP else PERIOD_DOWN) - PAUSE):
                    await self._doubted.wait()

    def _see(self, status: UpstreamStatus) -> None:
        self._has_answered |= status.health is Health.UP
        changed = status != self.status
        self.status = status
        if changed:
            self._on_change(status)

    async def look(self) -> UpstreamStatus:
        """Check the upstream now. If it is down, the detail says why, and what to do if the address is wrong."""
        try:
            answer = await look(self._ask)
        except UpstreamError as exc:
            return UpstreamStatus(health=Health.DOWN, detail=self._why(exc))
        except TimeoutError:
            return UpstreamStatus(health=Health.UP, models=self.status.models)
        return UpstreamStatus(health=Health.UP, models=answer.models or ())

    def _why(self, exc: UpstreamError) -> str:
        if isinstance(exc, UpstreamUnreachable) and exc.absent:
            return f"{exc.message.removesuffix('.')} {'any more' if self._has_answered else 'yet'}."
        return f"{exc.message} {exc.hint}".rstrip()

    async def _ask(self, path: bytes) -> Answer:
        # One of our own proxies answers this field itself, so that a tunnel that leads to itself does not check itself.
        head = RequestHead(method=b"GET", target=path, fields=(*ACCEPT, (PROBE_FIELD, b"1")))
        connection = await self._pool.connect()
        try:
            connection.write_now(self._forwarding.request(head, frozenset(), chunked=False, upgrade=False, close=True))
            async with asyncio.timeout(PATIENCE):
                return await self._answer(connection)
        finally:
            connection.abort()

    async def _answer(self, connection: UpstreamConnection) -> Answer:
        reader, status, body = ResponseReader(b"GET", limits=self._limits), 0, bytearray()
        while True:
            for event in response_events(reader, await connection.read()):
                if isinstance(event, ResponseHead):
                    status = event.status
                elif isinstance(event, bytes):
                    body += event
                if event is END or len(body) > MAX_ANSWER:
                    return Answer.of(status, bytes(body))
