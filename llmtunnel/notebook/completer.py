"""Add ``%tunnel`` to IPython's completer: with a matcher, or with the older hook on IPython 7 (Colab).

The hook suppresses completions of file names, but not Jedi's guesses at Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from IPython.core.error import TryNext

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

Candidates = Callable[[list[str]], list[str]]
"""Maps the words before the cursor's word, without the magic itself, to completions."""
Undo = Callable[[], None]

_LINE: Final = re.compile(r"\s*%{0,2}tunnel\s")
_HOOKED: Final = ("%tunnel", "%%tunnel")


def install(shell: InteractiveShell, candidates: Candidates) -> Undo:
    """Install the completions. Returns a function that removes them."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        return _hook(shell, candidates)

    @context_matcher()  # type: ignore[untyped-decorator]
    def tunnel(context: Any) -> dict[str, Any]:
        fitting = _fitting(context.text_until_cursor, context.token, candidates)
        found = [SimpleCompletion(text=each, type="magic") for each in fitting]
        return {"completions": found, "suppress": bool(found)}

    matchers: list[Any] = shell.Completer.custom_matchers
    matchers.append(tunnel)
    return lambda: matchers.remove(tunnel)


def _hook(shell: InteractiveShell, candidates: Candidates) -> Undo:
    def complete(_shell: object, event: SimpleNamespace) -> list[str]:
        if found := _fitting(event.text_until_cursor, event.symbol, candidates):
            return found
        raise TryNext

    for word in _HOOKED:
        shell.set_hook("complete_command", complete, str_key=word)  # type: ignore[no-untyped-call]

    def undo() -> None:
        for word in _HOOKED:
            shell.strdispatchers["complete_command"].strs.pop(word, None)

    return undo


def _fitting(line: str, token: str, candidates: Candidates) -> list[str]:
    """Return completions of the token at the end of the line."""
    if not _LINE.match(line):
        return []
    words = line.removesuffix(token).split()[1:]
    return [each for each in candidates(words) if each.startswith(token)]
