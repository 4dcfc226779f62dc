"""The rooms of a server that has several instances, which share them through Redis.

Redis holds one record for each room, and this is all that an instance may believe of other instances' members. Of its
own members an instance knows itself. So a room is what the record says of others, and what the instance knows of its
own (`_merged`); and whatever has gone wrong, an edit of each room that it knows puts it right (`_mend_one`).

- *An edit* (`_edit`) is a compare-and-set: the record is read and decoded, pure code makes another room of it, and a
  script writes the new record if nobody else has written meanwhile. The same script checks and counts what each network
  has, and publishes the record to each instance that has a member in the room. The newest record counts.
- *A join* waits for its edit. A member that leaves is gone at once, and the edit follows.
- *A message* for another instance's member is published to that instance.
- *An instance lives* as long as it beats. The others remove the members of one that has been silent for
  `Cluster.lease` s.
- *Rates and totals* (`SharedBucket`) are counted at each instance, and compared through Redis every `COMPARE` s. So an
  instance may permit too much for that long, and what was too much is owed.
- *Without Redis*, an instance goes on with what it knows: its members reach each other. Joins wait, and are then
  refused with `Code.UNAVAILABLE`. When Redis is back, with its data or without, each instance mends its rooms.

What Redis holds, below a prefix:

    room:HASH                a room's record, as JSON. The hash is of the room's name, which Redis does not learn
    nodes, addresses         instances: when they last beat (in ms, by Redis's clock), and where the others reach them
    rooms:NAME               hashes of the rooms in which an instance has members
    count:members/:rooms     what each network has
    bucket:KEY               a bucket: its tokens, and when they were counted
    key                      random bytes that the instances share
    to:NAME                  the channel of an instance

Redis and whoever can write to it are trusted as the instances themselves are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .limits import Bucket, Limits, SharedBucket
from .messages import Code, Join, Message, Refused, Role
from .registry import MEMBERS, ROOMS, Audience, Cluster, Local, differences, too_many_members, too_many_rooms
from .rooms import Admission, Member, Room, lacks_place
from .tasks import first_of

logger = logging.getLogger(__name__)

BEATS: Final = 4
"""Beats of an instance in `Cluster.lease`."""
ANSWER: Final = 3.0
"""Seconds for Redis to answer."""
AGAIN: Final = 0.5
"""Seconds between two attempts to reach Redis."""
JOIN: Final = 5.0
"""Seconds for which a join waits for Redis."""
ATTEMPTS: Final = 50
"""Attempts to edit a room that others edit too."""
AT_ONCE: Final = 32
"""Rooms to mend at once, and the most connections to Redis."""
QUEUE: Final = 16 * 1024 * 1024
"""Bytes that may wait to be published."""
COMPARE: Final = 0.5
"""Seconds between two comparisons of rates and totals."""
TOUCHED: Final = 50_000
"""Maximum number of rates and totals to compare."""
BATCH: Final = 100
"""Messages to publish at once."""
NODES: Final = "nodes"
ADDRESSES: Final = "addresses"
KEY: Final = "key"

_EDIT: Final = """
local current = redis.call('GET', KEYS[1]) or ''
if current ~= ARGV[1] then return {'changed', current} end
local edit = cjson.decode(ARGV[3])
for _, each in ipairs(edit.counts) do
    local most = each[4]
    if most >= 0 and tonumber(redis.call('HGET', each[1], each[2]) or 0) + each[3] > most then
        return {'full', each[1]}
    end
end
for _, each in ipairs(edit.counts) do
    if redis.call('HINCRBY', each[1], each[2], each[3]) <= 0 then redis.call('HDEL', each[1], each[2]) end
end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
for _, each in ipairs(edit.present) do redis.call('SADD', each, edit.room) end
for _, each in ipairs(edit.absent) do redis.call('SREM', each, edit.room) end
for _, each in ipairs(edit.tell) do redis.call('PUBLISH', each, ARGV[4]) end
return {'done', ''}
"""
"""Replace a room's record, if it is still the one that was read. An empty record means that the room does not exist.

