"""The processes of a measurement, started as a user starts them, and ended whatever happens."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .client import Address, Failed, connect

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = 30.0
"""Seconds that anything expected may take."""
LOOK: Final = 0.01
"""Seconds between two looks at a process's output."""


class Process:
    """One running command. Its output goes to a file: a reader would take its share of the processor."""

    def __init__(
        self,
        *arguments: str,
        name: str,
        folder: Path,
        program: Sequence[str] = (sys.executable, "-m"),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._output = folder / f"{name}-{secrets.token_hex(4)}.txt"
        # An installed llmtunnel has its bytecode: without, a start takes a fifth longer.
        foreign = ("TUNNEL_", "LLMTUNNEL_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PYTHONDONTWRITEBYTECODE")
        ours = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)}
        with self._output.open("wb") as output:
            self._popen = subprocess.Popen(
                [*program, *arguments],
                cwd=ROOT,
                env=ours | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    async def line(self, pattern: str) -> re.Match[str]:
        """The first line with ``pattern``. Raises `Failed` where it does not come."""
        for _ in range(int(PATIENCE / LOOK)):
            ended = self._popen.poll() is not None
            if match := re.search(pattern, self.output()):
                return match
            if ended:
                break
            await asyncio.sleep(LOOK)
        raise Failed(f"{self.name} did not say {pattern!r}:\n{self.output()[-2000:]}")

    def output(self) -> str:
        """What it said until now."""
        return self._output.read_text("utf-8", "replace")

    def memory(self) -> float | None:
        """Resident memory in MB; None where the system does not tell in ``/proc``."""
        try:
            status = Path(f"/proc/{self._popen.pid}/status").read_text("ascii")
        except OSError:
            return None
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 / 1e6 if found else None

    def processor(self) -> float | None:
        """Seconds of processor time so far; None where the system does not tell in ``/proc``."""
        try:
            fields = Path(f"/proc/{self._popen.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it, with no chance to say good-bye."""
        self._popen.kill()
        self._popen.wait()


@dataclass(slots=True, kw_only=True)
class Rig:
    """A signal server, an upstream, and the serves and proxies that a figure starts."""

    folder: Path
    room: str = field(default_factory=lambda: f"benchmark-{secrets.token_hex(8)}")
    flags: tuple[str, ...] = ()
    """Further flags of serve and proxy."""
    processes: list[Process] = field(default_factory=list)
    signal_url: str = ""
    upstream: Address = ("", 0)
    address: Address = ("", 0)
    """Where the proxy listens."""

    def start(self, *arguments: str, name: str) -> Process:
        """Run ``python -m`` with these arguments."""
        process = Process(*arguments, name=name, folder=self.folder)
        self.processes.append(process)
        return process

    async def ground(self) -> None:
        """Start what the tunnel stands on."""
        upstream = self.start("tests.benchmarks.upstream", name="upstream")
        signal = self.start("llmtunnel", "signal", "--listen", "127.0.0.1:0", name="signal")
        self.upstream = ("127.0.0.1", int((await upstream.line(r"upstream on port (\d+)"))[1]))
        self.signal_url = (await signal.line(r"listening on (ws://\S+)"))[1]

    def serve(self) -> Process:
        """A serve, not waited for."""
        return self._member("serve", "--upstream", str(self.upstream[1]))

    async def proxy(self) -> Process:
        """A proxy that listens."""
        proxy = self._member("proxy", "--listen", "127.0.0.1:0")
        self.address = ("127.0.0.1", int((await proxy.line(r"proxy listening on http://127\.0\.0\.1:(\d+)"))[1]))
        return proxy

    def _member(self, role: str, *flags: str) -> Process:
        common = ("--room", self.room, "--signal", self.signal_url, "--stun", "none")
        return self.start("llmtunnel", role, *common, *self.flags, *flags, name=role)

    async def answered(self) -> None:
        """Ask until an answer comes through the tunnel. Raises `Failed` where none does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    if await self._answers():
                        return
                    await asyncio.sleep(LOOK)
        said = "\n".join(f"--- {process.name}\n{process.output()[-2000:]}" for process in self.processes)
        raise Failed(f"no answer through the tunnel:\n{said}")

    async def _answers(self) -> bool:
        try:
            async with connect(self.address) as client:
                return (await client.exchange("/small")).status == 200
        except (OSError, Failed):
            return False

    def memory(self) -> dict[str, float]:
        """Each tunnel process's memory in MB, by name."""
        ours = (process for process in self.processes if process.name in ("signal", "serve", "proxy"))
        return {process.name: size for process in ours if (size := process.memory()) is not None}

    def processor(self) -> tuple[float, float]:
        """Serve's and proxy's processor time in seconds; not a number where the system does not tell."""
        by_name = {process.name: process.processor() for process in self.processes}
        return by_name.get("serve") or nan, by_name.get("proxy") or nan


@asynccontextmanager
async def ground(*flags: str) -> AsyncIterator[Rig]:
    """A signal server and an upstream. ``flags``: of serve and proxy."""
    with tempfile.TemporaryDirectory(prefix="llmtunnel-benchmark-") as folder:
        rig = Rig(folder=Path(folder), flags=flags)
        try:
            await rig.ground()
            yield rig
        finally:
            end(rig.processes)


@asynccontextmanager
async def tunnel(*flags: str) -> AsyncIterator[Rig]:
    """A tunnel that has answered once."""
    async with ground(*flags) as rig:
        rig.serve()
        await rig.proxy()
        await rig.answered()
        yield rig


def end(processes: Iterable[Process]) -> None:
    """Kill them all, the newest first."""
    for process in reversed(list(processes)):
        process.kill()
