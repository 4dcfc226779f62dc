"""The tunnels of a notebook by name. A new tunnel replaces the one of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..cli.parsers import did_you_mean
from ..errors import SettingError
from ..invite import Invite
from ..status import Phase
from ..sync import Handle
from .completion import ALL

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

AnyHandle: TypeAlias = "Handle[Any]"

_KEPT_AS: Final = "_llmtunnel_tunnels"
_ENDED: Final = (Phase.STOPPED, Phase.FAILED)


class Registry:
    """The tunnels by name. They are in a plain dictionary on the shell, so that it survives a reload of our modules."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._handles: dict[str, AnyHandle] = vars(shell).setdefault(_KEPT_AS, {})

    def __iter__(self) -> Iterator[tuple[str, AnyHandle]]:
        return iter(tuple(self._handles.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of their start."""
        return tuple(self._handles)

    def get(self, name: str) -> AnyHandle | None:
        """Return the tunnel of this name, or None."""
        return self._handles.get(name)

    def running(self, name: str) -> AnyHandle | None:
        """Return the tunnel of this name unless it has ended, or None."""
        handle = self._handles.get(name)
        return None if handle is None or handle.status.phase in _ENDED else handle

    def put(self, name: str, handle: AnyHandle) -> None:
        """Store a tunnel under an unused name."""
        assert name not in self._handles, "the earlier tunnel was stopped"
        self._handles[name] = handle

    def stop(self, name: str) -> None:
        """Close the tunnel of this name, if any, and remove it."""
        if handle := self._handles.get(name):
            handle.close()
            del self._handles[name]

    def chosen(self, name: str | None, *, or_all: bool = False) -> tuple[str, AnyHandle]:
        """Return the tunnel of this name, or the only one if ``name`` is None. Raises `SettingError`.

        ``or_all``: whether the command also accepts `ALL`, for the hint.
        """
        if not self._handles:
            raise SettingError("No tunnel is running.", hint="Start one with %tunnel serve or %tunnel proxy CODE.")
        if name is None and len(self._handles) > 1:
            names = f"{', '.join(self._handles)}{f', or {ALL}' if or_all else ''}"
            raise SettingError("Several tunnels are running.", hint=f"Name one of them: {names}.")
        name = name or next(iter(self._handles))
        if name not in self._handles:
            hint = did_you_mean(name, self._handles) or f"Running tunnels: {', '.join(self._handles)}."
            raise SettingError(f"No tunnel named {name!r}.", hint=hint)
        return name, self._handles[name]


def invite_of(handle: AnyHandle) -> Invite | None:
    """Return a serve's invite, or None. Looked up by attribute, since a reload replaces the handle's class."""
    found: Invite | None = getattr(handle, "invite", None)
    return found
