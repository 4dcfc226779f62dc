"""Codes of invites, spoilt as text."""

from __future__ import annotations

from random import Random

from llmtunnel.errors import SettingError
from llmtunnel.invite import COUNT, Invite
from llmtunnel.words import WORDS

from . import mutations

SIGNALS = [
    "",
    "@signal.example",
    "@ws://10.0.0.2:8787",
    "@wss://[::1]:1/a?b#c",
    "@WS://h/p/?",
    "@\N{FULLWIDTH SOLIDUS}",
]
PIECES = [
    *"-@ .,'/:[]()_\n\0",
    "4",
    "4821309",
    "4,821,309",
    "llmtunnel proxy ",
    "\u0661",
    "\xb2",
    "\ufb01",
    "\u0130",
    "\ud800",
]


def codes(rng: Random) -> None:
    """A text is an invite, which comes back from its own code and does not show its secret, or is refused."""
    words = [rng.choice(WORDS) for _ in range(COUNT)]
    text = "-".join([f"{rng.randrange(10**7):07}", *words]) + rng.choice(SIGNALS)
    if rng.random() < 0.5:
        text = mutations.of_bytes(rng, text.encode("utf-8")).decode("utf-8", "surrogateescape")
    else:
        text = "".join(mutations.of_sequence(rng, list(text), lambda _: rng.choice(PIECES)))
    try:
        invite = Invite.parse(text)
    except SettingError as exc:
        assert exc.hint
        return
    assert Invite.parse(invite.code) == invite
    assert invite.secret not in repr(invite)
