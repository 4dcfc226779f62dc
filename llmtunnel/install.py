"""Where llmtunnel is installed from, and the commands that install and run it on another machine.

Every text that tells people how to install llmtunnel takes it from here, or a test compares it with this. The name
``llmtunnel`` is not registered at the package index before the first release: whoever registered it would own the
machine of everybody who installs it by its name. A release sets `RELEASED`, and no text names the index before.
"""

from __future__ import annotations

import shlex
from typing import Final, NamedTuple

RELEASED: bool = False
"""Whether the package index has llmtunnel. The only line here that a release changes."""
REPOSITORY: Final = "https://github.com/llmtunnel/llmtunnel"
TAG: Final = "main"
"""The tag or branch of the repository that is installed. `main` is where all links to the notebooks lead, too."""
SOURCE: Final = "llmtunnel" if RELEASED else f"git+{REPOSITORY}@{TAG}"
"""What ``uvx --from`` takes."""


def requirement(extra: str = "") -> str:
    """Return what pip installs, as a requirement, with one of the extras of ``pyproject.toml`` if given."""
    name = f"llmtunnel[{extra}]" if extra else "llmtunnel"
    return name if RELEASED else f"{name} @ {SOURCE}"


INSTALL: Final = requirement()
"""What pip installs: quoted in a shell, since it has spaces in it."""


class Commands(NamedTuple):
    """How to run llmtunnel on a machine that does not have it: `uvx` alone, or `pip` once and then `run`."""

    uvx: str
    """Installs and runs, where uv is there."""
    pip: str
    """Installs. The quotes hold in sh, PowerShell and cmd."""
    run: str
    """Runs what is installed: ``llmtunnel proxy CODE``."""


def commands(*words: str) -> Commands:
    """Return the commands for ``llmtunnel WORDS``, each quoted where a shell needs it."""
    run = shlex.join(("llmtunnel", *words))
    uvx = f"uvx {run}" if RELEASED else f'uvx --from "{SOURCE}" {run}'
    pip = f"pip install {INSTALL}" if RELEASED else f'pip install "{INSTALL}"'
    return Commands(uvx=uvx, pip=pip, run=run)


def on_laptop(code: str = "CODE") -> Commands:
    """Return the commands that use, on another machine, what is served with this code. They contain the secret."""
    return commands("proxy", code)
