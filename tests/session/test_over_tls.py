"""Sessions over channels of TLS: authenticated by what both ends saw, whoever carries them."""

from __future__ import annotations

import asyncio

import pytest

from llmtunnel.config import Settings
from llmtunnel.errors import AuthenticationFailed, PeerError
from llmtunnel.session.access import ProxyAccess, ServeAccess
from llmtunnel.session.mux import Session
from llmtunnel.status import Role
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity

from ..support.pipes import LEFT, PATIENCE, RIGHT, channel, standing
from ..support.session_pair import echo, exchange, start

SETTINGS = Settings(room="R", secret="a secret that nobody guesses")


async def proxy_on(end: Channel, settings: Settings = SETTINGS) -> Session:
    return await start(end, Role.PROXY, credentials=ProxyAccess(settings).credentials(end.binding))


async def serve_on(end: Channel) -> Session:
    access = ServeAccess(SETTINGS, asyncio.get_running_loop().time())
    return await start(end, Role.SERVE, handler=echo, credentials=access.credentials(end.binding))


async def test_two_peers_prove_themselves_and_then_send_as_much_as_they_like() -> None:
    left, right, *_ = await standing()
    proxy, serve = await asyncio.gather(proxy_on(left), serve_on(right))
    assert proxy.authenticated and serve.authenticated
    body = bytes(3_000_000)
    assert await exchange(proxy, body) == body
    assert (proxy.certificate, serve.certificate) == (RIGHT.fingerprint, LEFT.fingerprint)
    await asyncio.gather(proxy.aclose(), serve.aclose())


async def test_a_peer_without_the_secret_gets_nowhere() -> None:
    left, right, *_ = await standing()
    stranger = proxy_on(left, Settings(room="R", secret="another one"))
    outcome = await asyncio.gather(stranger, serve_on(right), return_exceptions=True)
    assert all(isinstance(each, PeerError) for each in outcome)
    assert any(isinstance(each, AuthenticationFailed) for each in outcome)


async def test_a_relay_that_plays_each_peer_to_the_other_gets_nowhere() -> None:
    """TLS stands on both sides of it; the proof does not, as it is bound to the certificates that each side saw."""

    ends, wires = [], []
    middle = Identity()
    for identity, server in ((LEFT, False), (middle, True), (middle, False), (RIGHT, True)):
        end, wire = channel(identity, server=server)
        ends.append(end)
        wires.append(wire)
    for one, other in ((0, 1), (2, 3)):
        wires[one].carry, wires[one].end = wires[other].arrive, wires[other].arrive_end
        wires[other].carry, wires[other].end = wires[one].arrive, wires[one].arrive_end
    for end, wire in zip(ends, wires, strict=True):
        end.connection_made(wire)
    for end in ends:
        await end.stand(PATIENCE)
    ends[1].attach(Forward(ends[2]))
    ends[2].attach(Forward(ends[1]))
    outcome = await asyncio.gather(proxy_on(ends[0]), serve_on(ends[3]), return_exceptions=True)
    assert all(isinstance(each, PeerError) for each in outcome)
    assert any(isinstance(each, AuthenticationFailed) for each in outcome)
    await asyncio.gather(*(end.aclose() for end in ends))


class Forward:
    """Passes on what it reads."""

    def __init__(self, to: Channel) -> None:
        self._to = to

    def message_received(self, message: bytes) -> None:
        if self._to.has_room:
            self._to.send(message)

    def room_available(self) -> None:
        """It has no queue."""

    def channel_closed(self, reason: str) -> None:
        """The tests close all."""


@pytest.mark.parametrize("what", ["altered", "cut"])
async def test_streams_end_loudly_where_the_channel_does(what: str) -> None:
    left, right, left_wire, right_wire = await standing()
    proxy, serve = await asyncio.gather(proxy_on(left), serve_on(right))
    if what == "altered":
        left_wire.carry = lambda data: right_wire.arrive(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        left_wire.carry = lambda data: left_wire.lose()
    with pytest.raises(PeerError, match=what):
        await exchange(proxy, b"x")
    await asyncio.gather(proxy.aclose(), serve.aclose())
