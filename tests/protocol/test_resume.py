"""A session over one channel after the other: whatever gets lost, what comes is what was sent, once and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ErrorCode
from llmtunnel.protocol import frames
from llmtunnel.protocol.auth import ProxyCredentials, ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.events import ClientClosed, ConnectionEnded, DataReceived, EndReceived
from llmtunnel.protocol.frames import MAX_MESSAGE, FrameType
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.hello import ALL_FEATURES, Agree, Feature, Features, ResumeOffer
from llmtunnel.protocol.journal import OVERHEAD
from llmtunnel.protocol.keys import Certificates, Ticket
from llmtunnel.protocol.line import Line
from llmtunnel.status import Role

from ..support.core_pair import POST, ConnectionPair, End, frames_of, request_frame, sent
from .test_interleavings import MOST, Interleavings

FRAME = frames.HEADER.size + OVERHEAD
"""What a frame costs the journal beside its payload."""
ROOM = 400
JOURNAL = Limits(journal=MAX_MESSAGE + OVERHEAD + ROOM, lanes=1)
"""A frame of full size may be added until it holds over `ROOM` bytes."""


class Switching(ConnectionPair):
    """Two ends that change their channel: `hello`, `serve_hears` and `proxy_hears`, with anything in between."""

    greetings: tuple[Greeting, Greeting] | None = None
    agree: bytes | None = None
    fresh: deque[bytes] | None = None
    """What serve has said on the next channel, which the proxy does not listen to yet."""

    make_inbox: Callable[[], deque[bytes]] = deque
    pipes = 1
    """That the next channel has."""

    lost = False
    """Whether nothing arrives on the channels that there are."""

    def post(self, end: End, messages: list[bytes]) -> None:
        """What an end says goes where the other listens, will listen, or does not listen any more."""
        if end is self.serve and self.fresh is not None:
            self.fresh.extend(messages)
        elif not self.lost and self.fresh is None:
            self.other(end).inbox.extend(messages)

    def lose(self) -> None:
        """The channel, or both where there are two, with all that is on the way."""
        for end in (self.proxy, self.serve):
            end.inbox.clear()
        self.greetings = self.agree = self.fresh = None
        self.lost = True

    def hello(self) -> None:
        line: Line = self.proxy.connection.line
        features = self.proxy.connection.features
        proxy = Greeting(
            Role.PROXY, now=0.0, features=features, certificate=b"of serve", resume=line.offer(b"of serve")
        )
        serve = Greeting(
            Role.SERVE,
            now=0.0,
            features=features,
            certificate=b"of proxy",
            resumable=self.serve.connection.line.answer,
        )
        self.greetings, self.agree = (proxy, serve), None

    def serve_hears(self) -> None:
        assert self.greetings
        proxy, serve = self.greetings
        serve.receive_message(proxy.message_to_send() or b"", self.now)
        assert serve.agreement and serve.agreement.received is not None
        self.agree = serve.message_to_send()
        self.serve.connection.line.resume(serve.agreement, self.now, pipes=self.pipes)
        self.serve.inbox.clear()
        self.fresh = self.make_inbox()

    def proxy_hears(self) -> None:
        assert self.greetings and self.agree and self.fresh is not None
        proxy, _ = self.greetings
        proxy.receive_message(self.agree, self.now)
        assert proxy.agreement and proxy.agreement.received is not None
        self.proxy.connection.line.resume(proxy.agreement, self.now, pipes=self.pipes)
        self.proxy.inbox, self.fresh = self.fresh, None
        self.greetings = self.agree = None
        self.lost = False

    def switch(self) -> None:
        self.hello()
        self.serve_hears()
        self.proxy_hears()


class Resuming(Interleavings):
    """The same, while channels are lost and changed, one beside the other."""

    pair: Switching
    lanes = 1

    def make_pair(self, proxy: Features, serve: Features, limits: Limits) -> ConnectionPair:
        with_it = frozenset({Feature.RESUME})
        limits = replace(limits, journal=JOURNAL.journal, lanes=self.lanes)
        return Switching(proxy_features=proxy | with_it, serve_features=serve | with_it, limits=limits)

    @rule()
    def lose(self) -> None:
        self.pair.lose()

    @rule()
    def hello(self) -> None:
        self.pair.hello()

    @precondition(lambda self: self.pair.greetings and not self.pair.agree)
    @rule()
    def serve_hears(self) -> None:
        self.pair.serve_hears()

    @precondition(lambda self: self.pair.agree)
    @rule()
    def proxy_hears(self) -> None:
        self.pair.proxy_hears()

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "pair"):
            for end in (self.pair.proxy, self.pair.serve):
                size = sum(journal.size for journal in end.connection.line.journals)
                assert size <= ROOM + FRAME + MOST, "the last frame alone is past the room"

    def teardown(self) -> None:
        """On one more channel all comes: whole bodies, and credit for more."""
        if not hasattr(self, "pair"):
            return
        self.pair.switch()
        super().teardown()
        for (proxy, stream), data in self.sent.items():
            if stream not in self.given_up:
                assert self.came.get((not proxy, stream), b"") == data


TestResuming = Resuming.TestCase
TestResuming.settings = settings(max_examples=150, stateful_step_count=80)


# -- who may go on

SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
OTHER = Certificates(proxy=b"x" * 32, serve=SEEN.serve)


class Meeting:
    """Handshakes with one serve, which has a secret, and what comes of each."""

    def __init__(self, secret: str | None = "secret") -> None:
        self.secret = secret
        self.door = Door(secret)
        self.serve: Line | None = None
        proxy, serve = self.meet()
        assert proxy.agreement and serve.agreement
        assert proxy.agreement.received is None and serve.agreement.received is None
        assert proxy.agreement.session == serve.agreement.session != b""
        assert proxy.agreement.ticket == serve.agreement.ticket
        common = {"limits": Limits(), "timeouts": Timeouts(), "now": 0.0}
        self.proxy, self.serve = Line(proxy.agreement, **common), Line(serve.agreement, **common)
        self.ticket = proxy.agreement.ticket

    def meet(
        self,
        *,
        seen: Certificates = SEEN,
        ticket: Ticket | None = None,
        resume: ResumeOffer | None = None,
        features: Features = ALL_FEATURES,
    ) -> tuple[Greeting, Greeting]:
        by = {"room": "room", "certificates": seen}
        proxy = Greeting(
            Role.PROXY,
            now=0.0,
            features=features,
            credentials=ProxyCredentials(**by, secret=self.secret, ticket=ticket) if self.secret else None,
            certificate=seen.serve,
            resume=resume,
        )
        serve = Greeting(
            Role.SERVE,
            now=0.0,
            credentials=ServeCredentials(**by, door=self.door),
            certificate=seen.proxy,
            resumable=lambda claim: self.serve and self.serve.answer(claim),
        )
        for _ in range(3):
            for one, other in ((proxy, serve), (serve, proxy)):
                while message := one.message_to_send():
                    other.receive_message(message, 0.0)
        return proxy, serve

    def goes_on(self, **how: Any) -> bool:
        """Whether a handshake on another channel is one of the same session, at both sides."""
        proxy, serve = self.meet(**{"resume": self.proxy.offer(SEEN.serve), **how})
        assert proxy.agreement and serve.agreement
        assert (proxy.agreement.received is None) == (serve.agreement.received is None)
        assert (proxy.agreement.received is None) == (proxy.agreement.session != self.proxy.offer(SEEN.serve).session)
        return proxy.agreement.received is not None


def test_the_sessions_own_proxy_goes_on_by_its_ticket() -> None:
    meeting = Meeting()
    assert meeting.goes_on(ticket=meeting.ticket)
    assert meeting.goes_on(ticket=meeting.ticket)


def test_the_secret_alone_takes_no_session_over() -> None:
    """Not even with its id, and from where its certificate is known; nor does another proxy's own ticket."""
    meeting = Meeting()
    other, _ = meeting.meet(seen=OTHER)
    assert other.agreement
    assert not meeting.goes_on(seen=OTHER)
    assert not meeting.goes_on(seen=OTHER, ticket=other.agreement.ticket)
    assert not meeting.goes_on(seen=OTHER, ticket=meeting.ticket)
    assert not meeting.goes_on(), "the same certificate, but as a stranger"


