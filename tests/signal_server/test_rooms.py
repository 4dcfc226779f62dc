from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from signal_server.limits import MAX_PROXIES, MESSAGE, Limits, RelayLimits
from signal_server.messages import Code, Join, Message, PassOn, Refused, Role, encode
from signal_server.rooms import Admission, Delivery, Member, Rooms

from ..support.signal_clients import books_of


@dataclass
class House:
    """Rooms, and what everybody was told."""

    rooms: Rooms

    def join(self, role: Role | None = None, *, room: str = "R", token: str | None = None) -> Admission:
        return self.rooms.join(Join(room=room, role=role, instance=f"i{len(self.rooms.members(room))}", token=token))

    def enter(self, role: Role | None = None, *, room: str = "R") -> Member:
        return self.join(role, room=room).member

    def refused(self, role: Role | None = None, *, room: str = "R", token: str | None = None) -> Refused:
        before = self.rooms.members(room)
        with pytest.raises(Refused) as caught:
            self.join(role, room=room, token=token)
        assert self.rooms.members(room) == before
        return caught.value

    def offer(self, sender: Member, to: str | None = None) -> list[Member]:
        return [delivery.to for delivery in self.rooms.relay(sender, PassOn(type="offer", text="s", to=to))]


@pytest.fixture
def house() -> House:
    return House(Rooms(Limits(proxies=3)))


def told(deliveries: list[Delivery], member: Member) -> list[Message]:
    return [delivery.message for delivery in deliveries if delivery.to is member]


def test_original_members_are_told_what_the_original_server_tells(house: House) -> None:
    first = house.join()
    assert told(first.deliveries, first.member) == [{"type": "joined", "peerId": first.member.peer_id, "peers": []}]
    second = house.join()
    assert told(second.deliveries, first.member) == [{"type": "peer-joined", "peerId": second.member.peer_id}]
    assert told(second.deliveries, second.member) == [
        {"type": "joined", "peerId": second.member.peer_id, "peers": [first.member.peer_id]}
    ]
    left = house.rooms.leave(second.member)
    assert left == [Delivery(first.member, {"type": "peer-left", "peerId": second.member.peer_id})]


def test_the_third_original_member_finds_the_room_full(house: House) -> None:
    house.enter()
    house.enter()
    error = house.refused()
    assert error.message == {"type": "error", "message": "room 'R' is full (max 2)", "code": "room-full"}


def test_a_member_with_a_role_learns_of_roles_instances_and_its_token(house: House) -> None:
    serve = house.enter(Role.SERVE)
    proxy = house.join(Role.PROXY)
    described = {"peerId": serve.peer_id, "role": "serve", "instance": "i0"}
    assert told(proxy.deliveries, proxy.member) == [
        {
            "type": "joined",
            "peerId": proxy.member.peer_id,
            "peers": [serve.peer_id],
            "role": "proxy",
            "token": proxy.member.token,
            "members": [described],
            "relay": {"rate": RelayLimits().rate, "total": RelayLimits().total, "idle": RelayLimits().idle},
        }
    ]
    assert told(proxy.deliveries, serve) == [
        {"type": "peer-joined", "peerId": proxy.member.peer_id, "role": "proxy", "instance": "i1"}
    ]
    assert proxy.member.token and len(proxy.member.token) >= 32


def test_proxies_neither_see_nor_reach_each_other(house: House) -> None:
    one = house.enter(Role.PROXY)
    other = house.join(Role.PROXY)
    assert told(other.deliveries, one) == []
    assert told(other.deliveries, other.member)[0]["peers"] == []
    with pytest.raises(Refused) as caught:
        house.offer(one, other.member.peer_id)
    assert caught.value.code is Code.NO_SUCH_PEER
    assert house.offer(one) == []
    assert house.rooms.leave(other.member) == []


