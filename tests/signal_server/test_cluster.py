"""Rooms that instances share through a real Redis, where something fails: an instance, Redis, or the way to it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from signal_server.accounts import Joins
from signal_server.cluster import COMPARE
from signal_server.limits import Limits
from signal_server.messages import Code, Join, PassOn, Refused, Role
from signal_server.rooms import Admission, Member

from ..support.embedded import until
from ..support.redis_server import RedisServer, Wire, needs_redis, redis_server, shared_redis
from ..support.registries import Instance, settled

pytestmark = needs_redis

LEASE = 8.0
SHORT = 1.0
"""For tests in which an instance's lease ends. A busy machine may be late for its beats by then."""
JOIN = Join(room="R", role=Role.SERVE, token="t")
LIMITS = Limits(proxies=3, members_each=20, rooms_each=20)


class House:
    """Instances on one Redis."""

    def __init__(self, url: str, stack: AsyncExitStack, *, lease: float) -> None:
        self.url = url
        self.prefix = f"test-{secrets.token_hex(4)}:"
        self._stack = stack
        self._lease = lease

    async def instance(self, name: str, *, url: str = "", limits: Limits = LIMITS) -> Instance:
        instance = Instance(limits, redis=url or self.url, prefix=self.prefix, name=name, lease=self._lease)
        self._stack.push_async_callback(instance.aclose)
        await instance.shared.reached.wait()
        return instance

    async def keys(self) -> dict[str, str]:
        """All that is in Redis, as text."""
        async with Redis.from_url(self.url, decode_responses=True) as redis:
            kinds = {key: await redis.type(key) for key in await redis.keys(self.prefix + "*")}
            read = {"string": redis.get, "hash": redis.hgetall, "set": redis.smembers}
            return {
                key: str(await (read[kind](key) if kind in read else redis.zrange(key, 0, -1)))
                for key, kind in kinds.items()
            }


@asynccontextmanager
async def house(server: RedisServer | None = None, *, lease: float = LEASE) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        yield House((server or shared_redis()).url, stack, lease=lease)


async def enter(
    instance: Instance, role: Role | None = Role.PROXY, *, room: str = "R", token: str | None = None
) -> Admission:
    return await instance.join(Join(room=room, role=role, instance="i", token=token), "192.0.2.1")


def kinds(instance: Instance, member: Member) -> list[object]:
    """What a member was told, but for joining."""
    return [message["type"] for message in instance.heard[member.peer_id]][1:]


def seen(instance: Instance, member: Member) -> set[object]:
    """The others in its room, as it was told."""
    view: set[object] = set()
    for message in instance.heard[member.peer_id]:
        match message["type"]:
            case "joined":
                view.update(message["peers"])  # type: ignore[arg-type]
            case "peer-joined":
                view.add(message["peerId"])
            case "peer-left":
                view.remove(message["peerId"])
    return view


def send(instance: Instance, sender: Member, to: Member) -> None:
    registry = instance.registry
    for target in registry.room(sender.room).targets(sender, to.peer_id):
        registry.send(sender, target, PassOn(type="offer", text="s").message(sender.peer_id))


def names(instance: Instance, room: str = "R") -> list[str]:
    return [member.peer_id for member in instance.registry.room(room).members]


async def test_the_members_of_a_dead_instance_are_gone_after_its_lease() -> None:
    async with house(lease=SHORT) as here:
        one, two = await here.instance("one"), await here.instance("two")
        serve, proxy = (await enter(one, Role.SERVE)).member, (await enter(two)).member
        await settled(one, two)
        one.die()
        await until(lambda: kinds(two, proxy) == ["peer-left"])
        assert names(two) == [proxy.peer_id]
        assert two.heard[proxy.peer_id][-1] == {"type": "peer-left", "peerId": serve.peer_id}  # not "abrupt": it lives


