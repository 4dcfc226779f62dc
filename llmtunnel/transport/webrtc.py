"""A peer over WebRTC: one data channel labelled ``tunnel``, over aiortc's ICE and DTLS.

    offerer                                     answerer
    offer()   ── SDP, host candidates ────────→ answer(sdp)
    accept()  ←─ SDP, host candidates ─────────
              ←─ further candidates, both ways, at any time, before the SDP too ─→
              ←─ ICE checks, DTLS, SCTP ─→
              ── DATA_CHANNEL_OPEN ───────────→
    channel()                                   channel()

This uses aiortc's transports rather than its RTCPeerConnection, which asks its servers before it returns an offer and
connects in tasks that nobody owns. SCTP is our own (`sctp`, `datachannel`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Final

import aioice
from aiortc import RTCDtlsFingerprint, RTCDtlsParameters, RTCIceGatherer, RTCIceParameters, RTCIceTransport

from ..config import KIB, Limits, Timeouts
from ..errors import ChannelClosed, ConnectFailed
from ..paths import Path
from ..signaling.messages import IceCandidate
from .base import MAX_MESSAGE, Binding, Channel, Receiver
from .datachannel import DataChannel
from .dtls import Dtls
from .ice import IceAgent
from .identity import Identity
from .sdp import Description, Fingerprint, Setup, parse
from .servers import IceServer
from .tasks import finish, report, stop

_log = logging.getLogger(__name__)

LABEL: Final = "tunnel"

_EARLY: Final = 128 * KIB
"""Bytes kept for a receiver that is not attached yet."""
_DRAIN: Final = 1.0
"""Seconds that an orderly close waits for queued bytes and for the peer's answer."""


