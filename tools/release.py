"""What has to agree before a version is released, and the text of its release.

python -m tools.release check v0.2.0    # says what is missing, with exit status 1
python -m tools.release notes v0.2.0    # the version's part of CHANGELOG.md, as Markdown
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from llmtunnel import install
from llmtunnel.version import __version__

ROOT: Final = Path(__file__).resolve().parents[1]


def section(changelog: str, version: str) -> tuple[str, str]:
    """Return what stands behind the version in its heading, and the text below it; both are empty without a heading."""
    found = re.search(rf"^## \[{re.escape(version)}\] – (.+)\n((?:(?!^## ).*\n?)*)", changelog, re.MULTILINE)
    return (found[1].strip(), found[2].strip()) if found else ("", "")


def missing(tag: str, *, changelog: str, citation: str, released: bool) -> list[str]:
    """Return what keeps the tag from being released, one sentence for each: empty where nothing does."""
    version = tag.removeprefix("v")
    date, text = section(changelog, version)
    problems = []
    if tag != f"v{__version__}":
        problems.append(f"The tag {tag} is not v{__version__}, which llmtunnel/version.py says.")
    if not text:
        problems.append(f"CHANGELOG.md has nothing below a heading '## [{version}] – DATE'.")
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        problems.append(f"CHANGELOG.md dates {version} '{date}'. Write the day, as in 2026-12-31.")
    cited = (f"version: {version}", f"date-released: {date}")
    problems += [f"CITATION.cff has no line '{line}'." for line in cited if line not in citation.splitlines()]
    if not released:
        problems.append("llmtunnel/install.py says RELEASED = False: users would still be told to install from source.")
    return problems


def notes(changelog: str, tag: str) -> str:
    """Return the tag's part of the changelog; links to files lead to the repository as it is at the tag."""
    _, text = section(changelog, tag.removeprefix("v"))
    return re.sub(r"\]\((?![a-z]+:|#)", f"]({install.REPOSITORY}/blob/{tag}/", text)


def main(arguments: list[str]) -> int:
    """Run a command; the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("check", "notes"):
        print(__doc__, file=sys.stderr)
        return 2
    command, tag = arguments
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    if command == "notes":
        print(notes(changelog, tag))
        return 0
    problems = missing(tag, changelog=changelog, citation=citation, released=install.RELEASED)
    print("\n".join(problems) or f"{tag} can be released.", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
