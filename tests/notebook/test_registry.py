from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmtunnel.errors import SettingError
from llmtunnel.notebook.registry import Registry
from llmtunnel.status import Phase, Role, Status


class Handle:
    """What the registry knows of one."""

    def __init__(self, phase: Phase = Phase.READY) -> None:
        self.status = Status(role=Role.SERVE, phase=phase)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def registry(**handles: Any) -> Registry:
    made = Registry(SimpleNamespace())  # type: ignore[arg-type]
    for name, handle in handles.items():
        made.put(name, handle)
    return made


def test_what_is_kept_belongs_to_the_shell() -> None:
    shell: Any = SimpleNamespace()
    handle: Any = Handle()
    Registry(shell).put("a", handle)
    assert list(Registry(shell)) == [("a", handle)]
    assert list(Registry(SimpleNamespace())) == []  # type: ignore[arg-type]


def test_stopping_closes_and_forgets_and_is_no_mistake_twice() -> None:
    handle = Handle()
    tunnels = registry(a=handle)
    tunnels.stop("a")
    tunnels.stop("a")
    assert handle.closed == 1
    assert tunnels.names == ()


def test_one_that_has_ended_is_known_and_does_not_run() -> None:
    tunnels = registry(a=Handle(Phase.FAILED), b=Handle(Phase.STOPPED), c=Handle(Phase.WAITING))
    assert tunnels.names == ("a", "b", "c")
    assert [name for name in tunnels.names if tunnels.running(name)] == ["c"]


def test_the_only_one_needs_no_name() -> None:
    handle = Handle()
    assert registry(a=handle).chosen(None) == ("a", handle)
    assert registry(a=handle).chosen("a") == ("a", handle)


@pytest.mark.parametrize(
    ("names", "asked", "message", "hint"),
    [
        ([], None, "No tunnel is running.", "%tunnel serve"),
        ([], "a", "No tunnel is running.", "%tunnel serve"),
        (["a", "b"], None, "Several", "Name one of them: a, b."),
        (["serve"], "srve", "No tunnel named 'srve'", "Did you mean 'serve'?"),
        (["serve"], "x", "No tunnel named 'x'", "Running tunnels: serve."),
    ],
)
def test_which_is_meant_must_be_clear(names: list[str], asked: str | None, message: str, hint: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        registry(**{name: Handle() for name in names}).chosen(asked)
    assert hint in caught.value.hint
