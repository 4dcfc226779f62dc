"""The code blocks of README and the documentation.

- Python runs as it is, beside a signal server, a toy model server, a serve and a proxy of this test.
- In a shell block, every command of llmtunnel must be one that the command line accepts. Where ``<!-- run -->`` stands
  before the block, it runs as well.
- ``<!-- not run: REASON -->`` before a block leaves it out.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
import yaml

import llmtunnel
from llmtunnel import local
from llmtunnel.cli.options import SignalCommand, parse
from llmtunnel.invite import EXAMPLE, Invite
from signal_server.cli import _parser as signal_parser

from ..support.model_answers import OLLAMA_END, ndjson
from ..support.processes import environment
from ..support.raw_server import reply
from ..support.upstream import Upstream
from .markdown import Block, blocks, pages

BLOCKS = [block for page in pages() for block in blocks(page)]
PATIENCE = 80
"""Seconds that one block may take on a busy machine."""
IN_IPYTHON = """\
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell({text!r}).raise_error()
shell.run_line_magic("tunnel", "stop all")
"""


class Place:
    """What stands beside a block that runs."""

    def __init__(self, signal: str, upstream: str, code: str, url: str, ollama: str) -> None:
        self.ollama = ollama
        """A proxy of a server with Ollama's interface; the other one has OpenAI's."""
        self._replaced = {
            "http://127.0.0.1:8000": url,
            EXAMPLE: code,
            "CODE": code,
            'serve("ollama"': f"serve({upstream!r}",
        }
        # The relay: a direct path would ask a STUN server, and no test uses the internet.
        self._variables = {
            "TUNNEL_SIGNAL": signal,
            "TUNNEL_UPSTREAM": upstream,
            "TUNNEL_LISTEN": "127.0.0.1:0",
            "TUNNEL_PATH": "relay",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def run(self, words: list[str], text: str, folder: Path) -> str:
        """Run the text, with the addresses of this place in it. Fails where it fails."""
        for named, here in self._replaced.items():
            text = text.replace(named, here)
        done = subprocess.run(
            [*words, text],
            cwd=folder,
            env=environment({**self._variables, "IPYTHONDIR": str(folder)}),
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    said = [{"model": "llama3.2", "message": {"role": "assistant", "content": word}} for word in ("a", "b", "")]
    lines = ndjson(*said[:2], said[2] | OLLAMA_END)
    ollama = Upstream()
    ollama.answers[b"/api/chat"] = reply(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n%b" % (len(lines), lines)
    )
    here = {"listen": "127.0.0.1:0", "stun": ()}
    with closing(ollama), local.toy() as toy, local.signal() as signal:
        there = {"signal": signal.url, "stun": ()}
        with (
            llmtunnel.serve(toy.url, **there) as server,
            llmtunnel.proxy(server.invite, **here) as proxy,
            llmtunnel.serve(ollama.url, **there) as other,
            llmtunnel.proxy(other.invite, **here) as other_proxy,
        ):
            assert server.invite is not None
            yield Place(signal.url, toy.url, server.invite.code, proxy.url, other_proxy.url)


def of(*languages: str) -> pytest.MarkDecorator:
    """Parametrize with the blocks of these languages that run."""
    found = [block for block in BLOCKS if block.language in languages and not block.why_not]
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_is_of_a_kind_that_is_tested_or_says_why_not() -> None:
    known = {"python", "bash", "json", "yaml", "ini", "text", ""}
    assert [str(block) for block in BLOCKS if block.language not in known and not block.why_not] == []
    assert [str(block) for block in BLOCKS if block.why_not and len(block.why_not.split()) < 3] == []


@of("python")
@pytest.mark.timeout(PATIENCE + 10)
def test_python_runs(block: Block, place: Place, tmp_path: Path) -> None:
    text = block.text
    for package in ("ollama", "langchain_openai"):
        if f"from {package} " in text and find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install '.[apps]'")
    if "from ollama " in text:
        text = text.replace("http://127.0.0.1:8000", place.ollama)
    if any(line.startswith("%") for line in text.splitlines()):
        text = IN_IPYTHON.format(text=text)
    place.run([sys.executable, "-c"], text, tmp_path)


@of("bash")
def test_a_shell_block_has_commands_that_the_command_line_accepts(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").write_text(Invite.generate().code)
    (tmp_path / "key").write_text("a key")
    commands = list(commands_in(block.text))
    assert commands or block.run, "nothing in it is checked: mark it"
    for words in commands:
        asked = {"TUNNEL_INVITE": EXAMPLE} if "-" in words else {}  # in the place of what a user types
        command = parse([word for word in words if word != "-"], asked)
        if isinstance(command, SignalCommand):
            signal_parser("llmtunnel signal").parse_args(command.arguments)


@pytest.mark.skipif(not (which("bash") and which("curl")) or os.name != "posix", reason="needs bash and curl")
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.run], ids=str)
@pytest.mark.timeout(PATIENCE + 10)
def test_a_shell_block_that_is_marked_runs(block: Block, place: Place, tmp_path: Path) -> None:
    assert block.language == "bash"
    place.run(["bash", "-euo", "pipefail", "-c"], block.text, tmp_path)


@of("json", "yaml", "ini")
def test_data_can_be_read(block: Block) -> None:
    if block.language == "ini":
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read_string(block.text)
        assert parser.sections()
    else:
        assert {"json": json.loads, "yaml": yaml.safe_load}[block.language](block.text)


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after each ``llmtunnel`` that is a command of a shell's text."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] | None = None
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if words is None:
                words = [] if word == "llmtunnel" else None
            elif set(word) <= set("();<>|&"):
                yield words
                words = None
            else:
                words.append(word)


def test_a_wrong_flag_in_a_block_is_found() -> None:
    text = "(umask 077; llmtunnel invite > code) # llmtunnel x\nA='b c' llmtunnel serve \\\n  'a b' --no"
    assert [*commands_in(text)] == [["invite"], ["serve", "a b", "--no"]]
    with pytest.raises(llmtunnel.SettingError):
        parse(["serve", "--no"], {})
