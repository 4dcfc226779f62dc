"""A real TURN server with the secret of TURN's REST scheme: Debian's coturn, on the loopback alone."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from .embedded import until
from .ports import free_port

SECRET = "a secret of two servers"
needs_coturn = pytest.mark.skipif(shutil.which("turnserver") is None, reason="needs coturn's turnserver")


class Coturn:
    """It runs from `start` to `stop`, and can be started again on the same port."""

    def __init__(self, path: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._path = path
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"turn:127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written."""
        return (self._path / "coturn.log").read_text("utf-8", "replace")

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self._launch()
        await until(self._listens, "coturn listens")

    def _launch(self) -> None:
        arguments = [
            *("turnserver", "-v", "-L", "127.0.0.1", "-E", "127.0.0.1", "-p", str(self.port), "--no-cli"),
            *("--pidfile", str(self._path / "pid"), "--userdb", str(self._path / "db"), "--log-file", "stdout"),
            *self._options,
        ]
        with (self._path / "coturn.log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)

    def stop(self) -> None:
        """Kill it, with all allocations."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@asynccontextmanager
async def coturn(path: Path, *more: str) -> AsyncIterator[Coturn]:
    """One that accepts credentials made with `SECRET`."""
    common = ("-n", "--no-tls", "--no-dtls", "--allow-loopback-peers", "-r", "lab", "--use-auth-secret")
    made = Coturn(path, *common, "--static-auth-secret", SECRET, *more)
    await made.start()
    try:
        yield made
    finally:
        made.stop()
