"""The kinds of path between two peers, one row each, and the kinds that each value of ``--path`` uses.

ARCHITECTURE.md says how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Path(StrEnum):
    """How the packets of a channel travel."""

    DIRECT = "direct"
    TURN = "turn"
    RELAY = "relay"
    TCP = "tcp"
    UNKNOWN = "unknown"


AUTO: Final = "auto"
PATHS: Final = (AUTO, *(path.value for path in Path if path is not Path.UNKNOWN))
"""Values of ``--path``: ``auto`` opens all kinds and uses the best one; any other value uses only that kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathKind:
    """Properties of a kind of path."""

    label: str
    """Name for people."""
    rank: int
    """Rank of quality. The lowest is the best; a session moves to a path with a lower rank."""
    needs_turn: bool = False
    """Whether it needs a TURN server, which the user names."""
    needs_secret: bool = False
    """Whether it requires that the peers have authenticated each other with a secret."""
    needs_resume: bool = False
    """Whether the peers must connect over another path first, from which the session then moves."""
    poor: bool = False
    """Whether a better path is tried from time to time while this one is in use."""


KINDS: Final = {
    Path.TCP: PathKind(label="local TCP", rank=0, needs_secret=True, needs_resume=True),
    Path.DIRECT: PathKind(label="direct", rank=1),
    Path.TURN: PathKind(label="TURN server", rank=2, needs_turn=True, poor=True),
    Path.RELAY: PathKind(label="relay", rank=3, needs_secret=True, poor=True),
}
_UNKNOWN: Final = PathKind(label="unknown", rank=KINDS[Path.DIRECT].rank)


def kind(path: Path) -> PathKind:
    """Return the row of a path. An unknown path counts as direct."""
    return KINDS.get(path, _UNKNOWN)


def carriers(choice: str) -> frozenset[Path]:
    """Return the kinds of path that may carry streams with this value of ``--path``."""
    return frozenset(KINDS) if choice == AUTO else frozenset((Path(choice),))


def tried(choice: str) -> frozenset[Path]:
    """Return the kinds of path to open with this value of ``--path``, including those that only introduce the peers."""
    carrying = carriers(choice)
    return frozenset(KINDS) if any(KINDS[path].needs_resume for path in carrying) else carrying
