"""Accounts of rooms and addresses: their joins and messages, and the rates, totals and ends of the relay. Pure."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Generic, TypeVar

from .limits import DAY, Bucket, Limits, MakeBucket, RelayLimits, own_bucket, signalling_cost
from .messages import Code, Refused

Who = TypeVar("Who", bound=Hashable)
Networks = Collection[IPv4Network | IPv6Network]

ACCOUNTS: Final = 20_000
"""Maximum number of accounts, of 500 bytes each. Beyond it, the least recently used one without open ends goes."""


FORWARDED: Final = "X-Forwarded-For"
JOIN_HELD: Final = 5.0
"""Maximum seconds to delay a join, half of the time that clients wait. A join that would wait longer is rejected."""
MESSAGE_HELD: Final = 2.0
"""Maximum seconds to delay a message, so that its sender still answers pings in time."""
MINUTE: Final = 60.0
"""Seconds of the sustained rate that messages may use at once: all that a room or a class says when it connects."""


class Account:
    """The account of one room, of one address, or of all together. ``rate`` and ``total`` have its bytes."""

    def __init__(self, rate: Bucket, total: Bucket, *, ends: int) -> None:
        self._rate = rate
        self._total = total
        self._most = ends
        self.ends = 0
        """Number of open pipe ends."""

    @property
    def full(self) -> bool:
        """Whether it has as many open ends as allowed."""
        return self.ends >= self._most

    def charge(self, size: int, *, now: float) -> float:
        """Count bytes, and return the seconds to delay them. Raises `Refused` if the day's total is used up."""
        if not self._total.take(size, now=now):
            raise Refused(Code.RELAY_LIMIT, "the relay's total for a day is used up")
        return self._rate.owe(size, now=now)


