"""Rooms of both kinds, without sockets. Members come to each instance in turn; what they are told is written down."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Coroutine
from typing import Self, TypeVar

import pytest
from redis.exceptions import RedisError

from signal_server.cluster import RedisRegistry
from signal_server.limits import Limits
from signal_server.messages import Join, Message, PassOn, Refused, Role
from signal_server.registry import LEASE, Cluster, MemoryRegistry
from signal_server.rooms import Admission, Member

from .redis_server import needs_redis, shared_redis

T = TypeVar("T")

MEMORY, REDIS = "memory", "redis"
KINDS = [MEMORY, pytest.param(REDIS, marks=needs_redis)]
INSTANCES = 3
"""How many share the rooms in Redis."""


class Instance:
    """One instance of the server: its registry, and the members that have come to it."""

    def __init__(
        self, limits: Limits, *, redis: str | None, prefix: str = "", name: str = "", lease: float = LEASE
    ) -> None:
        self.heard: defaultdict[str, list[Message]] = defaultdict(list)
        """What each of its members was told, by peer id."""
        self.members: dict[str, Member] = {}
        self.cut: list[str] = []
        """Members that were cut off."""
        self.registry: MemoryRegistry | RedisRegistry
        self._task: asyncio.Task[None] | None = None
        self._dead = False
        if redis is None:
            self.registry = MemoryRegistry(limits, self)
        else:
            cluster = Cluster(url=redis, node=name, address="127.0.0.1:9", prefix=prefix, lease=lease)
            self.registry = RedisRegistry(limits, self, cluster=cluster)
            self._task = asyncio.create_task(self.registry.run(), name=f"instance {name}")

    def tell(self, member: Member, message: Message) -> None:
        assert self.members[member.peer_id] is member
        self.heard[member.peer_id].append(message)

    def gone(self, member: Member) -> None:
        if self.members.pop(member.peer_id, None):
            self.cut.append(member.peer_id)

    async def join(self, request: Join, address: str) -> Admission:
        admission, messages = await self.registry.join(request, address)
        self.members[admission.member.peer_id] = admission.member
        self.heard[admission.member.peer_id] += messages
        return admission

    def leave(self, member: Member, *, abrupt: bool = False) -> None:
        del self.members[member.peer_id]
        self.registry.leave(member, abrupt=abrupt)

    @property
    def shared(self) -> RedisRegistry:
        """Its registry, which is one in Redis."""
        assert isinstance(self.registry, RedisRegistry)
        return self.registry

    def die(self) -> None:
        """As a process that is killed: from now on it says and hears nothing."""
        assert self._task is not None
        self._task.cancel()
        self.members.clear()
        self._dead = True

    async def aclose(self) -> None:
        for member in list(self.members.values()):
            self.leave(member)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.shared.aclose(farewell=not self._dead)


class House:
    """Blocking calls to the instances of a server, each of which returns when every member has heard of it."""

    def __init__(self, kind: str, limits: Limits) -> None:
        self._runner = asyncio.Runner()
        self._prefix = f"test-{secrets.token_hex(4)}:"
        self._turn = 0
        self.instances: list[Instance] = []
        self._runner.run(self._open(kind, limits))

    async def _open(self, kind: str, limits: Limits) -> None:
        for number in range(INSTANCES if kind == REDIS else 1):
            redis = shared_redis().url if kind == REDIS else None
            self.instances.append(Instance(limits, redis=redis, prefix=self._prefix, name=f"i{number}"))

    def close(self) -> None:
        """Everybody leaves."""
        self._runner.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        for instance in self.instances:
            await instance.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def try_to_join(self, request: Join, address: str = "") -> Admission:
        """At the next instance. Raises `Refused`."""
        self._turn += 1
        instance = self.instances[self._turn % len(self.instances)]
        return self._do(instance.join(request, address))

    def join(
        self, role: Role | None = None, *, room: str = "R", token: str | None = None, address: str = ""
    ) -> Admission:
        instance = f"i{len(self.members(room))}"
        return self.try_to_join(Join(room=room, role=role, instance=instance, token=token), address)

    def enter(self, role: Role | None = None, *, room: str = "R", address: str = "") -> Member:
        return self.join(role, room=room, address=address).member

    def refused(
        self, role: Role | None = None, *, room: str = "R", token: str | None = None, address: str = ""
    ) -> Refused:
        before = self.members(room)
        with pytest.raises(Refused) as caught:
            self.join(role, room=room, token=token, address=address)
        assert self.members(room) == before
        return caught.value

    def leave(self, member: Member, *, abrupt: bool = False) -> None:
        async def leave() -> None:
            self.of(member).leave(member, abrupt=abrupt)

        self._do(leave())

    def returns(self, request: Join) -> bool:
        """As every instance says."""

        async def ask() -> set[bool]:
            return {await instance.registry.returns(request) for instance in self.instances}

        (said,) = self._do(ask())
        return said

    def offer(self, sender: Member, to: str | None = None) -> list[str]:
        """The peer ids of those who got it. Raises `Refused`."""

        async def offer() -> None:
            registry = self.of(sender).registry
            for target in registry.room(sender.room).targets(sender, to):
                registry.send(sender, target, PassOn(type="offer", text="s").message(sender.peer_id))

        self._do(offer())
        got = [(peer_id, heard) for instance in self.instances for peer_id, heard in instance.heard.items() if heard]
        assert all(heard == [{"type": "offer", "peerId": sender.peer_id, "sdp": "s"}] for _, heard in got)
        return [peer_id for peer_id, _ in got]

    def of(self, member: Member) -> Instance:
        """Where its socket is."""
        return next(instance for instance in self.instances if member.peer_id in instance.members)

    def told(self, member: Member) -> list[Message]:
        """What it was told in the last call."""
        return [message for instance in self.instances for message in instance.heard[member.peer_id]]

    def members(self, room: str) -> list[str]:
        """The peer ids of a room's members, on which all instances that know it agree."""
        known = {tuple(each.peer_id for each in instance.registry.room(room).members) for instance in self.instances}
        known.discard(())
        assert len(known) <= 1, "the instances do not agree"
        return [peer_id for members in known for peer_id in members]

    def _do(self, work: Coroutine[object, object, T]) -> T:
        for instance in self.instances:
            instance.heard.clear()

        async def do() -> T:
            try:
                return await work
            finally:
                await settled(*self.instances)

        return self._runner.run(do())


async def settled(*instances: Instance) -> None:
    """Until Redis holds what each instance knows, and each instance has taken what the others have published."""
    registries = [each.shared for each in instances if isinstance(each.registry, RedisRegistry)]
    quiet = 0
    while quiet < 2:
        quiet += 1
        for registry in registries:
            await registry.reached.wait()
            try:
                await registry.echo()
            except (RedisError, OSError, TimeoutError):  # it is about to notice that it has lost Redis
                quiet = 0
        if any(registry.behind for registry in registries):
            quiet = 0
