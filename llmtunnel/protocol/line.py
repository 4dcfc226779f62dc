"""Frames in order, over one channel after the other: messages, numbers, acknowledgements and pings.

connection.py decides what the frames mean for streams. On each further channel, in both directions:

    1. greeting.py      HELLO with the session and how many frames have arrived, AGREE with the other side's number
    2. RESUME           for each lane, the number of the frame that comes next
    3. frames           those that the last channel may have lost, then new ones; the receiver skips what it has
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ..config import Limits, Timeouts
from ..errors import ProtocolError
from . import frames
from .frames import Frame, FrameType
from .handshake import Agreement
from .hello import Feature, ResumeOffer
from .journal import ACK_EVERY, Receipts, journals_of
from .liveness import Liveness, Verdict
from .outbox import Outbox
from .resume import Claim

TAKEN: Final = {FrameType.BUNDLE, FrameType.PING, FrameType.PONG, FrameType.ACK, FrameType.RESUME}
"""Known types that never reach the connection."""


class Line:
    """A session's frames to and from its peer. None is lost or repeated if `Feature.RESUME` is agreed on."""

    def __init__(self, agreement: Agreement, *, limits: Limits, timeouts: Timeouts, now: float) -> None:
        self._agreement = agreement
        self._timeouts = timeouts
        self._liveness = Liveness(timeouts, now)
        self.lanes = agreement.lanes
        """The number of lanes. A stream uses the lane whose number is its own modulo this."""
        self.journals = journals_of(limits.journal, self.lanes) if Feature.RESUME in agreement.features else []
        self._receipts = [Receipts() for _ in range(self.lanes)]
        self._bundles = Feature.BUNDLE in agreement.features
        self.outbox = Outbox(bundles=self._bundles, journals=self.journals)
        self._owes_ack = False
        """Whether an acknowledgement goes with the next message."""
        self._asked = False
        """Whether a ping is under way, only to get the acknowledgement that comes with its answer."""
        takes: dict[int, Callable[[Frame, float], None]] = {
            FrameType.PING: lambda frame, now: self._tx_probe(FrameType.PONG),
            FrameType.PONG: lambda frame, now: self._rx_pong(now),
            FrameType.ACK: lambda frame, now: self._rx_ack(frame),
            FrameType.RESUME: lambda frame, now: self._rx_resume(frame),
        }
        self._handlers = {type: takes[type] for type in takes if frames.KINDS[type].is_known(agreement.features)}
        """The handler of each type of the line's own frames."""

    @property
    def rtt(self) -> float | None:
        """The round trip of the last ping, in seconds."""
        return self._liveness.rtt

    @property
    def last_heard(self) -> float:
        """When the last message arrived, as ``now``."""
        return self._liveness.last_heard

    # -- on one channel

    def frames_of(self, message: bytes, now: float) -> Iterator[Frame]:
        """Yield the frames in a message that are for the connection. Raises `ProtocolError`."""
        self._liveness.heard(now)
        frame = frames.decode(message)
        if frame is not None and frame.type == FrameType.BUNDLE and self._bundles:
            for inner in frames.unbundle(frame.payload):
                if not self._takes(inner, now):
                    yield inner
        elif frame is not None and not self._takes(frame, now):
            yield frame

    def message_to_send(self, pipe: int = 0, *, size: int = frames.MAX_MESSAGE) -> bytes | None:
        """Return the next message for a pipe of the channel, cut now, or None if nothing waits or may be sent.

        A message that has ``size`` bytes gets no further frame. Ask for the first pipe last: it carries what this side
        says of the others.
        """
        if pipe:
            return self.outbox.next_message(pipe, size=size)
        if self._owes_ack or sum([receipts.size for receipts in self._receipts]) >= ACK_EVERY:
            self._tx_ack()
        message = self.outbox.next_message(size=size)
        if message is None and not self._asked and self.outbox.held:
            self._ask()
            message = self.outbox.next_message()
        return message

    def control(self, type: FrameType, payload: bytes = b"") -> None:
        """Queue a frame of the session itself."""
        self.outbox.add_control(frames.encode(type, 0, payload))

    def hold(self, held: bool) -> None:
        """Hold back or release the frames of streams. A channel may only introduce the peers."""
        self.outbox.paused = held

    def measure(self, now: float) -> None:
        """Measure the round trip now. The next ping may be seconds away."""
        self._liveness.measure(now)
        self.control(FrameType.PING)

    def suspect(self) -> None:
        """Find out soon whether the peer has left, as reported. `next_timer` changes."""
        self._liveness.suspect()

    def next_timer(self, *, busy: bool) -> float | None:
        """Return when to call `is_dead` next, or None if there is nothing to find out."""
        return self._liveness.deadline(busy=busy)

    def is_dead(self, now: float, *, busy: bool) -> bool:
        """Return whether the channel has just been found dead. Send a ping if one is due."""
        verdict = self._liveness.check(now, busy=busy)
        if verdict is Verdict.PING:
            self._tx_probe(FrameType.PING)
        return verdict is Verdict.DEAD

    # -- from one channel to the next

    @property
    def resumable(self) -> bool:
        """Whether another channel may follow."""
        return bool(self.journals)

    @property
    def sent(self) -> tuple[int, ...]:
        """How many frames of each lane have been sent."""
        return tuple(journal.sent for journal in self.journals)

    def confirms(self, sent: tuple[int, ...]) -> bool:
        """Return whether the peer has acknowledged this many frames of each lane. If not, send it a PING."""
        if all(journal.acknowledged >= count for journal, count in zip(self.journals, sent, strict=True)):
            return True
        self._ask()
        return False

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self.control(FrameType.PING)

    def suspend(self) -> None:
        """Let nothing be due until `resume` or the next message: the channel has closed."""
        self._liveness.give_up()

    def offer(self, certificate: bytes) -> ResumeOffer | None:
        """Proxy: return its part of HELLO for a channel on which serve has shown this certificate, or None."""
        if not self.journals or not certificate or certificate != self._agreement.certificate:
            return None
        return ResumeOffer(session=self._agreement.session, received=self._received)

    def answer(self, claim: Claim) -> tuple[int, ...] | None:
        """Serve: return how many frames have arrived, or None if the claim is not by the proxy of this session."""
        agreement = self._agreement
        if not self.journals or not claim.certificate or len(claim.received) != self.lanes:
            return None
        if any(count > journal.sent for count, journal in zip(claim.received, self.journals, strict=True)):
            return None
        ticket = agreement.ticket.id if agreement.ticket else None
        claimed = (claim.session, claim.certificate, claim.ticket, claim.features)
        ours = (agreement.session, agreement.certificate, ticket, agreement.features)
        return self._received if claimed == ours else None

    @property
    def _received(self) -> tuple[int, ...]:
        return tuple(receipts.count for receipts in self._receipts)

    def resume(self, agreement: Agreement, now: float, *, pipes: int = 1) -> None:
        """Continue over another channel, as agreed. From now on, pass nothing from the last channel.

        ``pipes``: how many the channel has. Raises `ProtocolError` if what the peer has agreed to is impossible.
        """
        assert self.journals and agreement.received is not None
        if agreement.features != self._agreement.features:
            raise ProtocolError("A session goes on with other features.")
        if agreement.lanes != self.lanes or len(agreement.received) != self.lanes:
            raise ProtocolError("A session goes on with another number of lanes.")
        for journal, count in zip(self.journals, agreement.received, strict=True):
            journal.acknowledge(count)
        for receipts in self._receipts:
            receipts.expect_resume()
        self._liveness.renew(now)
        self._asked = self._owes_ack = False
        firsts = [
            frames.encode(FrameType.RESUME, lane, frames.encode_count(journal.acknowledged + 1))
            for lane, journal in enumerate(self.journals)
        ]
        self.outbox.begin_again(firsts, pipes)

    # -- the line's own frames

    def _takes(self, frame: Frame, now: float) -> bool:
        """Return whether a frame is not for the connection: the line's own, or one that has arrived before."""
        if frame.of_stream:
            return bool(self.journals) and not self._receipts[frame.stream % self.lanes].take(len(frame.payload))
        handler = self._handlers.get(frame.type)
        if handler is not None:
            handler(frame, now)
        return handler is not None

    def _rx_pong(self, now: float) -> None:
        self._liveness.pong(now)
        self._asked = False  # the ping may have overtaken frames in other pipes, so another one may be needed

    def _rx_ack(self, frame: Frame) -> None:
        assert self.journals, "the feature is agreed on"
        self.journals[self._lane_of(frame)].acknowledge(frames.decode_count(frame.payload))
        self._asked = False

    def _rx_resume(self, frame: Frame) -> None:
        self._receipts[self._lane_of(frame)].resume(frames.decode_count(frame.payload))

    def _lane_of(self, frame: Frame) -> int:
        """Return the lane of a RESUME or ACK. Raises `ProtocolError`."""
        if self.lanes == 1:
            return 0  # the receiver ignores the stream
        if frame.stream >= self.lanes:
            raise ProtocolError("A RESUME or ACK is of a lane that there is none of.")
        return frame.stream

    def _tx_probe(self, type: FrameType) -> None:
        """Send PING or PONG, and acknowledge with it what has arrived."""
        self.control(type)
        self._owes_ack = bool(self.journals) and any(receipts.pending for receipts in self._receipts)

    def _tx_ack(self) -> None:
        self._owes_ack = False
        for lane, receipts in enumerate(self._receipts):
            if receipts.pending:
                self.outbox.add_control(frames.encode(FrameType.ACK, lane, frames.encode_count(receipts.tell())))
