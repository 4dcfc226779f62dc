"""Where llmtunnel is installed from, and the commands that install and run it on another machine.

Every text about installation takes it from here, or a test compares it with this module. Before the first release, the
name ``llmtunnel`` is not registered at the package index. Anyone who registered it would control the machines of those
who install it by name. So no text names the index before a release sets `RELEASED`.
"""

from __future__ import annotations

import shlex
from typing import Final, NamedTuple

RELEASED: bool = False
"""Whether the package index has llmtunnel. A release changes only this line here."""
REPOSITORY: Final = "https://github.com/llmtunnel/llmtunnel"
TAG: Final = "main"
"""Tag or branch of the repository to install. All links to the notebooks lead to `main` as well."""
SOURCE: Final = "llmtunnel" if RELEASED else f"git+{REPOSITORY}@{TAG}"
"""Argument of ``uvx --from``."""


def requirement(extra: str = "") -> str:
    """Return the requirement for pip, with one of the extras of ``pyproject.toml`` if given."""
    name = f"llmtunnel[{extra}]" if extra else "llmtunnel"
    return name if RELEASED else f"{name} @ {SOURCE}"


INSTALL: Final = requirement()
"""Requirement for pip. A shell needs quotes around it, since it contains spaces."""


class Commands(NamedTuple):
    """Commands to run llmtunnel on a machine without it: `uvx` alone, or `pip` once and then `run`."""

    uvx: str
    """Installs and runs llmtunnel. Needs uv."""
    pip: str
    """Installs llmtunnel. The quotes work in sh, PowerShell and cmd."""
    run: str
    """Runs the installed command: ``llmtunnel proxy CODE``."""


def commands(*words: str) -> Commands:
    """Return the commands for ``llmtunnel WORDS``, with shell quotes where needed."""
    run = shlex.join(("llmtunnel", *words))
    uvx = f"uvx {run}" if RELEASED else f'uvx --from "{SOURCE}" {run}'
    pip = f"pip install {INSTALL}" if RELEASED else f'pip install "{INSTALL}"'
    return Commands(uvx=uvx, pip=pip, run=run)


def on_laptop(code: str = "CODE") -> Commands:
    """Return the commands for the other machine with this code, which is secret."""
    return commands("proxy", code)