async def test_a_room_whose_members_were_all_on_a_dead_instance_is_forgotten() -> None:
    async with house(lease=SHORT) as here:
        one, two = await here.instance("one"), await here.instance("two")
        for room in "ABC":
            await enter(one, Role.SERVE, room=room)
        one.die()

        await until(lambda: two.shared.addresses.keys() == {"two"})
        assert not any("room:" in key or "count:" in key or "rooms:one" in key for key in await here.keys())


async def test_a_client_takes_its_ghosts_place_before_the_lease_of_a_dead_instance_is_over() -> None:
    async with house(lease=60) as here:
        one, two = await here.instance("one"), await here.instance("two")
        serve, proxy = await enter(one, Role.SERVE), (await enter(two)).member
        await settled(one, two)
        one.die()
        back = await enter(two, Role.SERVE, token=serve.token)
        assert back.ghost is not None and back.token == serve.token
        assert kinds(two, proxy) == ["peer-left", "peer-joined"]


async def test_a_process_that_starts_again_under_its_name_removes_what_the_last_one_left() -> None:
    async with house(lease=60) as here:
        one, two = await here.instance("one"), await here.instance("two")
        await enter(one, Role.SERVE)
        proxy = (await enter(two)).member
        await settled(one, two)
        one.die()
        again = await here.instance("one")
        await settled(again, two)
        assert kinds(two, proxy) == ["peer-left"]
        await enter(again, Role.SERVE)


async def test_two_living_instances_of_one_name_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with house(lease=SHORT) as here:
        await here.instance("one")
        await here.instance("one")
        await until(lambda: "Another instance has the name one too" in caplog.text)


async def test_redis_restarted_without_its_data_gets_all_rooms_again() -> None:
    with redis_server() as server:
        async with house(server) as here:
            one, two = await here.instance("one"), await here.instance("two")
            serve = (await enter(one, Role.SERVE)).member
            proxies = [(await enter(each)).member for each in (one, two)]
            await settled(one, two)
            server.kill()
            await until(lambda: not (one.shared.reached.is_set() or two.shared.reached.is_set()))
            server.start()
            await settled(one, two)
            assert sorted(names(one)) == sorted(names(two)) == sorted(each.peer_id for each in (serve, *proxies))
            assert seen(one, serve) == {each.peer_id for each in proxies}
            assert not one.cut and not two.cut
            send(one, serve, proxies[1])
            await settled(one, two)
            assert two.heard[proxies[1].peer_id][-1]["type"] == "offer"
            counts = (await here.keys())[here.prefix + "count:members"]
            assert counts == str({"192.0.2.1": "3"})


@pytest.mark.parametrize("first", ["is its replica then", "is gone"])
async def test_a_redis_that_fails_over_keeps_all_rooms(first: str) -> None:
    """As behind the one address of a managed Redis, where old connections may stay at what only reads from then on."""
    with (
        redis_server("--repl-diskless-sync-delay", "0") as old,
        redis_server("--replicaof", "127.0.0.1", str(old.port)) as new,
    ):
        async with house() as here, AsyncExitStack() as stack:
            wire = Wire(old.port)
            stack.push_async_callback(wire.aclose)
            url = await wire.open()
            one, two = await here.instance("one", url=url), await here.instance("two", url=url)
            serve, proxy = (await enter(one, Role.SERVE)).member, (await enter(two)).member
            await settled(one, two)
            await until(lambda: b"master_link_status:up" in new.command("INFO", "replication"), "it is a replica")
            wire.lead(new.port)
            assert new.command("REPLICAOF", "NO", "ONE") == b"+OK\r\n"
            if first == "is gone":
                old.kill()
            else:
                assert old.command("REPLICAOF", "127.0.0.1", str(new.port)) == b"+OK\r\n"
            await until(lambda: not (one.shared.reached.is_set() or two.shared.reached.is_set()))
            late = (await enter(two)).member
            await settled(one, two)
            assert sorted(names(one)) == sorted(names(two)) == sorted(each.peer_id for each in (serve, proxy, late))
            assert seen(one, serve) == {proxy.peer_id, late.peer_id}
            assert not one.cut and not two.cut