class Opened:
    """The accounts that an open end counts towards, until it is closed."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self.accounts = frozenset(accounts)
        self.counts = True
        for each in self.accounts:
            each.ends += 1

    def close(self) -> None:
        """Stop counting the end, which is closed or about to close. Idempotent."""
        if self.counts:
            self.counts = False
            for each in self.accounts:
                each.ends -= 1


class Accounts:
    """All accounts of a relay. ``make`` makes the buckets that all instances of the server draw from."""

    def __init__(self, limits: RelayLimits, *, now: float, make: MakeBucket = own_bucket) -> None:
        self._limits = limits
        self._make = make
        self._all = Account(
            Bucket(rate=limits.rate_all, burst=limits.rate_all, now=now),  # what one process can carry
            make("relay total", rate=limits.total_all / DAY, burst=limits.total_all, now=now),
            ends=2 * limits.pipes,
        )
        self._each: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._each)

    def open(self, room: str, address: str, *, now: float) -> Opened:
        """Open an end, and return its accounts. Raises `Refused` if one of them has too many open ends."""
        if self.full(room, address, now=now):
            raise Refused(Code.RELAY_LIMIT, "the relay has no more pipes")
        return Opened(self._of(room, address, now))

    def full(self, room: str, address: str, *, now: float) -> frozenset[Account]:
        """Return which of these accounts cannot have another open end."""
        return frozenset(each for each in self._of(room, address, now) if each.full)

    def _of(self, room: str, address: str, now: float) -> tuple[Account, ...]:
        return self._all, self._get(f"room {room}", now), self._get(f"address {network(address)}", now)

    def _get(self, key: str, now: float) -> Account:
        account = self._each.get(key)
        if account is None:
            limits = self._limits
            account = self._each[key] = Account(
                self._make(f"relay rate of {key}", rate=limits.rate, burst=limits.rate, now=now),
                self._make(f"relay total of {key}", rate=limits.total / DAY, burst=limits.total, now=now),
                ends=limits.pipes_each,
            )
            self._forget()
        self._each.move_to_end(key)
        return account

    def _forget(self) -> None:
        """Remove an account without open ends. Few have open ends, since `RelayLimits.pipes` limits them."""
        if len(self._each) > ACCOUNTS:
            del self._each[next(key for key, account in self._each.items() if not account.ends)]


class Budget:
    """Limits how much each key may do: a burst at once, then a rate. Beyond that it delays, and then refuses.

    A key is an address's `network`, or an alias of a room. ``make`` makes the bucket of ``name`` and a key.
    """

    def __init__(
        self, name: str, make: MakeBucket, *, rate: float, burst: float, held: float, refusal: tuple[Code, str]
    ) -> None:
        self._name, self._make = name, make
        self._rate, self._burst, self._held = rate, burst, held
        self._refusal = refusal
        self._each: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._each)

    def charge(self, key: str, count: float, *, now: float) -> float:
        """Count, and return the seconds to delay what is counted. Raises `Refused` if that would be too long.

        What is refused costs nothing. Otherwise nobody with the same key would ever be admitted again.
        """
        bucket = self._each.get(key)
        if bucket is None:
            bucket = self._each[key] = self._make(f"{self._name} {key}", rate=self._rate, burst=self._burst, now=now)
            if len(self._each) > ACCOUNTS:
                self._each.popitem(last=False)
        self._each.move_to_end(key)
        wait = bucket.owe(count, now=now)
        if wait > self._held:
            bucket.owe(-count, now=now)
            raise Refused(*self._refusal)
        return wait


class Joins(Budget):
    """Limits how often each address may join. It slows down guesses of room names."""

    def __init__(self, limits: Limits, make: MakeBucket = own_bucket) -> None:
        refusal = Code.ADDRESS_LIMIT, f"too many joins from your address (max {limits.joins:g} a minute)"
        super().__init__(
            "joins from", make, rate=limits.joins / 60, burst=limits.members_each, held=JOIN_HELD, refusal=refusal
        )


class PageBytes(Budget):
    """Limits how much of the page for browsers each address gets, since a short request has a long response."""

    def __init__(self, limits: Limits) -> None:
        refusal = Code.ADDRESS_LIMIT, "your address has received too much of the page; try again later"
        super().__init__(
            "page for", own_bucket, rate=limits.page_rate, burst=limits.page_burst, held=JOIN_HELD, refusal=refusal
        )


class Messages:
    """Limits the messages of each address, and of each room, with all their bytes. A long message counts as several."""

    def __init__(self, limits: Limits, make: MakeBucket = own_bucket) -> None:
        self.of_address = _messages("from", make, limits.messages_each, Code.ADDRESS_LIMIT, "from your address")
        self.of_room = _messages("in", make, limits.messages_room, Code.ROOM_LIMIT, "in your room")

    def charge(self, of: str, room: str | None, size: int, *, now: float) -> float:
        """Count a message of that size, in bytes, and return the seconds to delay it. Raises `Refused`."""
        cost = signalling_cost(0, size)
        wait = self.of_address.charge(of, cost, now=now)
        return wait if room is None else max(wait, self.of_room.charge(room, cost, now=now))


def _messages(of: str, make: MakeBucket, rate: float, code: Code, where: str) -> Budget:
    refusal = code, f"too many messages {where} (max {rate:g} a second)"
    return Budget(f"messages {of}", make, rate=rate, burst=rate * MINUTE, held=MESSAGE_HELD, refusal=refusal)


class Strangers(Generic[Who]):
    """Connections without a room or a pipe, oldest first, in total and by network."""

    def __init__(self) -> None:
        self._all: dict[Who, str | None] = {}
        self._of: dict[str, dict[Who, None]] = {}

    def __contains__(self, who: Who) -> bool:
        return who in self._all

    def __len__(self) -> int:
        return len(self._all)

    def add(self, who: Who, of: str | None) -> None:
        """Add a connection from that network; None if its network is not known yet."""
        self._all[who] = of
        if of is not None:
            self._of.setdefault(of, {})[who] = None

    def place(self, who: Who, of: str) -> None:
        """Set the network of a connection, which keeps its age. Does nothing unless the network was unknown."""
        if who in self._all and self._all[who] is None:
            self._all[who] = of
            self._of.setdefault(of, {})[who] = None

    def remove(self, who: Who) -> None:
        """Remove a connection. Idempotent."""
        of = self._all.pop(who, None)
        if of is not None:
            del self._of[of][who]
            if not self._of[of]:
                del self._of[of]

    def count(self, of: str | None) -> int:
        """Return the number of connections from that network."""
        return len(self._of.get(of, ())) if of is not None else 0

    def oldest(self, of: str | None = None, *, but: Who | None = None) -> Who | None:
        """Return the oldest connection, of a network or of all, except ``but``; None if there is none."""
        return next((who for who in (self._all if of is None else self._of.get(of, ())) if who != but), None)


def network(address: str) -> str:
    """Return the network of one customer: an IPv4 address, or a /64 of IPv6."""
    parsed = parse(address)
    if parsed is None:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False) if parsed.version == 6 else parsed)


def netloc(host: str, port: int) -> str:
    """Return host and port as in a URL: an IPv6 address has brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_in(address: str, networks: Networks) -> bool:
    """Whether an address is in one of these networks."""
    parsed = parse(address)
    return parsed is not None and any(parsed in each for each in networks)


def client_address(remote: str, forwarded: Iterable[str], trusted: Networks) -> str:
    """Return the client's address: the last hop that is not a trusted proxy.

    ``remote`` is the connected address, and ``forwarded`` all ``X-Forwarded-For`` fields in order (or those of the
    field that is used instead). Each proxy appends the address that connected to it. So they are read from the end, as
    long as the reporting proxy is trusted. An invalid entry counts as the proxy that reported it.
    """
    hops = [hop for field in forwarded for hop in field.split(",") if hop.strip()]
    client = remote
    while hops and is_in(client, trusted):
        hop = parse(_without_port(hops.pop().strip()))
        if hop is None:
            break
        client = str(hop)
    return client


def parse(address: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, and convert an IPv4-mapped IPv6 address to IPv4; None if it is invalid."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _without_port(hop: str) -> str:
    """Return the address in ``192.0.2.1:80``, ``[2001:db8::1]:80`` or ``[2001:db8::1]``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
