"""The links of one side of a room: being made, carrying, left behind, and being closed, with what bounds them.

A link leaves the others first and is closed then, so that nothing waits for that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial

from ..bucket import Bucket
from ..config import Limits
from ..signaling.negotiation import Negotiation
from ..transport.tasks import ended, finish, report
from .link import Link

ARRIVALS = 16
"""Members that may connect at once: all of a room, when serve is started again."""
ARRIVAL_EVERY = 0.125
"""Seconds until one more may: a connection costs some 30 ms of computing, for a stranger too."""


class Links:
    """Whatever is added here is closed once, by `leave`, `close` or `aclose`."""

    def __init__(self, limits: Limits, negotiation: Negotiation) -> None:
        self.by_id: dict[str, Link] = {}
        """By the member's id: being made, or carrying a session."""
        self.left: set[Link] = set()
        """Of members that have come, or that we go to, under another id: they carry as long as they can."""
        self.closing: set[asyncio.Task[None]] = set()
        self._limits = limits
        self._negotiation = negotiation
        self._arrivals = Bucket(ARRIVALS, every=ARRIVAL_EVERY)
        self._stopping = asyncio.Event()

    @property
    def making(self) -> bool:
        """Whether one is being made that is needed."""
        return any(link.session is None and not link.spare for link in tuple(self.by_id.values()))

    def reaches(self, failed: Link) -> bool:
        """Whether another link reaches the same peer: the same instance, or the certificate that it has shown.

        A proxy that rejoins is a new instance to serve, and its session may stay on the link from before.
        """
        same = failed.member.instance, failed.certificate
        return any(
            (same[0] and link.member.instance == same[0]) or (same[1] and link.certificate == same[1])
            for link in self.standing
        )

    @property
    def standing(self) -> list[Link]:
        """Those over which a peer is reached, by their ids or left."""
        return [link for link in [*self.by_id.values(), *self.left] if link.session and not link.session.suspended]

    def holds(self, link: Link) -> bool:
        """Whether the link is still in use, under the member's id or left behind; otherwise it is being closed."""
        return link in self.left or self.by_id.get(link.member.peer_id) is link

    def make_place(self, standing: int) -> bool:
        """Whether one more may be made; of too many that are being made, one is given up for it.

        It is the oldest of those that come from where the most come from, or of those of which that is not known yet:
        who waits at serve's door is not pushed out by another's flood.
        """
        strangers = [link for link in self.by_id.values() if link.session is None]
        # A peer that is waited for has no place of its own: it may be the one that comes.
        full = standing >= self._limits.peers or len(self.closing) >= 2 * self._limits.strangers
        if full or not self._arrivals.take(asyncio.get_running_loop().time()):
            return False
        if len(strangers) >= self._limits.strangers:
            crowds = Counter(link.networks for link in strangers)
            self.leave(max(strangers, key=lambda link: crowds[link.networks]))
        return True

    def add(self, link: Link) -> Link:
        """One is being made."""
        self._negotiation.linked(link.member)
        self.by_id[link.member.peer_id] = link
        return link

    def rename(self, old: str, new: str) -> None:
        """A member is called otherwise."""
        link = self.by_id.pop(old)
        if stray := self.by_id.pop(new, None):
            self._set_aside(stray)
        link.member = replace(link.member, peer_id=new)
        self.by_id[new] = link
        if link.session is not None:
            link.session.reassure()

    def leave(self, link: Link) -> None:
        """Its member is not reached through it any more: it goes on carrying a session, if it has one, or is closed."""
        self._forget_id(link)
        self._set_aside(link)

    def forget(self, link: Link) -> bool:
        """Whether it was ours until now: one that is being closed may still call. The last one may take its place."""
        if not self.holds(link):
            return False
        if link in self.left:
            self.left.remove(link)
            return True
        self._forget_id(link)
        self._take_back(link.member.peer_id)
        return True

    def close(self, link: Link) -> None:
        """Close it in the background."""
        task = asyncio.create_task(self._close(link), name=f"closing {link.name}")
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)
        task.add_done_callback(report)

    async def aclose(self) -> None:
        """Close all."""
        self._stopping.set()
        for link in [*self.by_id.values(), *self.left]:
            self.close(link)
        self.by_id.clear()
        self.left.clear()
        await finish(partial(ended, *self.closing))

    def _forget_id(self, link: Link) -> None:
        del self.by_id[link.member.peer_id]
        self._negotiation.unlinked(link.member.peer_id)

    def _take_back(self, peer_id: str) -> None:
        """A member that is still called so is reached by its link from before, where that carries on."""
        for link in self.left:
            if link.member.peer_id == peer_id and link.carries:
                self.left.remove(link)
                self.add(link)
                self._negotiation.established(peer_id)
                return

    def _set_aside(self, link: Link) -> None:
        link.settle()
        if link.carries:
            self.left.add(link)
        else:
            self.close(link)

    async def _close(self, link: Link) -> None:
        try:
            await link.overlap(self._stopping)
        finally:
            await finish(partial(link.aclose, stopping=self._stopping.is_set()))
