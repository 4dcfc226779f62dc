from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from llmtunnel import install
from llmtunnel.version import __version__
from tools import release

from ..portable import LEFT_OUT
from ..support.processes import ROOT

CHANGELOG = """# Changelog

## 0.3.0 – 2027-01-31

### New

- One thing, told [here](docs/one.md) and [there](https://example.org/x).

## 0.2.0 – unreleased

- Another thing.
"""
CITATION = "version: {}\ndate-released: {}\n"


def problems(tag: str, **changes: object) -> list[str]:
    """What keeps a tag back, where all is ready for 0.3.0 but for these changes."""
    ready: dict[str, object] = {"changelog": CHANGELOG, "released": True}
    ready["citation"] = CITATION.format("0.3.0", "2027-01-31")
    return release.missing(tag, **(ready | changes))  # type: ignore[arg-type]


@pytest.fixture
def at_0_3_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "__version__", "0.3.0")


@pytest.mark.usefixtures("at_0_3_0")
@pytest.mark.parametrize(
    ("tag", "changes", "said"),
    [
        ("v0.4.0", {}, ["llmtunnel/version.py", "CHANGELOG.md", "CITATION.cff", "CITATION.cff"]),
        ("0.3.0", {}, ["requires v0.3.0"]),
        ("v0.3.0", {"released": False}, ["RELEASED = False"]),
        ("v0.3.0", {"citation": CITATION.format("0.2.0", "2027-01-31")}, ["'version: 0.3.0'"]),
        ("v0.3.0", {"citation": CITATION.format("0.3.0", "2027-01-30")}, ["'date-released: 2027-01-31'"]),
        ("v0.3.0", {"changelog": CHANGELOG.replace("2027-01-31", "unreleased")}, ["'unreleased'", "date-released"]),
        ("v0.3.0", {"changelog": "## 0.3.0 – 2027-01-31\n\n## 0.2.0 – unreleased\n\n- x\n"}, ["has no text"]),
    ],
)
def test_a_tag_is_kept_back_by_what_does_not_agree(tag: str, changes: dict[str, object], said: list[str]) -> None:
    found = problems(tag, **changes)
    assert len(found) >= len(said)
    assert all(any(part in problem for problem in found) for part in said)


@pytest.mark.usefixtures("at_0_3_0")
def test_a_tag_for_which_all_agrees_is_released() -> None:
    assert problems("v0.3.0") == []


def test_the_notes_are_the_versions_part_alone_and_lead_to_its_files() -> None:
    there = f"{install.REPOSITORY}/blob/v0.3.0/docs/one.md"
    assert release.notes(CHANGELOG, "v0.3.0") == (
        f"### New\n\n- One thing, told [here]({there}) and [there](https://example.org/x)."
    )
    assert release.notes(CHANGELOG, "v0.2.0") == "- Another thing."


def test_links_of_a_page_without_files_beside_it_lead_to_the_repository() -> None:
    text = "![a](docs/a.svg) [![b](https://b.example/b.svg)](https://b.example) [c](docs/c.md#d) [e](#e)"
    there = install.REPOSITORY
    assert release.absolute(text, "v1") == (
        f"![a]({there}/raw/v1/docs/a.svg) [![b](https://b.example/b.svg)](https://b.example)"
        f" [c]({there}/blob/v1/docs/c.md#d) [e](#e)"
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout by git")
def test_the_source_that_is_published_is_the_checkout_but_for_readmes_links(tmp_path: Path) -> None:
    release.copy_source(tmp_path)
    for name in ("pyproject.toml", "llmtunnel/version.py", "tests/tools/test_release.py", ".github/workflows/ci.yml"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert f"]({install.REPOSITORY}/blob/v{__version__}/SECURITY.md)" in readme
    assert not re.search(r"\]\((?![a-z]+:|#)", readme)


def test_this_version_is_the_changelogs_newest_and_the_citations() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == __version__  # type: ignore[index]
    assert release.notes(changelog, f"v{__version__}").startswith(("#", "The "))
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text("utf-8").splitlines()


def test_what_ci_runs_is_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name]
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "python: [{}]".format(", ".join(f'"{one}"' for one in named)) in ci
    assert project["requires-python"] == f">={named[0]}"


def test_each_command_that_a_workflow_runs_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    workflows = [path.read_text("utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    text = "\n".join(workflows)
    made = set(re.findall(r"\bmake ([a-z-]+)", re.sub(r"#.*", "", text)))
    assert {"check", "dist", "images"} <= made <= targets
    modules = set(re.findall(r"python -m ((?:tests|tools)\.\w+)", text))
    assert modules >= {"tests.portable", "tools.release", "tools.try_wheel"}
    assert all((ROOT / module.replace(".", "/")).with_suffix(".py").is_file() for module in modules)


def test_what_the_portable_tests_leave_out_is_there() -> None:
    assert [name for name in LEFT_OUT if not (ROOT / "tests" / name).exists()] == []
