"""The greeting on every channel: messages and ``now`` in, messages out, and an `Agreement` at the end. Pure.

    1. channel opens
    2. proxy -> serve   HELLO   version range, features, window
    3. serve -> proxy   AGREE   version, common features, window, streams
       both             AUTH    if there is a secret (auth.py)                  -> an agreement on both sides

A session begins with the agreement (connection.py). A peer's mistake or silence ends the greeting with the error that
README.md specifies.
"""

from __future__ import annotations

from collections import deque

from ..config import Limits, Timeouts
from ..errors import ErrorCode, ProtocolError
from ..status import Role
from . import frames
from .events import ConnectionEnded
from .frames import Frame, FrameType
from .handshake import Agreement, Credentials, Offer, handshake
from .hello import ALL_FEATURES, Feature, Features, ResumeOffer
from .resume import Resumable


class Greeting:
    """One side of the greeting on one channel. `handshake.Offer` describes the arguments after ``credentials``."""

    def __init__(
        self,
        role: Role,
        *,
        now: float,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        features: Features = ALL_FEATURES,
        agent: str = "",
        credentials: Credentials | None = None,
        certificate: bytes = b"",
        needs_key: bool = False,
        resume: ResumeOffer | None = None,
        resumable: Resumable = lambda claim: None,
        tcp_only: bool = False,
    ) -> None:
        self.role = role
        self.ended: ConnectionEnded | None = None
        """Why there will be no agreement."""
        self._limits = limits or Limits()
        self._deadline = now + (timeouts or Timeouts()).handshake
        self._resumes = resume is not None
        offer = Offer(
            limits=self._limits,
            features=features,
            agent=agent,
            certificate=certificate,
            needs_key=needs_key,
            resume=resume,
            resumable=resumable,
            tcp_only=tcp_only,
        )
        self._handshake = handshake(role, offer, credentials)
        self._outgoing: deque[bytes] = deque()
        self._say(self._handshake.begin())

    @property
    def agreement(self) -> Agreement | None:
        """What both sides have agreed on, once the greeting is complete."""
        return self._handshake.agreement

    @property
    def was_guessed(self) -> bool:
        """Whether the peer could test a guess of the secret, and has not proven itself."""
        return self._handshake.proved and self.agreement is None

    def receive_message(self, message: bytes, now: float) -> None:
        """Process one message from the channel. Ignore it after the agreement or the end."""
        if self.agreement is not None or self.ended is not None:
            return
        try:
            frame = frames.decode(message)
            if frame is not None:
                self._rx_frame(frame, now)
            if len(self._outgoing) > self._limits.control:
                raise ProtocolError("The peer asks for more answers than it takes.")
        except ProtocolError as exc:
            self.close(exc.code, exc.message)

    def next_timer(self) -> float | None:
        """Return when to call `handle_timer`. This may change with each message and each call."""
        if self.agreement is not None or self.ended is not None:
            return None
        wake_at = self._handshake.wake_at
        return self._deadline if wake_at is None else min(wake_at, self._deadline)

    def handle_timer(self, now: float) -> None:
        """Act at the time of `next_timer`. Do nothing before it."""
        timer = self.next_timer()
        if timer is None or now < timer:
            return
        if now >= self._deadline:
            self.break_off(ErrorCode.PROTOCOL, "The peer did not say hello in time.")
            return
        try:
            self._say(self._handshake.wake(now))
        except ProtocolError as exc:
            self.close(exc.code, exc.message)

    def message_to_send(self) -> bytes | None:
        """Return the next message for the channel, or None if nothing waits."""
        return self._outgoing.popleft() if self._outgoing else None

    def close(self, code: ErrorCode, message: str) -> None:
        """End the greeting. One last message remains to be sent."""
        if Feature.RESET in self._handshake.features:
            last = frames.encode(FrameType.RESET, 0, frames.encode_reset(code, message))
        else:
            last = frames.encode(FrameType.ERROR, 0, frames.encode_error(message))
        self._outgoing.append(last)
        self.ended = ConnectionEnded(code, message, remote=False)

    def break_off(self, code: ErrorCode, message: str) -> None:
        """End the greeting although the peer has made no mistake.

        A proxy that has asked to resume a session sends nothing. Serve may have moved the session to this channel, and
        a last message would end it. The end of the channel only suspends it.
        """
        if self._resumes:
            self.ended = ConnectionEnded(code, message, remote=False)
        else:
            self.close(code, message)

    def _rx_frame(self, frame: Frame, now: float) -> None:
        if frame.type == FrameType.PING:
            self._outgoing.append(frames.encode(FrameType.PONG, 0))
        elif self._is_refusal(frame):
            self.ended = ConnectionEnded(*frames.decode_session_error(frame), remote=True)
        elif frame.type != FrameType.PONG:
            self._say(self._handshake.receive(frame, now))

    def _is_refusal(self, frame: Frame) -> bool:
        # Serve may reject a proxy before it has agreed on anything. It uses RESET if HELLO lists that.
        listed = self._handshake.offered if self.role is Role.PROXY else self._handshake.features
        reset = frame.type == FrameType.RESET and frame.stream == 0 and Feature.RESET in listed
        return frame.type == FrameType.ERROR or reset

    def _say(self, said: list[Frame]) -> None:
        self._outgoing += [frames.encode(FrameType(frame.type), frame.stream, frame.payload) for frame in said]
