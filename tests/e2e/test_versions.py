"""A peer of each earlier version with one of this version, in both roles, at a signal server of either version.

The earlier version is a wheel of `tests/versions`, unpacked, not installed: it runs on the dependencies of this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

import llmtunnel

from ..support.exchanges import request, sized
from ..support.processes import PATIENCE, ROOT, Process, Processes, Proxy, environment, processes
from ..support.raw_client import Client, fetch
from ..support.upstream import Upstream, pattern

WHEELS = sorted((ROOT / "tests" / "versions").glob("llmtunnel-*.whl"))


@dataclass(frozen=True, slots=True)
class Version:
    """The commands of one version."""

    place: Path
    """The folder that has its packages."""

    def run(self, *arguments: str) -> str:
        """The standard output of a command that ends by itself."""
        command = [sys.executable, "-P", "-m", "llmtunnel", *arguments]
        done = subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip()

    def start(self, processes: Processes, *arguments: str) -> Process:
        """A command that goes on."""
        return processes.start("-P", "-m", "llmtunnel", *arguments, name=arguments[0], environ=self._environ)

    @property
    def _environ(self) -> dict[str, str]:
        return environment({"PYTHONPATH": str(self.place)})


THIS = Version(ROOT)


@pytest.fixture(scope="module", params=WHEELS, ids=lambda wheel: wheel.name.split("-")[1])
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """One of the earlier versions."""
    place = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(request.param) as wheel:
        wheel.extractall(place)
    return Version(place)


@dataclass(frozen=True, slots=True)
class Pair:
    """A serve and a proxy of different versions that have met by an invite."""

    serve: Process
    proxy: Proxy
    upstream: Upstream


@pytest.fixture(params=["earlier serve", "earlier proxy"])
def roles(request: pytest.FixtureRequest, earlier: Version) -> tuple[Version, Version]:
    """The versions of serve and of proxy."""
    return (earlier, THIS) if request.param == "earlier serve" else (THIS, earlier)


@pytest.fixture(params=["earlier signal", "signal of this version"])
def pair(
    request: pytest.FixtureRequest, earlier: Version, roles: tuple[Version, Version], own_upstream: Upstream
) -> Iterator[Pair]:
    """Both sides, at a signal server, with the code that serve has made."""
    serving, using = roles
    meeting = earlier if request.param == "earlier signal" else THIS
    with processes() as running:
        signal = meeting.start(running, "signal", "--listen", "127.0.0.1:0").wait_line(r"listening on (ws://\S+)")[1]
        common = ("--stun", "none", "--json", "-v")
        serve = serving.start(running, "serve", own_upstream.url, "--signal", signal, *common)
        code = serve.wait_event("invite")["code"]
        listen = ("--listen", "127.0.0.1:0", "--allow-host", "client.example")
        proxy = using.start(running, "proxy", code, *listen, *common)
        url = proxy.wait_event("listening")["url"]
        proxy.wait_event("ready")
        yield Pair(serve, Proxy(proxy, url), own_upstream)
        for side in (proxy, serve) if os.name == "posix" else ():  # elsewhere nothing asks one process alone to end
            side.interrupt()
            side.wait_exit()
            assert side.events[-1]["event"] == "stopped"


def test_the_earlier_version_is_what_its_wheel_says(earlier: Version) -> None:
    said = earlier.run("--version").removeprefix("llmtunnel ")
    assert said in [wheel.name.split("-")[1] for wheel in WHEELS]
    assert said != llmtunnel.__version__
    assert THIS.run("--version") == f"llmtunnel {llmtunnel.__version__}"


def test_each_reads_the_codes_of_the_other(earlier: Version) -> None:
    for makes, reads in ((earlier, THIS), (THIS, earlier)):
        code = makes.run("invite")
        read = "import sys; from llmtunnel.invite import Invite; print(Invite.parse(sys.argv[1]).code)"
        command = [sys.executable, "-P", "-c", read, code]
        done = subprocess.run(
            command, env=environment({"PYTHONPATH": str(reads.place)}), capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == code


@pytest.mark.timeout(240)
def test_a_get_a_post_and_a_stream_pass_between_versions(pair: Pair) -> None:
    address = pair.proxy.address
    for side in (pair.serve, pair.proxy.process):
        connected = side.wait_event("peer-connected")
        assert (connected["version"], connected["authenticated"]) == ("v2", True)

    got = fetch(address, request(b"GET", b"/plain?a=%2F", b"X-Client: yes"))
    assert (got.status, got.body, got.whole) == (200, b"ok", True)
    assert pair.upstream.requests[-1].target == b"/plain?a=%2F"
    assert pair.upstream.requests[-1].values(b"x-client") == [b"yes"]

    sent = pattern(0, 3_000_000)  # more than the credit of a stream, as is what comes back
    assert fetch(address, sized(b"POST", b"/up", sent)).body == b"ok"
    assert pair.upstream.requests[-1].digest == sha256(sent).hexdigest()
    assert fetch(address, request(b"GET", b"/big?size=3000000")).body == (pattern(0, 1 << 16) * 46)[:3_000_000]

    with Client(address) as client:  # each event is sent only once the one before it has come
        client.send(request(b"GET", b"/acknowledged?count=5"))
        events = client.body(client.head(), b"GET")
        for number in range(5):
            assert next(events) == b"data: %d\n\n" % number
            pair.upstream.acknowledge()
        assert not list(events)


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("pair", ["signal of this version"], indirect=True)
def test_a_stream_between_versions_outlives_a_stop_of_one_side(pair: Pair) -> None:
    with Client(pair.proxy.address) as client:
        client.send(request(b"GET", b"/acknowledged?count=3"))
        events = client.body(client.head(), b"GET")
        assert next(events) == b"data: 0\n\n"
        pair.serve.freeze()
        pair.proxy.process.wait_event("suspended")
        pair.upstream.acknowledge()
        pair.serve.thaw()
        pair.proxy.process.wait_event("resumed")
        assert next(events) == b"data: 1\n\n"
        pair.upstream.acknowledge()
        assert next(events) == b"data: 2\n\n"
        pair.upstream.acknowledge()
        assert not list(events)
    for side in (pair.serve, pair.proxy.process):
        assert side.count("peer-lost") == 0