class WebRtcPeer:
    """One connection to one peer: `offer` and `accept`, or `answer`, then `channel`, then `aclose`.

    ``on_candidate`` is called with each candidate that is found after the SDP was made, and at the end with an empty
    one. ``identity``: the owner of our certificate. ``loopback``: offer 127.0.0.1 in addition to the machine's other
    addresses. ``paths``: see `Settings.tried`.
    """

    def __init__(
        self,
        *,
        servers: Sequence[IceServer],
        timeouts: Timeouts,
        limits: Limits,
        identity: Identity,
        on_candidate: Callable[[IceCandidate], None],
        loopback: bool = False,
        paths: frozenset[Path] = frozenset(Path),
    ) -> None:
        self._servers = servers
        self._timeouts = timeouts
        self._on_candidate = on_candidate
        self.agent = IceAgent(servers=servers, candidates=limits.candidates, loopback=loopback, paths=paths)
        """How packets find the peer."""
        gatherer = RTCIceGatherer(iceServers=[])
        gatherer._connection = self.agent
        self._ice = RTCIceTransport(gatherer)
        self._identity = identity
        self._dtls = Dtls(
            self._ice, self.agent, identity.certificate, packets=self._receive, ended=self._lose_connection
        )
        self._binding: Binding | None = None
        self._mid = "0"
        self._offering = False
        self._server = False
        """Whether we are the DTLS server."""
        self._channel: WebRtcChannel | None = None
        self._opened: asyncio.Future[WebRtcChannel] = asyncio.get_running_loop().create_future()
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._tasks: set[asyncio.Task[None]] = set()
        self._trickling: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._dtls.on("statechange", self._dtls_changed)

    async def offer(self) -> str:
        """Return the SDP to send to a peer. Candidates begin to arrive after that."""
        self._offering = self.agent.ice_controlling = True
        return await self._describe("actpass")

    async def answer(self, sdp: str) -> str:
        """Return the SDP that answers a peer's offer. Raises `ConnectFailed` if the offer is unusable."""
        remote = parse(sdp)
        self._mid = remote.mid
        setup: Setup = "passive" if remote.setup == "active" else "active"
        described = await self._describe(setup)
        self._start(remote, server=setup == "passive")
        return described

    async def accept(self, sdp: str) -> None:
        """Accept the answer to our offer. Raises `ConnectFailed` if it is unusable."""
        remote = parse(sdp)
        if remote.setup == "actpass" or not self._offering:
            raise ConnectFailed("The peer sent an answer without an offer.")
        self._start(remote, server=remote.setup == "active")

    def add_candidate(self, candidate: IceCandidate) -> None:
        """Accept a candidate of the peer, at any time. An unusable one is ignored."""
        if self._closing is None and candidate.candidate:
            self._add_remote((candidate.candidate,))

    async def channel(self) -> Channel:
        """Return the open data channel. Raises `ConnectFailed` if it does not open within `Timeouts.connect`."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                return await asyncio.shield(self._opened)
        except TimeoutError as exc:
            raise ConnectFailed(
                f"No network path to the peer came up within {self._timeouts.connect:g} s.",
                hint="`llmtunnel doctor` checks the TURN server."
                if any(each.is_turn for each in self._servers)
                else "If UDP cannot pass between the two networks, use a TURN server (--turn URL), or a signal server"
                " that has a relay or hands out a TURN server.",
            ) from exc

    @property
    def binding(self) -> Binding:
        """The certificates at both ends as DTLS saw them, whatever the SDP said. The channel must be open."""
        if self._binding is None:
            self._binding = Binding(local=self._identity.fingerprint, remote=self._dtls.peer_digest("sha256"))
        return self._binding

    def trust(self, *, page: bool = False) -> None:
        """See `Channel.trust`."""
        if self._channel is not None:
            self._channel.data.trust(page=page)

    async def aclose(self) -> None:
        """Close at once, within `Timeouts.close`. Idempotent. `Channel.aclose` first sends what is queued."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="webrtc-close")
        await asyncio.shield(self._closing)

    async def _describe(self, setup: Setup) -> str:
        await self._ice.iceGatherer.gather()
        local = Description(
            ufrag=self.agent.local_username,
            password=self.agent.local_password,
            fingerprints=tuple(
                Fingerprint(algorithm=each.algorithm, value=each.value)
                for each in self._dtls.getLocalParameters().fingerprints
            ),
            setup=setup,
            mid=self._mid,
            candidates=tuple(each.to_sdp() for each in self.agent.local_candidates),
            complete=self.agent.complete,
        )
        if not self.agent.complete:
            self._trickling = self._spawn(self._trickle(), "webrtc-trickle")
        return str(local)

    async def _trickle(self) -> None:
        await self.agent.gather_rest(lambda found: self._tell(f"candidate:{found.to_sdp()}"))
        self._tell("")

    def _tell(self, candidate: str) -> None:
        self._on_candidate(
            IceCandidate(
                candidate=candidate,
                sdp_mid=self._mid,
                sdp_m_line_index=0,
                username_fragment=self.agent.local_username,
            )
        )

    def _add_remote(self, candidates: tuple[str, ...]) -> None:
        for candidate in self.agent.take(candidates):
            self._spawn(self._add_one(candidate), "webrtc-candidate")

    async def _add_one(self, candidate: aioice.Candidate) -> None:
        try:
            await self.agent.add_remote_candidate(candidate)
        except OSError as exc:  # a browser's .local name, on a machine without multicast
            _log.info("Candidate ignored: %r", exc)

    def _start(self, remote: Description, *, server: bool) -> None:
        self._server = server
        self._dtls._set_role("server" if server else "client")
        self._add_remote(remote.candidates)
        self._spawn(self._connect(remote), "webrtc-connect")

    async def _connect(self, remote: Description) -> None:
        """Start ICE, DTLS and SCTP, each on the one before. `channel` has the time limit."""
        fingerprints = [RTCDtlsFingerprint(algorithm=each.algorithm, value=each.value) for each in remote.fingerprints]
        try:
            await self._ice.start(RTCIceParameters(usernameFragment=remote.ufrag, password=remote.password))
            await self._dtls.start(RTCDtlsParameters(fingerprints=fingerprints))
            if self._dtls.state != "connected":
                return  # `_dtls_changed` has reported it
        except Exception as exc:
            self._lose(f"connecting failed ({exc!r})")
            return
        self._channel = WebRtcChannel(self, port=remote.sctp_port)
        self._dtls.take_over()
        # Streams of the DTLS server have odd numbers (RFC 8832 section 6).
        self._channel.data.start(opens=int(self._server) if self._offering else None)

    def send_packets(self, packets: list[bytes]) -> None:
        """Send packets of SCTP over DTLS."""
        self._dtls.send(packets)

    def cut_packets(self, allowed: bool) -> bool:
        """See `datachannel.Below`."""
        return self.agent.cut_datagrams(allowed)

    def _receive(self, packets: list[bytes]) -> None:
        if self._channel is not None:
            self._channel.data.receive(packets)

    def channel_opened(self) -> None:
        """Called by the channel when it is open."""
        if self._trickling is not None:
            self._trickling.cancel()
        if not self._opened.done():
            assert self._channel is not None
            self._opened.set_result(self._channel)

    def channel_lost(self, reason: str) -> None:
        """Called by the channel when it has ended."""
        if not self._opened.done():
            self._opened.set_exception(ConnectFailed(f"Cannot reach the peer: {reason}."))

    def _dtls_changed(self) -> None:
        if self._dtls.state == "failed":
            self._lose("the DTLS handshake failed, or the certificate is not the announced one")
        elif self._dtls.state == "closed":
            self._lose_connection()

    def _lose_connection(self) -> None:
        self._lose("the connection to the peer was lost")

    def _lose(self, reason: str) -> None:
        if self._channel is not None:
            self._channel.lose(reason)
        else:
            self.channel_lost(reason)

    def _spawn(self, main: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(main, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(report)
        return task

    async def _close(self) -> None:
        self._lose("closed by us")
        await finish(partial(stop, *self._tasks), self._end_in_order, self._ice.stop)  # the last closes the sockets

    async def _end_in_order(self) -> None:
        try:
            async with asyncio.timeout(self._timeouts.close):
                await self._say_goodbye()
        except Exception as exc:
            _log.info("The connection did not close in order: %r", exc)

    async def _say_goodbye(self) -> None:
        if self._channel is not None:
            self._channel.data.abort()
        pump = self._dtls._task
        await self._dtls.stop()
        if pump is not None:
            await asyncio.gather(pump, return_exceptions=True)


class WebRtcChannel(Channel):
    """The data channel of a `WebRtcPeer`, which closes with it."""

    def __init__(self, peer: WebRtcPeer, *, port: int) -> None:
        self._peer = peer
        self.data = DataChannel(LABEL, self, peer, port=port)
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._early_size = 0
        self._reason: str | None = None
        self._gone = asyncio.Event()

    def attach(self, receiver: Receiver) -> None:
        """As `Channel.attach`. What has already arrived follows in the loop's next turn."""
        asyncio.get_running_loop().call_soon(self._begin, receiver)

    @property
    def has_room(self) -> bool:
        """As `Channel.has_room`."""
        return self.takes(0)

    def takes(self, pipe: int) -> bool:
        """As `Channel.takes`."""
        return self._reason is None and self.data.takes(pipe)

    def split(self, lanes: int, *, opens: bool) -> int:
        """As `Channel.split`: a data channel for each lane."""
        self.data.split(lanes, opens=opens)
        return lanes

    @property
    def message_size(self) -> int:
        """As `Channel.message_size`."""
        return self.data.message_size

    def send(self, message: bytes, pipe: int = 0) -> None:
        """As `Channel.send`."""
        if not self._is_open:
            raise ChannelClosed(self._reason or "closed by us")
        assert 0 < len(message) <= MAX_MESSAGE
        self.data.send(message, pipe)

    async def aclose(self) -> None:
        """As `Channel.aclose`. Closes the peer too."""
        await finish(self._drain, self._peer.aclose)

    async def _drain(self) -> None:
        if not self._is_open:
            return
        self.data.close()
        try:
            async with asyncio.timeout(_DRAIN):
                await self._gone.wait()
        except TimeoutError:
            _log.info("The peer did not close its side of the channel.")

    @property
    def path(self) -> Path:
        """As `Channel.path`."""
        return self._peer.agent.path

    @property
    def binding(self) -> Binding:
        """As `Channel.binding`."""
        return self._peer.binding

    @property
    def address(self) -> str:
        """As `Channel.address`."""
        return self._peer.agent.address

    @property
    def passed(self) -> tuple[int, int]:
        """As `Channel.passed`."""
        return self.data.passed

    def trust(self, *, page: bool = False) -> None:
        """As `Channel.trust`."""
        self._peer.trust(page=page)

    @property
    def _is_open(self) -> bool:
        return self._reason is None and self.data.is_open

    def _begin(self, receiver: Receiver) -> None:
        self._receiver = receiver
        early, self._early = self._early, []
        for message in early:
            receiver.message_received(message)
        self._tell_closed()

    def _tell_closed(self) -> None:
        if self._receiver is not None and self._reason is not None:
            receiver, self._receiver = self._receiver, None
            receiver.channel_closed(self._reason)

    # -- called by the data channel

    def channel_opened(self) -> None:
        """See `datachannel.User`."""
        self._peer.channel_opened()

    def message_received(self, message: bytes) -> None:
        """See `datachannel.User`."""
        if self._reason is not None:
            return
        if self._receiver is not None and len(message) <= MAX_MESSAGE:
            self._receiver.message_received(message)
            return
        self._early_size += len(message)
        if len(message) > MAX_MESSAGE or self._early_size > _EARLY:
            self.lose("the peer sent more data than is allowed")
        else:
            self._early.append(message)

    def room_available(self) -> None:
        """See `datachannel.User`."""
        if self._receiver is not None and self._is_open:
            self._receiver.room_available()

    def lose(self, reason: str) -> None:
        """End the channel. The first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._gone.set()
            asyncio.get_running_loop().call_soon(self._tell_closed)
            self._peer.channel_lost(reason)