def test_a_serve_is_told_of_every_proxy_and_each_of_it(house: House) -> None:
    proxies = [house.enter(Role.PROXY) for _ in range(3)]
    serve = house.join(Role.SERVE)
    assert told(serve.deliveries, serve.member)[0]["peers"] == [proxy.peer_id for proxy in proxies]
    assert all(told(serve.deliveries, proxy)[0]["peerId"] == serve.member.peer_id for proxy in proxies)
    assert [delivery.to for delivery in house.rooms.leave(serve.member)] == proxies


def test_what_is_addressed_reaches_that_member_alone(house: House) -> None:
    serve, *proxies = [house.enter(role) for role in (Role.SERVE, Role.PROXY, Role.PROXY)]
    for proxy in proxies:
        assert house.offer(serve, proxy.peer_id) == [proxy]
        assert house.offer(proxy, serve.peer_id) == [serve]


def test_among_more_than_two_a_message_must_be_addressed(house: House) -> None:
    members = [house.enter(role) for role in (Role.SERVE, Role.PROXY, Role.PROXY)]
    for member in members:
        with pytest.raises(Refused) as caught:
            house.offer(member)
        assert caught.value.code is Code.NO_SUCH_PEER


def test_between_two_an_address_is_not_needed(house: House) -> None:
    serve, original = house.enter(Role.SERVE), house.enter()
    assert house.offer(serve) == [original]
    assert house.offer(original) == [serve]
    assert house.offer(serve, original.peer_id) == [original]


def test_nobody_reaches_itself_or_another_room(house: House) -> None:
    member, stranger = house.enter(), house.enter(room="S")
    for to in (member.peer_id, stranger.peer_id, "nobody", ""):
        with pytest.raises(Refused) as caught:
            house.offer(member, to)
        assert caught.value.code is Code.NO_SUCH_PEER


def test_a_message_to_a_room_that_is_empty_but_for_its_sender_is_lost_silently(house: House) -> None:
    assert house.offer(house.enter()) == []


def test_a_second_serve_finds_the_room_full(house: House) -> None:
    house.enter(Role.SERVE)
    assert str(house.refused(Role.SERVE)) == "room 'R' is full (max 1 serve)"


def test_one_proxy_too_many_finds_the_room_full(house: House) -> None:
    for role in (Role.PROXY, Role.SERVE, Role.PROXY, Role.PROXY):
        house.enter(role)
    error = house.refused(Role.PROXY)
    assert (error.code, str(error)) == (Code.ROOM_FULL, "room 'R' is full (max 3 proxies)")


@pytest.mark.parametrize("role", [Role.SERVE, Role.PROXY])
def test_beside_an_original_member_there_is_place_for_one(house: House, role: Role) -> None:
    house.enter()
    house.enter(role)
    for other in (None, Role.SERVE, Role.PROXY):
        assert str(house.refused(other)) == "room 'R' is full (max 2)"


def test_beside_several_proxies_an_original_member_finds_the_room_full(house: House) -> None:
    house.enter(Role.SERVE)
    house.enter(Role.PROXY)
    assert str(house.refused()) == "room 'R' is full (max 2)"


def test_who_comes_back_with_its_token_takes_its_ghosts_place(house: House) -> None:
    serve, proxy = house.enter(Role.SERVE), house.enter(Role.PROXY)
    back = house.join(Role.SERVE, token=serve.token)
    assert back.ghost is serve
    assert [message["type"] for message in told(back.deliveries, proxy)] == ["peer-left", "peer-joined"]
    assert told(back.deliveries, serve) == []
    assert back.member.peer_id != serve.peer_id
    assert house.rooms.members("R") == (proxy, back.member)


def test_a_token_serves_again_after_a_takeover_whose_answer_was_lost(house: House) -> None:
    serve = house.enter(Role.SERVE)
    unheard = house.join(Role.SERVE, token=serve.token)
    assert house.join(Role.SERVE, token=serve.token).ghost is unheard.member


