"""Who may try, how often, and who is let in."""

from __future__ import annotations

import pytest

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol.door import GUESS_EVERY, GUESSES, PUT_OUT, TICKETS, Door
from llmtunnel.protocol.keys import Ticket

ALICE, BOB = b"a" * 32, b"b" * 32


def ticket(number: int) -> Ticket:
    return Ticket(id=number.to_bytes(16), key=number.to_bytes(32))


def refused(door: Door, certificate: bytes = ALICE, now: float = 0.0) -> ErrorCode | None:
    """With what a stranger that knocks is turned away; None where it may try."""
    try:
        door.knock(certificate, now)
    except ProtocolError as exc:
        return exc.code
    return None


def let_in(door: Door, certificate: bytes, number: int, now: float = 0.0) -> None:
    door.knock(certificate, now)
    door.enter(certificate, ticket(number), now)


def test_strangers_have_so_many_guesses_and_then_one_now_and_then() -> None:
    door = Door("secret")
    assert [refused(door) for _ in range(GUESSES)] == [None] * GUESSES
    assert refused(door) is ErrorCode.REFUSED
    assert refused(door, BOB) is ErrorCode.REFUSED
    assert refused(door, now=GUESS_EVERY) is None
    assert refused(door, now=GUESS_EVERY) is ErrorCode.REFUSED
    later = 1000 * GUESS_EVERY
    assert [refused(door, now=later) for _ in range(GUESSES + 1)] == [None] * GUESSES + [ErrorCode.REFUSED]


def test_who_knows_the_secret_has_not_guessed() -> None:
    door = Door("secret")
    for number in range(3 * GUESSES):
        let_in(door, number.to_bytes(32), number)
    assert refused(door) is None


def test_who_was_in_comes_back_by_its_ticket_when_no_guess_is_left() -> None:
    door = Door("secret")
    let_in(door, ALICE, 1)
    while refused(door, BOB) is None:
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
    door.knock(ALICE, 0.0)
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
    door.knock(ALICE, 0.0)
    door.knock(BOB, 0.0)
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
    door.knock(ALICE, 99.9)
    with pytest.raises(ProtocolError, match="expired"):
        door.enter(ALICE, ticket(1), 100.1)


def test_a_new_secret_opens_the_door_anew_and_who_was_in_is_still_known() -> None:
    door = Door("secret", expires=100.0, once=True)
    let_in(door, ALICE, 1)
    door.renew("another")
    assert door.secret == "another"
    assert refused(door, BOB, now=200.0) is None
    assert door.returning(ticket(1).id, ALICE) == ticket(1)
