"""What tests read of the documentation: its files, their code blocks, links and headings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from llmtunnel.install import REPOSITORY, TAG

from ..support.processes import ROOT

DOCS = ROOT / "docs"
OWN = f"{REPOSITORY}/blob/{TAG}/"
"""How an absolute link to a file of the repository begins."""
_OPENS = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^`\s]*)")
_NOTE = re.compile(r"<!-- (?P<kind>run|not run): ?(?P<why>.*) -->|<!-- (?P<bare>run) -->")
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.*)$", re.MULTILINE)
_PAGE = re.compile(r"\A<!-- page: (\S+) -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A code block."""

    file: Path
    line: int
    language: str
    text: str
    run: bool
    """Whether a comment before it says that it runs."""
    why_not: str
    """The reason that a comment before it gives for not running it; empty where there is none."""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """The Markdown that people read for what to do: README, CONTRIBUTING, and docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def texts() -> Iterator[tuple[Path, str]]:
    """Every text that has links: each file, and its Markdown. Of a notebook its Markdown cells."""
    further = (
        "SECURITY",
        "CODE_OF_CONDUCT",
        "ARCHITECTURE",
        "CHANGELOG",
        "signal_server/README",
        "llmtunnel/protocol/README",
    )
    for file in [*pages(), *(ROOT / f"{name}.md" for name in further)]:
        yield file, without_blocks(file.read_text("utf-8"))
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        yield file, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(file: Path) -> Iterator[Block]:
    """The code blocks of a file, without directives of Sphinx."""
    lines = file.read_text("utf-8").splitlines()
    at = 0
    while at < len(lines):
        opens = _OPENS.match(lines[at])
        at += 1
        if not opens:
            continue
        end = lines.index(opens["indent"] + opens["fence"], at)
        note = _NOTE.fullmatch(lines[at - 2].strip()) if at > 1 else None
        if not opens["language"].startswith("{"):
            yield Block(
                file=file,
                line=at,
                language=opens["language"],
                text=dedent("\n".join(lines[at:end])) + "\n",
                run=bool(note and (note["bare"] or note["kind"] == "run")),
                why_not=(note["why"] or "") if note and note["kind"] == "not run" else "",
            )
        at = end + 1


def without_blocks(text: str) -> str:
    """The text without its code blocks and code spans, which may look like links or headings."""
    text = re.sub(r"^( *)(`{3,}).*?^\1\2$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", lambda span: span[0] if "](" not in span[0] else "", text)


def links(text: str) -> list[str]:
    """The targets of its links and pictures."""
    return [one or other for one, other in _LINK.findall(text)]


def anchors(file: Path) -> set[str]:
    """What a link may name after ``#``: GitHub's names of the headings."""
    text = file.read_text("utf-8")
    if page := _PAGE.match(text):
        text = (ROOT / page[1]).read_text("utf-8")
    found: set[str] = set()
    for heading in _HEADING.findall(re.sub(r"^( *)(`{3,}).*?^\1\2$", "", text, flags=re.MULTILINE | re.DOTALL)):
        name = slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = 0
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


def is_elsewhere(page: Path) -> bool:
    """Whether a page's text is a file elsewhere in the repository."""
    return bool(_PAGE.match(page.read_text("utf-8")))


def target(file: Path, link: str) -> tuple[Path, str] | None:
    """The file of ours that a link leads to, and what stands after ``#``; None where it leads elsewhere."""
    path, _, anchor = link.removeprefix(OWN).partition("#")
    if "://" in path or path.startswith("mailto:"):
        return None
    base = ROOT if link.startswith(OWN) else file.parent
    return (base / path if path else file).resolve(), anchor


def external() -> dict[str, list[str]]:
    """The links that lead elsewhere, each with the files that have it."""
    found: dict[str, list[str]] = {}
    for file, text in texts():
        for link in links(text):
            if target(file, link) is None:
                found.setdefault(link, []).append(str(file.relative_to(ROOT)))
    return dict(sorted(found.items()))
