"""What is fuzzed: each target plays one case, decided by its random generator, and raises where the invariant fails."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from . import answers, auth, http, invites, sctp, sealed, signalling, wire

TARGETS: Final[dict[str, Callable[[Random], None]]] = {
    "connection": wire.connection,
    "heads": wire.heads,
    "hello": wire.hello,
    "without-secret": auth.without_the_secret,
    "in-between": auth.in_between,
    "sealed-strangers": sealed.strangers,
    "sealed-records": sealed.records,
    "sctp": sctp.packets,
    "http-requests": http.requests,
    "http-responses": http.responses,
    "answers": answers.streams,
    "model-lists": answers.lists,
    "signal-messages": signalling.from_server,
    "descriptions": signalling.descriptions,
    "signal-server": signalling.from_clients,
    "invites": invites.codes,
}
