"""The checks against real servers: a signal server, STUN, coturn, a model server; and against none."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmtunnel.config import IceServers, Settings, Timeouts
from llmtunnel.doctor.checks import TERMS, _clock, diagnose
from llmtunnel.doctor.findings import Diagnosis, Mapping, Verdict
from llmtunnel.endpoints.toy import Toy
from llmtunnel.platforms import Platform
from llmtunnel.status import TurnSource
from llmtunnel.upstream import Upstream
from signal_server.access import Access
from signal_server.ice import IceServers as HandedOut
from signal_server.limits import Limits
from signal_server.server import SignalServer

from ..support.coturn import SECRET, coturn, needs_coturn
from ..transport.test_ice import serving

NOWHERE = "ws://127.0.0.1:9"
FREE = "127.0.0.1:0"


async def examine(
    *,
    signal: str = NOWHERE,
    ice: IceServers | None = None,
    upstream: Upstream | None = None,
    address: str = FREE,
    no_signal_ice: bool = False,
) -> Diagnosis:
    settings = Settings(
        room="r",
        signal=signal,
        ice=ice or IceServers(stun=()),
        timeouts=Timeouts(signal=3.0),
        no_signal_ice=no_signal_ice,
    )
    return await diagnose(settings, upstream=upstream, address=address)


def rows(diagnosis: Diagnosis, subject: str) -> list[tuple[Verdict, str]]:
    return [(each.verdict, each.detail) for each in diagnosis.findings if each.subject == subject]


async def test_a_signal_server_that_works_is_good_and_lets_messages_through() -> None:
    async with SignalServer("127.0.0.1", 0) as signal:
        found = await examine(signal=signal.url)
        assert found.facts.signal
        for subject in ("signal server", "WebSocket", "clock"):
            ((verdict, _),) = rows(found, subject)
            assert verdict is Verdict.GOOD


@pytest.mark.parametrize(("limits", "verdict"), [(Limits(), Verdict.GOOD), (Limits(relay=None), Verdict.UNKNOWN)])
async def test_whether_the_signal_server_relays_is_told(limits: Limits, verdict: Verdict) -> None:
    async with SignalServer("127.0.0.1", 0, limits=limits) as signal:
        found = await examine(signal=signal.url)
        assert found.facts.relay is (verdict is Verdict.GOOD)
        assert [each for each, _ in rows(found, "relay")] == [verdict]


@pytest.mark.parametrize("token", [None, "wrong-token", "right-token"])
async def test_a_private_signal_server_is_good_with_a_token_and_bad_without(token: str | None) -> None:
    async with SignalServer("127.0.0.1", 0, access=Access(["right-token"])) as signal:
        settings = Settings(room="r", signal=signal.url, signal_token=token, ice=IceServers(stun=()))
        found = await diagnose(settings, upstream=None, address=FREE)
        ((verdict, detail),) = rows(found, "signal server")
        assert found.facts.signal is (token == "right-token")
        assert (verdict is Verdict.GOOD) is found.facts.signal
        assert found.facts.signal or "access token" in detail
        assert not rows(found, "serve"), "it was not looked for"


async def test_a_signal_server_that_is_not_there_is_bad_with_what_to_do() -> None:
    found = await examine()
    ((verdict, detail),) = rows(found, "signal server")
    assert verdict is Verdict.BAD
    assert NOWHERE in detail
    assert not found.connects


@pytest.mark.parametrize(
    ("date", "verdict"),
    [
        ("Thu, 01 Jan 1970 00:16:40 GMT", Verdict.GOOD),
        ("Thu, 01 Jan 1970 00:00:00 GMT", Verdict.POOR),
        ("Thu, 01 Jan 1970 10:00:00 GMT", Verdict.POOR),
        ("yesterday", None),
        (None, None),
    ],
)
def test_a_clock_that_is_wrong_is_told(date: str | None, verdict: Verdict | None) -> None:
    found = _clock(date, now=1000.0)
    assert [each.verdict for each in found] == ([] if verdict is None else [verdict])


async def test_two_stun_servers_tell_how_the_nat_maps() -> None:
    async with serving() as (_, one), serving() as (_, other):
        found = await examine(ice=IceServers(stun=(one, other)))
        assert found.facts.udp
        assert found.facts.mapping is Mapping.SAME
        assert [verdict for verdict, _ in rows(found, "STUN")] == [Verdict.GOOD] * 2


async def test_servers_that_fail_for_one_cause_are_told_of_in_one_line() -> None:
    names = [f"stun:no-such-name-{number}.invalid:3478" for number in range(3)]
    found = await examine(ice=IceServers(stun=tuple(names)))
    ((verdict, detail),) = rows(found, "UDP")
    assert verdict is Verdict.BAD
    assert all(detail.count(name) == 1 for name in names)
    assert not rows(found, "STUN") and not rows(found, "NAT")
    assert rows(found, "signal server"), "nothing listens there, which is another cause"


async def test_stun_servers_that_do_not_answer_mean_that_udp_does_not_pass() -> None:
    async with serving(silent=True) as (_, silent):
        found = await examine(ice=IceServers(stun=(silent, "stun:no-such-name.invalid:3478")))
        assert not found.facts.udp
        ((verdict, detail),) = rows(found, "UDP")
        assert verdict is Verdict.BAD
        assert "does not answer" in detail and "Cannot look up" in detail


@needs_coturn
async def test_a_turn_server_is_asked_for_an_address_by_udp_and_tcp_with_its_password(tmp_path: Path) -> None:
    async with coturn(tmp_path, user="user:password") as turn:
        for transport in ("udp", "tcp"):
            url = f"{turn.url}?transport={transport}"
            right = IceServers(stun=(), turn=(url,), turn_user="user", turn_pass="password")
            wrong = IceServers(stun=(), turn=(url,), turn_user="user", turn_pass="of another")
            found = await examine(ice=right)
            assert found.facts.turn
            assert [verdict for verdict, _ in rows(found, "TURN")] == [Verdict.GOOD]
            found = await examine(ice=wrong)
            assert not found.facts.turn
            ((verdict, detail),) = rows(found, "TURN")
            assert verdict is Verdict.BAD
            assert "rejected the user name or password" in detail
            assert "of another" not in str(found)


async def test_a_turn_server_that_is_not_there_is_told() -> None:
    found = await examine(ice=IceServers(stun=(), turn=("turn:127.0.0.1:9?transport=tcp",), turn_user="u"))
    ((verdict, detail),) = rows(found, "TURN")
    assert verdict is Verdict.BAD
    assert "turn:127.0.0.1:9" in detail


@needs_coturn
async def test_a_turn_server_that_the_signal_server_hands_out_is_checked_and_told_apart(tmp_path: Path) -> None:
    async with coturn(tmp_path) as turn:
        handed = HandedOut(stun=(f"stun:127.0.0.1:{turn.port}",), turn=(turn.url,), secret=SECRET)
        async with SignalServer("127.0.0.1", 0, ice=handed) as signal:
            found = await examine(signal=signal.url)
            assert (found.facts.turn, found.facts.turn_from) == (True, TurnSource.SIGNAL)
            ((verdict, detail),) = rows(found, "TURN")
            assert verdict is Verdict.GOOD
            assert detail.startswith(f"{turn.url} (from the signal server) works, and relays at 127.0.0.1:")
            assert found.as_dict()["turn_from"] == "signal"
            assert not rows(found, "STUN"), "the user wants none"
            assert not (await examine(signal=signal.url, no_signal_ice=True)).facts.turn
        async with SignalServer("127.0.0.1", 0, ice=replace(handed, secret="another one")) as signal:
            found = await examine(signal=signal.url)
            assert (found.facts.turn, found.facts.turn_from) == (False, None)
            ((verdict, detail),) = rows(found, "TURN")
            assert verdict is Verdict.BAD
            assert detail == f"{turn.url} (from the signal server) rejected the user name or password."
            (hint,) = [each.hint for each in found.findings if each.subject == "TURN"]
            assert "secret" in hint and "--turn-user" not in hint


async def test_of_the_users_own_turn_server_it_is_said_that_it_is_the_users() -> None:
    handed = HandedOut(turn=("turn:127.0.0.1:3478",), secret=SECRET)
    async with SignalServer("127.0.0.1", 0, ice=handed) as signal:
        found = await examine(signal=signal.url, ice=IceServers(stun=(), turn=("turn:127.0.0.1:9?transport=tcp",)))
    ((_, detail),) = rows(found, "TURN")
    assert detail.startswith("Cannot use turn:127.0.0.1:9?transport=tcp (from your settings): ")


async def test_a_stun_server_of_the_signal_server_takes_the_place_of_the_default() -> None:
    async with serving() as (_, url), SignalServer("127.0.0.1", 0, ice=HandedOut(stun=(url,))) as signal:
        found = await examine(signal=signal.url, ice=IceServers())
    ((verdict, detail),) = rows(found, "STUN")
    assert verdict is Verdict.GOOD
    assert detail.startswith(f"{url} (from the signal server) sees this machine as 203.0.113.9:")


async def test_a_model_server_is_found_with_its_models() -> None:
    async with Toy() as toy:
        found = await examine(upstream=Upstream.parse(toy.url))
        ((verdict, detail),) = rows(found, "upstream")
        assert verdict is Verdict.GOOD
        assert "toy" in detail


async def test_a_port_that_is_taken_is_told_with_one_that_is_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = await examine(address=address)
        ((verdict, detail),) = rows(found, "listener")
        assert verdict is Verdict.BAD
        assert address in detail


@pytest.mark.parametrize("place", sorted(TERMS))
def test_each_platform_has_a_link_to_its_terms(place: Platform) -> None:
    assert "https://" in TERMS[place]


async def test_a_platform_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    ((_, detail),) = rows(await examine(), "platform")
    assert "Kaggle" in detail
