"""``llmtunnel doctor``: print the findings as a table for people, or as a JSON object."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Final, TextIO

from ..doctor.findings import Diagnosis, Finding, Verdict

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_MARKS: Final = {
    Verdict.GOOD: ("✓", "green"),
    Verdict.POOR: ("!", "yellow"),
    Verdict.BAD: ("✗", "red"),
    Verdict.UNKNOWN: ("·", "bright_black"),
}


def text(diagnosis: Diagnosis, screen: TextIO) -> str:
    """Return the table and its last line, with the width and colours that ``screen`` supports."""
    from rich.console import Console

    shown, made = Console(file=screen), io.StringIO()  # rich's own capture would also write to the screen
    console = Console(
        file=made,
        highlight=False,
        force_jupyter=False,  # in a notebook rich would display the text instead
        width=shown.width,
        force_terminal=shown.is_terminal,
        color_system=shown.color_system,  # type: ignore[arg-type]
        legacy_windows=shown.legacy_windows,
    )
    console.print(_table(diagnosis.findings))
    console.print(f"\n{diagnosis.expectation}", markup=False)
    return "".join(f"{line.rstrip()}\n" for line in made.getvalue().splitlines())


def json_text(diagnosis: Diagnosis) -> str:
    """Return one line of JSON."""
    return json.dumps(diagnosis.as_dict()) + "\n"


def _table(findings: tuple[Finding, ...]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        table.add_row(_text(mark, style), _text(finding.subject), _text(f"{finding.detail} {finding.hint}".rstrip()))
    return table


def _text(words: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(words, style=style, overflow="fold")  # no markup, since servers send parts of it; no address is cut
