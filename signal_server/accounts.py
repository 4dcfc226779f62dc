"""What rooms and addresses have had of the relay: their rates, totals and open ends. Pure."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from .limits import DAY, Bucket, RelayLimits
from .messages import Code, Refused

ACCOUNTS: Final = 20_000
"""Accounts kept, of some 500 bytes: those without open ends that were used longest ago are forgotten for others."""


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
        for each in self.accounts:
            each.ends += 1

    def close(self) -> None:
        """The end is closed."""
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
        accounts = (self._all, self._get(f"room {room}", now), self._get(f"address {_network(address)}", now))
        if any(each.full for each in accounts):
            raise Refused(Code.RELAY_LIMIT, "the relay has no more pipes")
        return Opened(accounts)

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


def _network(address: str) -> str:
    """What one customer has: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.ipv4_mapped:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
