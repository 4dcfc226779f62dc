"""Two WebRTC peers in one process, and a signal server between them that is a few function calls."""

from __future__ import annotations

from collections.abc import Callable

from llmtunnel.config import IceServers, Limits, Timeouts
from llmtunnel.signaling.messages import IceCandidate
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.servers import each_of
from llmtunnel.transport.webrtc import WebRtcPeer

from .pipes import Ear

NO_SERVERS = IceServers(stun=())


class End(Ear):
    """One peer, what it told, and what its channel said."""

    patience = 50.0

    def __init__(
        self, *, ice: IceServers = NO_SERVERS, timeouts: Timeouts | None = None, loopback: bool = False
    ) -> None:
        super().__init__()
        self.candidates: list[IceCandidate] = []
        self.tell: Callable[[IceCandidate], None] = lambda candidate: None
        self.peer = WebRtcPeer(
            servers=each_of(ice),
            timeouts=timeouts or Timeouts(connect=20.0),
            limits=Limits(),
            identity=Identity(),
            on_candidate=self.candidate_found,
            loopback=loopback,
        )
        self.channel: Channel

    def candidate_found(self, candidate: IceCandidate) -> None:
        self.candidates.append(candidate)
        self.news.set()
        self.tell(candidate)

    async def open(self, *, attach: bool = True, trust: bool = True) -> Channel:
        self.channel = await self.peer.channel()
        if trust:
            self.channel.trust()
        if attach:
            self.channel.attach(self)
        return self.channel

    async def send(self, message: bytes) -> None:  # type: ignore[override]
        """Send on its own channel, when there is room."""
        await super().send(self.channel, message)


async def introduce(offerer: End, answerer: End) -> None:
    """Exchange the SDPs, and candidates as they come."""
    offerer.tell, answerer.tell = answerer.peer.add_candidate, offerer.peer.add_candidate
    await offerer.peer.accept(await answerer.peer.answer(await offerer.peer.offer()))


async def connected(*, trust: bool = True) -> tuple[End, End]:
    """Two ends with open, attached channels, the offerer's and the answerer's, which let each other in."""
    left, right = End(), End()
    await introduce(left, right)
    await left.open(trust=trust)
    await right.open(trust=trust)
    return left, right


def without_candidates(sdp: str) -> str:
    return "".join(
        line for line in sdp.splitlines(keepends=True) if not line.startswith(("a=candidate:", "a=end-of-candidates"))
    )


def candidates_of(sdp: str) -> list[IceCandidate]:
    return [
        IceCandidate(candidate=line.removeprefix("a="), sdp_mid="0", sdp_m_line_index=0)
        for line in sdp.splitlines()
        if line.startswith("a=candidate:")
    ]
