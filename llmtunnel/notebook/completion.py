"""Completions for a ``%tunnel`` line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..cli.parsers import Parser, bench_parser, doctor_parser, proxy_parser, serve_parser
from ..upstream import NAMED

VERBS: Final = ("serve", "proxy", "status", "invite", "peers", "kick", "stop", "reconnect", "doctor", "bench", "help")
NAME: Final = "--name"
ALL: Final = "all"
"""Word that stop and peers accept instead of a name."""


def candidates(words: Sequence[str], *, tunnels: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Return completions after ``words``, the words between ``%tunnel`` and the cursor's word."""
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
    """Return flags, or values if the last word is a flag that takes one. ``first``: values for the first word."""
    if words and words[-1] == NAME:
        return list(tunnels)
    if words and parser.suggestions.get(words[-1]):
        return list(parser.suggestions[words[-1]])
    return [*(first if not words else ()), *parser.flags, NAME]
