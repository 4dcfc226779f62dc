from __future__ import annotations

import pytest

from llmtunnel.signaling.messages import (
    Answer,
    Candidate,
    IceCandidate,
    Joined,
    Member,
    Offer,
    PeerJoined,
    PeerLeft,
    PipeTicket,
)
from llmtunnel.signaling.negotiation import (
    MEMBERS,
    MakeAnswer,
    MakeOffer,
    Negotiation,
    Rename,
    Suspect,
    TakeAnswer,
    TakeCandidate,
    TakeTicket,
)
from llmtunnel.status import Role

SERVE = Member("s1", Role.SERVE, "serve-process")
PROXY = Member("p1", Role.PROXY, "proxy-process")
ORIGINAL = Member("o1")
FOUND = IceCandidate("candidate:1 1 udp 1 127.0.0.1 1 typ host")


def live(role: Role, member: Member) -> Negotiation:
    """A view of the room with a live link to that member."""
    view = Negotiation(role)
    view.joined(Joined("me"))
    view.receive(PeerJoined(member))
    view.linked(member)
    view.established(member.peer_id)
    return view


@pytest.mark.parametrize(("role", "member"), [(Role.SERVE, PROXY), (Role.PROXY, SERVE), (Role.SERVE, ORIGINAL)])
def test_who_was_there_offers_to_who_comes(role: Role, member: Member) -> None:
    assert Negotiation(role).receive(PeerJoined(member)) == [MakeOffer(member)]


def test_who_comes_waits_for_an_offer_and_answers_it() -> None:
    view = Negotiation(Role.PROXY)
    assert view.joined(Joined("me", (SERVE,))) == []
    assert not view.alone
    assert view.receive(Offer("s1", "sdp")) == [MakeAnswer(SERVE, "sdp")]


def test_members_of_our_own_role_are_none_of_our_business() -> None:
    view = Negotiation(Role.PROXY)
    assert view.receive(PeerJoined(PROXY)) == []
    assert view.alone


def test_answers_and_candidates_count_only_for_a_link_that_there_is() -> None:
    view = Negotiation(Role.SERVE)
    view.receive(PeerJoined(PROXY))
    assert view.receive(Answer("p1", "sdp")) == view.receive(Candidate("p1", FOUND)) == []
    view.linked(PROXY)
    assert view.receive(Answer("p1", "sdp")) == [TakeAnswer("p1", "sdp")]
    assert view.receive(Candidate("p1", FOUND)) == [TakeCandidate("p1", FOUND)]
    view.unlinked("p1")
    assert view.receive(Candidate("p1", FOUND)) == []


def test_a_ticket_is_for_the_member_that_a_connection_is_being_made_to() -> None:
    view = Negotiation(Role.SERVE)
    assert view.receive(PipeTicket("p1", "t")) == []
    view.linked(PROXY)
    assert view.receive(PipeTicket("p1", "t")) == [TakeTicket("p1", "t")]


def test_an_offer_of_somebody_who_is_not_there_is_nothing() -> None:
    assert Negotiation(Role.SERVE).receive(Offer("nobody", "sdp")) == []


def test_that_a_member_left_makes_its_link_suspected_and_no_more() -> None:
    view = live(Role.SERVE, PROXY)
    assert view.receive(PeerLeft("p1")) == [Suspect("p1")]
    assert view.receive(PeerLeft("unknown")) == []


def test_that_it_left_without_a_goodbye_is_told() -> None:
    assert live(Role.SERVE, PROXY).receive(PeerLeft("p1", abrupt=True)) == [Suspect("p1", gone=True)]


def test_a_member_that_comes_back_is_known_by_its_instance_and_its_link_goes_on() -> None:
    view = live(Role.SERVE, PROXY)
    view.receive(PeerLeft("p1"))
    assert view.receive(PeerJoined(Member("p2", Role.PROXY, PROXY.instance))) == [Rename("p1", "p2")]
    assert view.receive(PeerLeft("p2")) == [Suspect("p2")]


def test_after_the_signal_servers_loss_links_go_on_under_their_new_names() -> None:
    view = live(Role.PROXY, SERVE)
    assert view.joined(Joined("me again", (Member("s2", Role.SERVE, SERVE.instance),))) == [Rename("s1", "s2")]


def test_another_serve_is_offered_a_link_beside_the_one_that_may_be_dead() -> None:
    view = live(Role.PROXY, SERVE)
    other = Member("s2", Role.SERVE, "another process")
    assert view.receive(PeerJoined(other)) == [MakeOffer(other)]


def test_where_the_server_tells_no_instance_a_live_serve_is_asked_before_it_is_replaced() -> None:
    view = live(Role.PROXY, ORIGINAL)
    assert view.receive(PeerJoined(Member("o2"))) == [Suspect("o1")]
    assert view.receive(Offer("o2", "sdp")) == [Suspect("o1")]
    view.unlinked("o1")
    assert view.receive(Offer("o2", "sdp")) == [MakeAnswer(Member("o2"), "sdp")]


def test_a_hostile_server_that_invents_members_fills_nothing() -> None:
    view = Negotiation(Role.SERVE)
    told = [view.receive(PeerJoined(Member(f"p{number}", Role.PROXY))) for number in range(MEMBERS + 50)]
    assert sum(map(bool, told)) == MEMBERS
