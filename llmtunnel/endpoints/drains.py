"""Requests whose client has disconnected, but which the upstream may finish, since some servers mishandle aborts."""

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
"""Maximum number of drained requests at once; further ones are aborted."""
LONGEST: Final = 600.0
"""Seconds for an upstream to finish; an endless stream is then aborted."""


class Drains:
    """All drained requests of one serve. ``active``: whether the user has enabled draining."""

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._tasks: set[asyncio.Task[None]] = set()

    def take(
        self, connection: UpstreamConnection, reader: ResponseReader, events: Iterator[ResponseEvent], held: ExitStack
    ) -> bool:
        """Read and discard the rest of a response, then close ``held``. Returns False if the caller must abort instead.

        ``events``: events that the reader has yet to return.
        """
        if not self._active or len(self._tasks) >= MOST:
            return False
        task = asyncio.create_task(_drain(connection, reader, events, held.pop_all()), name="a drained response")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(report)
        return True

    async def aclose(self) -> None:
        """Abort all of them. Idempotent."""
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
            logger.info("A drained request of a disconnected client failed: %s", exc)
        finally:
            connection.abort()
