"""A page's key: what it proves, and what nobody gets by claiming another one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from llmtunnel.errors import ErrorCode
from llmtunnel.protocol import frames, keys
from llmtunnel.protocol.auth import ProxyCredentials, ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.hello import ALL_FEATURES, Feature, ResumeOffer
from llmtunnel.protocol.keys import Certificates, Ticket
from llmtunnel.protocol.resume import Claim
from llmtunnel.status import Role

from ..support.page_keys import PAGE, Key, PageAuth

MINE, THIEFS = Key(), Key()
SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
OTHERS = replace(SEEN, proxy=b"P" * 32)


def credentials(secret: str = "secret", *, seen: Certificates = SEEN, ticket: Ticket | None = None) -> ProxyCredentials:
    return ProxyCredentials(room="room", certificates=seen, secret=secret, ticket=ticket)


def serve(door: Door, *, seen: Certificates = SEEN, **more: Any) -> Greeting:
    given = ServeCredentials(room="room", certificates=seen, door=door)
    return Greeting(Role.SERVE, now=0.0, credentials=given, certificate=seen.proxy, **more)


def say(greeting: Greeting, message: bytes) -> bytes:
    greeting.receive_message(message, 0.0)
    answer = greeting.message_to_send()
    assert answer is not None
    return answer


def meet(door: Door, key: Key = MINE, *, seen: Certificates = SEEN, **how: Any) -> tuple[Greeting, PageAuth, Ticket]:
    """An honest page comes in."""
    page, greeting = PageAuth(credentials(seen=seen, **how), key), serve(door, seen=seen)
    ticket = page.ticket(say(greeting, page.auth(say(greeting, page.hello), key)))
    assert greeting.agreement is not None
    return greeting, page, ticket


def refused(greeting: Greeting, code: ErrorCode = ErrorCode.UNAUTHENTICATED) -> None:
    assert greeting.agreement is None
    assert greeting.ended is not None and greeting.ended.code is code, greeting.ended


def test_serve_knows_a_page_by_its_key_and_not_by_its_certificate() -> None:
    greeting, page, ticket = meet(Door("secret"))
    assert greeting.agreement is not None
    assert greeting.agreement.certificate == MINE.fingerprint != SEEN.proxy
    assert greeting.agreement.ticket == ticket
    assert Feature.IDENTITY in page.agree.features


def test_the_fingerprint_of_a_key_is_not_the_hash_of_what_may_be_a_certificate() -> None:
    hashed = []

    class Hash:
        def digest(self) -> bytes:
            return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "sha256", lambda data: hashed.append(data) or Hash())
        keys.fingerprint(MINE.public)
    assert hashed[0][0] != 0x30, "DER begins with it"


def test_a_page_returns_with_another_certificate_by_its_ticket() -> None:
    door = Door("secret")
    _, _, ticket = meet(door)
    door.renew("another")
    greeting, page, again = meet(door, seen=OTHERS, ticket=ticket)
    assert again == ticket and page.agree.auth is not None and page.agree.auth.nonce is not None
    assert greeting.agreement is not None and greeting.agreement.certificate == MINE.fingerprint


def test_a_code_for_one_proxy_is_the_pages_whatever_certificate_it_shows_and_no_others() -> None:
    door = Door("secret", once=True)
    meet(door)
    meet(door, seen=OTHERS)  # it was reloaded, and has no ticket
    page, greeting = PageAuth(credentials(), THIEFS), serve(door)
    say(greeting, page.hello)
    refused(greeting, ErrorCode.UNWELCOME)


def test_a_page_that_was_put_out_stays_out_with_another_certificate() -> None:
    door = Door("secret")
    _, _, ticket = meet(door)
    door.put_out(MINE.fingerprint)
    for given in (None, ticket):
        greeting = serve(door, seen=OTHERS)
        say(greeting, PageAuth(credentials(seen=OTHERS, ticket=given), MINE).hello)
        refused(greeting, ErrorCode.UNWELCOME)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("stolen", [False, True], ids=["secret", "ticket"])
def test_who_claims_anothers_key_gets_nothing_and_takes_nothing(once: bool, stolen: bool) -> None:
    door = Door("secret", once=once)
    _, _, ticket = meet(door)
    claims: list[Claim] = []
    for sign in (
        lambda page: b"",
        lambda page: bytes(64),
        lambda page: page.signature(THIEFS),
        lambda page: page.signature(THIEFS) + bytes(1),
        lambda page: MINE.sign(b"llmtunnel identity 1" + bytes(32)),
        lambda page: page.signature(MINE)[::-1],
    ):
        given = credentials(seen=OTHERS, ticket=ticket if stolen else None)
        thief = PageAuth(given, MINE, resume=ResumeOffer(session=bytes(16), received=(0,)))
        greeting = serve(door, seen=OTHERS, resumable=lambda claim: claims.append(claim))
        proof = thief.proof(say(greeting, thief.hello))
        say(greeting, frames.encode(FrameType.AUTH, 0, proof + sign(thief)))
        refused(greeting)
    assert door.returning(ticket.id, MINE.fingerprint) == ticket
    meet(door, ticket=ticket)


def test_a_signature_of_another_channel_is_none() -> None:
    door = Door("secret")
    recorded, first = PageAuth(credentials(), MINE), serve(door)
    recorded.proof(say(first, recorded.hello))
    signature = recorded.signature(MINE)
    greeting, thief = serve(door, seen=OTHERS), PageAuth(credentials(seen=OTHERS), MINE)
    proof = thief.proof(say(greeting, thief.hello))
    say(greeting, frames.encode(FrameType.AUTH, 0, proof + signature))
    refused(greeting)


def test_who_signs_and_does_not_know_the_secret_stays_out_and_has_used_a_guess() -> None:
    door = Door("secret")
    before = door.guesses.count(0.0)
    greeting, page = serve(door), PageAuth(credentials("a guess"), MINE)
    say(greeting, page.auth(say(greeting, page.hello), MINE))
    refused(greeting)
    assert door.guesses.count(0.0) == before - 1


def test_a_man_in_the_middle_cannot_take_the_key_out_or_put_another_in() -> None:
    changes: list[Callable[[bytes], bytes]] = [
        lambda hello: hello.replace(b'"identity",', b""),
        lambda hello: hello.replace(b'"identity",', b"").replace(b'"identity":"', b'"_":"'),
        lambda hello: hello.replace(MINE.public.hex().encode(), THIEFS.public.hex().encode()),
    ]
    for change, signer in product(changes, (MINE, THIEFS)):
        greeting, page = serve(Door("secret")), PageAuth(credentials(), MINE)
        changed = change(page.hello)
        assert changed != page.hello
        proof = page.proof(say(greeting, changed))
        say(greeting, frames.encode(FrameType.AUTH, 0, proof + page.signature(signer)))
        refused(greeting)


def test_a_hello_that_lists_the_feature_needs_a_key() -> None:
    greeting = serve(Door("secret"))
    say(greeting, PageAuth(credentials(), None).hello)
    refused(greeting, ErrorCode.PROTOCOL)


@pytest.mark.parametrize("text", ["", "04", "02" + "0" * 64, "04" + "0G" * 64, "04" + "00" * 65, "04" + "AB" * 64])
def test_what_is_no_key_is_refused(text: str) -> None:
    greeting, page = serve(Door("secret")), PageAuth(credentials(), MINE)
    say(greeting, page.hello.replace(MINE.public.hex().encode(), text.encode()))
    refused(greeting, ErrorCode.PROTOCOL)


def test_a_key_that_is_no_point_of_the_curve_signs_nothing() -> None:
    assert not keys.is_signed(b"\x04" + bytes(64), bytes(32), bytes(64))
    assert not keys.is_signed(b"\x04" + b"\xff" * 64, bytes(32), bytes(64))


def test_where_the_channel_shows_no_certificate_a_key_is_needed() -> None:
    greeting = serve(Door("secret"), needs_key=True)
    say(greeting, PageAuth(credentials(), MINE, features=PAGE - {Feature.IDENTITY}).hello)
    refused(greeting)


def test_without_a_secret_and_without_a_key_nothing_of_it_is_agreed_on() -> None:
    open_to_all = serve(Door(None))
    page = PageAuth(credentials(), MINE)
    open_to_all.receive_message(page.hello, 0.0)
    assert open_to_all.agreement is not None
    assert open_to_all.agreement.features == ALL_FEATURES
    assert open_to_all.agreement.certificate == SEEN.proxy
    greeting, plain = serve(Door("secret")), PageAuth(credentials(), MINE, features=PAGE - {Feature.IDENTITY})
    proof = plain.proof(say(greeting, plain.hello))
    plain.ticket(say(greeting, frames.encode(FrameType.AUTH, 0, proof)))
    assert greeting.agreement is not None and greeting.agreement.certificate == SEEN.proxy


def test_who_waits_for_a_guess_under_anothers_key_takes_no_place_of_its_owner() -> None:
    door = Door("secret")
    while door.guesses.take(0.0):
        pass
    for seen in (OTHERS, SEEN):
        greeting = serve(door, seen=seen)
        greeting.receive_message(PageAuth(credentials(seen=seen), MINE).hello, 0.0)
        assert greeting.agreement is None and greeting.ended is None
    assert set(door._waiting) == {SEEN.proxy, OTHERS.proxy}


def test_a_proxy_goes_on_with_a_session_only_where_its_ticket_is_known() -> None:
    proxy = Greeting(
        Role.PROXY,
        now=0.0,
        credentials=credentials(),
        certificate=SEEN.serve,
        resume=ResumeOffer(session=bytes(16), received=(0,)),
    )
    greeting = serve(Door("secret"))
    greeting._handshake._ask_for_session = lambda resume: (0,)  # type: ignore[attr-defined]
    hello = proxy.message_to_send()
    assert hello is not None
    proxy.receive_message(say(greeting, hello), 0.0)
    assert proxy.ended is not None and not proxy.was_guessed
    assert proxy.ended.message == "Serve goes on with a session without its ticket."
