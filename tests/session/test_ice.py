from __future__ import annotations

import pytest

from llmtunnel.config import DEFAULT_STUN, IceServers, Settings
from llmtunnel.session.ice import SOONEST, IceBook
from llmtunnel.signaling.messages import IceOffer
from llmtunnel.status import TurnSource
from llmtunnel.transport.networks import Reach

TOLD = IceOffer(
    servers=(
        IceServers(stun=("stun:told",)),
        IceServers(stun=(), turn=("turn:told", "turns:told"), turn_user="9:id", turn_pass="credential"),
    ),
    ttl=3600.0,
)
OWN = IceServers(stun=("stun:own",), turn=("turn:own",), turn_user="me", turn_pass="mine")


def book(ice: IceServers | None = None, *, offer: IceOffer | None = TOLD, now: float = 0.0, **more: bool) -> IceBook:
    made = IceBook(Settings(room="r", ice=ice or IceServers(), **more))  # type: ignore[arg-type]
    made.told(offer, within=Reach.PUBLIC, now=now)
    return made


def urls(made: IceBook, now: float = 0.0) -> list[str]:
    return [each.url for each in made.servers(now)]


def test_servers_that_are_handed_out_are_used_with_their_credentials() -> None:
    made = book()
    assert urls(made) == ["stun:told", "turn:told", "turns:told"]
    assert [(each.user, each.password) for each in made.servers(0)] == [
        (None, None),
        ("9:id", "credential"),
        ("9:id", "credential"),
    ]
    assert {each.within for each in made.servers(0)} == {Reach.PUBLIC}
    assert made.turn(0) == (("turn:told", "turns:told"), TurnSource.SIGNAL)


def test_what_the_user_names_comes_first() -> None:
    made = book(OWN)
    assert urls(made) == ["stun:own", "turn:own"]
    assert {each.within for each in made.servers(0)} == {None}, "the user may name any address"
    assert made.turn(0) == (("turn:own",), TurnSource.SETTINGS)


@pytest.mark.parametrize(
    ("own", "used"),
    [
        (IceServers(stun=("stun:own",)), ["stun:own", "turn:told", "turns:told"]),
        (IceServers(stun=()), ["turn:told", "turns:told"]),
        (IceServers(turn=("turn:own",)), ["stun:told", "turn:own"]),
    ],
    ids=["stun", "no-stun", "turn"],
)
def test_stun_and_turn_are_each_the_users_or_the_signal_servers(own: IceServers, used: list[str]) -> None:
    assert urls(book(own)) == used


def test_they_can_be_refused() -> None:
    made = book(no_signal_ice=True)
    assert urls(made) == [DEFAULT_STUN]
    assert made.turn(0) == ((), None)
    assert made.renewal is None


def test_a_signal_server_that_hands_out_nothing_changes_nothing() -> None:
    assert urls(book(offer=None)) == [DEFAULT_STUN]
    assert urls(book(offer=IceOffer())) == [DEFAULT_STUN]
    made = book()
    made.told(None, within=Reach.PUBLIC, now=1.0)
    assert urls(made) == [DEFAULT_STUN], "and what another one has handed out is forgotten"


def test_new_credentials_are_asked_for_at_half_time_and_then_used() -> None:
    made = book(now=100.0)
    assert made.renewal == 1900.0
    assert not made.take_renewal(1899.0)
    assert made.take_renewal(1900.0)
    made.told(
        IceOffer(servers=(IceServers(turn=("turn:told",), turn_user="new", turn_pass="new"),), ttl=3600.0),
        within=Reach.PUBLIC,
        now=1901.0,
    )
    assert [each.user for each in made.servers(1901.0) if each.is_turn] == ["new"]
    assert made.renewal == 1901.0 + 1800.0


def test_without_an_answer_they_are_asked_for_again_and_not_used_after_their_time() -> None:
    made, asked, now = book(), 0, 0.0
    while made.renewal is not None:
        now = made.renewal
        asked += made.take_renewal(now)
    assert 10 < asked < 15
    assert 3600.0 - SOONEST <= now <= 3600.0 + SOONEST
    assert urls(made, 3599.0) == ["stun:told", "turn:told", "turns:told"]
    assert urls(made, 3600.0) == ["stun:told"]
    assert made.turn(3600.0) == ((), None)


def test_a_hostile_time_does_not_make_us_ask_without_end() -> None:
    made = book(offer=IceOffer(servers=TOLD.servers, ttl=1e-9))
    assert made.renewal == SOONEST
    assert book(offer=IceOffer(servers=TOLD.servers, ttl=0.0)).renewal is None


def test_credentials_show_nowhere() -> None:
    made = book()
    shown = repr((made.servers(0), TOLD, made.turn(0), OWN))
    assert not any(each in shown for each in ("9:id", "credential", "'me'", "mine"))
