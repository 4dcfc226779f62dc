"""Where llmtunnel is installed from: one constant, and every text that people copy a command from."""

from __future__ import annotations

import shlex
import tomllib

from packaging.requirements import Requirement

from llmtunnel import install
from llmtunnel.invite import EXAMPLE

from .support.processes import ROOT


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
