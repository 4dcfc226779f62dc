"""When a proxy stops and asks its user; whom serve's door knows."""

from __future__ import annotations

import pytest

from llmtunnel.config import Settings
from llmtunnel.errors import AuthenticationFailed, PeerLost, TunnelError, Unwelcome, VersionMismatch
from llmtunnel.protocol.auth import GUESS_EVERY, GUESSES, ProxyCredentials
from llmtunnel.session.access import ProxyAccess
from llmtunnel.transport.base import Binding

BINDING = Binding(local=b"p" * 32, remote=b"s" * 32)
FAILED = AuthenticationFailed("It is not proven.")


def access(secret: str | None = "secret") -> ProxyAccess:
    return ProxyAccess(Settings(room="r", secret=secret))


def guess(proxy: ProxyAccess, now: float = 0.0) -> bool:
    """Whether a proof is given on one more channel, which nobody answers."""
    credentials = proxy.credentials(BINDING)
    assert isinstance(credentials, ProxyCredentials)
    return credentials.guesses.take(now)


@pytest.mark.parametrize("reason", [FAILED, Unwelcome("Put out."), VersionMismatch("Too old.")])
def test_refusals_in_a_row_are_final_and_one_is_not(reason: TunnelError) -> None:
    proxy = access()
    assert [proxy.is_final(reason, 0.0, stood=False) for _ in range(GUESSES)] == [False] * (GUESSES - 1) + [True]


def test_a_connection_that_is_lost_is_never_final() -> None:
    proxy = access()
    while guess(proxy):
        pass
    assert not any(proxy.is_final(PeerLost("Lost."), 0.0, stood=stood) for stood in (True, False) for _ in range(9))


def test_a_serve_that_has_let_us_in_puts_us_out_by_one_word() -> None:
    assert access().is_final(Unwelcome("Put out."), 0.0, stood=True)


def test_without_a_secret_another_version_is_final_at_once() -> None:
    assert access(None).is_final(VersionMismatch("Too old."), 0.0, stood=False)


def test_proofs_that_nobody_answers_are_few_whatever_channels_they_are_given_on() -> None:
    proxy = access()
    assert [guess(proxy) for _ in range(GUESSES + 1)] == [True] * GUESSES + [False]
    assert proxy.is_final(FAILED, 0.0, stood=False)
    assert not guess(proxy, GUESS_EVERY - 1)
    assert guess(proxy, GUESS_EVERY)
    assert not guess(proxy, GUESS_EVERY)
