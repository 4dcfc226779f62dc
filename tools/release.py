"""Check that a version can be released, and make the files for its release.

python -m tools.release check v0.2.0          # lists what is missing, with exit status 1
python -m tools.release notes v0.2.0          # prints the version's part of CHANGELOG.md, as Markdown
python -m tools.release source build/source   # copies the checkout, with a README for the package index
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from llmtunnel import install
from llmtunnel.version import __version__

ROOT: Final = Path(__file__).resolve().parents[1]


def section(changelog: str, version: str) -> tuple[str, str]:
    """Return the text after the version in its heading, and the text below it; both are empty without a heading."""
    found = re.search(rf"^## {re.escape(version)} – (.+)\n((?:(?!^## ).*\n?)*)", changelog, re.MULTILINE)
    return (found[1].strip(), found[2].strip()) if found else ("", "")


def missing(tag: str, *, changelog: str, citation: str, released: bool) -> list[str]:
    """Return what prevents a release of the tag, one sentence each; empty if nothing does."""
    version = tag.removeprefix("v")
    date, text = section(changelog, version)
    problems = []
    if tag != f"v{__version__}":
        problems.append(f"The tag is {tag}, but llmtunnel/version.py requires v{__version__}.")
    if not text:
        problems.append(f"CHANGELOG.md has no text below a heading '## {version} – DATE'.")
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        problems.append(f"CHANGELOG.md dates {version} '{date}'. Write the day, as in 2026-12-31.")
    cited = (f"version: {version}", f"date-released: {date}")
    problems += [f"CITATION.cff has no line '{line}'." for line in cited if line not in citation.splitlines()]
    if not released:
        problems.append("llmtunnel/install.py says RELEASED = False: users would still be told to install from source.")
    return problems


def absolute(markdown: str, tag: str) -> str:
    """Return the text with links to the repository at the tag, for a page without files beside it."""
    markdown = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\g<1>{install.REPOSITORY}/raw/{tag}/", markdown)
    return re.sub(r"\]\((?![a-z]+:|#)", f"]({install.REPOSITORY}/blob/{tag}/", markdown)


def notes(changelog: str, tag: str) -> str:
    """Return the tag's part of the changelog."""
    return absolute(section(changelog, tag.removeprefix("v"))[1], tag)


def copy_source(to: Path) -> None:
    """Copy all files that git tracks or would add, with links in README that lead to the repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():  # git still lists files that were just deleted
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    readme = to / "README.md"
    readme.write_text(absolute(readme.read_text("utf-8"), f"v{__version__}"), "utf-8")


def main(arguments: list[str]) -> int:
    """Run a command. Returns the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("check", "notes", "source"):
        print(__doc__, file=sys.stderr)
        return 2
    command, what = arguments
    if command == "source":
        copy_source(Path(what))
        return 0
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    if command == "notes":
        print(notes(changelog, what))
        return 0
    problems = missing(what, changelog=changelog, citation=citation, released=install.RELEASED)
    print("\n".join(problems) or f"{what} can be released.", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