def test_a_ticket_of_a_later_session_is_not_the_sessions_own() -> None:
    meeting = Meeting()
    later, _ = meeting.meet()
    assert later.agreement and later.agreement.ticket != meeting.ticket
    assert not meeting.goes_on(ticket=later.agreement.ticket)


def test_a_stranger_who_says_that_it_has_the_ticket_gets_no_agreement_and_disturbs_nothing() -> None:
    meeting = Meeting()
    assert meeting.ticket
    proxy, serve = meeting.meet(ticket=replace(meeting.ticket, key=bytes(32)), resume=meeting.proxy.offer(SEEN.serve))
    assert not proxy.agreement and not serve.agreement
    assert meeting.goes_on(ticket=meeting.ticket)


def test_without_a_secret_the_certificate_decides() -> None:
    meeting = Meeting(secret=None)
    assert meeting.goes_on()
    assert not meeting.goes_on(seen=OTHER)
    assert not meeting.goes_on(seen=Certificates(proxy=b"", serve=b""))


def test_a_session_is_offered_only_to_the_serve_that_it_is_with() -> None:
    meeting = Meeting()
    assert meeting.proxy.offer(SEEN.serve)
    assert meeting.proxy.offer(b"another") is None
    assert meeting.proxy.offer(b"") is None


