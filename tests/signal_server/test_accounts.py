from __future__ import annotations

import pytest

from signal_server import accounts
from signal_server.accounts import Accounts
from signal_server.limits import DAY, RelayLimits
from signal_server.messages import Code, Refused

LIMITS = RelayLimits(rate=100, rate_all=150, total=1000, total_all=1500, pipes=3, pipes_each=2)


def refused(books: Accounts, room: str, address: str) -> str:
    with pytest.raises(Refused) as caught:
        books.open(room, address, now=0)
    assert caught.value.code is Code.RELAY_LIMIT
    return str(caught.value)


def charge(books: Accounts, room: str, address: str, size: int, *, now: float = 0) -> float:
    opened = books.open(room, address, now=now)
    opened.close()
    return max(each.charge(size, now=now) for each in opened.accounts)


def test_a_rate_is_a_wait_that_grows_with_what_is_sent() -> None:
    books = Accounts(LIMITS, now=0)
    assert charge(books, "R", "192.0.2.1", 100) == 0
    assert charge(books, "R", "192.0.2.1", 50) == 0.5
    assert charge(books, "R", "192.0.2.1", 100, now=1) == 0.5


@pytest.mark.parametrize(("room", "address"), [("R", "192.0.2.2"), ("S", "192.0.2.1")])
def test_a_room_and_an_address_are_each_held_to_it(room: str, address: str) -> None:
    books = Accounts(LIMITS, now=0)
    assert charge(books, "R", "192.0.2.1", 100) == 0
    assert charge(books, room, address, 10) == 0.1


def test_all_together_are_held_to_theirs() -> None:
    books = Accounts(LIMITS, now=0)
    assert charge(books, "R", "192.0.2.1", 100) == 0
    assert charge(books, "S", "192.0.2.2", 80) == pytest.approx(30 / 150)


def test_a_total_that_is_used_up_is_refused_and_comes_back_in_a_day() -> None:
    books = Accounts(LIMITS, now=0)
    for _ in range(2):
        charge(books, "R", "192.0.2.1", 500)
    with pytest.raises(Refused, match="total for a day"):
        charge(books, "R", "192.0.2.1", 1)
    with pytest.raises(Refused, match="total for a day"):
        charge(books, "S", "192.0.2.2", 501)
    charge(books, "R", "192.0.2.1", 1000, now=DAY)


def test_ends_are_counted_by_room_by_address_and_in_all() -> None:
    books = Accounts(LIMITS, now=0)
    first, _ = books.open("R", "192.0.2.1", now=0), books.open("R", "192.0.2.2", now=0)
    assert "no more pipes" in refused(books, "R", "192.0.2.3")
    books.open("S", "192.0.2.1", now=0)
    refused(books, "T", "192.0.2.1")
    first.close()
    for number in range(4):
        books.open(f"U{number}", f"192.0.2.{number + 10}", now=0)
    refused(books, "V", "192.0.2.99")


def test_a_refused_end_counts_nowhere() -> None:
    books = Accounts(LIMITS, now=0)
    both = [books.open("R", "192.0.2.1", now=0), books.open("R", "192.0.2.2", now=0)]
    for _ in range(5):
        refused(books, "R", "192.0.2.3")
    for each in both:
        each.close()
    books.open("S", "192.0.2.3", now=0)


def test_an_ipv6_customer_is_one_address_whatever_the_last_half() -> None:
    books = Accounts(LIMITS, now=0)
    books.open("R", "2001:db8::1", now=0)
    books.open("S", "2001:db8::ffff:2", now=0)
    refused(books, "T", "2001:db8::3")
    books.open("T", "2001:db8:0:1::3", now=0)


def test_ipv4_customers_of_a_socket_of_both_kinds_are_told_apart() -> None:
    books = Accounts(RelayLimits(pipes_each=1), now=0)
    books.open("R", "::ffff:192.0.2.1", now=0)
    books.open("S", "::ffff:192.0.2.2", now=0)
    refused(books, "T", "192.0.2.1")


def test_accounts_without_open_ends_are_forgotten_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "ACCOUNTS", 10)
    books = Accounts(RelayLimits(pipes_each=1), now=0)
    books.open("kept", "kept", now=0)
    for number in range(100):
        books.open(f"R{number}", f"address {number}", now=0).close()
    assert len(books) == 10
    refused(books, "kept", "other")