async def test_without_redis_members_of_one_instance_reach_each_other_and_others_are_refused_with_a_code() -> None:
    with redis_server() as server:
        async with house(server) as here:
            one, two = await here.instance("one"), await here.instance("two")
            serve, near = (await enter(one, Role.SERVE)).member, (await enter(one)).member
            far = (await enter(two)).member
            await settled(one, two)
            server.kill()
            await until(lambda: not one.shared.reached.is_set())
            send(one, serve, near)
            assert one.heard[near.peer_id][-1]["type"] == "offer"
            for attempt in (lambda: send(one, serve, far), lambda: enter(one), lambda: one.registry.returns(JOIN)):
                with pytest.raises(Refused) as caught:
                    await (attempt() or asyncio.sleep(0))
                assert caught.value.code is Code.UNAVAILABLE
            one.leave(near)
            assert kinds(one, serve)[-1] == "peer-left"
            server.start()
            await settled(one, two)
            assert sorted(names(one)) == sorted(names(two)) == sorted([serve.peer_id, far.peer_id])


async def test_a_join_waits_for_redis_that_is_away_for_a_moment() -> None:
    with redis_server() as server:
        async with house(server) as here:
            one = await here.instance("one")
            server.kill()
            await until(lambda: not one.shared.reached.is_set())
            joining = asyncio.create_task(enter(one), name="joining")
            await asyncio.sleep(0.1)
            assert not joining.done()
            server.start()
            assert (await joining).member.peer_id in names(one)


async def test_members_are_told_once_that_redis_is_lost_and_original_ones_are_not() -> None:
    with redis_server() as server:
        async with house(server) as here:
            one = await here.instance("one")
            member, original = (await enter(one)).member, (await enter(one, None, room="S")).member
            server.kill()
            await until(lambda: kinds(one, member))
            await asyncio.sleep(1.5)  # it tries again meanwhile
            assert [message.get("code") for message in one.heard[member.peer_id]] == [None, "unavailable"]
            assert kinds(one, original) == []


async def test_an_instance_cut_off_from_redis_keeps_its_members_and_they_are_back_when_it_is() -> None:
    async with house(lease=SHORT) as here, AsyncExitStack() as stack:
        wire = Wire(shared_redis().port)
        stack.push_async_callback(wire.aclose)
        one, two = await here.instance("one", url=await wire.open()), await here.instance("two")
        serve, proxy = (await enter(one, Role.SERVE)).member, (await enter(two)).member
        await settled(one, two)
        wire.cut()
        await until(lambda: kinds(two, proxy) == ["peer-left"])
        assert not one.cut
        await until(lambda: not one.shared.reached.is_set())
        wire.mend()
        await settled(one, two)
        assert kinds(two, proxy) == ["peer-left", "peer-joined"]
        assert not one.cut
        assert sorted(names(one)) == sorted(names(two)) == sorted([serve.peer_id, proxy.peer_id])


async def test_a_member_whose_place_was_taken_while_its_instance_was_cut_off_is_cut_off_in_turn() -> None:
    async with house(lease=SHORT) as here, AsyncExitStack() as stack:
        wire = Wire(shared_redis().port)
        stack.push_async_callback(wire.aclose)
        one, two = await here.instance("one", url=await wire.open()), await here.instance("two")
        first = (await enter(one, Role.SERVE)).member
        wire.cut()
        proxy = (await enter(two)).member
        await until(lambda: first.peer_id not in names(two))
        second = (await enter(two, Role.SERVE)).member
        await until(lambda: not one.shared.reached.is_set())
        wire.mend()
        await settled(one, two)
        assert one.cut == [first.peer_id]
        assert names(two) == [proxy.peer_id, second.peer_id]


