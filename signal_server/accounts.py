"""What rooms and addresses have had of the server: joins, and the relay's rates, totals and open ends. Pure."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Generic, TypeVar

from .limits import DAY, Bucket, Limits, RelayLimits
from .messages import Code, Refused

Who = TypeVar("Who", bound=Hashable)
Networks = Collection[IPv4Network | IPv6Network]

ACCOUNTS: Final = 20_000
"""Accounts kept, of some 500 bytes: those without open ends that were used longest ago are forgotten for others."""


JOIN_HELD: Final = 5.0
"""Seconds that a join is held at most, half of what clients wait for its answer. A longer wait is a refusal."""


class Account:
    """One room's, one address's, or all of theirs together."""

    def __init__(self, *, rate: float, total: float, ends: int, now: float) -> None:
        self._rate = Bucket(rate=rate, burst=rate, now=now)
        self._total = Bucket(rate=total / DAY, burst=total, now=now)
        self._most = ends
        self.ends = 0
        """Ends of pipes that are open."""

    @property
    def full(self) -> bool:
        """Whether it may have no more open."""
        return self.ends >= self._most

    def charge(self, size: int, *, now: float) -> float:
        """Count bytes; the seconds to wait with them. Raises `Refused` where the day's total is used up."""
        if not self._total.take(size, now=now):
            raise Refused(Code.RELAY_LIMIT, "the relay's total for a day is used up")
        return self._rate.owe(size, now=now)


class Opened:
    """The accounts that an open end counts for, until it is closed."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self.accounts = frozenset(accounts)
        self.counts = True
        for each in self.accounts:
            each.ends += 1

    def close(self) -> None:
        """The end is closed, or is about to be; idempotent."""
        if self.counts:
            self.counts = False
            for each in self.accounts:
                each.ends -= 1


class Accounts:
    """All accounts of a relay."""

    def __init__(self, limits: RelayLimits, *, now: float) -> None:
        self._limits = limits
        self._all = Account(rate=limits.rate_all, total=limits.total_all, ends=2 * limits.pipes, now=now)
        self._each: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._each)

    def open(self, room: str, address: str, *, now: float) -> Opened:
        """The accounts of an end that opens. Raises `Refused` where one of them has too many."""
        if self.full(room, address, now=now):
            raise Refused(Code.RELAY_LIMIT, "the relay has no more pipes")
        return Opened(self._of(room, address, now))

    def full(self, room: str, address: str, *, now: float) -> frozenset[Account]:
        """Which of these accounts can have no more ends open."""
        return frozenset(each for each in self._of(room, address, now) if each.full)

    def _of(self, room: str, address: str, now: float) -> tuple[Account, ...]:
        return self._all, self._get(f"room {room}", now), self._get(f"address {network(address)}", now)

    def _get(self, key: str, now: float) -> Account:
        account = self._each.get(key)
        if account is None:
            limits = self._limits
            account = Account(rate=limits.rate, total=limits.total, ends=limits.pipes_each, now=now)
            self._each[key] = account
            self._forget()
        self._each.move_to_end(key)
        return account

    def _forget(self) -> None:
        """Those with open ends are few: `RelayLimits.pipes` bounds them."""
        if len(self._each) > ACCOUNTS:
            del self._each[next(key for key, account in self._each.items() if not account.ends)]


class Joins:
    """How often each address may join: beyond a first number, at a rate. Who guesses rooms' names is slowed by it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._each: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._each)

    def wait(self, of: str, *, now: float) -> float:
        """Count a join of that network; the seconds to hold it for. Raises `Refused` where those are too many."""
        limits = self._limits
        bucket = self._each.get(of)
        if bucket is None:
            bucket = self._each[of] = Bucket(rate=limits.joins / 60, burst=limits.members_each, now=now)
            if len(self._each) > ACCOUNTS:
                self._each.popitem(last=False)
        self._each.move_to_end(of)
        wait = bucket.owe(1, now=now)
        if wait > JOIN_HELD:
            bucket.owe(-1, now=now)
            raise Refused(Code.ADDRESS_LIMIT, f"too many joins from your address (max {limits.joins:g} a minute)")
        return wait


class Strangers(Generic[Who]):
    """Connections that are in no room and no pipe, the oldest first, in all and by network."""

    def __init__(self) -> None:
        self._all: dict[Who, str | None] = {}
        self._of: dict[str, dict[Who, None]] = {}

    def __contains__(self, who: Who) -> bool:
        return who in self._all

    def __len__(self) -> int:
        return len(self._all)

    def add(self, who: Who, of: str | None) -> None:
        """Somebody comes, from that network; None: nobody knows yet from which."""
        self._all[who] = of
        if of is not None:
            self._of.setdefault(of, {})[who] = None

    def place(self, who: Who, of: str) -> None:
        """It has told from which network it comes, and keeps its turn; nothing happens where it is no stranger."""
        if who in self._all and self._all[who] is None:
            self._all[who] = of
            self._of.setdefault(of, {})[who] = None

    def remove(self, who: Who) -> None:
        """It is none any more; idempotent."""
        of = self._all.pop(who, None)
        if of is not None:
            del self._of[of][who]
            if not self._of[of]:
                del self._of[of]

    def count(self, of: str | None) -> int:
        """How many are from that network."""
        return len(self._of.get(of, ())) if of is not None else 0

    def oldest(self, of: str | None = None, *, but: Who | None = None) -> Who | None:
        """The oldest, of a network or of all; None where there is none ``but`` that one."""
        return next((who for who in (self._all if of is None else self._of.get(of, ())) if who != but), None)


def network(address: str) -> str:
    """What one customer has: an IPv4 address, or 64 bits of an IPv6 one."""
    parsed = parse(address)
    if parsed is None:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False) if parsed.version == 6 else parsed)


def is_in(address: str, networks: Networks) -> bool:
    """Whether an address is in one of these networks."""
    parsed = parse(address)
    return parsed is not None and any(parsed in each for each in networks)


def client_address(remote: str, forwarded: Iterable[str], trusted: Networks) -> str:
    """The client's address: the last hop that is no trusted proxy.

    ``remote`` has connected; ``forwarded`` are all ``X-Forwarded-For`` fields in their order. Each proxy appends who
    has connected to it. So they are read from the end, for as long as the proxy that says it is trusted. Something
    that is no address counts for the proxy that has said it.
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
    """Read an address, IPv4 ones that are written as IPv6 as what they are; None where it is none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _without_port(hop: str) -> str:
    """Of ``192.0.2.1:80``, ``[2001:db8::1]:80`` and ``[2001:db8::1]`` the address."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
