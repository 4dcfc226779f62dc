"""Follow deploy/Dockerfile in a clean directory: python -m tools.image

It does what the image's build does, without a container runtime: the same packages in a new virtual environment, the
same files, the same variables, the same command. Then it asks the health check, ends the server with SIGTERM, and
prints what the image adds to Python's. pip needs a package index for that.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DOCKERFILE: Final = ROOT / "deploy/Dockerfile"
MOST: Final = 100_000_000
"""Bytes that the image may add to Python's."""
USERADD: Final = "useradd "
"""The only command besides pip that the build runs; without it everything here works the same."""


class Steps:
    """The instructions of a Dockerfile that has one stage."""

    def __init__(self, text: str) -> None:
        joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
        self.all = [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]

    def of(self, kind: str) -> list[str]:
        """Return the arguments of every instruction of this kind."""
        return [rest for name, rest in self.all if name == kind]

    @property
    def environ(self) -> dict[str, str]:
        """The variables that the image sets."""
        return dict(pair.split("=", 1) for text in self.of("ENV") for pair in shlex.split(text))

    @property
    def commands(self) -> list[str]:
        """The commands that the build runs."""
        return [command.strip() for text in self.of("RUN") for command in text.split("&&")]

    @property
    def copied(self) -> list[tuple[str, str]]:
        """What it copies, from where to where."""
        pairs = [text.split() for text in self.of("COPY")]
        return [(source, target) for source, target in pairs]


def build(steps: Steps, srv: Path, environment: Path) -> None:
    """Do what the build does: the working directory is ``srv``, Python's packages are in ``environment``."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for source, target in steps.copied:
        to = srv / target if Path(target).name == Path(source).name else srv / target / Path(source).name
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=ignored)
        else:
            shutil.copy(ROOT / source, to)
    for command in steps.commands:
        if command.startswith("pip install "):
            pip = [sys.executable, "-I", "-m", "pip", "--python", str(environment / "bin/python"), "--quiet"]
            alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            subprocess.run([*pip, *shlex.split(command)[1:]], check=True, cwd=srv, env=alone)
        elif not command.startswith(USERADD):
            raise SystemExit(f"{DOCKERFILE}: this script does not know the command: {command}")


def try_out(steps: Steps, srv: Path, environment: Path) -> None:
    """Run the image's command and its health check, on a free port, and end it as a runtime does."""
    python = str(environment / "bin/python")

    def command(text: str) -> list[str]:
        words: list[str] = re.findall(r'"([^"]*)"', text)
        return [python if word == "python" else word for word in words]

    environ = {"PATH": os.defpath, **steps.environ}
    subprocess.run([python, "-c", "import redis.asyncio"], cwd=srv, env=environ, check=True)
    environ["TUNNEL_SIGNAL_LISTEN"] = environ["TUNNEL_SIGNAL_LISTEN"].rpartition(":")[0] + ":0"
    [entrypoint], [health] = steps.of("ENTRYPOINT"), steps.of("HEALTHCHECK")
    flags = ["--metrics-listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command(entrypoint), *flags], cwd=srv, env=environ, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"listening on ws://(\S+)", line := server.stdout.readline())
            if found is None:
                raise SystemExit(f"The server does not start: {line!r}")
            environ["TUNNEL_SIGNAL_LISTEN"] = found[1]
            subprocess.run(command(health.partition(" CMD ")[2]), cwd=srv, env=environ, check=True, timeout=30)
            server.send_signal(signal.SIGTERM)
            if (status := server.wait(30)) != 128 + signal.SIGTERM:
                raise SystemExit(f"The server ended with {status}")
        finally:
            server.kill()
    # A container that is not healthy has a status other than 0, too.
    dead = subprocess.run(
        command(health.partition(" CMD ")[2]), cwd=srv, env=environ, timeout=30, stderr=subprocess.DEVNULL
    )
    if dead.returncode == 0:
        raise SystemExit("The health check finds a server that has ended.")


def size_of(*folders: Path) -> int:
    """Return the bytes of all files in them."""
    files = [path for folder in folders for path in folder.rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())


def main() -> None:
    """Build, try, measure."""
    steps = Steps(DOCKERFILE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as work:
        srv, environment = Path(work, "srv"), Path(work, "environment")
        srv.mkdir()
        build(steps, srv, environment)
        size = size_of(srv, environment)
        try_out(steps, srv, environment)
    print(f"The image adds {size / 1e6:.1f} MB to Python's, and its server runs.")
    if size > MOST:
        raise SystemExit(f"That is more than {MOST / 1e6:g} MB.")


if __name__ == "__main__":
    main()