@pytest.mark.parametrize("lease", [LEASE, 60.0], ids=["a beat notices", "a room to mend notices"])
async def test_a_redis_that_is_silent_counts_as_lost_and_holds_no_join_up_for_long(lease: float) -> None:
    with redis_server() as server:
        async with house(server, lease=lease) as here:
            one = await here.instance("one")
            server.pause()
            with pytest.raises(Refused) as caught:
                async with asyncio.timeout(9):  # clients wait for 10 s
                    await enter(one)
            assert caught.value.code is Code.UNAVAILABLE
            await until(lambda: one.shared.lost_since is not None, "Redis is lost")
            server.go_on()
            await settled(one)
            assert names(one) == []
            assert not any("room:" in key for key in await here.keys())


async def test_many_join_one_room_at_once_on_all_instances() -> None:
    async with house() as here:
        limits = Limits(proxies=60)
        instances = [await here.instance(name, limits=limits) for name in ("one", "two", "three")]
        joining = [enter(instances[number % 3]) for number in range(60)]
        admissions = await asyncio.gather(*joining)
        await settled(*instances)
        assert {frozenset(names(each)) for each in instances} == {frozenset(each.member.peer_id for each in admissions)}
        serve = (await enter(instances[0], Role.SERVE)).member
        assert len(instances[0].heard[serve.peer_id][0]["peers"]) == 60  # type: ignore[arg-type]
        for instance in instances:
            for member in list(instance.members.values()):
                instance.leave(member)
        await settled(*instances)
        assert not any("room:" in key or "count:" in key for key in await here.keys())


async def test_a_join_that_is_given_up_leaves_nobody_behind() -> None:
    async with house() as here:
        one, two = await here.instance("one"), await here.instance("two")
        proxy = (await enter(two)).member
        given_up = 0
        for turns in range(40):
            joining = asyncio.create_task(enter(one, Role.SERVE), name="joining")
            for _ in range(turns):
                await asyncio.sleep(0)
            joining.cancel()
            await asyncio.wait([joining])
            given_up += joining.cancelled()
            if not joining.cancelled():
                one.leave(joining.result().member)
            await settled(one, two)
            assert names(two) == [proxy.peer_id]
        assert given_up >= 3


async def test_what_is_sent_to_a_newcomer_at_once_comes_behind_the_word_that_it_has_joined() -> None:
    async with house() as here:
        one, two = await here.instance("one"), await here.instance("two")
        serve = (await enter(one, Role.SERVE)).member
        for _ in range(20):
            joining = asyncio.create_task(enter(two), name="joining")
            await until(lambda: len(names(one)) == 2)
            (proxy,) = (member for member in one.registry.room("R").members if member is not serve)
            send(one, serve, proxy)
            newcomer = (await joining).member
            await settled(one, two)
            assert [message["type"] for message in two.heard[newcomer.peer_id]] == ["joined", "offer"]
            two.leave(newcomer)
            await settled(one, two)


async def test_redis_holds_no_name_of_a_room_and_no_token() -> None:
    async with house() as here:
        one = await here.instance("one")
        admission = await enter(one, Role.SERVE, room="a-secret-name")
        everything = str(await here.keys())
        assert admission.member.peer_id in everything
        assert "a-secret-name" not in everything and str(admission.token) not in everything


async def test_an_instance_that_stops_leaves_nothing_in_redis_but_the_shared_key() -> None:
    async with house() as here:
        async with AsyncExitStack() as stack:
            inner = House(here.url, stack, lease=LEASE)
            inner.prefix = here.prefix
            one = await inner.instance("one")
            await enter(one, Role.SERVE)
        assert [key.removeprefix(here.prefix) for key in await here.keys()] == ["key"]