def test_what_serve_cannot_go_on_with_is_a_new_session() -> None:
    meeting = Meeting()
    offer = meeting.proxy.offer(SEEN.serve)
    assert offer
    for spoilt in (
        replace(offer, session=bytes(16)),
        replace(offer, received=(1, *offer.received[1:])),
        replace(offer, received=(0,)),
    ):
        assert not meeting.goes_on(ticket=meeting.ticket, resume=spoilt)
    assert not meeting.goes_on(ticket=meeting.ticket, features=ALL_FEATURES - {Feature.LENGTH})


def test_a_serve_that_goes_on_with_what_was_not_asked_for_is_not_believed() -> None:
    for offer in (None, ResumeOffer(session=b"another", received=(0,))):
        proxy = Greeting(Role.PROXY, now=0.0, resume=offer)
        agree = Agree(features=ALL_FEATURES, session=b"session", received=(0,))
        proxy.receive_message(frames.encode(FrameType.AGREE, 0, agree.encode()), 0.0)
        assert proxy.agreement is None and proxy.ended
    nameless = Greeting(Role.PROXY, now=0.0)
    nameless.receive_message(frames.encode(FrameType.AGREE, 0, Agree(features=ALL_FEATURES).encode()), 0.0)
    assert nameless.ended


@pytest.mark.parametrize("offer", [None, ResumeOffer(session=b"session", received=(0,))])
@pytest.mark.parametrize("late", [False, True])
def test_a_proxy_that_gives_up_a_greeting_says_so_only_where_no_session_can_have_moved_there(
    offer: ResumeOffer | None, late: bool
) -> None:
    proxy = Greeting(Role.PROXY, now=0.0, resume=offer)
    assert proxy.message_to_send()
    if late:
        proxy.handle_timer(proxy.next_timer() or 0.0)
    else:
        proxy.break_off(ErrorCode.NO_ERROR, "Another connection is made.")
    assert proxy.ended and proxy.next_timer() is None
    assert (proxy.message_to_send() is None) == (offer is not None)


# -- what is said on the next channel


ONE_LANE = Limits(lanes=1)


def resumed() -> Switching:
    """A pair in which serve has got a head that it did not acknowledge, and both are on their second channel."""
    pair = Switching(limits=ONE_LANE)
    pair.open(POST)
    pair.switch()
    return pair


def test_each_side_says_where_it_goes_on_before_anything_else() -> None:
    pair = resumed()
    pair.send(pair.proxy, 1, b"body")
    pair.switch()
    pair.proxy.connection.send_data(1, memoryview(b"more"))
    [resume, body] = frames_of(sent(pair.proxy.connection))
    assert (resume.type, frames.decode_count(resume.payload)) == (FrameType.RESUME, 3), "a head and a body have come"
    assert body.payload == b"more"


def test_a_frame_that_was_cut_and_not_yet_sent_is_sent_once_on_the_next_channel() -> None:
    pair = Switching()
    streams = [pair.open(POST) for _ in range(8)]
    for stream in streams:
        pair.proxy.connection.send_data(stream, memoryview(bytes([stream]) * 20_000))
    assert pair.proxy.connection.message_to_send()
    assert pair.proxy.connection.line.outbox._pipes[0].next, "it did not fit the bundle"
    pair.lose()
    pair.switch()
    pair.pump()
    assert [pair.serve.body(stream) for stream in streams] == [bytes([stream]) * 20_000 for stream in streams]


def ends(pair: ConnectionPair, frame: bytes) -> None:
    """It is a breach that the session does not bear."""
    event = pair.serve.connection.receive_message(frame, 0.0)[-1]
    assert isinstance(event, ConnectionEnded)
    assert (event.code, event.remote) == (ErrorCode.PROTOCOL, False)


def counted(type: FrameType, count: int) -> bytes:
    return frames.encode(type, 0, frames.encode_count(count))


def test_an_acknowledgement_of_what_was_not_sent_ends_the_session() -> None:
    ends(ConnectionPair(), counted(FrameType.ACK, 1))
    ends(ConnectionPair(), frames.encode(FrameType.ACK, 0, b"short"))


