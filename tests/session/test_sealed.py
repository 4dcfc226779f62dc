"""Sessions over sealed pipes: who proves what to whom, with a hostile relay between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from llmtunnel.config import Settings
from llmtunnel.errors import AuthenticationFailed, PeerError
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.frames import Feature
from llmtunnel.session.access import ProxyAccess, ServeAccess
from llmtunnel.session.mux import Session
from llmtunnel.status import Role
from llmtunnel.transport.base import Channel
from llmtunnel.transport.sealed import EitherForm, Sealed

from ..support.page_keys import Key, PageGreeting
from ..support.pipes import PATIENCE, RIGHT, Wire, sealed_end, sealed_standing, standing
from ..support.session_pair import echo, exchange, start
from .test_over_tls import Forward

SETTINGS = Settings(room="R", secret="a secret that nobody guesses")
KEY = Key()


async def page_on(end: Channel, settings: Settings = SETTINGS, key: Key = KEY) -> Session:
    credentials = ProxyAccess(settings).credentials(end.binding)
    return await start(end, Role.PROXY, credentials=credentials, makes=partial(PageGreeting, key))


async def serve_on(end: Channel, door: Door | None = None) -> Session:
    access = ServeAccess(SETTINGS, asyncio.get_running_loop().time())
    access.door = door or access.door
    return await start(end, Role.SERVE, handler=echo, credentials=access.credentials(end.binding))


async def nobody_is_in(page: Channel, serve: Channel) -> None:
    outcome = await asyncio.gather(page_on(page), serve_on(serve), return_exceptions=True)
    assert all(isinstance(each, PeerError) for each in outcome), outcome
    assert any(isinstance(each, AuthenticationFailed) for each in outcome), outcome


async def test_a_page_and_serve_prove_themselves_and_then_send_as_much_as_they_like() -> None:
    left, right, *_ = await sealed_standing()
    page, serve = await asyncio.gather(page_on(left), serve_on(right))
    assert page.authenticated and serve.authenticated
    assert serve.certificate == KEY.fingerprint and page.certificate == b""
    body = bytes(3_000_000)
    assert await exchange(page, body) == body
    await asyncio.gather(page.aclose(), serve.aclose())


async def test_a_page_without_the_secret_gets_nowhere() -> None:
    left, right, *_ = await sealed_standing()
    stranger = page_on(left, Settings(room="R", secret="another one"))
    outcome = await asyncio.gather(stranger, serve_on(right), return_exceptions=True)
    assert all(isinstance(each, AuthenticationFailed) for each in outcome), outcome


async def test_a_proxy_without_a_key_gets_nowhere_there() -> None:
    left, right, *_ = await sealed_standing()
    credentials = ProxyAccess(SETTINGS).credentials(left.binding)
    plain = start(left, Role.PROXY, credentials=credentials)
    outcome = await asyncio.gather(plain, serve_on(right), return_exceptions=True)
    assert all(isinstance(each, AuthenticationFailed) for each in outcome), outcome
    assert "has shown no key" in str(outcome[1])


async def test_a_page_is_the_same_peer_on_a_pipe_with_certificates_and_on_a_sealed_one() -> None:
    door = Door(SETTINGS.secret, once=True)
    for stands in (sealed_standing, standing, sealed_standing):
        left, right, *_ = await stands()
        page, serve = await asyncio.gather(page_on(left), serve_on(right, door))
        assert serve.certificate == KEY.fingerprint and Feature.IDENTITY in serve.features
        await asyncio.gather(page.aclose(), serve.aclose())
    left, right, *_ = await sealed_standing()
    outcome = await asyncio.gather(page_on(left, key=Key()), serve_on(right, door), return_exceptions=True)
    assert "one proxy" in str(outcome[1])


async def in_between(*ends: tuple[Sealed | EitherForm, Sealed | EitherForm]) -> list[tuple[Channel, Wire]]:
    """Pairs of ends that are connected, and stand."""
    made: list[tuple[Channel, Wire]] = []
    for one, other in ends:
        (left, left_wire), (right, right_wire) = sealed_end(one), sealed_end(other)
        left_wire.carry, left_wire.end = right_wire.arrive, right_wire.arrive_end
        right_wire.carry, right_wire.end = left_wire.arrive, left_wire.arrive_end
        left.connection_made(left_wire)
        right.connection_made(right_wire)
        await left.stand(PATIENCE)
        await right.stand(PATIENCE)
        made += [(left, left_wire), (right, right_wire)]
    return made


async def test_a_relay_that_plays_each_side_to_the_other_gets_nowhere() -> None:
    """It shakes hands with both and passes their messages on; they are bound to two handshakes."""
    four = await in_between(
        (Sealed(server=False), EitherForm(RIGHT)),
        (Sealed(server=False), EitherForm(RIGHT)),
    )
    (page, _), (towards_page, _), (towards_serve, _), (serve, _) = four
    heard: list[bytes] = []
    towards_page.attach(Overheard(towards_serve, heard))
    towards_serve.attach(Overheard(towards_page, heard))
    await nobody_is_in(page, serve)
    assert heard and all(message[0] in (1, 2, 6, 30) for message in heard), "HELLO, AGREE, AUTH and RESET"
    await asyncio.gather(*(end.aclose() for end, _ in four))


class Overheard(Forward):
    """Passes on what it reads, and keeps it."""

    def __init__(self, to: Channel, heard: list[bytes]) -> None:
        super().__init__(to)
        self._heard = heard

    def message_received(self, message: bytes) -> None:
        self._heard.append(message)
        super().message_received(message)


async def test_two_pipes_whose_halves_are_exchanged_carry_nothing() -> None:
    """Two pages reach serve; the relay gives the one what is for the other."""
    four = await in_between(
        (Sealed(server=False), EitherForm(RIGHT)),
        (Sealed(server=False), EitherForm(RIGHT)),
    )
    (page, page_wire), _, _, (serve, serve_wire) = four
    page_wire.carry, serve_wire.carry = serve_wire.arrive, page_wire.arrive
    asking = asyncio.create_task(page_on(page), name="a page")
    with pytest.raises(PeerError, match="altered"):
        await serve_on(serve)
    page_wire.lose()
    with pytest.raises(PeerError):
        await asking
    await asyncio.gather(*(end.aclose() for end, _ in four))


@pytest.mark.parametrize("what", ["altered", "cut"])
async def test_streams_end_loudly_where_the_pipe_does(what: str) -> None:
    left, right, left_wire, right_wire = await sealed_standing()
    page, serve = await asyncio.gather(page_on(left), serve_on(right))
    carry: dict[str, Callable[[bytes], None]] = {
        "altered": lambda data: right_wire.arrive(data[:-1] + bytes([data[-1] ^ 1])),
        "cut": lambda data: left_wire.lose(),
    }
    left_wire.carry = carry[what]
    with pytest.raises(PeerError, match="cut"):  # serve tells nobody what it could not read
        await exchange(page, b"x")
    await asyncio.gather(page.aclose(), serve.aclose())
