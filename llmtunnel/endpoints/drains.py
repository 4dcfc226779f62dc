"""Requests whose client has left, and which the upstream is let finish: some servers suffer from aborts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from ..errors import TunnelError
from ..transport.tasks import report, stop
from .forwarding import response_events
from .http1 import END, ResponseEvent, ResponseReader
from .upstream_connection import UpstreamConnection

logger = logging.getLogger(__name__)

MOST: Final = 64
"""At once; of more, the request is aborted after all."""
LONGEST: Final = 600.0
"""Seconds that an upstream has to finish; one that streams without an end is aborted then."""


class Drains:
    """All of one serve's. ``active``: whether that is what its user wants."""

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._tasks: set[asyncio.Task[None]] = set()

    def take(
        self, connection: UpstreamConnection, reader: ResponseReader, events: Iterator[ResponseEvent], held: ExitStack
    ) -> bool:
        """Read the rest of a response and drop it, then close ``held``; False where the caller is to abort instead.

        ``events``: what the reader had still to tell.
        """
        if not self._active or len(self._tasks) >= MOST:
            return False
        task = asyncio.create_task(_drain(connection, reader, events, held.pop_all()), name="a drained response")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(report)
        return True

    async def aclose(self) -> None:
        """Abort them all; idempotent."""
        await stop(*self._tasks)


async def _drain(
    connection: UpstreamConnection, reader: ResponseReader, events: Iterator[ResponseEvent], held: ExitStack
) -> None:
    with held:
        try:
            async with asyncio.timeout(LONGEST):
                while END not in list(events):
                    events = response_events(reader, await connection.read())
        except (TunnelError, TimeoutError) as exc:
            logger.info("a request whose client had left did not end well: %s", exc)
        finally:
            connection.abort()