def test_a_resume_on_the_first_channel_or_twice_ends_the_session() -> None:
    ends(ConnectionPair(), counted(FrameType.RESUME, 1))
    pair = resumed()
    pair.pump()
    ends(pair, counted(FrameType.RESUME, 2))


@pytest.mark.parametrize("first", [0, 3, 2**64 - 1])
def test_a_resume_that_leaves_frames_out_ends_the_session(first: int) -> None:
    ends(resumed(), counted(FrameType.RESUME, first))


def test_a_streams_frame_before_the_resume_ends_the_session() -> None:
    ends(resumed(), frames.encode(FrameType.REQ_BODY, 1, b"x"))


def test_what_comes_twice_is_taken_once() -> None:
    pair = resumed()
    body = frames.encode(FrameType.REQ_BODY, 1, b"once")
    serve = pair.serve.connection
    assert serve.receive_message(counted(FrameType.RESUME, 1), 0.0) == []
    assert serve.receive_message(request_frame(1), 0.0) == [], "it has that head"
    assert serve.receive_message(body, 0.0) == [DataReceived(1, b"once")]


# -- a full journal


def test_a_journal_holds_its_room_and_the_one_frame_that_goes_past_it() -> None:
    """Without credit a frame has all that is sent at once, and not only what a window lets through."""
    pair = Switching(proxy_features=ALL_FEATURES - {Feature.CREDIT}, limits=JOURNAL)
    journal = pair.proxy.connection.line.journals[0]
    stream = pair.open(POST)
    pair.proxy.connection.handle_timer(1.0)
    pair.pump()
    assert journal.size == 0, "the head is acknowledged"
    pair.lose()
    for size in (ROOM - FRAME, MOST, 1):
        pair.proxy.connection.send_data(stream, memoryview(bytes(size)))
    pair.flush(pair.proxy)
    assert journal.size == ROOM + FRAME + MOST, "and not the byte behind it"
    pair.switch()
    pair.pump()
    assert len(pair.serve.body(stream)) == ROOM - FRAME + MOST + 1


def test_a_full_journal_holds_streams_back_and_asks_for_an_acknowledgement_and_loses_nothing() -> None:
    pair = ConnectionPair(limits=JOURNAL)
    stream = pair.open(POST)
    proxy = pair.proxy.connection
    assert proxy.send_data(stream, memoryview(bytes(60_000)))
    messages = sent(proxy)
    assert [frame.type for frame in frames_of(messages)] == [FrameType.REQ_BODY, FrameType.PING]
    assert sent(proxy) == [], "it asks once"
    pair.serve.inbox.extend(messages)
    pair.send(pair.proxy, stream, bytes(300_000))
    proxy.send_end(stream)
    pair.pump()
    assert len(pair.serve.body(stream)) == 360_000
    assert pair.serve.events[-1] == EndReceived(stream)


def test_an_acknowledgement_comes_by_itself_once_in_a_while_and_with_each_answer_to_a_ping() -> None:
    pair = ConnectionPair(limits=ONE_LANE)
    stream = pair.open(POST)
    journal = pair.proxy.connection.line.journals[0]
    pair.send(pair.proxy, stream, bytes(3_000_000))
    assert journal.size < 300_000
    assert journal.size > 0
    pair.proxy.connection.handle_timer(1.0)
    pair.pump()
    assert journal.size == 0


def test_without_the_feature_nothing_is_kept_and_nothing_numbered() -> None:
    pair = ConnectionPair(proxy_features=ALL_FEATURES - {Feature.RESUME})
    stream = pair.open(POST)
    pair.send(pair.proxy, stream, bytes(1_000_000))
    for end in (pair.proxy, pair.serve):
        line = end.connection.line
        assert not line.resumable
        assert line._receipts[0].count == 0
        assert line.offer(b"of serve") is None


@pytest.mark.parametrize("arrived", [True, False], ids=["it had come", "it was lost"])
def test_a_client_that_closes_while_the_channel_is_lost_is_told_of_once(arrived: bool) -> None:
    pair = Switching()
    client = pair.open(ended=True)
    pair.proxy.connection.close_client(client)
    if arrived:
        pair.pump()
    else:
        pair.flush(pair.proxy)  # it is on its way when the channel goes
    pair.lose()
    pair.switch()
    pair.pump()
    assert pair.serve.events.count(ClientClosed(client)) == 1
    late = pair.open(ended=True)
    pair.lose()
    pair.proxy.connection.close_client(late)  # nothing of it was ever cut
    pair.switch()
    pair.pump()
    assert pair.serve.events.count(ClientClosed(late)) == 1
