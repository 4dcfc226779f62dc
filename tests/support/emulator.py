"""A terminal, as far as our output needs one: what stands on it, what scrolled away, whether the cursor is seen."""

from __future__ import annotations

import re

_UNFINISHED = re.compile(r"\x1b(\[[?\d;]*)?\Z")
_PIECE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b|.", re.DOTALL)


class Emulator:
    """Fed with what a program writes, in characters of one column. What it does not know fails."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.scrolled: list[str] = []
        self.cursor_seen = True
        self.styles: set[str] = set()
        """The styles that were asked for, as SGR parameters."""
        self._lines = [""]
        self._wrapped = [False]
        """Whether each line goes on in the next: it was too long for the screen."""
        self._gone: list[tuple[str, bool]] = []
        self._row = self._column = 0
        self._shown: list[str] | None = None
        """What stands there while a frame is drawn, which is shown when it is whole."""
        self._rest = ""
        """The beginning of a sequence."""

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without what is empty below and to the right."""
        lines = self._lines if self._shown is None else self._shown
        return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    @property
    def copied(self) -> list[str]:
        """All lines, those that scrolled away too, as copying gives them: one that the screen has wrapped is whole."""
        copied: list[str] = []
        goes_on = False
        for line, wrapped in (*self._gone, *zip(self._lines, self._wrapped, strict=True)):
            copied = [*copied[:-1], copied[-1] + line] if goes_on else [*copied, line]
            goes_on = wrapped
        return [line.rstrip() for line in copied]

    def feed(self, text: str) -> None:
        """Do as the text says, which may end anywhere."""
        text = self._rest + text
        unfinished = _UNFINISHED.search(text)
        self._rest = unfinished[0] if unfinished else ""
        for piece in _PIECE.finditer(text.removesuffix(self._rest)):
            match f"CSI {piece[2]}" if piece[2] else piece[0]:
                case "CSI A":
                    self._row = max(self._row - int(piece[1]), 0)
                case "CSI K":
                    self._lines[self._row], self._wrapped[self._row] = self._before(), False
                case "CSI J":
                    self._lines[self._row :] = [self._before()]
                    self._wrapped[self._row :] = [False]
                case "CSI m":
                    self.styles.update(filter(None, piece[1].split(";")))
                case "CSI h" | "CSI l" if piece[1] == "?25":
                    self.cursor_seen = piece[2] == "h"
                case "CSI h" | "CSI l" if piece[1] == "?2026":
                    self._shown = list(self._lines) if piece[2] == "h" else None
                case "\r":
                    self._column = 0
                case "\n":
                    self._down()
                case char:
                    assert char.isprintable() and not piece[2], f"unknown: {piece[0]!r}"
                    self._put(char)

    def resize(self, columns: int, rows: int) -> None:
        """Take another size. Lines that are too long for it are folded, as most terminals do."""
        before = self._lines[: self._row]
        pieces = [(line, at) for line in before for at in range(0, max(len(line.rstrip()), 1), columns)]
        folded = [line[at : at + columns] for line, at in pieces]
        self._lines, self._row, self._column = [*folded, ""], len(folded), 0
        self._wrapped = [*(len(line.rstrip()) > at + columns for line, at in pieces), False]
        self.columns, self.rows = columns, rows
        self._scroll()

    def _before(self) -> str:
        return self._lines[self._row][: self._column]

    def _put(self, char: str) -> None:
        if self._column == self.columns:
            self._wrapped[self._row] = True
            self._down()
            self._column = 0
        line = self._lines[self._row].ljust(self._column)
        self._lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
        self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append("")
            self._wrapped.append(False)
        self._scroll()

    def _scroll(self) -> None:
        while len(self._lines) > self.rows:
            line = self._lines.pop(0)
            self.scrolled.append(line.rstrip())
            self._gone.append((line, self._wrapped.pop(0)))
            self._row -= 1
