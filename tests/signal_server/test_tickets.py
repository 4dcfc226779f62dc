from __future__ import annotations

import pytest

from signal_server.limits import RelayLimits
from signal_server.messages import Code, Refused, Role
from signal_server.rooms import Member
from signal_server.tickets import Tickets, node_of

SERVE = Member(room="R", role=Role.SERVE)
PROXY = Member(room="R", role=Role.PROXY)
OTHER = Member(room="R", role=Role.PROXY)


@pytest.fixture
def tickets() -> Tickets:
    return Tickets(RelayLimits(ticket=10, asks=3, ask=5))


def issue(tickets: Tickets, asking: Member = PROXY, other: Member = SERVE, *, now: float = 0) -> tuple[str, str]:
    mine, others = tickets.issue(asking, other, now=now)
    assert (mine[0], others[0]) == (asking, other)
    assert mine[1]["peerId"] == other.peer_id
    assert others[1]["peerId"] == asking.peer_id
    return str(mine[1]["ticket"]), str(others[1]["ticket"])


def refused(tickets: Tickets, ticket: str, *, now: float = 0) -> None:
    with pytest.raises(Refused) as caught:
        tickets.redeem(ticket, now=now)
    assert caught.value.code is Code.NO_RELAY


def test_both_members_get_a_ticket_of_their_own_for_one_pipe(tickets: Tickets) -> None:
    mine, others = issue(tickets)
    assert mine != others
    granted = tickets.redeem(mine, now=1)
    assert granted is tickets.redeem(others, now=2)
    assert granted.room == "R"
    assert mine not in repr(granted)


def test_a_ticket_is_good_once(tickets: Tickets) -> None:
    mine, _ = issue(tickets)
    tickets.redeem(mine, now=0)
    refused(tickets, mine)


def test_a_ticket_is_not_good_for_long(tickets: Tickets) -> None:
    mine, _ = issue(tickets)
    refused(tickets, mine, now=11)


@pytest.mark.parametrize("ticket", ["", "x" * 1000, "\ud800"])
def test_what_is_no_ticket_is_refused(tickets: Tickets, ticket: str) -> None:
    issue(tickets)
    refused(tickets, ticket)


def test_a_pair_that_asks_anew_has_its_old_tickets_no_more(tickets: Tickets) -> None:
    old = issue(tickets)
    new = issue(tickets, SERVE, PROXY)
    for ticket in old:
        refused(tickets, ticket)
    assert tickets.redeem(new[0], now=0) is tickets.redeem(new[1], now=0)


def test_pairs_do_not_touch_each_others_tickets(tickets: Tickets) -> None:
    first, second = issue(tickets), issue(tickets, OTHER)
    assert tickets.redeem(first[1], now=0) is not tickets.redeem(second[1], now=0)


def test_who_leaves_has_no_tickets_and_nor_have_those_who_were_to_meet_it(tickets: Tickets) -> None:
    gone, kept = issue(tickets), issue(tickets, OTHER)
    tickets.leave(PROXY)
    for ticket in gone:
        refused(tickets, ticket)
    tickets.redeem(kept[0], now=0)
    tickets.leave(SERVE)
    tickets.leave(OTHER)
    assert len(tickets) == 0
    assert not tickets._passes and not tickets._asks


def test_a_member_may_ask_so_often_and_no_more(tickets: Tickets) -> None:
    for _ in range(3):
        issue(tickets)
    with pytest.raises(Refused) as caught:
        issue(tickets)
    assert caught.value.code is Code.RELAY_LIMIT
    assert not caught.value.fatal
    issue(tickets, OTHER)
    issue(tickets, now=5)
    assert len(tickets) == 4


def test_an_original_member_has_no_relay(tickets: Tickets) -> None:
    for pair in ((PROXY, Member(room="R")), (Member(room="R"), SERVE)):
        with pytest.raises(Refused):
            tickets.issue(*pair, now=0)


def test_a_ticket_names_the_instance_that_has_issued_it() -> None:
    tickets = Tickets(RelayLimits(), node="a-1")
    both = tickets.issue(PROXY, SERVE, now=0)
    assert [node_of(str(message["ticket"])) for _, message in both] == ["a-1", "a-1"]
    assert tickets.redeem(str(both[0][1]["ticket"]), now=0).room == "R"


def test_a_ticket_of_a_server_with_one_instance_names_none(tickets: Tickets) -> None:
    mine, _ = issue(tickets)
    assert node_of(mine) == ""
