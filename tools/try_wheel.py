"""Run a wheel without a prior installation, with ``uvx`` and with ``pipx run``: the demo, and the page for browsers.

python -m tools.try_wheel dist/llmtunnel-0.2.0-py3-none-any.whl

Needs uv and pipx. They fetch the dependencies from the package index, so the tests do not include this.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def commands(wheel: str) -> list[list[str]]:
    """Return the commands that run the wheel; llmtunnel's own arguments follow."""
    return [
        ["uvx", "--from", wheel, "llmtunnel"],
        ["uvx", "--from", wheel, "tunnel"],
        ["pipx", "run", "--no-cache", "--spec", wheel, "llmtunnel"],
    ]


def main(arguments: list[str]) -> int:
    """Run all commands. Returns the exit status."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print(f"not a wheel: {shlex.join(arguments)!r}. Build one with: make dist", file=sys.stderr)
        return 2
    wheel = str(Path(arguments[0]).resolve())
    for command in commands(wheel):
        if shutil.which(command[0]) is None:
            print(f"{command[0]} is not installed. Use: pip install uv pipx", file=sys.stderr)
            return 2
        print(f"$ {shlex.join([*command, '--version'])}", flush=True)
        said = subprocess.run([*command, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        print(said, flush=True)
        if said != f"llmtunnel {Path(wheel).name.split('-')[1]}":
            print(f"{command[0]} runs another version than {Path(wheel).name}: {said!r}", file=sys.stderr)
            return 1
    for command in commands(wheel)[::2]:
        print(f"$ {shlex.join([*command, 'demo'])}", flush=True)
        subprocess.run([*command, "demo"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        export = [*commands(wheel)[0], "web", "--export", folder]
        print(f"$ {shlex.join(export)}", flush=True)
        subprocess.run(export, check=True)
        assert (Path(folder) / "index.html").exists(), "the wheel has the page"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
