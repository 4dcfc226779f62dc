"""A session over TURN servers that the signal server hands out: a real signal server, a real coturn, real sockets."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aioice.turn import TurnClientMixin

from llmtunnel.protocol.heads import RequestHead
from llmtunnel.session.stream import Stream
from llmtunnel.status import ErrorNotice, PeerConnected, Resumed, Role, SignalConnected, TurnSource
from signal_server.ice import IceServers
from signal_server.server import SignalServer

from ..support.coturn import SECRET, Coturn, coturn, needs_coturn
from ..support.embedded import until
from ..support.members import Member, pair, running

pytestmark = [needs_coturn, pytest.mark.timeout(120)]
OverTurn = partial(Member, path="turn", secret="the peers' own", resume_for=60.0)


@asynccontextmanager
async def handing_out(turn: Coturn, *, secret: str = SECRET, lifetime: float = 3600.0) -> AsyncIterator[str]:
    """A signal server that hands out the TURN server. Its URL."""
    ice = IceServers(turn=(turn.url,), secret=secret, lifetime=lifetime)
    async with SignalServer("127.0.0.1", 0, ice=ice) as server:
        yield server.url


async def echoes(stream: Stream, data: bytes) -> None:
    await stream.send(data)
    received = b""
    while len(received) < len(data):
        received += await stream.receive()
    assert received == data


def refresh_after(monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    """Have aioice refresh each allocation for the first time so early: coturn grants 10 minutes at least."""
    original = TurnClientMixin.refresh
    monkeypatch.setattr(TurnClientMixin, "refresh", lambda self, _: original(self, seconds * 6 / 5))


def users(turn: Coturn) -> set[str]:
    """The names of users to whom coturn has given allocations."""
    return set(re.findall(r"user <(\d+:\w+)>: incoming packet ALLOCATE processed, success", turn.log))


def secrets_of(turn: Coturn) -> set[str]:
    return {part for user in users(turn) for part in (user, user.partition(":")[2])}


async def test_two_peers_that_configure_nothing_meet_over_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with coturn(tmp_path) as turn, handing_out(turn) as url, pair(url, make=OverTurn) as (serve, proxy):
        assert await proxy.ask() == b"/hello"
        for member in (serve, proxy):
            (connected,) = member.of(PeerConnected)
            assert connected.path == "turn"
            (joined,) = member.of(SignalConnected)
            assert (joined.turn, joined.turn_from) == ((turn.url,), TurnSource.SIGNAL)
            assert member.room.turn == ((turn.url,), TurnSource.SIGNAL)
        assert users(turn)
        shown = caplog.text + repr(serve.notices) + repr(proxy.notices)
        ours = "\n".join(line for line in shown.splitlines() if "aioice" not in line)
        assert not any(each in ours for each in secrets_of(turn))
        assert "credential" not in ours


async def test_a_stream_goes_on_after_its_credentials_expire_and_after_its_allocation_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """coturn refreshes an allocation with the credentials with which it was made, but makes no other one with them."""
    refresh_after(monkeypatch, seconds=6.0)
    async with (
        coturn(tmp_path) as turn,
        handing_out(turn, lifetime=3.0) as url,
        pair(url, make=OverTurn) as (_, proxy),
    ):
        stream = await (await proxy.session()).open(RequestHead(method=b"POST", target=b"/echo"))
        await stream.response()
        await echoes(stream, b"before" * 1000)
        first = users(turn)
        expiry = max(int(user.partition(":")[0]) for user in first)
        await until(lambda: turn.log.count("refreshed, realm") >= 2, "both sides refresh")
        assert time.time() > expiry, "with credentials that have expired"
        await echoes(stream, b"after" * 1000)
        assert proxy.of(Resumed) == []
        turn.stop()
        await turn.start()
        await echoes(stream, b"over another allocation" * 1000)
        assert {each.path for each in proxy.of(Resumed)} == {"turn"}
        assert min(int(user.partition(":")[0]) for user in users(turn) - first) > expiry, "with new credentials"
        await stream.send_end()


async def test_credentials_that_the_turn_server_refuses_give_no_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with coturn(tmp_path) as turn, handing_out(turn, secret="another one") as url:
        serve, proxy = OverTurn(Role.SERVE, url), OverTurn(Role.PROXY, url)
        async with running(serve, proxy):
            await until(lambda: f"{turn.url} cannot be used: STUN transaction failed (401" in caplog.text)
            assert not serve.connections and not proxy.connections


async def test_without_a_turn_server_the_path_turn_says_what_is_missing() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        proxy = OverTurn(Role.PROXY, server.url)
        async with running(proxy):
            await proxy.heard("error")
        (error, *_) = proxy.of(ErrorNotice)
        assert error.message == f"--path turn needs a TURN server, and {server.url} hands out none."
        assert "--turn URL" in error.hint
