"""What ``bench`` returns: the figures, which show themselves."""

from __future__ import annotations

from dataclasses import dataclass

from ..notebook.bench import html
from .figures import Found
from .table import WIDE, text


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult(Found):
    """What a measurement has found. ``print`` shows a table, and a notebook a table and a small plot.

    Its fields are numbers; their names or descriptions say the unit. Nothing in it is secret.
    """

    def __str__(self) -> str:
        return text(self, width=WIDE)

    def _repr_html_(self) -> str:
        return html(self)
