"""What a wait says: on standard error while it lasts, and as the error where it runs out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmtunnel import aio, tunnel
from llmtunnel.errors import AuthenticationFailed, WaitTimeout
from llmtunnel.status import Phase
from signal_server.server import SignalServer

from .support.background import Background
from .support.embedded import PATIENCE, Upstream, proxy, started, world
from .support.ports import free_port
from .support.processes import environment


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the usual time."""
    monkeypatch.setattr(tunnel, "TELL_EVERY", 1.0)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert not out
    return err.splitlines()


@pytest.mark.usefixtures("soon")
async def test_a_wait_says_first_that_the_signal_server_knows_of_no_serve(capsys: pytest.CaptureFixture[str]) -> None:
    async with SignalServer("127.0.0.1", 0) as signal:
        with pytest.raises(WaitTimeout, match=r"^Serve did not appear within 3 s\.") as caught:
            await aio.proxy(room="r", signal=signal.url, stun=(), listen=0, timeout=3)
    assert caught.value.hint == "Check the room's name, and that serve is running."
    [line] = lines(capsys)
    assert line.startswith("llmtunnel proxy: No serve is in the room. ")


@pytest.mark.usefixtures("soon")
async def test_it_says_more_only_when_that_changes(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    opening = asyncio.ensure_future(
        aio.proxy(room="r", signal=f"ws://127.0.0.1:{port}", stun=(), listen=0, timeout=None)
    )
    said: list[str] = []

    async def until_said(count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(said) < count:
                await asyncio.sleep(0.05)
                said.extend(lines(capsys))

    await until_said(1)
    await asyncio.sleep(2.5)
    async with SignalServer("127.0.0.1", port) as signal, Upstream() as upstream:
        await until_said(2)
        await asyncio.sleep(2.5)
        first, second = said + lines(capsys)
        assert f"Cannot reach the signal server ws://127.0.0.1:{port}: nothing listens there." in first
        assert second.startswith("llmtunnel proxy: No serve is in the room. ")
        async with aio.serve(upstream.url, room="r", signal=signal.url, stun=(), quiet=True):
            async with await opening as reached:
                assert reached.status.phase is Phase.READY


@pytest.mark.usefixtures("soon")
async def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async with SignalServer("127.0.0.1", 0) as signal:
        with pytest.raises(WaitTimeout):
            await aio.proxy(room="r", signal=signal.url, stun=(), listen=0, timeout=2.5, quiet=True)
        handle = proxy(signal.url)
        async with started(handle):
            with pytest.raises(WaitTimeout):
                await handle.wait(timeout=2.5, quiet=True)
    assert lines(capsys) == []


@pytest.mark.usefixtures("soon")
async def test_a_wait_for_the_end_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async with world() as (signal, _serve):
        handle = proxy(signal.url)
        async with started(handle):
            await handle.wait()
            with pytest.raises(WaitTimeout, match=r"not stopped after 1 s, but ready"):
                await handle.wait(Phase.STOPPED, timeout=1)
    assert lines(capsys) == []


async def test_a_serve_that_does_not_reach_the_signal_server_says_so() -> None:
    with pytest.raises(WaitTimeout) as caught:
        await aio.serve(80, room="r", signal=f"ws://127.0.0.1:{free_port()}", stun=(), timeout=0.5)
    assert str(caught.value).startswith("The signal server was not reached within 0.5 s. ")
    assert caught.value.hint


async def test_who_came_and_was_not_reached_is_not_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtunnel.session import link

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(link.Link, "take_answer", never)
    async with world() as (signal, _serve):
        monkeypatch.setattr(link.Link, "answer", lambda *_: None)
        with pytest.raises(WaitTimeout) as caught:
            await aio.proxy(room="r", signal=signal.url, stun=(), listen=0, timeout=1.5)
    assert str(caught.value).startswith("Serve is in the room, but no connection to it was established within 1.5 s.")
    assert caught.value.hint


async def test_serve_does_not_say_that_nobody_came_where_somebody_with_a_wrong_secret_did() -> None:
    async with SignalServer("127.0.0.1", 0) as signal, Upstream() as upstream:
        common = {"room": "r", "signal": signal.url, "stun": (), "quiet": True}
        async with aio.serve(upstream.url, secret="a long secret", **common) as serve:
            with pytest.raises(
                AuthenticationFailed, match=r"^Wrong code: it does not match the one that serve shows\."
            ):
                await aio.proxy(secret="another one", listen=0, timeout=20, **common)
            with pytest.raises(WaitTimeout) as caught:
                await serve.wait(timeout=0.5, quiet=True)
    assert str(caught.value).startswith(
        "Proxy is in the room, but no connection to it was established within 0.5 s. A proxy has a"
    )


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    with Background() as background:
        yield background


def test_a_script_that_waits_says_for_what_after_three_seconds(other: Background) -> None:
    script = f"import llmtunnel; llmtunnel.proxy(room='nobody', signal={other.signal!r}, stun=(), listen=0, timeout=60)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment({}))
    begun = time.monotonic()
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert time.monotonic() - begun > tunnel.TELL_EVERY
        assert line.startswith("llmtunnel proxy: No serve is in the room. ")
    finally:
        process.kill()
        process.communicate()
