"""Processes of the command line, started, watched and killed as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from .ports import free_port

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(f'File "{ROOT / package}{os.sep}' for package in ("llmtunnel", "signal_server"))
"""The start of a traceback line that names a file of ours."""
PATIENCE = 40.0
"""Seconds that any expected event may take: generous, as on a busy machine a process's imports alone take several."""

T = TypeVar("T")
Event = dict[str, Any]
Address = tuple[str, int]


class Process:
    """One running command, with its lines and events as they arrive.

    ``foreign``: the program is not ours, so a traceback counts as a defect only if it names a file of ours. JupyterLab,
    for example, prints one if a browser disconnects while it writes to a WebSocket.
    """

    def __init__(
        self, arguments: Sequence[str], *, name: str, environ: dict[str, str] | None = None, foreign: bool = False
    ) -> None:
        self.name = name
        self.foreign = foreign
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._grew = threading.Condition()
        self._popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._readers = [
            threading.Thread(target=self._read, args=pipe, name=f"{name}-reader", daemon=True)
            for pipe in ((self._popen.stdout, self.lines), (self._popen.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                with self._grew:
                    lines.append(line.rstrip("\n"))
                    self._grew.notify_all()
        with self._grew:
            self._grew.notify_all()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def events(self) -> list[Event]:
        """What ``--json`` told until now."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def count(self, event: str) -> int:
        """How many events of that name there were."""
        return sum(one["event"] == event for one in self.events)

    def wait_event(self, event: str, *, after: int = 0, timeout: float = PATIENCE, **expected: object) -> Event:
        """The first such event whose members are as ``expected``, leaving out the first ``after`` of them."""

        def found() -> Event | None:
            named = [one for one in self.events if one["event"] == event]
            fits = (one for one in named[after:] if expected.items() <= one.items())
            return next(fits, None)

        return self._wait(found, f"event {event!r} {expected or ''}", timeout)

    def wait_line(self, pattern: str, *, timeout: float = PATIENCE) -> re.Match[str]:
        """The first line, of either output, in which ``pattern`` is found."""

        def found() -> re.Match[str] | None:
            lines = [*self.lines, *self.errors]
            return next((match for line in lines if (match := re.search(pattern, line))), None)

        return self._wait(found, f"a line like {pattern!r}", timeout)

    def _wait(self, found: Callable[[], T | None], what: str, timeout: float) -> T:
        deadline = time.monotonic() + timeout
        with self._grew:
            while (result := found()) is None:
                left = deadline - time.monotonic()
                ended = not any(reader.is_alive() for reader in self._readers)
                if left <= 0 or ended:
                    why = "ended" if ended else f"{timeout} s passed"
                    raise AssertionError(f"{self.name}: {why} without {what}\n{self.report()}")
                self._grew.wait(min(left, 0.5))
        return result

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """Its exit status, once it has ended by itself."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s\n{self.report()}") from None

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._popen.send_signal(signal.SIGINT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Ask it to end (SIGTERM); its exit status."""
        if self.running:
            self._popen.terminate()
        return self.wait_exit(timeout)

    def kill(self) -> None:
        """End it with no chance to say good-bye (SIGKILL)."""
        if self.running:
            self._popen.kill()
        self._popen.wait()
        for reader in self._readers:
            reader.join()

    def freeze(self) -> None:
        """It goes silent, its sockets stay open (SIGSTOP)."""
        self._popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on after `freeze`."""
        self._popen.send_signal(signal.SIGCONT)

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def report(self) -> str:
        """What it said, for a failed test."""
        state = "running" if self.running else f"exit {self._popen.returncode}"
        return "\n".join([f"--- {self.name} ({state})", *self.lines[-40:], "--- its stderr", *self.errors[-60:]])


def environment(changes: dict[str, str]) -> dict[str, str]:
    """Ours without what would configure a tunnel, nor proxies that a client library would heed."""
    foreign = ("TUNNEL_", "LLMTUNNEL_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"} | changes


@dataclass(slots=True)
class Processes:
    """Starts the commands of a test and sees to their end."""

    started: list[Process] = field(default_factory=list)

    def start(
        self, *arguments: str, name: str = "", environ: dict[str, str] | None = None, foreign: bool = False
    ) -> Process:
        """Run ``python`` with these arguments."""
        process = Process(arguments, name=name or arguments[-1], environ=environ, foreign=foreign)
        self.started.append(process)
        return process

    def signal(self, *flags: str, listen: str | None = None, environ: dict[str, str] | None = None) -> Signal:
        """A signal server of ours that listens. By default, its port is one that stays free after its end."""
        arguments = ("-m", "llmtunnel", "signal", "--listen", listen or f"127.0.0.1:{free_port()}", *flags)
        return self.listening(self.start(*arguments, name="signal", environ=environ))

    def original_signal(self, *flags: str) -> Signal:
        """The original's signal server, as rebuilt in ``tests/reference``."""
        return self.listening(self.start("-m", "tests.reference.signal", *flags, name="original-signal"))

    def listening(self, process: Process) -> Signal:
        """A signal server that was started otherwise, once it listens."""
        match = process.wait_line(r"listening on (ws://\S+:(\d+))")
        return Signal(process, match[1].rstrip("/"), int(match[2]))

    def serve(self, room: str, upstream: str, signal: str, *flags: str) -> Process:
        """A serve of ours, not waited for."""
        return self.member("serve", room, signal, "--upstream", upstream, *flags)

    def proxy(self, room: str, signal: str, *flags: str, listen: str = "127.0.0.1:0") -> Proxy:
        """A proxy of ours that listens."""
        called = ("--allow-host", "client.example", "--allow-host", "test")  # what the tests' clients call it
        process = self.member("proxy", room, signal, "--listen", listen, *called, *flags)
        return Proxy(process, process.wait_event("listening")["url"])

    def command(self, *arguments: str, **environ: str) -> Process:
        """A command of ours, told of in JSON where it can, without STUN servers."""
        where = ("--stun", "none") if arguments[0] in ("serve", "proxy") else ()
        return self.start("-m", "llmtunnel", *arguments, *where, "--json", name=arguments[0], environ=environ)

    def member(self, role: str, room: str, signal: str, *flags: str) -> Process:
        """A serve or proxy of ours."""
        common = ("--room", room, "--signal", signal, "--stun", "none", "--resume-for", "2", "--json", "-v")
        return self.start("-m", "llmtunnel", role, *common, *flags, name=role)

    def tunnel(self, room: str, upstream: str, signal: str, *flags: str) -> Tunnel:
        """A serve and a proxy that have met."""
        serve = self.serve(room, upstream, signal, *flags)
        proxy = self.proxy(room, signal, *flags)
        proxy.process.wait_event("ready")
        return Tunnel(serve, proxy.process, proxy.url)

    def original_serve(self, room: str, upstream: str, signal: str) -> Process:
        """The original's serve, not waited for."""
        return self._original("serve", room, signal, "--upstream", upstream)

    def original_proxy(self, room: str, signal: str) -> Proxy:
        """The original's proxy, listening."""
        process = self._original("proxy", room, signal)
        return Proxy(process, process.wait_event("listening")["url"])

    def _original(self, role: str, room: str, signal: str, *flags: str) -> Process:
        common = ("--room", room, "--signal", signal)
        return self.start("-m", "tests.reference.original", role, *common, *flags, name=f"original-{role}")

    def close(self) -> None:
        """End them all, the newest first; fails where one of them has shown a defect."""
        for process in reversed(self.started):
            process.kill()
        assert_sound(self.started)


def assert_sound(processes: Iterable[Process]) -> None:
    """None of them has shown a defect."""
    defects = [process.report() for process in processes if _defect(process)]
    assert not defects, "\n".join(["a process had a defect:", *defects])


def _defect(process: Process) -> bool:
    text = "\n".join([*process.lines, *process.errors])
    if process.foreign:
        return any(file in text for file in OURS)
    return "Traceback (most recent call last)" in text or "was never awaited" in text


@contextmanager
def processes() -> Iterator[Processes]:
    """`Processes` whose end is made also where the test fails."""
    started = Processes()
    try:
        yield started
    finally:
        started.close()


@dataclass(slots=True)
class Signal:
    """A signal server that listens."""

    process: Process
    url: str
    port: int


@dataclass(slots=True)
class Proxy:
    """A proxy that listens."""

    process: Process
    url: str

    @property
    def address(self) -> Address:
        """Where it listens."""
        return address_of(self.url)


@dataclass(slots=True)
class Tunnel:
    """A serve and a proxy that have met."""

    serve: Process
    proxy: Process
    url: str

    @property
    def address(self) -> Address:
        """Where the proxy listens."""
        return address_of(self.url)


def address_of(url: str) -> Address:
    """Host and port of a URL that has both."""
    host, _, port = url.split("://", 1)[1].split("/", 1)[0].rpartition(":")
    return host.strip("[]"), int(port)
