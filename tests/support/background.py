"""The other side of a tunnel on a thread of its own, for tests of what blocks."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from llmtunnel.endpoints.toy import Toy
from llmtunnel.status import Phase
from signal_server.server import SignalServer

from .embedded import PATIENCE, Upstream, server, started

SERVED = "served"
"""The room in which a serve is."""


@dataclass
class Background:
    """A signal server, an upstream, and a serve in the room `SERVED`, while the `with` lasts."""

    kind: type[Upstream] | type[Toy] = Upstream
    """Of upstream."""
    signal: str = ""
    upstream: str = ""

    def __post_init__(self) -> None:
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="background")

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.kind() as upstream, SignalServer("127.0.0.1", 0) as signal:
            self.signal, self.upstream = signal.url, upstream.url
            serve = server(signal.url, upstream.url, room=SERVED)
            async with started(serve):
                await serve.wait(Phase.WAITING, timeout=PATIENCE)
                self._up.set()
                await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