KEYS: the record. ARGV: the old record, the new one, the rest of the edit as JSON, the message to publish.
"""

_BEAT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
local before = redis.call('HGET', KEYS[2], ARGV[1]) or ''
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('SET', KEYS[3], ARGV[3], 'NX')
local known = last and now - last <= tonumber(ARGV[4])
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now - ARGV[4])
return {known and 1 or 0, before, redis.call('GET', KEYS[3]), redis.call('HGETALL', KEYS[2]), silent}
"""
"""Say that an instance lives.

Returns whether it was known to, its address before, the shared key, all addresses, and the instances that are silent.

KEYS: nodes, addresses, key. ARGV: the instance, its address, a key if there is none yet, the lease in ms.
"""


_COMPARE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local left = {}
for i, each in ipairs(cjson.decode(ARGV[1])) do
    local key, rate, burst, spent = ARGV[2] .. each[1], each[2], each[3], each[4]
    local was = redis.call('HMGET', key, 'tokens', 'at')
    local tokens = tonumber(was[1] or burst) + math.max(0, now - tonumber(was[2] or now)) * rate
    tokens = math.min(burst, tokens) - spent
    redis.call('HSET', key, 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
    redis.call('EXPIRE', key, math.ceil((burst - tokens) / rate) + 1)
    left[i] = tostring(tokens)
end
return left
"""
"""Take what was spent from buckets. Returns the tokens that are left in each, which may be less than none.

ARGV: a list of key, tokens per second, burst and tokens spent, as JSON; the prefix of the keys.
"""


@dataclass(frozen=True, slots=True)
class _Record:
    """A room's record, as it was last read or written. An empty one: the room does not exist."""

    text: str = ""
    version: int = 0


class RedisRegistry(Local):
    """The rooms of a server that has several instances: see the module. Run `run` as a task.

    Raises `ValueError` if Redis's URL is invalid.
    """

    def __init__(self, limits: Limits, audience: Audience, *, cluster: Cluster) -> None:
        super().__init__(limits, audience)
        self.node = cluster.node
        self.addresses: dict[str, str] = {}
        """Where all instances are reached, by name."""
        self.latency: float | None = None
        """Seconds that a message to this instance itself took through Redis; None while Redis is lost."""
        self.started = False
        """Whether Redis has ever been reached."""
        self.lost_since: float | None = None
        """When Redis was lost, in the loop's time; None while it is reached, and before the first try."""
        self._address = cluster.address
        self._prefix = cluster.prefix
        self._lease = cluster.lease
        self.beat = cluster.lease / BEATS
        """Seconds between two beats."""
        self._redis = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                cluster.url,
                max_connections=AT_ONCE,
                timeout=ANSWER,
                decode_responses=True,
                # On Python 3.11, redis loses a cancellation where it waits with a timeout of its own: see `_answer`.
                socket_timeout=None,
                socket_connect_timeout=ANSWER,
                # Messages are lost with a connection, so each loss has to be noticed.
                retry=Retry(NoBackoff(), 0),
                **({} if cluster.password is None else {"password": cluster.password}),
            )
        )
        self._edit_script = self._redis.register_script(_EDIT)
        self._beat_script = self._redis.register_script(_BEAT)
        self._compare_script = self._redis.register_script(_COMPARE)
        self._touched: dict[str, SharedBucket] = {}
        """Buckets from which this instance has drawn since they were compared, by key."""
        self.make_bucket = self._make_bucket
        self._process = secrets.token_hex(4)
        """Tells this process from another one that has the same name."""
        self.reached = asyncio.Event()
        """Set while Redis is reached."""
        self._names: dict[str, str] = {}
        """Names of the rooms that this instance knows, by hash."""
        self._records: dict[str, _Record] = {}
        """Records of the rooms that this instance knows, by hash. One is missing if it may have changed unnoticed."""
        self._editing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By hash: instances compete for a room, and edits of one instance need not."""
        self._to_mend: dict[str, frozenset[str]] = {}
        """Names of rooms to mend, with the members that have left abruptly."""
        self._mend = asyncio.Event()
        self._queue: deque[tuple[str, str, Member]] = deque()
        """What is to be published: the instance, the message, and who has sent it."""
        self._queued = 0
        self._post = asyncio.Event()
        self._echoes: dict[str, asyncio.Future[None]] = {}

    # -- the interface

    async def returns(self, request: Join) -> bool:
        """See `Registry`."""
        key = _hash(request.room)
        async with self._available():
            text = await self._read(key)
        return self._merged(self._parse(request.room, text)).ghost(request) is not None

    async def join(self, request: Join, address: str) -> tuple[Admission, list[Message]]:
        """See `Registry`."""
        admissions: list[Admission] = []

        def admit(before: Room) -> Room:
            self._withdraw(admissions)
            ghost = before.ghost(request)
            if ghost is None or ghost.node != self.node:
                self._check_server(before.name)
            admission = before.admit(request, self._limits, address=address, node=self.node)
            admissions.append(admission)
            self._names[_hash(before.name)] = before.name
            self._here[admission.member.peer_id] = admission.member
            self._joining[admission.member.peer_id] = []
            return admission.room

        try:
            async with self._available():
                await self._edit(request.room, admit, join=request)
        except BaseException as exc:
            unknown = not isinstance(exc, Refused) or exc.code is Code.UNAVAILABLE
            if admissions and unknown:  # the record may have been written
                self._soon(request.room)
            self._withdraw(admissions)
            raise
        (admission,) = admissions
        later = self._joining.pop(admission.member.peer_id, [])
        if admission.member.peer_id not in self._here:
            raise Refused(Code.UNAVAILABLE, "another connection has taken this place")
        return admission, [self.room(request.room).joined(admission), *later]

    def leave(self, member: Member, *, abrupt: bool = False) -> None:
        """See `Registry`."""
        abruptly = [member.peer_id] if abrupt else []
        self._change(self.room(member.room).without([member]), abrupt=abruptly)
        self._soon(member.room, abruptly)

    def send(self, sender: Member, target: Member, message: Message) -> None:
        """See `Registry`."""
        if target.node == self.node:
            self._take_message(target.peer_id, message)
            return
        text = _dump({"to": target.peer_id, "message": message})
        if not self.reached.is_set() or self._queued + len(text) > QUEUE:
            raise _unavailable()
        self._queue.append((target.node, text, sender))
        self._queued += len(text)
        self._post.set()

    # -- in touch with Redis

    async def run(self) -> None:
        """Keep in touch with Redis, until cancelled."""
        while True:
            try:
                await self._visit()
            except Exception as exc:
                if not isinstance(exc, RedisError | OSError | TimeoutError):
                    logger.exception("A defect, or what is in Redis is not ours")
                self._lose(exc)
                with suppress(RedisError, OSError, TimeoutError):  # or a dead one would be used again
                    await _answer(self._redis.connection_pool.disconnect(inuse_connections=False))
            await asyncio.sleep(AGAIN * random.uniform(0.5, 1.0))

    def others(self) -> list[str]:
        """Return where the other instances were reached when Redis last was."""
        return [address for node, address in self.addresses.items() if node != self.node]

    @property
    def long_lost(self) -> bool:
        """Whether Redis has been lost for so long that the others take this instance for dead."""
        return self.lost_since is not None and asyncio.get_running_loop().time() > self.lost_since + self._lease

    async def address_of(self, node: str) -> str | None:
        """Return where another instance is reached; None if nobody knows."""
        if node not in self.addresses and self.reached.is_set():  # it may have started just now
            with suppress(RedisError, OSError, TimeoutError):
                if found := await _answer(self._redis.hget(self._prefix + ADDRESSES, node)):
                    self.addresses[node] = _address(found)
        return self.addresses.get(node)

    async def aclose(self, *, farewell: bool = True) -> None:
        """Close, once all members here have left and `run` has ended. Does what it can in `ANSWER` s.

        ``farewell``: tell the others, which otherwise notice after `Cluster.lease` s.
        """
        with suppress(RedisError, OSError, TimeoutError, Refused):
            async with asyncio.timeout(ANSWER):
                if farewell and self.lost_since is None:
                    await self._mend_all()
                    await self._remove(self.node)
        with suppress(RedisError, OSError, TimeoutError):
            await self._redis.aclose(close_connection_pool=True)

    async def echo(self) -> float:
        """Send a message to this instance itself, and return the seconds until it has come back through Redis.

        By then, everything that was published to this instance before has been taken.
        """
        loop = asyncio.get_running_loop()
        name, sent = secrets.token_hex(8), loop.time()
        self._echoes[name] = loop.create_future()
        try:
            async with asyncio.timeout(ANSWER):
                await self._redis.publish(self._channel(self.node), _dump({"echo": name}))
                await self._echoes[name]
        finally:
            del self._echoes[name]
        return loop.time() - sent

    async def _visit(self) -> None:
        async with self._redis.pubsub() as mailbox:
            async with asyncio.timeout(ANSWER):
                await mailbox.subscribe(self._channel(self.node))
                while (await mailbox.get_message(timeout=ANSWER) or {}).get("type") != "subscribe":
                    pass
            await first_of(self._listen(mailbox), self._live(), self._mend_on(), self._post_on(), self._compare_on())

    async def _live(self) -> None:
        """Beat, and look whether messages still arrive."""
        await self._beat()
        self._restore()  # what was published while nobody listened is lost
        if self.lost_since is not None:
            logger.warning("Redis is back")
        self.lost_since = None
        self.started = True
        self.reached.set()
        while True:
            self.latency = await self.echo()
            await asyncio.sleep(self.beat)
            await self._beat()

    def _lose(self, exc: Exception) -> None:
        """Note that Redis is lost, and tell the members here: nobody can join them now."""
        self.reached.clear()
        self.latency = None
        while self._queue:
            self._audience_tell(self._queue.popleft()[2], _unavailable().message)
        self._queued = 0
        if self.lost_since is not None:
            return
        self.lost_since = asyncio.get_running_loop().time()
        logger.error("Redis is lost: %s", _reason(exc))
        for member in list(self._here.values()):
            self._audience_tell(member, _unavailable().message)

    async def _beat(self) -> None:
        """Say that this instance lives, and remove those that do not."""
        keys = [self._prefix + each for each in (NODES, ADDRESSES, KEY)]
        here = f"{self._process} {self._address}"
        known, before, key, addresses, silent = await _answer(
            self._beat_script(keys=keys, args=[self.node, here, secrets.token_hex(32), int(self._lease * 1000)])
        )
        self.key = key.encode()
        self.addresses = {name: _address(written) for name, written in _pairs(addresses)}
        if known and before != here and self.reached.is_set():
            logger.error("Another instance has the name %s too: give each a name of its own (--instance)", self.node)
        if not known:  # Redis has lost its data, or others have taken us for dead
            self._restore()
        if before != here:  # an earlier process had this name
            await self._bury(self.node)
        for node in silent:
            await self._bury(node)
            await self._remove(node)
            self.addresses.pop(node, None)
            logger.warning("Instance %s is silent: its members are removed", node)

    def _restore(self) -> None:
        """Look at each room that this instance knows: its record may have changed unnoticed, or be gone."""
        self._records.clear()
        for name in self._rooms:
            self._soon(name)

    async def _bury(self, node: str) -> None:
        """Remove what an earlier process has left in rooms. Several instances may do the same at the same time."""
        for key in map(str, await _answer(self._redis.smembers(self._rooms_key(node)))):
            name = self._names.get(key, "")
            with suppress(Refused):  # others are at it
                await self._edit_record(key, name, partial(_without_dead, node=node, here=self._here))

    async def _remove(self, node: str) -> None:
        async with self._redis.pipeline() as pipe:
            pipe.zrem(self._prefix + NODES, node)
            pipe.hdel(self._prefix + ADDRESSES, node)
            pipe.delete(self._rooms_key(node))
            await _answer(pipe.execute())

    async def _listen(self, mailbox: PubSub) -> None:
        while True:
            raw = await mailbox.get_message(ignore_subscribe_messages=True, timeout=self._lease)
            if raw is not None:
                self._take(json.loads(raw["data"]))

    def _take(self, said: dict[str, Any]) -> None:
        """Take what was published to this instance."""
        match said:
            case {"to": peer_id, "message": message}:
                self._take_message(peer_id, message)
            case {"room": key, "record": text, "version": version, "abrupt": abrupt, "replaced": replaced}:
                self._accept(self._names.get(key, ""), _Record(text, version), abrupt, replaced)
            case {"echo": echo} if echo in self._echoes and not self._echoes[echo].done():
                self._echoes[echo].set_result(None)

    def _take_message(self, peer_id: str, message: Message) -> None:
        if peer_id in self._joining:
            self._joining[peer_id].append(message)
        elif member := self._here.get(peer_id):
            self._audience.tell(member, message)

    def _audience_tell(self, member: Member, message: Message) -> None:
        """Tell a member of a failure, if it still is one. An original member would not understand it."""
        if member.role is not None and member.peer_id in self._here and member.peer_id not in self._joining:
            self._audience.tell(member, message)

    async def _post_on(self) -> None:
        while True:
            await self._post.wait()
            self._post.clear()
            while self._queue:
                batch = [self._queue[number] for number in range(min(len(self._queue), BATCH))]
                async with self._redis.pipeline(transaction=False) as pipe:
                    for node, text, _ in batch:
                        pipe.publish(self._channel(node), text)
                    await _answer(pipe.execute())
                for _, text, _ in batch:
                    self._queue.popleft()
                    self._queued -= len(text)

    def _make_bucket(self, key: str, *, rate: float, burst: float, now: float) -> Bucket:
        if len(self._touched) >= TOUCHED:  # Redis is lost
            del self._touched[next(iter(self._touched))]
        return SharedBucket(key, self._touched, rate=rate, burst=burst, now=now)

    async def _compare_on(self) -> None:
        while True:
            await asyncio.sleep(COMPARE)
            for _ in range(0, len(self._touched), BATCH):  # what is touched meanwhile waits for the next time
                await self._compare()

    async def _compare(self) -> None:
        """Take from some buckets in Redis what was spent here, and learn what is left."""
        buckets = [self._touched.pop(key) for key in list(self._touched)[:BATCH]]
        spent = [bucket.spent for bucket in buckets]
        for bucket in buckets:
            bucket.spent = 0.0
        told = [[bucket.key, bucket.rate, bucket.burst, count] for bucket, count in zip(buckets, spent, strict=True)]
        try:
            left = await _answer(self._compare_script(args=[_dump(told), f"{self._prefix}bucket:"]))
        except BaseException:
            for bucket, count in zip(buckets, spent, strict=True):
                bucket.spent += count
                self._touched[bucket.key] = bucket
            raise
        now = asyncio.get_running_loop().time()
        for bucket, tokens in zip(buckets, left, strict=True):
            bucket.adopt(float(tokens), now=now)

    # -- rooms

    def _soon(self, name: str, abrupt: Iterable[str] = ()) -> None:
        """Mend a room soon: write what is known here of its members here."""
        self._to_mend[name] = self._to_mend.get(name, frozenset()) | frozenset(abrupt)
        self._mend.set()

    @property
    def behind(self) -> int:
        """Number of rooms and messages that the others have yet to be told."""
        return len(self._to_mend) + len(self._queue)

    async def _mend_on(self) -> None:
        while True:
            await self._mend.wait()
            await self._mend_all()
            self._mend.clear()  # not before: if Redis is lost meanwhile, the next visit goes on

    async def _mend_all(self) -> None:
        while names := list(self._to_mend)[:AT_ONCE]:
            results = await asyncio.gather(*map(self._mend_one, names), return_exceptions=True)
            for result in results:
                if result is not None:
                    raise result

    async def _mend_one(self, name: str) -> None:
        abrupt = self._to_mend[name]
        with suppress(Refused):  # too many others edit it: once more
            await self._edit(name, lambda before: before, abrupt=abrupt)
            if self._to_mend[name] is abrupt:  # nothing has changed since
                del self._to_mend[name]

    async def _edit(
        self,
        name: str,
        change: Callable[[Room], Room],
        *,
        abrupt: Collection[str] = (),
        join: Join | None = None,
    ) -> None:
        """Edit a room: see `_edit_record`."""
        key = _hash(name)
        lock = self._editing.get(key) or asyncio.Lock()
        self._editing[key] = lock
        async with lock:
            await self._edit_record(key, name, change, abrupt=abrupt, join=join)

    async def _edit_record(
        self,
        key: str,
        name: str,
        change: Callable[[Room], Room],
        *,
        abrupt: Collection[str] = (),
        join: Join | None = None,
    ) -> None:
        """Edit a room. Raises `Refused` if its network has reached a limit, or too many others edit it.

        ``change`` may be called several times, and raise `Refused`. ``join``: the request that it admits, if it does.
        The name is empty for a room that this instance does not know.
        """
        known = self._records.get(key)
        if known is None and join is None:
            known = _Record(await self._read(key))
        text = known.text if known else ""  # most rooms that somebody joins are new; else the answer has the record
        for attempt in range(ATTEMPTS):
            written = self._parse(name, text)
            before = self._merged(written)
            after = change(before)
            version = max(_version(text) + 1, int(time.time() * 1000))
            if _same(written, after):
                self._accept(name, _Record(text, _version(text)), abrupt)
                return
            record = _Record(_encode(after, version) if after.members else "", version)
            ghost = join and before.ghost(join)
            replaced = [ghost.peer_id] if ghost else []
            limited = join is not None and ghost is None
            told = {"room": key, "record": record.text, "version": version, "abrupt": [*abrupt], "replaced": replaced}
            effects = self._effects(key, written, after, limited)
            answer, more = await _answer(
                self._edit_script(keys=[self._room_key(key)], args=[text, record.text, _dump(effects), _dump(told)])
            )
            if answer == "done":
                self._accept(name, record, abrupt, replaced)
                return
            if answer == "full":
                raise (too_many_members if more == self._count_key(MEMBERS) else too_many_rooms)(self._limits)
            text = more
            await asyncio.sleep(random.uniform(0, 0.002 * attempt))
        raise _unavailable()

    async def _read(self, key: str) -> str:
        return str(await _answer(self._redis.get(self._room_key(key))) or "")

    def _effects(self, key: str, before: Room, after: Room, limited: bool) -> dict[str, object]:
        """Return what an edit changes besides the record: see `_EDIT`."""
        nodes_before = {member.node for member in before.members}
        nodes = {member.node for member in after.members}
        most = {MEMBERS: self._limits.members_each, ROOMS: self._limits.rooms_each}
        return {
            "room": key,
            "counts": [
                [self._count_key(of), network, change, most[of] if limited and change > 0 else -1]
                for of, network, change in differences(before, after)
            ],
            "present": [self._rooms_key(node) for node in nodes],
            "absent": [self._rooms_key(node) for node in nodes_before - nodes],
            "tell": [self._channel(node) for node in (nodes | nodes_before) - {self.node}],
        }

    def _accept(self, name: str, record: _Record, abrupt: Collection[str] = (), replaced: Collection[str] = ()) -> None:
        """Take a room as it was written, unless a newer record has come meanwhile, or nobody here is in the room.

        ``replaced``: peer ids of members whose place others have taken.
        """
        self._change(self.room(name).without([self._here[each] for each in replaced if each in self._here]))
        key = _hash(name)
        known = self._records.get(key)
        if not name or (known is not None and known.version > record.version):
            return
        written = self._parse(name, record.text)
        after = self._merged(written)
        self._change(after, abrupt=abrupt)
        if name in self._rooms:
            self._names[key] = name
            self._records[key] = record
        elif not any(self._here[peer_id].room == name for peer_id in self._joining if peer_id in self._here):
            self._names.pop(key, None)
            self._records.pop(key, None)
        if not _same(written, after):
            self._soon(name)

    def _parse(self, name: str, text: str) -> Room:
        """Return the room in a record. Members that are known already are the same objects."""
        if not text:
            return Room(name=name)
        record = json.loads(text)
        known = {member.peer_id: member for member in self.room(name).members}
        members = [known.get(each[0]) or self._here.get(each[0]) or _member(name, each) for each in record["members"]]
        return Room(name=name, creator=record["creator"], members=tuple(members))

    def _merged(self, written: Room) -> Room:
        """Return a room: what its record says of other instances' members, and what is known here of ours."""
        ours = [member for member in self.room(written.name).members if member.node == self.node]
        stay = frozenset(ours).union(self._here[peer_id] for peer_id in self._joining if peer_id in self._here)
        kept = [each for each in written.members if each.node != self.node or each in stay or not written.name]
        held = frozenset(kept)
        for member in ours:
            # One that others had taken for dead, and whose place somebody else has by now, has to join again.
            if member not in held and not lacks_place(member.role, kept, self._limits):
                kept.append(member)
        creator = written.creator if written.members else "".join(member.address for member in kept[:1])
        return Room(name=written.name, creator=creator, members=tuple(kept))

    def _withdraw(self, admissions: list[Admission]) -> None:
        """Take back an admission that was not written."""
        while admissions:
            member = admissions.pop().member
            self._joining.pop(member.peer_id, None)
            self._here.pop(member.peer_id, None)
            if member in (room := self.room(member.room)).members:
                self._change(room.without([member]))

    @asynccontextmanager
    async def _available(self) -> AsyncIterator[None]:
        """Wait for Redis. Raises `Refused` if it is lost for too long, or becomes so."""
        try:
            async with asyncio.timeout(JOIN):
                await self.reached.wait()
            yield
        except (RedisError, OSError, TimeoutError) as exc:
            raise _unavailable() from exc

    # -- keys

    def _room_key(self, key: str) -> str:
        return f"{self._prefix}room:{key}"

    def _rooms_key(self, node: str) -> str:
        return f"{self._prefix}rooms:{node}"

    def _count_key(self, of: str) -> str:
        return f"{self._prefix}count:{of}"

    def _channel(self, node: str) -> str:
        return f"{self._prefix}to:{node}"


