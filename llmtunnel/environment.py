"""Environment variables that point programs of this process at a proxy: the only module that sets any."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final, Self

NO_KEY: Final = "llmtunnel"
"""For clients that insist on a key, where the listener asks for none."""


class Environ:
    """Variables, set when this is made, until `restore` or the end of a ``with``."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._set = variables
        self._before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)

    def restore(self) -> None:
        """Put back what was there before; a variable that somebody else has set since is left alone."""
        for name, value in self._before.items():
            if os.environ.get(name) != self._set[name]:
                continue
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        self._before.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def __repr__(self) -> str:
        return f"<Environ {', '.join(self._set)}>"


def for_clients(url: str, *, api_key: str | None) -> Environ:
    """Point OpenAI's and Ollama's clients at the proxy at ``url``.

    ``api_key``: what its listener asks for. A key that is set already is replaced in any case: it may well be for
    OpenAI itself, and would go to the machine at the other side.
    """
    return Environ(
        {
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",  # its name before version 1
            "OPENAI_API_KEY": api_key or NO_KEY,
            "OLLAMA_HOST": url,
        }
    )
