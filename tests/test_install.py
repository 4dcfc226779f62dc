"""Where llmtunnel is installed from: one constant, and every text that people copy a command from."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from llmtunnel import install
from llmtunnel.invite import EXAMPLE

from .support.processes import ROOT

BY_NAME = re.compile(
    r"(?:pip3? install|uv add|uv tool install|pipx install|pipx run|uvx(?: --from)?)(?: (?!--no-index)-\S+)* +[\"']?"
    r"(?:llmtunnel|tunnel)(?:\[\w+\])?(?!\s*@|\w)"
)
"""Text that has people install llmtunnel from the index."""


def texts() -> list[Path]:
    """All that people read of us: documents, notebooks, sources with their messages."""
    found = [path for path in ROOT.iterdir() if path.suffix == ".md" or path.name in ("Makefile", "Dockerfile")]
    for folder in ("llmtunnel", "signal_server", "notebooks", "binder", "docs", "tools", ".github"):
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".md", ".ipynb", ".txt", ".yml", ".svg")
        ]
    return found


def test_pip_reads_what_it_is_told_to_install() -> None:
    read = Requirement(install.requirement("notebooks"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert read.name == project["name"]
    assert read.extras == {"notebooks"} <= set(project["optional-dependencies"])
    assert read.url == (None if install.RELEASED else f"git+{install.REPOSITORY}@{install.TAG}")
    assert Requirement(install.INSTALL).extras == set()


def test_the_laptops_commands_are_words_that_a_shell_gives_on_as_they_are() -> None:
    uvx, pip, run = install.on_laptop(EXAMPLE)
    assert shlex.split(run) == ["llmtunnel", "proxy", EXAMPLE]
    assert shlex.split(pip) == ["pip", "install", install.INSTALL]
    assert shlex.split(uvx)[-3:] == shlex.split(run)
    assert shlex.split(uvx)[:-3] == (["uvx"] if install.RELEASED else ["uvx", "--from", install.SOURCE])
    strange = f"{EXAMPLE}@ws://[::1]:8787/?a=1&b"
    assert [shlex.split(line)[-1] for line in install.on_laptop(strange)[::2]] == [strange, strange]


@pytest.mark.parametrize("text", ["pip install llmtunnel", "uvx llmtunnel proxy", '%pip install -q "llmtunnel[x]"'])
def test_a_text_that_names_the_index_is_found(text: str) -> None:
    assert BY_NAME.search(text)
    assert install.RELEASED or not BY_NAME.search(" ".join(install.on_laptop()))


def test_no_text_has_people_install_a_name_that_anybody_may_register() -> None:
    found = [path for path in texts() if BY_NAME.search(path.read_text("utf-8").replace('\\"', '"'))]
    assert install.RELEASED or found == []


def test_readme_has_the_commands_as_they_are_made() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    demo = install.commands("demo")
    assert f"```bash\n{demo.uvx}\n```" in readme
    assert f"```bash\n{demo.pip}\n{demo.run}\n```" in readme


def test_every_address_of_a_repository_that_a_text_installs_from_is_the_one() -> None:
    named = {found for path in texts() for found in re.findall(r"git\+https?://[^\s\"'\\]+", path.read_text("utf-8"))}
    assert named <= {install.SOURCE}