async def _answer(asked: Awaitable[Any]) -> Any:
    """Wait for Redis's answer. Raises `TimeoutError`."""
    async with asyncio.timeout(ANSWER):
        return await asked


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _encode(room: Room, version: int) -> str:
    members = [[each.peer_id, each.role, each.instance, each.proof, each.address, each.node] for each in room.members]
    return _dump({"version": version, "creator": room.creator, "members": members})


def _version(text: str) -> int:
    return int(json.loads(text)["version"]) if text else 0


def _member(room: str, written: list[Any]) -> Member:
    peer_id, role, instance, proof, address, node = written
    return Member(
        peer_id=peer_id,
        room=room,
        role=None if role is None else Role(role),
        instance=instance,
        proof=proof,
        address=address,
        node=node,
    )


def _same(room: Room, other: Room) -> bool:
    return [member.peer_id for member in room.members] == [member.peer_id for member in other.members]


def _without_dead(room: Room, *, node: str, here: Collection[str]) -> Room:
    return room.without([member for member in room.members if member.node == node and member.peer_id not in here])


def _address(written: str) -> str:
    """Return the address in what an instance has written: its process, and the address."""
    return written.partition(" ")[2]


def _pairs(flat: list[str]) -> Iterator[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _unavailable() -> Refused:
    return Refused(Code.UNAVAILABLE, "the server cannot reach its other instances now; try again")


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
