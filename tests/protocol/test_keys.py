"""Keys that two sides have in common only where they agree on everything."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from llmtunnel.protocol.keys import Certificates, KeyExchange, Keys, Ticket, derive, returning
from llmtunnel.status import Role

SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
KEYS = derive(b"shared", "room", SEEN, b"hello", b"agree")


def exchanged(proxy_secret: str, serve_secret: str) -> tuple[bytes, bytes]:
    """What each side gets."""
    proxy, serve = KeyExchange(Role.PROXY, proxy_secret), KeyExchange(Role.SERVE, serve_secret)
    return proxy.finish(serve.share), serve.finish(proxy.share)


def test_the_same_secret_gives_both_the_same_key_and_each_time_another() -> None:
    first, second = exchanged("tuna-maple", "tuna-maple"), exchanged("tuna-maple", "tuna-maple")
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0] != second[0]


def test_another_secret_gives_another_key() -> None:
    of_proxy, of_serve = exchanged("tuna-maple", "tuna-mapel")
    assert of_proxy != of_serve


@pytest.mark.parametrize("role", Role)
def test_what_is_no_share_of_the_other_side_is_refused(role: Role) -> None:
    same_side = KeyExchange(role, "secret").share
    other = b"B" if role is Role.PROXY else b"A"
    zero = other + b"\x01" + bytes(31)
    own = KeyExchange(role, "secret")
    for share in (b"", b"x", other, other + bytes(31), other + b"\xff" * 32, zero, same_side):
        with pytest.raises(ValueError, match="not a share"):
            KeyExchange(role, "secret").finish(share)
    with pytest.raises(ValueError, match="not a share"):
        own.finish(other + own.share[1:])


def test_an_exchange_is_finished_once() -> None:
    proxy, serve = KeyExchange(Role.PROXY, "secret"), KeyExchange(Role.SERVE, "secret")
    proxy.finish(serve.share)
    with pytest.raises(ValueError, match="not a share"):
        proxy.finish(serve.share)


@pytest.mark.parametrize(
    "other",
    [
        derive(b"other", "room", SEEN, b"hello", b"agree"),
        derive(b"shared", "other", SEEN, b"hello", b"agree"),
        derive(b"shared", "room", replace(SEEN, proxy=b"q" * 32), b"hello", b"agree"),
        derive(b"shared", "room", replace(SEEN, serve=b"q" * 32), b"hello", b"agree"),
        derive(b"shared", "room", Certificates(proxy=SEEN.serve, serve=SEEN.proxy), b"hello", b"agree"),
        derive(b"shared", "room", SEEN, b"hello!", b"agree"),
        derive(b"shared", "room", SEEN, b"hello", b"agree!"),
        derive(b"shared", "room", SEEN, b"helloa", b"gree"),
        derive(b"shared", "roomhello", SEEN, b"", b"agree"),
    ],
)
def test_whatever_the_sides_see_otherwise_gives_other_keys(other: Keys) -> None:
    assert not {KEYS.proxy, KEYS.serve, KEYS.session} & {other.proxy, other.serve, other.session}


def test_keys_differ_from_each_other_and_a_side_cannot_be_answered_with_its_own_confirmation() -> None:
    ticket = KEYS.ticket()
    for one, other in itertools.combinations((KEYS.proxy, KEYS.serve, KEYS.session, ticket.key, ticket.id), 2):
        assert one != other
    assert KEYS.confirms(Role.PROXY, KEYS.proxy) and KEYS.confirms(Role.SERVE, KEYS.serve)
    assert not KEYS.confirms(Role.SERVE, KEYS.proxy) and not KEYS.confirms(Role.PROXY, KEYS.serve)
    assert not KEYS.confirms(Role.PROXY, b"") and not KEYS.confirms(Role.PROXY, KEYS.proxy[:-1])


def test_a_ticket_gives_a_key_for_each_share_and_nonce() -> None:
    ticket, other = KEYS.ticket(), Ticket(id=KEYS.ticket().id, key=b"k" * 32)
    key = returning(ticket, b"share", b"nonce")
    assert key == returning(ticket, b"share", b"nonce")
    assert len({key, returning(ticket, b"another", b"nonce"), returning(ticket, b"share", b"other")}) == 3
    assert key != returning(other, b"share", b"nonce")


def test_no_key_stands_in_a_repr() -> None:
    for secret in (KEYS.proxy, KEYS.session, KEYS.ticket().key):
        assert repr(secret)[2:-1] not in repr(KEYS) + repr(KEYS.ticket())
        assert secret.hex() not in repr(KEYS) + repr(KEYS.ticket())
