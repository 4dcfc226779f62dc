from __future__ import annotations

from ipaddress import ip_network

import pytest

from signal_server import accounts
from signal_server.accounts import (
    JOIN_HELD,
    MESSAGE_HELD,
    MINUTE,
    Accounts,
    Joins,
    Messages,
    Strangers,
    client_address,
    network,
)
from signal_server.limits import DAY, MESSAGE, Limits, RelayLimits
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


def test_an_end_that_is_closed_twice_counts_once() -> None:
    books = Accounts(RelayLimits(pipes_each=2), now=0)
    first, _ = (books.open("R", "192.0.2.1", now=0) for _ in range(2))
    first.close()
    first.close()
    books.open("R", "192.0.2.1", now=0)
    refused(books, "R", "192.0.2.1")


PROXIES = [ip_network(each) for each in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "2001:db8:aaaa::/48")]


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),  # no proxy of ours: whatever it says
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),  # a socket of both kinds
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # the first is what the client says
        ("127.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),  # a proxy that adds a line of its own
        ("127.0.0.1", ["203.0.113.9", "203.0.113.8", "198.51.100.1, 10.0.0.5"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, 10.0.0.5", "10.0.0.6"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 10.0.0.5, 198.51.100.1, 10.0.0.6"], "198.51.100.1"),
        ("127.0.0.1", ["10.0.0.5, 10.0.0.6"], "10.0.0.5"),  # a client within the trusted network
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", ["2001:DB8:0:0::1"], "2001:db8::1"),
        ("127.0.0.1", ["2001:db8::9, 2001:db8:aaaa::1"], "2001:db8::9"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, ::ffff:10.0.0.5"], "198.51.100.1"),
        ("127.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("127.0.0.1", [" 198.51.100.1 ,  "], "198.51.100.1"),
        ("127.0.0.1", ["", ",,", "198.51.100.1", ""], "198.51.100.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, unknown, 10.0.0.5"], "10.0.0.5"),
        ("127.0.0.1", ["198.51.100.1, _hidden"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, 1.2.3"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, 010.0.0.5"], "127.0.0.1"),
        ("127.0.0.1", ["[198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["1" * 5000], "127.0.0.1"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_trusted_proxy(remote: str, forwarded: list[str], client: str) -> None:
    assert client_address(remote, forwarded, PROXIES) == client


@pytest.mark.parametrize(
    ("address", "of"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:DB8:0:0:ffff::9", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_customer_is_an_ipv4_address_or_half_of_an_ipv6_one(address: str, of: str) -> None:
    assert network(address) == of


def test_joins_beyond_a_first_number_are_slowed_and_then_refused() -> None:
    joins = Joins(Limits(members_each=10, joins=60))
    assert [joins.charge("a", 1, now=0) for _ in range(10)] == [0] * 10
    assert [joins.charge("a", 1, now=0) for _ in range(int(JOIN_HELD))] == [1, 2, 3, 4, 5]
    for _ in range(100):  # refused ones cost nothing, or nobody behind that address would ever join again
        with pytest.raises(Refused, match="too many joins from your address") as caught:
            joins.charge("a", 1, now=0)
        assert caught.value.code is Code.ADDRESS_LIMIT
        assert not caught.value.fatal
    assert joins.charge("b", 1, now=0) == 0
    assert joins.charge("a", 1, now=6) == 0


def test_an_address_that_has_not_come_for_long_is_forgotten_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "ACCOUNTS", 10)
    joins = Joins(Limits(members_each=1, joins=60))
    for number in range(100):
        joins.charge(f"{number}", 1, now=0)
    assert len(joins) == 10


def test_a_class_behind_one_address_joins_at_once_and_a_guesser_needs_weeks() -> None:
    joins, sides = Joins(Limits()), 2 * 500
    assert sum(joins.charge("class", 1, now=0) for _ in range(sides)) == 0
    seconds = 10**7 / (Limits().joins / 60)
    assert seconds > 21 * DAY


def test_messages_are_delayed_and_then_refused_by_address_and_by_room() -> None:
    messages = Messages(Limits(messages_each=10, messages_room=5))
    for of, room, code, rate in (("a", "R", Code.ROOM_LIMIT, 5), ("b", None, Code.ADDRESS_LIMIT, 10)):
        assert sum(messages.charge(of, room, 100, now=0) for _ in range(int(rate * MINUTE))) == 0
        waits = []
        with pytest.raises(Refused) as caught:
            while True:
                waits.append(messages.charge(of, room, 100, now=0))
        assert caught.value.code is code and not caught.value.fatal
        assert waits[0] == 1 / rate and waits[-1] == MESSAGE_HELD
    assert messages.charge("c", "another", 100, now=0) == 0
    assert messages.charge("b", "R", 100, now=MINUTE) == 0


def test_long_messages_count_as_several_so_that_bytes_are_limited_too() -> None:
    messages, sent = Messages(Limits(messages_each=1, messages_room=1000)), 0
    with pytest.raises(Refused):
        while True:
            messages.charge("a", "R", MESSAGE, now=0)
            sent += MESSAGE
    assert sent <= (MINUTE + MESSAGE_HELD) * 1024


def test_what_is_refused_costs_the_address_but_not_the_room() -> None:
    messages = Messages(Limits(messages_each=1000, messages_room=1))
    for of in ("a", "b"):
        with pytest.raises(Refused, match=r"too many messages in your room \(max 1 a second\)"):
            while True:
                messages.charge(of, "R", 0, now=0)
    assert messages.of_room.charge("R", 1, now=MINUTE) == 0


def test_strangers_go_the_oldest_first_in_all_and_by_network() -> None:
    strangers: Strangers[int] = Strangers()
    for number, of in enumerate(["a", "b", "a", None, "b"]):
        strangers.add(number, of)
    assert (strangers.oldest(), strangers.oldest("b"), strangers.oldest("c"), strangers.oldest("b", but=1)) == (
        0,
        1,
        None,
        4,
    )
    assert [strangers.count(of) for of in ("a", "b", "c", None)] == [2, 2, 0, 0]
    strangers.place(3, "b")
    strangers.place(0, "b")  # it has a network already
    strangers.place(9, "b")  # it is no stranger
    assert (strangers.count("a"), strangers.count("b")) == (2, 3)
    for number in (0, 0, 1, 2, 3, 4, 9):
        strangers.remove(number)
    assert (len(strangers), strangers.oldest(), strangers.count("b"), 0 in strangers) == (0, None, 0, False)
    assert not strangers._of
