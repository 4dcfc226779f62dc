"""A real Redis, in a process of its own."""

from __future__ import annotations

import asyncio
import functools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from .ports import free_port

EXECUTABLE = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(EXECUTABLE is None, reason="needs Redis's redis-server")


class RedisServer:
    """It keeps its data in memory alone, so that who restarts it loses them, unless ``saved``."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the same port each time; returns when it answers."""
        assert EXECUTABLE is not None
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory.name]
        self._process = subprocess.Popen(
            [EXECUTABLE, *arguments, *self._options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < until, "redis-server does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It answers nobody any more, and closes nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Its answer, which has one line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096)

    def close(self) -> None:
        """End it, and remove what it has written."""
        self.kill()
        self._directory.cleanup()

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        return False


class Wire:
    """The way to Redis of one instance, which can be cut: then nothing passes, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lead(self, port: int) -> None:
        """Where it leads from now on. Connections stay where they are."""
        self._to = port

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        """Restore the way. Bytes on it are lost, and both ends of each connection get a reset."""
        for task in self._tasks:
            task.cancel()
        self._whole.set()

    async def aclose(self) -> None:
        self._server.close()
        self.mend()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = [writer]
        try:
            await self._whole.wait()
            further, back = await asyncio.open_connection("127.0.0.1", self._to)
            writers.append(back)
            await asyncio.gather(self._pass(reader, back), self._pass(further, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._whole.wait()
            target.write(data)
            await target.drain()


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """One of its own, for a test that kills it."""
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.close()


@functools.cache
def shared_redis() -> RedisServer:
    """The one of this process of tests, for those that leave it alone. Each takes a prefix of its own."""
    import atexit

    server = RedisServer()
    atexit.register(server.close)
    return server