async def test_a_rate_holds_for_all_instances_together() -> None:
    async with house() as here:
        one, two = await here.instance("one"), await here.instance("two")
        limits = Limits(members_each=100, joins=60)
        joins, others = (Joins(limits, each.registry.make_bucket) for each in (one, two))
        now = asyncio.get_running_loop().time
        assert sum(joins.charge("192.0.2.1", 1, now=now()) for _ in range(100)) == 0.0
        assert others.charge("192.0.2.1", 1, now=now()) == 0.0  # until they have compared
        assert others.charge("192.0.2.2", 100, now=now()) == 0.0
        await until(lambda: others.charge("192.0.2.1", 0, now=now()) > 0)
        with pytest.raises(Refused, match="too many joins from your address"):
            others.charge("192.0.2.1", 10, now=now())
        with pytest.raises(Refused, match="too many joins from your address"):
            await until(lambda: joins.charge("192.0.2.2", 50, now=now()) > 100)


async def test_a_rate_that_is_used_all_the_time_is_compared_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house() as here:
        one = await here.instance("one")
        bucket = one.registry.make_bucket("b", rate=1e6, burst=1e6, now=0)
        times: list[float] = []
        compare, now = one.shared._compare, asyncio.get_running_loop().time

        async def note() -> None:
            times.append(now())
            await compare()

        monkeypatch.setattr(one.shared, "_compare", note)
        while len(times) < 2:
            bucket.owe(1, now=now())
            await asyncio.sleep(0)
        assert times[1] - times[0] > COMPARE * 0.9


async def test_a_total_holds_for_all_instances_together_and_what_is_spent_without_redis_is_counted_later() -> None:
    with redis_server() as server:
        async with house(server) as here:
            one, two = await here.instance("one"), await here.instance("two")
            totals = [each.registry.make_bucket("total", rate=1e-9, burst=100, now=0) for each in (one, two)]
            server.kill()
            await until(lambda: not (one.shared.reached.is_set() or two.shared.reached.is_set()))
            assert totals[0].take(60, now=0) and totals[1].take(39, now=0)
            server.start()
            now = asyncio.get_running_loop().time
            await until(lambda: not totals[0].take(2, now=now()))
            await until(lambda: not totals[1].take(2, now=now()))


async def test_buckets_in_redis_fill_up_with_time_and_are_forgotten_when_they_are_full() -> None:
    async with house() as here:
        one, two = await here.instance("one"), await here.instance("two")
        first = one.registry.make_bucket("b", rate=50, burst=100, now=0)
        first.owe(200, now=0)
        now = asyncio.get_running_loop().time
        second = two.registry.make_bucket("b", rate=50, burst=100, now=now())
        await until(lambda: second.owe(0, now=now()) > 0)
        await until(lambda: second.owe(0, now=now()) == 0)
        async with Redis.from_url(here.url) as redis:
            assert 0 < await redis.ttl(here.prefix + "bucket:b") <= 5


async def test_an_instance_that_others_have_buried_too_early_keeps_its_members() -> None:
    async with house(lease=4) as here:
        one, two = await here.instance("one"), await here.instance("two")
        serve, proxy = (await enter(one, Role.SERVE)).member, (await enter(two)).member
        await settled(one, two)
        async with Redis.from_url(here.url) as redis:
            while "peer-left" not in kinds(two, proxy):
                await redis.zadd(here.prefix + "nodes", {"one": 1})  # as if it had not beaten for years
        await settled(one, two)
        assert not one.cut
        assert seen(two, proxy) == {serve.peer_id}


async def test_joins_that_fail_without_redis_leave_nothing_to_mend() -> None:
    with redis_server() as server:
        async with house(server) as here:
            one = await here.instance("one")
            server.kill()
            await until(lambda: not one.shared.reached.is_set())
            results = await asyncio.gather(*(enter(one, room=f"{n}") for n in range(20)), return_exceptions=True)
            assert [getattr(each, "code", each) for each in results] == [Code.UNAVAILABLE] * 20
            assert one.shared.behind == 0


async def test_what_is_not_ours_in_redis_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as here:
        one = await here.instance("one")
        async with Redis.from_url(here.url) as redis:
            await redis.publish(here.prefix + "to:one", "no JSON")
        await until(lambda: "what is in Redis is not ours" in caplog.text)
        await enter(one)
