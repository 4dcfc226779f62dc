"""A real TURN server with the secret of TURN's REST scheme: Debian's coturn, on the loopback alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from .embedded import until
from .ports import free_port

LAST_THREAD = "admin thread"
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
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self._path / "coturn.log"

    async def start(self) -> None:
        """Start it, and wait until it listens on all its sockets.

        Each of its threads has a UDP socket on the same port. The kernel divides the clients between those that exist:
        while one is added, two requests of one client can reach two threads, and the second knows nothing of the nonce
        that the first gave. It begins its last thread, "admin", after them.
        """
        begun = self.log.count(LAST_THREAD)
        self._launch()
        await until(lambda: self.log.count(LAST_THREAD) > begun, "coturn listens")

    def _launch(self) -> None:
        arguments = [
            *("turnserver", "-v", "-L", "127.0.0.1", "-E", "127.0.0.1", "-p", str(self.port), "--no-cli"),
            *("--pidfile", str(self._path / "pid"), "--userdb", str(self._path / "db"), "--log-file", "stdout"),
            *self._options,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)

    def stop(self) -> None:
        """Kill it, with all allocations."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@asynccontextmanager
async def coturn(path: Path, *more: str, user: str = "") -> AsyncIterator[Coturn]:
    """One that accepts credentials made with `SECRET`, or those of one ``NAME:PASSWORD``."""
    common = ("-n", "--no-tls", "--no-dtls", "--allow-loopback-peers", "-r", "lab")
    users = ("--lt-cred-mech", "-u", user) if user else ("--use-auth-secret", "--static-auth-secret", SECRET)
    made = Coturn(path, *common, *users, *more)
    await made.start()
    try:
        yield made
    finally:
        made.stop()
