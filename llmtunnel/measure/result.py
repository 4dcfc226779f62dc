"""The result of ``bench``, which displays itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..notebook.bench import html
from .figures import Found
from .table import WIDE, text


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult(Found):
    """The result of a measurement. ``print`` shows a table, and a notebook shows a table and a small plot.

    Its fields are numbers; their names or descriptions state the units. Nothing in it is secret.
    """

    def __str__(self) -> str:
        return text(self, width=WIDE)

    def _repr_html_(self) -> str:
        return html(self)
