"""The links of one side of a room: being made, carrying, left behind or being closed, and their limits.

A link is removed from the others before it is closed, so that nothing waits for the close.
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
"""Members that may connect at once: all proxies of a room, when serve restarts."""
ARRIVAL_EVERY = 0.125
"""Seconds until one more may connect. A connection costs some 30 ms of computing, for a stranger too."""


class Links:
    """The links of one side of a room. Each is closed once, by `leave`, `close` or `aclose`."""

    def __init__(self, limits: Limits, negotiation: Negotiation) -> None:
        self.by_id: dict[str, Link] = {}
        """By the member's id: being made, or carrying a session."""
        self.left: set[Link] = set()
        """Links from before the member, or we, rejoined under another id. They carry for as long as they can."""
        self.closing: set[asyncio.Task[None]] = set()
        self._limits = limits
        self._negotiation = negotiation
        self._arrivals = Bucket(ARRIVALS, every=ARRIVAL_EVERY)
        self._stopping = asyncio.Event()

    @property
    def making(self) -> bool:
        """Whether a link is being made that is needed."""
        return any(link.session is None and not link.spare for link in tuple(self.by_id.values()))

    def reaches(self, failed: Link) -> bool:
        """Return whether another link reaches the same peer: the same instance, or the certificate that it has shown.

        A proxy that rejoins is a new instance to serve, and its session may stay on its earlier link.
        """
        same = failed.member.instance, failed.certificate
        return any(
            (same[0] and link.member.instance == same[0]) or (same[1] and link.certificate == same[1])
            for link in self.standing
        )

    @property
    def standing(self) -> list[Link]:
        """The links over which a peer is reached: by id, or left behind."""
        return [link for link in [*self.by_id.values(), *self.left] if link.session and not link.session.suspended]

    def holds(self, link: Link) -> bool:
        """Return whether the link is still in use, under the member's id or left behind.

        Otherwise it is being closed.
        """
        return link in self.left or self.by_id.get(link.member.peer_id) is link

    def make_place(self, standing: int) -> bool:
        """Return whether one more link may be made. If too many are being made, abandon one of them for it.

        The victim is the oldest link from the place where most links come from. Links whose origin is not known yet
        count as one place. So a flood from one place does not displace a stranger that waits at serve's door.
        """
        strangers = [link for link in self.by_id.values() if link.session is None]
        # A peer that we wait for has no place of its own: the newcomer may be that peer.
        full = standing >= self._limits.peers or len(self.closing) >= 2 * self._limits.strangers
        if full or not self._arrivals.take(asyncio.get_running_loop().time()):
            return False
        if len(strangers) >= self._limits.strangers:
            crowds = Counter(link.networks for link in strangers)
            self.leave(max(strangers, key=lambda link: crowds[link.networks]))
        return True

    def add(self, link: Link) -> Link:
        """Add a link that is being made."""
        self._negotiation.linked(link.member)
        self.by_id[link.member.peer_id] = link
        return link

    def rename(self, old: str, new: str) -> None:
        """Move a link to its member's new id."""
        link = self.by_id.pop(old)
        if stray := self.by_id.pop(new, None):
            self._set_aside(stray)
        link.member = replace(link.member, peer_id=new)
        self.by_id[new] = link
        if link.session is not None:
            link.session.reassure()

    def leave(self, link: Link) -> None:
        """Stop reaching the member through this link.

        It continues to carry its session, or is closed if it has none.
        """
        self._forget_id(link)
        self._set_aside(link)

    def forget(self, link: Link) -> bool:
        """Remove a link, and return whether we still had it: a link that is being closed may still call.

        An earlier link to the same member may take its place.
        """
        if not self.holds(link):
            return False
        if link in self.left:
            self.left.remove(link)
            return True
        self._forget_id(link)
        self._take_back(link.member.peer_id)
        return True

    def close(self, link: Link) -> None:
        """Close a link in the background."""
        task = asyncio.create_task(self._close(link), name=f"closing {link.name}")
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)
        task.add_done_callback(report)

    async def aclose(self) -> None:
        """Close all links."""
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
        """Reach a member that still has this id by its earlier link, if that still carries a session."""
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
