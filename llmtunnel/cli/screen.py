"""The contents of a terminal: lines that scroll away, and below them a view that is redrawn in place. Pure.

The view is not on the terminal's alternate screen. So the user can scroll back to earlier lines, and the last view
stays when the program ends. Between two calls, the cursor is at the start of the line below the view.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

CSI: Final = "\x1b["
HIDE_CURSOR: Final = f"{CSI}?25l"
SHOW_CURSOR: Final = f"{CSI}?25h"
ERASE_LINE: Final = f"{CSI}K"
"""Erases from the cursor to the end of the line."""
ERASE_BELOW: Final = f"{CSI}J"
HOLD: Final = f"{CSI}?2026h"
"""Delay display until `RELEASE` (synchronized output). A terminal that does not support it ignores it."""
RELEASE: Final = f"{CSI}?2026l"
_STYLE: Final = re.compile(r"\x1b\[[\d;]*m")


class Screen:
    """The current lines of the view, and the text that turns them into the next ones."""

    def __init__(self) -> None:
        self._view: list[str] = []
        self._columns = 0

    def show(self, view: Sequence[str], *, columns: int, said: Sequence[str] = ()) -> str:
        """Return the text that adds the lines ``said`` above and updates the view; empty if nothing changed.

        Each line of the view must be shorter than the terminal's width, and the view must be shorter than its height.
        """
        old, rows = self._view, self._rows(columns)
        resized = columns != self._columns
        self._view, self._columns = list(view), columns
        if said or resized:
            lines = "".join(f"{line}\n" for line in (*said, *view))
            return f"{HOLD}{_up(rows)}{ERASE_BELOW}{lines}{RELEASE}"
        return "" if old == self._view else f"{HOLD}{_up(rows)}{_changes(old, self._view)}{RELEASE}"

    def forget(self) -> None:
        """Leave the current view as ordinary text; the next one is drawn below it."""
        self._view = []

    def _rows(self, columns: int) -> int:
        """Return the number of rows that the view occupies. A terminal that became narrower has wrapped its lines."""
        if not columns or columns >= self._columns:
            return len(self._view)
        return sum(-(-max(_length(line), 1) // columns) for line in self._view)


def _changes(old: Sequence[str], new: Sequence[str]) -> str:
    """Return the text that updates the lines from first to last; only lines that differ are written."""
    written = "".join(
        "\n" if line == before else f"{line}{ERASE_LINE}\n" for before, line in zip_longest(old[: len(new)], new)
    )
    return written + ERASE_BELOW if len(new) < len(old) else written


def _length(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(_STYLE.sub("", line))


def _up(rows: int) -> str:
    return f"\r{CSI}{rows}A" if rows else "\r"
