"""Links of README, the documentation, SECURITY, ARCHITECTURE, CHANGELOG and the notebooks. Nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.processes import ROOT
from .markdown import DOCS, OWN, anchors, external, is_elsewhere, links, pages, target, texts

TEXTS = dict(texts())


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_a_file_and_to_a_heading_of_it(file: Path) -> None:
    wrong = []
    for link in links(TEXTS[file]):
        if (found := target(file, link)) is None:
            continue
        to, anchor = found
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
            wrong.append(link)
    assert wrong == []


def test_pages_link_to_the_repository_relatively_so_that_a_checkout_is_whole() -> None:
    assert [link for file in pages() for link in links(TEXTS[file]) if link.startswith(OWN)] == []


def test_links_that_lead_elsewhere_are_encrypted() -> None:
    assert external()
    assert [link for link in external() if not link.startswith(("https://", "mailto:"))] == []


def test_every_page_of_docs_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in DOCS.rglob("*.md"):
        text = page.read_text("utf-8")
        for tree in text.split("```{toctree}")[1:]:
            names = [line for line in tree.partition("```")[0].splitlines() if line and not line.startswith(":")]
            listed |= {page.parent / f"{name}.md" for name in names}
    assert listed == set(DOCS.rglob("*.md"))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 7000


def test_a_page_that_is_a_file_elsewhere_is_linked_as_that_file() -> None:
    """On GitHub such a page has nothing to read; on the site the link leads to the page."""
    linked = [target(file, link) for file in pages() for link in links(TEXTS[file])]
    assert [str(to[0]) for to in linked if to and to[0].suffix == ".md" and is_elsewhere(to[0])] == []
