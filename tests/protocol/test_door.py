"""Who may try, how often, and who is let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol.door import (
    ASK_EVERY,
    AWAY,
    GUESS_EVERY,
    GUESSES,
    NETWORKS,
    PUT_OUT,
    TICKETS,
    WAIT,
    Door,
    Networks,
)
from llmtunnel.protocol.keys import Ticket

ALICE, BOB = b"a" * 32, b"b" * 32
HOME: Networks = ("192.0.2.0/24", "192.0.2.1/32")


def ticket(number: int) -> Ticket:
    return Ticket(id=number.to_bytes(16), key=number.to_bytes(32))


def may(door: Door, certificate: bytes = ALICE, now: float = 0.0) -> bool:
    """Whether a stranger that knocks may guess now."""
    return door.knock(certificate, HOME, now)


def refused(door: Door, certificate: bytes = ALICE, now: float = 0.0) -> ErrorCode | None:
    """With what a stranger that knocks is turned away; None where it may guess, or wait."""
    try:
        may(door, certificate, now)
    except ProtocolError as exc:
        return exc.code
    return None


def let_in(door: Door, certificate: bytes, number: int, now: float = 0.0) -> None:
    assert may(door, certificate, now)
    door.enter(certificate, ticket(number), now)


@dataclass
class Remembered:
    """What a door remembers of those who have come."""

    waiting: list[bytes]
    """The certificates of those who wait for a guess."""
    networks: list[str]
    """From where guesses were made."""
    tickets: list[bytes]
    inside: set[bytes]
    """The tickets whose sessions live."""


def remembered(door: Door) -> Remembered:
    """What no caller sees of a door: here alone stand its private names."""
    return Remembered([*door._waiting], [*door._guessed], [*door._known], door._inside)


def test_strangers_have_so_many_guesses_and_then_one_now_and_then() -> None:
    door = Door("secret")
    assert [may(door) for _ in range(GUESSES)] == [True] * GUESSES
    assert not may(door)
    assert may(door, now=GUESS_EVERY)
    assert not may(door, now=GUESS_EVERY)
    later = 1000 * GUESS_EVERY
    assert [may(door, now=later) for _ in range(GUESSES + 1)] == [True] * GUESSES + [False]


# -- strangers that wait


@dataclass
class Stranger:
    """One connection: it knocks every `ASK_EVERY` until it may guess, is refused, or has enough."""

    door: Door
    certificate: bytes
    networks: Networks
    came: float
    enough: float = WAIT
    guessed: float | None = None
    done: bool = False

    def knock(self, now: float) -> bool:
        try:
            may = self.door.knock(self.certificate, self.networks, now)
        except ProtocolError as exc:
            assert exc.code is ErrorCode.REFUSED
            self.done = True
            return False
        if may:
            self.guessed = now
        self.done = may or now - self.came >= self.enough
        return may


@dataclass
class Siege:
    """Attackers with ``open`` connections at any time, the next from the next of ``networks``; all guess wrongly."""

    door: Door
    networks: list[Networks]
    open: int = 16
    enough: float = WAIT
    guesses: list[float] = field(default_factory=list)
    strangers: list[Stranger] = field(default_factory=list)
    numbers: Callable[[], int] = field(default_factory=lambda: count(1).__next__)

    def tick(self, now: float) -> None:
        self.strangers = [each for each in self.strangers if not each.done]
        while len(self.strangers) < self.open:
            number = self.numbers()
            networks = self.networks[number % len(self.networks)]
            self.strangers.append(Stranger(self.door, number.to_bytes(32), networks, now, enough=self.enough))
        self.guesses += [now for each in self.strangers if each.knock(now)]


def network(number: int) -> Networks:
    return f"10.{number // 256}.{number % 256}.0/24", f"10.{number // 256}.{number % 256}.7/32"


def newcomer_is_in_after(siege: Siege, networks: Networks, *, lead: float = 60.0) -> float:
    """Seconds from its first knock; it comes again a second after it was refused, as a proxy does."""
    now, came, mine = 0.0, lead, None
    while now < lead + 300:
        siege.tick(now)
        if now >= came:
            mine = mine or Stranger(siege.door, ALICE, networks, now)
            if mine.knock(now):
                return now - lead
            if mine.done:
                came, mine = now + 1.0, None
        now += ASK_EVERY
    raise AssertionError("The newcomer never comes in.")


@pytest.mark.parametrize("enough", [WAIT, 0.0, 0.5])
@pytest.mark.parametrize("networks", [1, 2, 5])
def test_attackers_delay_a_newcomer_from_elsewhere_by_one_guess_for_each_network(networks: int, enough: float) -> None:
    """Whether they wait for their guess, or leave at once and come again with another certificate."""
    siege = Siege(Door("secret"), [network(each) for each in range(networks)], enough=enough)
    assert newcomer_is_in_after(siege, HOME) <= GUESS_EVERY + AWAY + ASK_EVERY


def test_a_newcomer_waits_for_one_guess_even_where_attackers_have_come_at_the_same_moment() -> None:
    for networks in (1, 2, 5, 16):
        siege = Siege(Door("secret"), [network(each) for each in range(networks)], open=networks)
        while siege.door.knock(b"earlier", ("0",), 0.0):
            pass
        assert newcomer_is_in_after(siege, HOME, lead=ASK_EVERY) <= (networks + 1) * GUESS_EVERY + AWAY


def test_networks_beside_an_attackers_are_no_better_than_his_and_an_address_of_his_network_has_its_share() -> None:
    others = [("10.0.0.0/24", f"10.0.0.{each}/32") for each in range(100)]
    siege = Siege(Door("secret"), others)
    assert newcomer_is_in_after(siege, HOME) <= GUESS_EVERY + AWAY + ASK_EVERY
    neighbour = ("10.0.0.0/24", "10.0.0.200/32")
    siege = Siege(Door("secret"), [network(each) for each in range(4)] + [("10.0.0.0/24", "10.0.0.1/32")])
    assert newcomer_is_in_after(siege, neighbour) <= 6 * GUESS_EVERY


def test_all_who_come_from_one_address_are_served_in_the_order_in_which_they_came() -> None:
    siege = Siege(Door("secret"), [HOME], open=4)
    assert newcomer_is_in_after(siege, HOME) <= 6 * GUESS_EVERY


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3),  # seconds since the one before
            st.integers(0, 30),  # certificate
            st.integers(0, 5),  # network
            st.booleans(),  # whether one that may guess knows the secret
        ),
        min_size=1,
        max_size=300,
    )
)
def test_whoever_knocks_wrong_guesses_are_never_more_than_one_bucket_gives(
    knocks: list[tuple[float, int, int, bool]],
) -> None:
    door, now, wrong = Door("secret"), 0.0, []
    for pause, certificate, place, knows in knocks:
        now += pause
        try:
            may = door.knock(certificate.to_bytes(32), network(place), now)
        except ProtocolError:
            continue
        if may and knows:
            door.enter(certificate.to_bytes(32), ticket(certificate), now)
        elif may:
            wrong.append(now)
    for first, start in enumerate(wrong):
        for last, end in enumerate(wrong[first:], first):
            assert last - first + 1 <= GUESSES + (end - start) / GUESS_EVERY + 1e-6


@pytest.mark.parametrize("networks", [1, 300])
def test_under_siege_no_guess_is_lost_and_none_is_won(networks: int) -> None:
    siege = Siege(Door("secret"), [network(each) for each in range(networks)])
    for tick in range(int(600 / ASK_EVERY)):
        siege.tick(tick * ASK_EVERY)
    allowed = GUESSES + 600 / GUESS_EVERY
    assert allowed - 2 <= len(siege.guesses) <= allowed


def test_who_waits_is_refused_at_last_and_one_that_leaves_holds_nobody_up() -> None:
    door = Door("secret")
    while may(door):
        pass
    for tick in range(int(WAIT / ASK_EVERY)):
        now = tick * ASK_EVERY
        door.knock(BOB, (f"{now:.0f}",), now)  # always from a network that has not guessed
        assert refused(door, ALICE, now) is None
    assert refused(door, ALICE, WAIT) is ErrorCode.REFUSED
    assert remembered(door).waiting == [BOB]
    door.knock(ALICE, HOME, WAIT + AWAY + 0.1)
    assert remembered(door).waiting in ([ALICE], [])


def test_only_so_many_networks_are_remembered() -> None:
    door = Door("secret")
    for number in range(2 * NETWORKS):
        now = number * GUESS_EVERY
        assert door.knock(number.to_bytes(32), (f"wide {number}", f"narrow {number}"), now)
    assert len(remembered(door).networks) == NETWORKS
    assert remembered(door).waiting == []


def test_who_knows_the_secret_has_not_guessed() -> None:
    door = Door("secret")
    for number in range(3 * GUESSES):
        let_in(door, number.to_bytes(32), number)
    assert may(door)


def test_who_was_in_comes_back_by_its_ticket_when_no_guess_is_left() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    while may(door, BOB):
        pass
    assert door.returning(ticket(1).id, ALICE) == ticket(1)


def test_a_ticket_is_for_the_certificate_that_got_it() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    assert door.returning(ticket(1).id, BOB) is None
    assert door.returning(ticket(2).id, ALICE) is None


def test_a_new_ticket_takes_the_place_of_the_old_one() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    let_in(door, ALICE, 2)
    assert door.returning(ticket(1).id, ALICE) is None
    assert door.returning(ticket(2).id, ALICE) == ticket(2)


def test_so_many_are_known_again_and_the_oldest_is_forgotten() -> None:
    door = Door("secret")
    for number in range(TICKETS + 1):
        let_in(door, number.to_bytes(32), number)
    assert door.returning(ticket(0).id, (0).to_bytes(32)) is None
    assert door.returning(ticket(1).id, (1).to_bytes(32)) == ticket(1)


def test_whoever_has_a_session_stays_known_however_many_come_in_and_for_a_while_after_it() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    door.begin(ticket(1))
    for number in range(10, 10 + 2 * TICKETS):
        let_in(door, number.to_bytes(32), number)
        door.begin(ticket(number))
        door.end(ticket(number))
    assert door.returning(ticket(1).id, ALICE) == ticket(1)
    assert len(remembered(door).tickets) == TICKETS + 1
    door.end(ticket(1))
    for number in range(10_000, 10_000 + TICKETS - 1):
        let_in(door, number.to_bytes(32), number)
    assert door.returning(ticket(1).id, ALICE) == ticket(1)
    let_in(door, BOB, 2)
    assert door.returning(ticket(1).id, ALICE) is None
    assert not remembered(door).inside


def test_who_is_put_out_in_a_session_is_not_known_after_it() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    door.begin(ticket(1))
    door.put_out(ALICE)
    door.end(ticket(1))
    assert door.returning(ticket(1).id, ALICE) is None


def test_who_was_put_out_stays_out_and_others_do_not() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    let_in(door, BOB, 2)
    door.put_out(ALICE)
    assert door.returning(ticket(1).id, ALICE) is None
    assert refused(door, ALICE) is ErrorCode.UNWELCOME
    assert refused(door, BOB) is None
    assert door.returning(ticket(2).id, BOB) == ticket(2)


def test_who_is_put_out_while_it_proves_itself_does_not_come_in() -> None:
    door = Door("secret")
    assert may(door)
    door.put_out(ALICE)
    with pytest.raises(ProtocolError, match="put this proxy out"):
        door.enter(ALICE, ticket(1), 0.0)


def test_so_many_stay_out() -> None:
    door = Door("secret")
    for number in range(PUT_OUT + 1):
        door.put_out(number.to_bytes(32))
    door.check((0).to_bytes(32))
    with pytest.raises(ProtocolError):
        door.check((1).to_bytes(32))


def test_an_invite_for_one_is_used_up_by_the_first() -> None:
    door = Door("secret", once=True)
    assert may(door) and may(door, BOB)
    door.enter(ALICE, ticket(1), 0.0)
    with pytest.raises(ProtocolError, match="for one proxy"):
        door.enter(BOB, ticket(2), 0.0)
    assert refused(door, BOB) is ErrorCode.UNWELCOME
    assert door.returning(ticket(2).id, BOB) is None


def test_the_first_may_come_again_with_the_secret_as_it_may_not_have_heard_that_it_is_in() -> None:
    door = Door("secret", once=True)
    let_in(door, ALICE, 1)
    let_in(door, ALICE, 2)
    assert door.returning(ticket(2).id, ALICE) == ticket(2)


def test_an_invite_expires_for_strangers_alone() -> None:
    door = Door("secret", expires=100.0)
    let_in(door, ALICE, 1, now=99.9)
    assert refused(door, BOB, now=100.0) is ErrorCode.UNWELCOME
    assert door.returning(ticket(1).id, ALICE) == ticket(1)


def test_who_proves_itself_after_the_invite_expired_does_not_come_in() -> None:
    door = Door("secret", expires=100.0)
    assert may(door, now=99.9)
    with pytest.raises(ProtocolError, match="expired"):
        door.enter(ALICE, ticket(1), 100.1)


def test_a_new_secret_opens_the_door_anew_and_who_was_in_is_still_known() -> None:
    door = Door("secret", expires=100.0, once=True)
    let_in(door, ALICE, 1)
    door.renew("another")
    assert door.secret == "another"
    assert refused(door, BOB, now=200.0) is None
    assert door.returning(ticket(1).id, ALICE) == ticket(1)