def test_a_ghost_frees_its_place_in_a_full_room(house: House) -> None:
    proxies = [house.enter(Role.PROXY) for _ in range(3)]
    assert house.join(Role.PROXY, token=proxies[1].token).ghost is proxies[1]
    assert len(house.rooms.members("R")) == 3


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_without_the_token_nobody_takes_anothers_place(house: House, token: str | None) -> None:
    house.enter(Role.SERVE)
    assert house.refused(Role.SERVE, token=token).code is Code.ROOM_FULL


def test_a_token_is_worth_nothing_in_another_room(house: House) -> None:
    serve = house.enter(Role.SERVE)
    house.enter(Role.SERVE, room="S")
    assert house.refused(Role.SERVE, room="S", token=serve.token).code is Code.ROOM_FULL
    assert house.rooms.members("R") == (serve,)


def test_a_takeover_that_finds_no_place_changes_nothing(house: House) -> None:
    house.enter(Role.SERVE)
    proxy = house.enter(Role.PROXY)
    assert house.refused(Role.SERVE, token=proxy.token).code is Code.ROOM_FULL


def test_the_token_of_a_member_that_has_left_is_no_obstacle(house: House) -> None:
    serve = house.enter(Role.SERVE)
    house.rooms.leave(serve)
    back = house.join(Role.SERVE, token=serve.token)
    assert back.ghost is None
    assert back.member.token != serve.token


def test_an_original_member_has_no_token_to_guess(house: House) -> None:
    house.enter()
    house.enter()
    assert house.refused(token="").code is Code.ROOM_FULL


def test_a_server_full_of_rooms_opens_no_more_and_fills_those_there_are() -> None:
    house = House(Rooms(Limits(rooms=1)))
    house.enter()
    assert str(house.refused(room="S")) == "server is full"
    assert house.refused(room="S").code is Code.SERVER_FULL
    house.enter()


def test_a_server_full_of_members_takes_one_for_each_that_leaves() -> None:
    house = House(Rooms(Limits(members=2)))
    first = house.enter()
    house.enter()
    assert house.refused(room="S").code is Code.SERVER_FULL
    house.rooms.leave(first)
    house.enter(room="S")


def test_a_server_full_of_members_lets_one_take_its_ghosts_place() -> None:
    house = House(Rooms(Limits(members=1)))
    serve = house.enter(Role.SERVE)
    assert house.join(Role.SERVE, token=serve.token).ghost is serve


def test_an_empty_room_is_forgotten(house: House) -> None:
    house.rooms.leave(house.enter())
    assert len(house.rooms) == 0


def test_the_list_of_the_fullest_room_fits_a_message() -> None:
    rooms = Rooms(Limits(proxies=MAX_PROXIES))
    for _ in range(MAX_PROXIES):
        rooms.join(Join(room="R", role=Role.PROXY, instance='"' * 128))
    joined = rooms.join(Join(room="R", role=Role.SERVE)).deliveries[-1].message
    assert len(encode(joined).encode()) <= MESSAGE


def test_an_address_creates_so_many_rooms_and_has_so_many_members() -> None:
    rooms = Rooms(Limits(rooms_each=2, members_each=3))

    def join(room: str, address: str) -> Member:
        return rooms.join(Join(room=room, role=Role.PROXY), address).member

    def refusal(room: str, address: str) -> str:
        with pytest.raises(Refused) as caught:
            join(room, address)
        assert caught.value.code is Code.ADDRESS_LIMIT
        return str(caught.value)

    members = [join("A", "x"), join("B", "x")]
    assert refusal("C", "x") == "your address has too many rooms (max 2)"
    join("C", "y")
    join("C", "x")  # a room that somebody else has created
    assert refusal("A", "x") == "your address has too many members (max 3)"
    rooms.leave(members.pop())
    join("D", "x")


def test_a_member_that_comes_back_is_let_in_whatever_its_address_has() -> None:
    rooms = Rooms(Limits(rooms_each=1, members_each=1))
    token = rooms.join(Join(room="A", role=Role.SERVE), "x").member.token
    for address in ("x", "y"):
        back = Join(room="A", role=Role.SERVE, token=token)
        assert rooms.returns(back)
        assert rooms.join(back, address).ghost
    assert not rooms.returns(Join(room="B", role=Role.SERVE, token=token))
    assert not rooms.returns(Join(room="A", role=Role.SERVE, token="other"))


