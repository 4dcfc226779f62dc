"""Two peers and a secret: who comes in, who does not, and what each side tells of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmtunnel.errors import ErrorCode
from llmtunnel.protocol import frames
from llmtunnel.protocol.auth import ProxyCredentials, ServeCredentials
from llmtunnel.protocol.door import ASK_EVERY, GUESS_EVERY, GUESSES, WAIT, Door
from llmtunnel.protocol.events import ConnectionEnded, DataReceived
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.protocol.keys import Certificates, Ticket
from llmtunnel.status import Role

from ..support.core_pair import POST, ConnectionPair, Core, Established, frames_of, sent

SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
OTHERS = Certificates(proxy=b"P" * 32, serve=b"S" * 32)


def proxy_with(secret: str = "secret", *, seen: Certificates = SEEN, ticket: Ticket | None = None) -> ProxyCredentials:
    return ProxyCredentials(room="room", certificates=seen, secret=secret, ticket=ticket)


def serve_with(door: Door | None = None, *, seen: Certificates = SEEN) -> ServeCredentials:
    return ServeCredentials(room="room", certificates=seen, door=door or Door("secret"))


def meet(proxy: ProxyCredentials | None, serve: ServeCredentials | None) -> ConnectionPair:
    pair = ConnectionPair(hello=False, proxy_credentials=proxy, serve_credentials=serve)
    pair.pump()
    return pair


def codes(pair: ConnectionPair) -> tuple[ErrorCode | None, ErrorCode | None]:
    """With what each session ended: the proxy's, serve's."""
    proxy, serve = pair.proxy.connection.ended, pair.serve.connection.ended
    return proxy and proxy.code, serve and serve.code


def nobody_is_in(pair: ConnectionPair) -> None:
    for end in (pair.proxy, pair.serve):
        assert not end.connection.established
        assert not [event for event in end.events if not isinstance(event, ConnectionEnded)]


UNAUTHENTICATED = ErrorCode.UNAUTHENTICATED


@pytest.mark.parametrize(("once", "spares"), [(True, True), (True, False), (False, True)])
def test_who_only_looks_proves_nothing_where_that_would_use_the_secret_up(once: bool, spares: bool) -> None:
    door = Door("secret", once=once)
    pair = meet(replace(proxy_with(), spares=spares), serve_with(door))
    if once and spares:
        assert codes(pair) == (ErrorCode.UNWELCOME, ErrorCode.UNWELCOME)
        nobody_is_in(pair)
    else:
        assert pair.serve.connection.established
    later = meet(proxy_with(seen=OTHERS), serve_with(door, seen=OTHERS))
    assert later.serve.connection.established is (spares or not once)


def test_both_with_the_secret_come_in_and_carry_requests() -> None:
    pair = meet(proxy_with(), serve_with())
    everything = ALL_FEATURES | {Feature.AUTH}
    assert pair.proxy.take_events() == [Established(everything, "s/1")]
    assert pair.serve.take_events() == [Established(everything, "p/1")]
    stream = pair.open(POST)
    pair.send(pair.proxy, stream, b"body")
    assert pair.serve.body(stream) == b"body"


def test_the_handshake_has_four_messages_and_the_proxy_confirms_first() -> None:
    pair = ConnectionPair(hello=False, proxy_credentials=proxy_with(), serve_credentials=serve_with())
    said = []
    for end in (pair.proxy, pair.serve, pair.proxy, pair.serve):
        (message,) = sent(end.connection)
        said.append(message[0])
        pair.other(end).connection.receive_message(message, 0.0)
    assert said == [FrameType.HELLO, FrameType.AGREE, FrameType.AUTH, FrameType.AUTH]
    assert pair.proxy.connection.established and pair.serve.connection.established


def test_another_secret_ends_both_sessions_and_serve_has_said_nothing_to_test_a_guess_on() -> None:
    pair = meet(proxy_with("guess"), serve_with())
    nobody_is_in(pair)
    assert codes(pair) == (UNAUTHENTICATED, UNAUTHENTICATED)


@pytest.mark.parametrize("seen", [replace(SEEN, proxy=b"x" * 32), replace(SEEN, serve=b"x" * 32), OTHERS])
def test_certificates_that_each_side_sees_otherwise_end_both_sessions(seen: Certificates) -> None:
    pair = meet(proxy_with(seen=seen), serve_with())
    nobody_is_in(pair)
    assert codes(pair) == (UNAUTHENTICATED, UNAUTHENTICATED)


def test_another_room_ends_both_sessions() -> None:
    pair = meet(replace(proxy_with(), room="another"), serve_with())
    nobody_is_in(pair)
    assert codes(pair) == (UNAUTHENTICATED, UNAUTHENTICATED)


def test_a_proxy_without_a_secret_gets_nowhere_where_one_is_asked_for() -> None:
    pair = meet(None, serve_with())
    nobody_is_in(pair)
    assert codes(pair) == (UNAUTHENTICATED, UNAUTHENTICATED)


def test_a_proxy_with_a_secret_does_not_take_a_serve_that_asks_for_none() -> None:
    for credentials in (None, serve_with(Door(None))):
        pair = meet(proxy_with(), credentials)
        assert codes(pair) == (UNAUTHENTICATED, UNAUTHENTICATED)
        assert not pair.proxy.connection.established


def test_an_original_proxy_gets_nowhere_and_is_told_in_its_own_words() -> None:
    serve = Core(Role.SERVE, now=0.0, credentials=serve_with())
    hello = b'{"proto":"httptunnel","min_version":1,"max_version":1,"features":["sse"]}'
    serve.receive_message(frames.encode(FrameType.HELLO, 0, hello), 0.0)
    (error,) = frames_of(sent(serve))
    assert error.type == FrameType.ERROR
    assert b"secret" in error.payload
    assert serve.ended is not None


def test_an_original_serve_gets_no_request_from_a_proxy_with_a_secret() -> None:
    proxy = Core(Role.PROXY, now=0.0, credentials=proxy_with())
    sent(proxy)
    proxy.receive_message(frames.encode(FrameType.AGREE, 0, b'{"version":1,"features":["sse"]}'), 0.0)
    assert [frame.type for frame in frames_of(sent(proxy))] == [FrameType.ERROR]
    assert proxy.ended is not None and proxy.ended.code is UNAUTHENTICATED
    assert not proxy.was_guessed


@pytest.mark.parametrize("feature", sorted(ALL_FEATURES | {Feature.AUTH}))
@pytest.mark.parametrize("of", [FrameType.HELLO, FrameType.AGREE])
def test_a_feature_that_somebody_takes_out_ends_both_sessions(feature: Feature, of: FrameType) -> None:
    pair = ConnectionPair(hello=False, proxy_credentials=proxy_with(), serve_credentials=serve_with())
    for end in (pair.proxy, pair.serve, pair.proxy, pair.serve):
        for message in sent(end.connection):
            changed = message.replace(b'"%b"' % feature.encode(), b'"----"') if message[0] == of else message
            pair.other(end).events += pair.other(end).connection.receive_message(changed, 0.0)
    nobody_is_in(pair)
    assert pair.proxy.connection.ended and pair.serve.connection.ended


def test_a_confirmation_that_is_sent_back_proves_nothing() -> None:
    pair = ConnectionPair(hello=False, proxy_credentials=proxy_with(), serve_credentials=serve_with())
    proxy, serve = pair.proxy.connection, pair.serve.connection
    (hello,) = sent(proxy)
    serve.receive_message(hello, 0.0)
    (agree,) = sent(serve)
    proxy.receive_message(agree, 0.0)
    (confirmation,) = sent(proxy)
    proxy.receive_message(confirmation, 0.0)
    assert proxy.ended is not None and proxy.ended.code is UNAUTHENTICATED
    assert proxy.was_guessed


def test_what_was_recorded_of_one_handshake_does_not_open_another() -> None:
    pair = ConnectionPair(hello=False, proxy_credentials=proxy_with(), serve_credentials=serve_with())
    recorded = []
    for end in (pair.proxy, pair.serve, pair.proxy, pair.serve):
        for message in sent(end.connection):
            recorded.append(message)
            pair.other(end).connection.receive_message(message, 0.0)
    serve = Core(Role.SERVE, now=0.0, credentials=serve_with())
    for message in recorded[::2]:
        serve.receive_message(message, 0.0)
    assert not serve.established and serve.ended is not None
    proxy = Core(Role.PROXY, now=0.0, credentials=proxy_with())
    for message in recorded[1::2]:
        proxy.receive_message(message, 0.0)
    assert not proxy.established and proxy.ended is not None


def test_frames_of_streams_before_the_proof_end_the_session() -> None:
    pair = ConnectionPair(hello=False, proxy_credentials=proxy_with(), serve_credentials=serve_with())
    serve = pair.serve.connection
    serve.receive_message(sent(pair.proxy.connection)[0], 0.0)
    request = frames.encode(FrameType.REQ_HEADERS, 1, b'{"stream_id":1,"method":"GET","path":"/","fields":[]}')
    (ended,) = serve.receive_message(request, 0.0)
    assert isinstance(ended, ConnectionEnded)
    assert ended.code is ErrorCode.PROTOCOL


def test_an_auth_that_comes_when_all_is_proven_ends_the_session() -> None:
    pair = meet(proxy_with(), serve_with())
    for end in (pair.proxy, pair.serve):
        (ended,) = end.connection.receive_message(frames.encode(FrameType.AUTH, 0, bytes(32)), 0.0)
        assert isinstance(ended, ConnectionEnded)


@pytest.mark.parametrize("role", Role)
def test_an_auth_that_comes_before_the_agreement_ends_the_session(role: Role) -> None:
    early = Core(role, now=0.0, credentials=proxy_with() if role is Role.PROXY else serve_with())
    (ended,) = early.receive_message(frames.encode(FrameType.AUTH, 0, bytes(32)), 0.0)
    assert isinstance(ended, ConnectionEnded) and ended.code is ErrorCode.PROTOCOL


def test_a_handshake_that_a_proxy_breaks_off_is_a_guess() -> None:
    door = Door("secret")
    for _ in range(GUESSES):
        serve = Core(Role.SERVE, now=0.0, credentials=serve_with(door))
        serve.receive_message(sent(Core(Role.PROXY, now=0.0, credentials=proxy_with()))[0], 0.0)
        assert [message[0] for message in sent(serve)] == [FrameType.AGREE]
    assert not meet(proxy_with(), serve_with(door)).serve.connection.established


def strangers_have_guessed(door: Door) -> None:
    while door.knock(b"stranger", ("elsewhere",), 0.0):
        pass


def test_who_finds_no_guess_left_waits_for_one_and_then_comes_in() -> None:
    door = Door("secret")
    strangers_have_guessed(door)
    pair = meet(proxy_with(), serve_with(door))
    serve = pair.serve.connection
    assert not sent(serve)
    while pair.now < GUESS_EVERY:
        assert not serve.established and serve.ended is None
        timer = serve.next_timer()
        assert timer is not None and timer == pair.now + ASK_EVERY
        pair.now = timer
        assert not serve.handle_timer(pair.now)
        pair.pump()
    assert serve.established and pair.proxy.connection.established


def test_who_waits_for_a_guess_in_vain_is_refused() -> None:
    door = Door("secret")
    pair = ConnectionPair(hello=False, proxy_credentials=proxy_with(), serve_credentials=serve_with(door))
    strangers_have_guessed(door)
    pair.pump()
    while pair.serve.connection.ended is None:
        timer = pair.serve.connection.next_timer()
        assert timer is not None and timer <= WAIT
        pair.now = timer
        door.guesses.take(pair.now)  # others are always faster
        pair.serve.connection.handle_timer(pair.now)
    pair.pump()
    assert codes(pair) == (ErrorCode.REFUSED, ErrorCode.REFUSED)
    assert pair.now == WAIT


def test_a_proof_of_one_that_waits_for_its_guess_is_none() -> None:
    door = Door("secret")
    strangers_have_guessed(door)
    pair = meet(proxy_with(), serve_with(door))
    (ended,) = pair.serve.connection.receive_message(frames.encode(FrameType.AUTH, 0, bytes(32)), 0.0)
    assert isinstance(ended, ConnectionEnded) and ended.code is ErrorCode.UNAUTHENTICATED


def test_a_proxy_knows_that_a_serve_which_broke_off_had_a_guess() -> None:
    proxy = Core(Role.PROXY, now=0.0, credentials=proxy_with())
    serve = Core(Role.SERVE, now=0.0, credentials=serve_with(Door("guess")))
    serve.receive_message(sent(proxy)[0], 0.0)
    assert not proxy.was_guessed
    proxy.receive_message(sent(serve)[0], 0.0)
    assert proxy.was_guessed


def returning(pair: ConnectionPair) -> Ticket:
    ticket = pair.proxy.connection.ticket
    assert ticket is not None
    return ticket


def test_a_proxy_comes_back_by_its_ticket_past_the_guesses_and_after_the_secret_was_changed() -> None:
    door = Door("secret")
    ticket = returning(meet(proxy_with(), serve_with(door)))
    door.renew("another")
    while door.guesses.take(0.0):
        pass
    again = meet(proxy_with(ticket=ticket), serve_with(door))
    assert again.proxy.connection.established and again.serve.connection.established
    assert returning(again) == ticket
    stream = again.open(POST)
    again.send(again.proxy, stream, b"body")
    assert [event.data for event in again.serve.events if isinstance(event, DataReceived)] == [b"body"]


def test_a_ticket_that_serve_does_not_know_leaves_the_secret() -> None:
    ticket = returning(meet(proxy_with(), serve_with()))
    again = meet(proxy_with(ticket=ticket), serve_with(Door("secret")))
    assert again.proxy.connection.established and again.serve.connection.established
    assert returning(again) != ticket


def test_anothers_ticket_by_its_id_is_no_way_in() -> None:
    door = Door("secret")
    ticket = returning(meet(proxy_with(), serve_with(door)))
    thief = ProxyCredentials(room="room", certificates=SEEN, secret="guess", ticket=replace(ticket, key=bytes(32)))
    pair = meet(thief, serve_with(door))
    nobody_is_in(pair)
    theirs = Certificates(proxy=b"t" * 32, serve=SEEN.serve)
    pair = meet(proxy_with("guess", seen=theirs, ticket=ticket), serve_with(door, seen=theirs))
    nobody_is_in(pair)


def test_a_serve_that_takes_a_stranger_for_one_who_comes_back_is_not_believed() -> None:
    proxy = Core(Role.PROXY, now=0.0, credentials=proxy_with())
    sent(proxy)
    agree = b'{"version":1,"features":["auth","reset"],"auth":{"nonce":"%b"}}' % (b"00" * 32)
    proxy.receive_message(frames.encode(FrameType.AGREE, 0, agree), 0.0)
    assert proxy.ended is not None and proxy.ended.code is UNAUTHENTICATED


def test_who_was_put_out_is_told_so_with_a_secret_and_without() -> None:
    for secret in ("secret", None):
        door = Door(secret)
        door.put_out(SEEN.proxy)
        pair = meet(proxy_with() if secret else None, serve_with(door))
        nobody_is_in(pair)
        assert codes(pair) == (ErrorCode.UNWELCOME, ErrorCode.UNWELCOME)


def test_credentials_show_no_secret() -> None:
    assert "hush" not in repr((proxy_with("hush"), serve_with(Door("hush"))))
