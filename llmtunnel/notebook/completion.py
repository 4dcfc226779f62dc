"""What may come next on a ``%tunnel`` line: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..cli.parsers import Parser, bench_parser, doctor_parser, proxy_parser, serve_parser
from ..upstream import NAMED

VERBS: Final = ("serve", "proxy", "status", "invite", "peers", "kick", "stop", "reconnect", "doctor", "bench", "help")
NAME: Final = "--name"
ALL: Final = "all"
"""In place of a name, for stop and peers."""


def candidates(words: Sequence[str], *, tunnels: Sequence[str], peers: Sequence[str]) -> list[str]:
    """What may follow ``words``, those between ``%tunnel`` and the cursor's."""
    match words:
        case []:
            return list(VERBS)
        case ["serve", *rest]:
            return _opening(serve_parser(), rest, tunnels, first=tuple(NAMED))
        case ["proxy", *rest]:
            return _opening(proxy_parser(), rest, tunnels)
        case ["doctor", *_]:
            return list(doctor_parser().flags)
        case ["bench", *_]:
            return list(bench_parser().flags)
        case ["kick"]:
            return list(peers)
        case ["stop" | "peers"]:
            return [*tunnels, ALL]
        case ["status" | "invite" | "reconnect"]:
            return list(tunnels)
        case _:
            return []


def _opening(parser: Parser, words: Sequence[str], tunnels: Sequence[str], first: tuple[str, ...] = ()) -> list[str]:
    """Flags, or values of the flag that stands last; ``first``: what may come before any of them."""
    if words and words[-1] == NAME:
        return list(tunnels)
    if words and parser.suggestions.get(words[-1]):
        return list(parser.suggestions[words[-1]])
    return [*(first if not words else ()), *parser.flags, NAME]