class Crowd(RuleBasedStateMachine):
    """Anybody does anything; what must always hold is checked after each step."""

    limits = Limits(proxies=2, rooms=3, members=6, rooms_each=2, members_each=4)

    def __init__(self) -> None:
        super().__init__()
        self.rooms = Rooms(self.limits)
        self.present: list[Member] = []
        self.seen: dict[str, set[str]] = {}
        self.tokens = [""]

    def hear(self, deliveries: list[Delivery]) -> None:
        """Each member's view of its room, made of nothing but what it was told."""
        for delivery in deliveries:
            message, view = delivery.message, self.seen.setdefault(delivery.to.peer_id, set())
            match message["type"]:
                case "joined":
                    view.update(message["peers"])  # type: ignore[arg-type, call-overload]
                case "peer-joined":
                    assert message["peerId"] not in view
                    view.add(str(message["peerId"]))
                case "peer-left":
                    view.remove(str(message["peerId"]))
            json.dumps(message)

    @rule(room=st.sampled_from("ABCD"), role=st.sampled_from([None, *Role]), data=st.data())
    def join(self, room: str, role: Role | None, data: st.DataObject) -> None:
        token = data.draw(st.none() | st.sampled_from(self.tokens))
        address = data.draw(st.sampled_from("xy"))
        try:
            admission = self.rooms.join(Join(room=room, role=role, token=token), address)
        except Refused as error:
            assert error.code in (Code.ROOM_FULL, Code.SERVER_FULL, Code.ADDRESS_LIMIT)
            return
        if not admission.ghost:
            assert sum(member.address == address for member in self.present) < self.limits.members_each
        if admission.ghost:
            assert admission.ghost.token == token
            self.present.remove(admission.ghost)
        self.present.append(admission.member)
        self.tokens += [admission.member.token] if admission.member.token else []
        self.hear(admission.deliveries)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.present))
        self.present.remove(member)
        self.hear(self.rooms.leave(member))

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def relay(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(self.present))
        to = data.draw(st.none() | st.sampled_from(self.present).map(lambda member: member.peer_id))
        try:
            deliveries = self.rooms.relay(sender, PassOn(type="offer", text="s", to=to))
        except Refused as error:
            assert error.code is Code.NO_SUCH_PEER
            return
        assert len(deliveries) <= 1
        for delivery in deliveries:
            assert delivery.to.peer_id in self.seen[sender.peer_id]
            assert to in (None, delivery.to.peer_id)

    @invariant()
    def everybody_is_where_it_joined(self) -> None:
        inside = [member for room in "ABCD" for member in self.rooms.members(room)]
        assert set(inside) == set(self.present)
        assert len(inside) == len(self.present) <= self.limits.members
        assert len(self.rooms) == len({member.room for member in inside}) <= self.limits.rooms

    @invariant()
    def each_address_is_charged_for_its_members_and_each_room_for_its_creator(self) -> None:
        books = books_of(self.rooms)
        assert books.members_of == Counter(member.address for member in self.present)
        assert books.rooms_of == Counter(books.creators.values())
        assert books.creators.keys() == books.rooms.keys()

    @invariant()
    def no_room_holds_too_many(self) -> None:
        for room in "ABCD":
            roles = Counter(member.role for member in self.rooms.members(room))
            assert roles[Role.SERVE] <= 1
            assert roles[Role.PROXY] <= self.limits.proxies
            assert not roles[None] or roles.total() <= 2

    @invariant()
    def each_member_was_told_of_exactly_those_whom_it_sees(self) -> None:
        for member in self.present:
            others = {other.peer_id for other in self.rooms.members(member.room) if member.sees(other)}
            assert self.seen[member.peer_id] == others


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
