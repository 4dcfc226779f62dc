"""What stands on a terminal: lines that scroll away, and under them a view that is drawn over itself. Pure: text out.

It is drawn where the shell was, not on the terminal's other screen: what scrolled away can be scrolled back to, and the
last view stays when the program has ended. Between two calls the cursor stands at the start of the line below the view.
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
"""From the cursor to the end of the line."""
ERASE_BELOW: Final = f"{CSI}J"
HOLD: Final = f"{CSI}?2026h"
"""Show nothing of what comes before `RELEASE`: terminals that know it draw it at once, others pass over it."""
RELEASE: Final = f"{CSI}?2026l"
_STYLE: Final = re.compile(r"\x1b\[[\d;]*m")


class Screen:
    """The lines of the view that is shown, and what makes of them the next ones."""

    def __init__(self) -> None:
        self._view: list[str] = []
        self._columns = 0

    def show(self, view: Sequence[str], *, columns: int, said: Sequence[str] = ()) -> str:
        """What to write for the lines ``said`` to stand above, and the view as it is now; empty if it is so already.

        The view's lines are shorter than the terminal is wide, and at least one fewer than it is high.
        """
        old, rows = self._view, self._rows(columns)
        resized = columns != self._columns
        self._view, self._columns = list(view), columns
        if said or resized:
            lines = "".join(f"{line}\n" for line in (*said, *view))
            return f"{HOLD}{_up(rows)}{ERASE_BELOW}{lines}{RELEASE}"
        return "" if old == self._view else f"{HOLD}{_up(rows)}{_changes(old, self._view)}{RELEASE}"

    def forget(self) -> None:
        """What is shown stays, as text like any other: the next view is drawn below."""
        self._view = []

    def _rows(self, columns: int) -> int:
        """Rows that the view takes. A terminal that has become narrower has folded its lines."""
        if not columns or columns >= self._columns:
            return len(self._view)
        return sum(-(-max(_length(line), 1) // columns) for line in self._view)


def _changes(old: Sequence[str], new: Sequence[str]) -> str:
    """From the first line to the one below the last; only lines that differ are written."""
    written = "".join(
        "\n" if line == before else f"{line}{ERASE_LINE}\n" for before, line in zip_longest(old[: len(new)], new)
    )
    return written + ERASE_BELOW if len(new) < len(old) else written


def _length(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(_STYLE.sub("", line))


def _up(rows: int) -> str:
    return f"\r{CSI}{rows}A" if rows else "\r"
