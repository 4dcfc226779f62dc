"""A TCP load balancer, as an operator has in front of several signal servers."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

PATIENCE: Final = 20.0
EVERY: Final = 0.2
"""Seconds between two looks at a backend, as in `deploy/Caddyfile` but shorter."""
Address = tuple[str, int]


class Balancer:
    """Sends each new connection to the first backend whose ``/readyz`` answers 200, on a thread of its own.

    ``in_turn``: to each of them in turn.
    """

    def __init__(self, *backends: Address, in_turn: bool = False) -> None:
        self._backends = backends
        self._in_turn = in_turn
        self._turn = 0
        self._ready: dict[Address, bool] = {}
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="balancer")

    @property
    def url(self) -> str:
        """Where peers connect."""
        return f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def wait_ready(self, *backends: Address) -> None:
        """Wait until exactly these are ready."""
        with self._changed:
            told = self._changed.wait_for(lambda: self.ready == [*backends], PATIENCE)
        assert told, f"ready: {self.ready}, not {backends}"

    @property
    def ready(self) -> list[Address]:
        """The backends that are ready, in order."""
        return [each for each in self._backends if self._ready.get(each)]

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_ready(*self._backends)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        looking = [asyncio.create_task(self._look(each), name="health check") for each in self._backends]
        await self._stop.wait()
        server.close()
        tasks = [*looking, *self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, backend: Address) -> None:
        while True:
            ready = await _is_ready(backend)
            with self._changed:
                self._ready[backend] = ready
                self._changed.notify_all()
            await asyncio.sleep(EVERY)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer), name="a connection")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy in both directions until either side ends."""
        writers = [writer]
        try:
            self._turn += self._in_turn
            ready = self.ready
            beyond, further = await asyncio.open_connection(*ready[self._turn % len(ready)])
            writers.append(further)
            copies = [asyncio.ensure_future(_copy(reader, further)), asyncio.ensure_future(_copy(beyond, writer))]
            try:
                await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in copies:
                    each.cancel()
                await asyncio.gather(*copies, return_exceptions=True)
        except (OSError, ZeroDivisionError):
            pass  # no backend is ready
        finally:
            for each in writers:
                each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _is_ready(backend: Address) -> bool:
    try:
        reader, writer = await asyncio.open_connection(*backend)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: balancer\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
