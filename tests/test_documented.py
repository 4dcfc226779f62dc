"""What ``help`` says: each public function and method describes its own parameters."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import llmtunnel
from llmtunnel import aio, local, notebook, sync

Function = Callable[..., Any]


def public() -> Iterator[tuple[str, Function]]:
    """Every public function, and every method of a public class, by its name."""
    for name in llmtunnel.__all__:
        yield from _of(name, getattr(llmtunnel, name))
    for name in aio.__all__:
        yield from _of(f"aio.{name}", getattr(aio, name))
    for cls in (sync.Handle, sync.Server, sync.Proxy, local.Local):
        yield from _of(cls.__name__, cls)
    yield from _of("local.toy", local.toy)
    yield from _of("local.signal", local.signal)
    yield from _of("notebook.tunnels", notebook.tunnels)


def _of(name: str, value: object) -> Iterator[tuple[str, Function]]:
    if isinstance(value, ModuleType | str):
        return
    if not inspect.isclass(value):
        if inspect.isroutine(value):
            yield name, value
        return
    for member, static in inspect.getmembers_static(value):
        method = getattr(value, member)
        if not member.startswith("_") and inspect.isroutine(method) and _is_ours(static):
            yield f"{name}.{member}", method


def _is_ours(static: object) -> bool:
    function = getattr(static, "__func__", static)
    return str(getattr(function, "__module__", "")).startswith("llmtunnel")


FUNCTIONS = dict(public())
PROPERTIES = {
    f"{cls.__name__}.{name}": static
    for cls in (sync.Server, sync.Proxy, aio.Server, aio.Proxy)
    for name, static in inspect.getmembers_static(cls)
    if isinstance(static, property)
}


def test_the_walk_finds_what_there_is() -> None:
    for name in ("serve", "proxy", "Invite.parse", "aio.Server.kick", "notebook.tunnels", "Handle.wait"):
        assert name in FUNCTIONS
    assert len(FUNCTIONS) > 40


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_describes_each_parameter_and_sends_nobody_elsewhere(name: str) -> None:
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    assert text, "it has a docstring"
    assert not text.startswith("See ")
    parameters = [each for each in inspect.signature(function).parameters if each not in ("self", "cls")]
    described = text.partition("Parameters:\n")[2].splitlines()
    for parameter in parameters:
        [line] = [each for each in described if each.startswith(f"    {parameter}: ")]
        assert len(line) > len(f"    {parameter}: ") + 3
    shown = pydoc.plain(pydoc.render_doc(function))
    assert all(f"{parameter}: " in shown for parameter in parameters)


@pytest.mark.parametrize("name", PROPERTIES)
def test_help_describes_each_property_and_sends_nobody_elsewhere(name: str) -> None:
    text = inspect.getdoc(PROPERTIES[name]) or ""
    assert text and not text.startswith("See ")


@pytest.mark.parametrize("name", ["Handle", "Server", "Proxy"])
def test_blocking_and_async_twins_describe_their_parameters_alike(name: str) -> None:
    ours, theirs = getattr(sync, name), getattr(aio, {"Handle": "Tunnel"}.get(name, name))
    for member, method in inspect.getmembers(ours, inspect.isfunction):
        twin = getattr(theirs, member, None)
        if not member.startswith("_") and twin is not None:
            parts = [(inspect.getdoc(each) or "").partition("Parameters:\n")[2] for each in (method, twin)]
            assert parts[0] == parts[1], member


def test_a_parameter_is_described_by_the_words_of_its_declaration() -> None:
    from llmtunnel.option import declared

    text = " ".join((inspect.getdoc(llmtunnel.serve) or "").split())
    for each in declared(aio.ServeCall).values():
        assert f"{each.name}: {' '.join(each.parameter_help.split())}" in text
        assert (f"Variable: {each.variable}." in text) is each.env
