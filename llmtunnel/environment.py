"""Environment variables that point programs of this process at a proxy. No other module sets variables."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment

NO_KEY: Final = "llmtunnel"
"""Placeholder for clients that require a key, if the listener requires none."""


_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Names of a listener on this machine."""
_EXEMPT: Final = ("NO_PROXY", "no_proxy")
"""Both spellings: curl and Python prefer the second, and other programs only know the first."""


class Environ:
    """Variables that are set on creation, until `restore` or the end of a ``with``."""

    _active: Final[list[Environ]] = []
    """All instances that are not restored, oldest first."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._set = variables
        self._before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        self._active.append(self)

    def restore(self) -> None:
        """Restore the previous values, except for variables that somebody else has set since.

        If a later `Environ` is still active, its values stay, and it will restore the values from before this one.
        """
        if self not in self._active:
            return
        later = self._active[self._active.index(self) + 1 :]
        self._active.remove(self)
        for name, value in self._before.items():
            above = next((each for each in later if name in each._set), None)
            if above is not None:
                if above._before[name] == self._set[name]:
                    above._before[name] = value
            elif os.environ.get(name) == self._set[name]:
                _put(name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def __repr__(self) -> str:
        return f"<Environ {', '.join(self._set)}>"


def for_clients(url: str, *, api_key: str | None) -> Environ:
    """Point OpenAI and Ollama clients, and libraries that use them, at the proxy at ``url``.

    ``api_key`` is the listener's key. A key in the environment is always replaced: it may be one for OpenAI or Ollama
    itself, which the other side would receive. Requests to the listener bypass the HTTP proxies in the environment.
    """
    key = api_key or NO_KEY
    return Environ(
        {
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",  # the name before version 1, which LiteLLM, LangChain and aider still read
            "OPENAI_API_KEY": key,
            "OLLAMA_HOST": url,
            "OLLAMA_API_BASE": url,  # LiteLLM and aider
            "OLLAMA_API_KEY": key,  # Ollama's own client sends it wherever OLLAMA_HOST points
            **_without_proxy(urlsplit(url).hostname or ""),
        }
    )


def _without_proxy(host: str) -> dict[str, str]:
    """Return variables that exempt the listener on ``host`` from HTTP proxies, besides the existing exemptions."""
    if not getproxies_environment() and getproxies():
        # The proxies are in the system settings of macOS or Windows: any proxy variable would replace all of them.
        return {}
    hosts = _LOOPBACK if host in _LOOPBACK else (host,)
    return {name: _exempting(_exempt_now(name), hosts) for name in _EXEMPT}


def _exempt_now(name: str) -> str:
    """Return the value that a program sees. Most programs fall back to the other spelling."""
    return next((os.environ[each] for each in (name, *_EXEMPT) if each in os.environ), "")


def _exempting(now: str, hosts: tuple[str, ...]) -> str:
    listed = [each.strip() for each in now.split(",") if each.strip()]
    if "*" in listed:  # exempts everything; urllib understands it only on its own
        return now
    return ",".join((*listed, *(host for host in hosts if host not in listed)))


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
