"""The kinds of path between two peers: one row each, and which of them each value of ``--path`` makes use of.

How to add one: ARCHITECTURE.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Path(StrEnum):
    """How a channel's packets travel."""

    DIRECT = "direct"
    TURN = "turn"
    RELAY = "relay"
    TCP = "tcp"
    UNKNOWN = "unknown"


AUTO: Final = "auto"
PATHS: Final = (AUTO, *(path.value for path in Path if path is not Path.UNKNOWN))
"""What ``--path`` may be: all that there are, of which the best carries, or one of them alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathKind:
    """What sets a kind of path apart."""

    label: str
    """For people."""
    rank: int
    """How good it is; the lowest is the best, and takes a session over from the others."""
    needs_turn: bool = False
    """It needs a TURN server, which the user names."""
    needs_secret: bool = False
    """It is used only between peers that have proven themselves to each other by a secret."""
    needs_resume: bool = False
    """It comes up late: the peers meet over another path first, and the session goes over to this one."""
    poor: bool = False
    """While it carries, a better one is tried for now and then."""


KINDS: Final = {
    Path.TCP: PathKind(label="local TCP", rank=0, needs_secret=True, needs_resume=True),
    Path.DIRECT: PathKind(label="direct", rank=1),
    Path.TURN: PathKind(label="TURN server", rank=2, needs_turn=True, poor=True),
    Path.RELAY: PathKind(label="relay", rank=3, needs_secret=True, poor=True),
}
_UNKNOWN: Final = PathKind(label="unknown", rank=KINDS[Path.DIRECT].rank)


def kind(path: Path) -> PathKind:
    """The row of a path. One that is not known yet counts as a direct one."""
    return KINDS.get(path, _UNKNOWN)


def carriers(choice: str) -> frozenset[Path]:
    """Which paths may carry streams, by this value of ``--path``."""
    return frozenset(KINDS) if choice == AUTO else frozenset((Path(choice),))


def tried(choice: str) -> frozenset[Path]:
    """Which paths are opened, by this value of ``--path``: those that carry, and those that only introduce peers."""
    carrying = carriers(choice)
    return frozenset(KINDS) if any(KINDS[path].needs_resume for path in carrying) else carrying
