"""Who is in which room, and what its members are told: the same for every registry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from signal_server.limits import MAX_PROXIES, MESSAGE, Limits
from signal_server.messages import Code, Join, Refused, Role, encode
from signal_server.rooms import Member

from ..support.redis_server import needs_redis
from ..support.registries import KINDS, MEMORY, REDIS, House


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def house(kind: str) -> Iterator[House]:
    with House(kind, Limits(proxies=3)) as house:
        yield house


def test_original_members_are_told_what_the_original_server_tells(house: House) -> None:
    first = house.join()
    assert house.told(first.member) == [{"type": "joined", "peerId": first.member.peer_id, "peers": []}]
    second = house.join()
    assert house.told(first.member) == [{"type": "peer-joined", "peerId": second.member.peer_id}]
    assert house.told(second.member) == [
        {"type": "joined", "peerId": second.member.peer_id, "peers": [first.member.peer_id]}
    ]
    house.leave(second.member)
    assert house.told(first.member) == [{"type": "peer-left", "peerId": second.member.peer_id}]


def test_the_third_original_member_finds_the_room_full(house: House) -> None:
    house.enter()
    house.enter()
    error = house.refused()
    assert error.message == {"type": "error", "message": "room 'R' is full (max 2)", "code": "room-full"}


def test_a_member_with_a_role_learns_of_roles_instances_and_its_token(house: House) -> None:
    serve = house.enter(Role.SERVE)
    proxy = house.join(Role.PROXY)
    described = {"peerId": serve.peer_id, "role": "serve", "instance": "i0"}
    assert house.told(proxy.member) == [
        {
            "type": "joined",
            "peerId": proxy.member.peer_id,
            "peers": [serve.peer_id],
            "role": "proxy",
            "token": proxy.token,
            "members": [described],
        }
    ]
    assert house.told(serve) == [
        {"type": "peer-joined", "peerId": proxy.member.peer_id, "role": "proxy", "instance": "i1"}
    ]
    assert proxy.token and len(proxy.token) >= 32


def test_proxies_neither_see_nor_reach_each_other(house: House) -> None:
    one = house.enter(Role.PROXY)
    other = house.join(Role.PROXY)
    assert house.told(one) == []
    assert house.told(other.member)[0]["peers"] == []
    with pytest.raises(Refused) as caught:
        house.offer(one, other.member.peer_id)
    assert caught.value.code is Code.NO_SUCH_PEER
    assert house.offer(one) == []
    house.leave(other.member)
    assert house.told(one) == []


def test_a_serve_is_told_of_every_proxy_and_each_of_it(house: House) -> None:
    proxies = [house.enter(Role.PROXY) for _ in range(3)]
    serve = house.join(Role.SERVE)
    assert house.told(serve.member)[0]["peers"] == [proxy.peer_id for proxy in proxies]
    assert all(house.told(proxy)[0]["peerId"] == serve.member.peer_id for proxy in proxies)
    house.leave(serve.member)
    assert all(house.told(proxy) == [{"type": "peer-left", "peerId": serve.member.peer_id}] for proxy in proxies)


def test_what_is_addressed_reaches_that_member_alone(house: House) -> None:
    serve, *proxies = [house.enter(role) for role in (Role.SERVE, Role.PROXY, Role.PROXY)]
    for proxy in proxies:
        assert house.offer(serve, proxy.peer_id) == [proxy.peer_id]
        assert house.offer(proxy, serve.peer_id) == [serve.peer_id]


def test_among_more_than_two_a_message_must_be_addressed(house: House) -> None:
    members = [house.enter(role) for role in (Role.SERVE, Role.PROXY, Role.PROXY)]
    for member in members:
        with pytest.raises(Refused) as caught:
            house.offer(member)
        assert caught.value.code is Code.NO_SUCH_PEER


def test_between_two_an_address_is_not_needed(house: House) -> None:
    serve, original = house.enter(Role.SERVE), house.enter()
    assert house.offer(serve) == [original.peer_id]
    assert house.offer(original) == [serve.peer_id]
    assert house.offer(serve, original.peer_id) == [original.peer_id]


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
    serve, proxy = house.join(Role.SERVE), house.enter(Role.PROXY)
    there = house.of(serve.member)
    back = house.join(Role.SERVE, token=serve.token)
    assert back.ghost is not None and back.ghost.peer_id == serve.member.peer_id
    assert [message["type"] for message in house.told(proxy)] == ["peer-left", "peer-joined"]
    assert house.told(serve.member) == []
    assert there.cut == [serve.member.peer_id]
    assert back.member.peer_id != serve.member.peer_id
    assert house.members("R") == [proxy.peer_id, back.member.peer_id]


def test_a_token_serves_again_after_a_takeover_whose_answer_was_lost(house: House) -> None:
    serve = house.join(Role.SERVE)
    unheard = house.join(Role.SERVE, token=serve.token)
    ghost = house.join(Role.SERVE, token=serve.token).ghost
    assert ghost is not None and ghost.peer_id == unheard.member.peer_id


def test_a_ghost_frees_its_place_in_a_full_room(house: House) -> None:
    proxies = [house.join(Role.PROXY) for _ in range(3)]
    ghost = house.join(Role.PROXY, token=proxies[1].token).ghost
    assert ghost is not None and ghost.peer_id == proxies[1].member.peer_id
    assert len(house.members("R")) == 3


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_without_the_token_nobody_takes_anothers_place(house: House, token: str | None) -> None:
    house.enter(Role.SERVE)
    assert house.refused(Role.SERVE, token=token).code is Code.ROOM_FULL


def test_a_token_is_worth_nothing_in_another_room(house: House) -> None:
    serve = house.join(Role.SERVE)
    house.enter(Role.SERVE, room="S")
    assert house.refused(Role.SERVE, room="S", token=serve.token).code is Code.ROOM_FULL
    assert house.members("R") == [serve.member.peer_id]


def test_a_takeover_that_finds_no_place_changes_nothing(house: House) -> None:
    house.enter(Role.SERVE)
    proxy = house.join(Role.PROXY)
    assert house.refused(Role.SERVE, token=proxy.token).code is Code.ROOM_FULL


def test_the_token_of_a_member_that_has_left_is_no_obstacle(house: House) -> None:
    serve = house.join(Role.SERVE)
    house.leave(serve.member)
    back = house.join(Role.SERVE, token=serve.token)
    assert back.ghost is None
    assert back.token != serve.token


def test_an_original_member_has_no_token_to_guess(house: House) -> None:
    house.enter()
    house.enter()
    assert house.refused(token="").code is Code.ROOM_FULL


def test_a_member_that_leaves_abruptly_is_told_of_as_such(house: House) -> None:
    serve, proxy = house.enter(Role.SERVE), house.enter(Role.PROXY)
    house.leave(proxy, abrupt=True)
    assert house.told(serve) == [{"type": "peer-left", "peerId": proxy.peer_id, "abrupt": True}]


def test_an_original_member_is_not_told_that_another_left_abruptly(house: House) -> None:
    first, second = house.enter(), house.enter()
    house.leave(second, abrupt=True)
    assert house.told(first) == [{"type": "peer-left", "peerId": second.peer_id}]


def test_an_instance_full_of_rooms_opens_no_more_and_fills_those_there_are() -> None:
    with House(MEMORY, Limits(rooms=1)) as house:
        house.enter()
        assert str(house.refused(room="S")) == "server is full"
        assert house.refused(room="S").code is Code.SERVER_FULL
        house.enter()


def test_an_instance_full_of_members_takes_one_for_each_that_leaves() -> None:
    with House(MEMORY, Limits(members=2)) as house:
        first = house.enter()
        house.enter()
        assert house.refused(room="S").code is Code.SERVER_FULL
        house.leave(first)
        house.enter(room="S")


def test_an_instance_full_of_members_lets_one_take_its_ghosts_place() -> None:
    with House(MEMORY, Limits(members=1)) as house:
        serve = house.join(Role.SERVE)
        assert house.join(Role.SERVE, token=serve.token).ghost is serve.member


@needs_redis
def test_each_instance_bounds_what_it_holds_itself() -> None:
    with House(REDIS, Limits(members=1)) as house:
        members = [house.enter(room=room) for room in "ABC"]
        assert house.refused(room="D").code is Code.SERVER_FULL
        house.leave(members[0])
        assert house.refused(room="D").code is Code.SERVER_FULL  # it comes to the next instance


def test_an_empty_room_is_forgotten(house: House) -> None:
    house.leave(house.enter())
    assert not any(len(instance.registry) for instance in house.instances)


def test_the_list_of_the_fullest_room_fits_a_message(kind: str) -> None:
    with House(kind, Limits(proxies=MAX_PROXIES)) as house:
        for _ in range(MAX_PROXIES):
            house.try_to_join(Join(room="R", role=Role.PROXY, instance='"' * 128))
        serve = house.enter(Role.SERVE)
        assert len(encode(house.told(serve)[0]).encode()) <= MESSAGE


def test_an_address_creates_so_many_rooms_and_has_so_many_members(kind: str) -> None:
    with House(kind, Limits(rooms_each=2, members_each=3)) as house:

        def refusal(room: str, address: str) -> str:
            error = house.refused(Role.PROXY, room=room, address=address)
            assert error.code is Code.ADDRESS_LIMIT
            return str(error)

        members = [house.enter(Role.PROXY, room=room, address="x") for room in "AB"]
        assert refusal("C", "x") == "your address has too many rooms (max 2)"
        house.enter(Role.PROXY, room="C", address="y")
        house.enter(Role.PROXY, room="C", address="x")  # a room that somebody else has created
        assert refusal("A", "x") == "your address has too many members (max 3)"
        house.leave(members.pop())
        house.enter(Role.PROXY, room="D", address="x")


def test_a_member_that_comes_back_is_let_in_whatever_its_address_has(kind: str) -> None:
    with House(kind, Limits(rooms_each=1, members_each=1)) as house:
        token = house.join(Role.SERVE, room="A", address="x").token
        for address in ("x", "y"):
            back = Join(room="A", role=Role.SERVE, token=token)
            assert house.returns(back)
            assert house.try_to_join(back, address).ghost
        assert not house.returns(Join(room="B", role=Role.SERVE, token=token))
        assert not house.returns(Join(room="A", role=Role.SERVE, token="other"))


class Crowd(RuleBasedStateMachine):
    """Anybody does anything; what must always hold is checked after each step."""

    kind = MEMORY
    limits = Limits(proxies=2, rooms=3, members=6, rooms_each=2, members_each=4)

    def __init__(self) -> None:
        super().__init__()
        self.house = House(self.kind, self.limits)
        self.present: list[Member] = []
        self.creators: dict[str, str] = {}
        self.seen: dict[str, set[str]] = {}
        self.tokens = [""]

    def teardown(self) -> None:
        self.house.close()

    def hear(self) -> None:
        """Each member's view of its room, made of nothing but what it was told."""
        for instance in self.house.instances:
            for peer_id, heard in instance.heard.items():
                view = self.seen.setdefault(peer_id, set())
                for message in heard:
                    match message["type"]:
                        case "joined":
                            view.update(message["peers"])  # type: ignore[arg-type]
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
            admission = self.house.try_to_join(Join(room=room, role=role, token=token), address)
        except Refused as error:
            assert error.code in (Code.ROOM_FULL, Code.SERVER_FULL, Code.ADDRESS_LIMIT)
            return
        if admission.ghost:
            (ghost,) = (member for member in self.present if member.peer_id == admission.ghost.peer_id)
            self.present.remove(ghost)
        else:
            assert sum(member.address == address for member in self.present) < self.limits.members_each
        if not any(member.room == room for member in self.present) and not admission.ghost:
            self.creators[room] = address
            created = [self.creators[room] for room in {member.room for member in self.present}]
            assert created.count(address) < self.limits.rooms_each
        self.present.append(admission.member)
        self.tokens += [admission.token] if admission.token else []
        self.hear()

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.present))
        self.present.remove(member)
        self.house.leave(member)
        self.hear()

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def offer(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(self.present))
        to = data.draw(st.none() | st.sampled_from(self.present).map(lambda member: member.peer_id))
        try:
            got = self.house.offer(sender, to)
        except Refused as error:
            assert error.code is Code.NO_SUCH_PEER
            return
        assert len(got) <= 1
        for peer_id in got:
            assert peer_id in self.seen[sender.peer_id]
            assert to in (None, peer_id)

    @invariant()
    def everybody_is_where_it_joined(self) -> None:
        inside = [peer_id for room in "ABCD" for peer_id in self.house.members(room)]
        assert sorted(inside) == sorted(member.peer_id for member in self.present)
        here = [peer_id for instance in self.house.instances for peer_id in instance.members]
        assert sorted(here) == sorted(inside)

    @invariant()
    def no_instance_holds_too_many(self) -> None:
        for instance in self.house.instances:
            assert len(instance.members) <= self.limits.members
            assert len(instance.registry) == len({member.room for member in instance.members.values()})
            assert len(instance.registry) <= self.limits.rooms

    @invariant()
    def no_room_holds_too_many(self) -> None:
        for room in "ABCD":
            roles = Counter(member.role for member in self.present if member.room == room)
            assert roles[Role.SERVE] <= 1
            assert roles[Role.PROXY] <= self.limits.proxies
            assert not roles[None] or roles.total() <= 2

    @invariant()
    def each_member_was_told_of_exactly_those_whom_it_sees(self) -> None:
        for member in self.present:
            others = {
                other.peer_id
                for other in self.present
                if other is not member
                and other.room == member.room
                and (member.role is None or member.role is not other.role)
            }
            assert self.seen[member.peer_id] == others


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(deadline=None, max_examples=25, stateful_step_count=40)


class CrowdOfInstances(Crowd):
    """The same, where members come to three instances."""

    kind = REDIS


TestCrowdOfInstances = needs_redis(CrowdOfInstances.TestCase)
TestCrowdOfInstances.settings = settings(deadline=None, max_examples=6, stateful_step_count=30)
