"""A tunnel's status as plain text, which every page and terminal can show. Pure."""

from __future__ import annotations

import time

from ..status import Status
from ..summary import PEER_COLUMNS, peer_rows, printable, state_words, turn_words, upstream_words


def summary(name: str, status: Status) -> str:
    """Return a line with the state, and one each for the upstream, the TURN server and a problem, if known."""
    state = state_words(status)
    where = f", {status.url}" if status.url else ""
    detail = f"  {printable(state.detail)}\n" if state.detail else ""
    health = upstream_words(status.upstream)
    upstream = f"  the model server {health}\n" if health else ""
    servers = turn_words(status.turn, status.turn_from)
    turn = f"  TURN server {servers}\n" if servers else ""
    return f"{name}: {state.severity.mark} {state.words}{where}\n{upstream}{turn}{detail}"


def peers(status: Status) -> str:
    """Return the connected peers as a table."""
    rows = peer_rows(status.peers, now=time.time())
    if not rows:
        return "no peer is connected\n"
    lines = [[column.title for column in PEER_COLUMNS]]
    lines += [[str(getattr(row, column.name)) for column in PEER_COLUMNS] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "".join(f"{'  '.join(map(str.ljust, line, widths)).rstrip()}\n" for line in lines)
