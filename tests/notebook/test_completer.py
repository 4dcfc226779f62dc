from __future__ import annotations

from collections.abc import Callable

import pytest
from IPython.core import completer as of_ipython
from IPython.core.interactiveshell import InteractiveShell

from llmtunnel.notebook import completer

WORDS = ("serve", "status", "--name")


@pytest.fixture(params=["matcher", "hook"])
def shell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    if request.param == "hook":  # as in IPython 7
        monkeypatch.delattr(of_ipython, "context_matcher")
    return InteractiveShell()


def candidates(words: list[str]) -> list[str]:
    return {"": ["serve", "status"], "serve": ["--name"]}.get(" ".join(words), [])


def completed(shell: InteractiveShell, line: str) -> list[str]:
    with of_ipython.provisionalcompleter():
        found = [each.text for each in shell.Completer.completions(line, len(line))]
    return [each for each in found if each in WORDS]  # with the hook, Jedi's guesses are among them


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%tunnel s", ["serve", "status"]),
        ("%tunnel st", ["status"]),
        ("%%tunnel se", ["serve"]),
        ("  %tunnel  st", ["status"]),
        ("%tunnel serve --n", ["--name"]),
    ],
)
def test_the_magics_lines_are_completed(shell: InteractiveShell, line: str, expected: list[str]) -> None:
    undo = completer.install(shell, candidates)
    assert completed(shell, line) == expected
    undo()
    assert not set(expected) & set(completed(shell, line))


def test_other_lines_are_left_alone(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[list[str]] = []
    undo: Callable[[], None] = completer.install(shell, lambda words: seen.append(words) or [])  # type: ignore[func-returns-value]
    for line in ("%tunnels s", "x = %tun", "print(tunnel s"):
        completed(shell, line)
    assert seen == []
    undo()
