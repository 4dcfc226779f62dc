"""ARCHITECTURE.md's layers, held: who may import whom, read off the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {
        "bucket",
        "descriptors",
        "version",
        "environment",
        "errors",
        "config",
        "given",
        "install",
        "invite",
        "listener",
        "meeting",
        "option",
        "platforms",
        "paths",
        "policy",
        "status",
        "summary",
        "upstream",
        "weblink",
        "words",
    },
    {"protocol", "signaling.messages", "signaling.negotiation"},
    {"transport", "runtime"},
    {"signaling.client"},
    {"session"},
    {"endpoints"},
    {"doctor", "measure"},
    {"tunnel", "aio", "benchmark", "nested", "opened", "sync"},
    {"cli"},
    {"local", "notebook"},
    {"", "__main__"},
]
"""From the bottom; the last is the package's own face."""

ONE_ROW = [LAYERS[0], LAYERS[7]]
"""Rows of single modules, which may import each other."""

UPWARD = {
    *(("tunnel", "notebook.display"), ("sync", "notebook.display"), ("sync", "notebook.panel")),
    *(("tunnel", "notebook.plot"), ("sync", "notebook.plot")),
    *(("tunnel", "notebook.chat"), ("sync", "notebook.chat")),
    ("measure.result", "notebook.bench"),
}
"""The one thing that is asked of a higher layer: a notebook asks a handle to draw itself, the handle asks its view."""

HOMES = {
    "aiortc": ["transport"],
    "aioice": ["transport"],
    "OpenSSL": ["transport"],
    "ifaddr": ["transport"],
    "h11": ["endpoints"],
    "aiohappyeyeballs": ["endpoints"],
    "aiohttp": [
        *("signaling.client", "transport.relay", "transport.websocket"),
        *("endpoints.chat", "endpoints.discovery", "endpoints.toy"),
    ],
    "uvloop": ["runtime"],
    "nest_asyncio2": ["nested"],
    "threading": ["runtime"],
    "multiprocessing": [],
    "concurrent": ["runtime"],
    "signal_server": ["benchmark", "cli", "local"],
    "spake2": ["protocol.keys"],
    "IPython": ["", "notebook"],
    "ipywidgets": ["notebook"],
    "matplotlib": ["notebook", "sync", "tunnel"],
    "segno": ["cli", "notebook"],
}
"""What only some may import."""

PURE = {"__future__", "abc", "collections", "dataclasses", "enum", "functools", "json", "re", "struct", "typing"}
"""What the protocol's modules may use: nothing that knows of time, tasks, sockets or logs."""

CRYPTOGRAPHY = {"cryptography", "hashlib", "hmac", "secrets", "spake2"}
"""What those of them may use besides that prove who the peers are."""


def modules(package: str) -> dict[str, Path]:
    """Each module by its name below the package; the package itself is the empty one."""
    base = ROOT / package
    names = {path: ".".join(path.relative_to(base).with_suffix("").parts) for path in base.rglob("*.py")}
    return {name.removesuffix("__init__").removesuffix("."): path for path, name in names.items()}


OURS = modules("llmtunnel")
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in OURS.items()}


def imports(name: str) -> Iterator[str]:
    """What a module imports, for types and within functions too: ``.protocol.frames``, ``asyncio``.

    Absolute, with ``llmtunnel`` left off as in `OURS`.
    """
    nodes: list[ast.AST] = [TREES[name]]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _targets(name, node)
        nodes.extend(ast.iter_child_nodes(node))


def _targets(name: str, node: ast.ImportFrom) -> Iterator[str]:
    if node.level == 0:
        assert node.module is not None
        yield node.module
        return
    package = name.split(".") if OURS[name].name == "__init__.py" else name.split(".")[:-1]
    base = [part for part in package[: len(package) - node.level + 1] if part]
    base += node.module.split(".") if node.module else []
    for alias in node.names:
        submodule = ".".join([*base, alias.name])
        yield "." + (submodule if submodule in OURS else ".".join(base))


def layer(name: str) -> int:
    """Which row a module stands in; the module or the package around it is listed."""
    for number, row in enumerate(LAYERS):
        if any(name == each or (each and name.startswith(each + ".")) for each in row):
            return number
    if name == "signaling":
        return 1
    raise AssertionError(f"{name} stands in no layer of ARCHITECTURE.md")


def may_import(name: str, other: str) -> bool:
    if layer(other) < layer(name):
        return True
    if layer(other) > layer(name):
        return False
    return name.split(".")[0] == other.split(".")[0] or any({name, other} <= row for row in ONE_ROW)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_module_imports_from_lower_layers_or_its_own_package(name: str) -> None:
    ours = [target.removeprefix(".") for target in imports(name) if target.startswith(".")]
    assert [other for other in ours if not may_import(name, other) and (name, other) not in UPWARD] == []


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_package_that_has_its_place_is_imported_only_there(name: str) -> None:
    for target in imports(name):
        homes = HOMES.get(target.split(".")[0])
        if homes is not None:
            assert any(name == home or name.startswith(home + ".") for home in homes), f"{name} imports {target}"


@pytest.mark.parametrize("name", sorted(name for name in OURS if layer(name) < 2))
def test_the_two_lowest_layers_use_the_standard_library_without_asyncio(name: str) -> None:
    foreign = {target.split(".")[0] for target in imports(name) if not target.startswith(".")}
    foreign -= {"cryptography", "spake2"}
    assert foreign <= sys.stdlib_module_names - {
        "asyncio",
        "socket",
        "selectors",
        "subprocess",
    }


@pytest.mark.parametrize("name", sorted(name for name in OURS if name.startswith("protocol")))
def test_the_protocol_is_pure(name: str) -> None:
    foreign = {target.split(".")[0] for target in imports(name) if not target.startswith(".")}
    assert foreign <= (PURE | CRYPTOGRAPHY if name in ("protocol.auth", "protocol.keys") else PURE)


def test_the_environment_is_read_in_one_place_and_set_in_one() -> None:
    users = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert users == {"config", "environment", "platforms"}


def test_the_signal_server_stands_alone() -> None:
    for path in modules("signal_server").values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "llmtunnel" for alias in node.names), path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module is not None and node.module.split(".")[0] != "llmtunnel", path


def _in_circles(needs: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules of which each one needs each other one, directly or by others."""
    reached = {name: _reached(name, needs) for name in needs}
    return {
        frozenset(other for other in others if name in reached[other])
        for name, others in reached.items()
        if name in others
    }


def _reached(name: str, needs: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(needs[name])
    while waiting:
        other = waiting.pop()
        if other not in reached:
            reached.add(other)
            waiting += needs[other]
    return reached


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not for a type, nor within a function either: whoever changes one of them would have to know the other one."""
    needs = {name: {target[1:] for target in imports(name) if target.startswith(".")} - {name} for name in OURS}
    assert _in_circles(needs) == set()


def test_no_modules_of_the_signal_server_import_each_other_in_a_circle() -> None:
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in modules("signal_server").items()}
    needs = {
        name: {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level and node.module
        }
        for name, tree in trees.items()
    }
    assert _in_circles(needs) == set()


def test_a_circle_is_found_however_long_it_is() -> None:
    assert _in_circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"a"}}) == {frozenset("abc")}
