"""Private names of other packages that we rely on. Most of them fail silently where a new version renames them.

The list is complete for the classes that we derive from aiortc's and aioice's: a test reads our source for names that
are neither ours nor listed. Whoever raises a version bound in pyproject.toml runs this first.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import Any

import aiohttp
import aioice
import pytest
from aioice import ice, turn
from aiortc import RTCCertificate, RTCDtlsTransport, RTCIceGatherer, RTCIceTransport
from cryptography import x509

from llmtunnel.transport import dtls as our_dtls
from llmtunnel.transport import ice as our_ice

ROOT = Path(__file__).parent.parent / "llmtunnel"

METHODS: list[tuple[Any, str, list[str]]] = [
    (RTCDtlsTransport, "_set_role", ["self", "role"]),
    (RTCDtlsTransport, "_set_state", ["self", "state"]),
    (RTCDtlsTransport, "_validate_peer_identity", ["self", "remoteParameters"]),
    (aioice.Connection, "gather_candidates", ["self"]),
    (aioice.Connection, "get_component_candidates", ["self", "component", "addresses", "timeout"]),
    (aioice.Connection, "check_incoming", ["self", "message", "addr", "protocol"]),
    (aioice.Connection, "data_received", ["self", "data", "component"]),
    (aioice.Connection, "sort_check_list", ["self"]),
    (aioice.Connection, "_pair_remote_candidate", ["self", "remote_candidate"]),
    (ice.StunProtocol, "send_stun", ["self", "message", "addr"]),
    (ice.StunProtocol, "datagram_received", ["self", "data", "addr"]),
    (ice, "server_reflexive_candidate", ["protocol", "stun_server"]),
]
"""What we override or call: the owner, the name, the parameters."""

ATTRIBUTES: dict[str, dict[str, type]] = {
    "ice": {
        "_check_list": list,
        "_local_candidates": list,
        "_local_candidates_end": bool,
        "_local_candidates_start": bool,
        "_nominated": dict,
        "_protocols": list,
        "_queue": asyncio.Queue,
    },
    "gatherer": {"_connection": aioice.Connection},
    "dtls": {"_ssl": type(None), "_task": type(None)},
}
"""What we read or set on objects that have just been made, and its type there."""


@pytest.mark.parametrize(
    ("owner", "name", "parameters"), METHODS, ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_foreign_function_is_there_and_takes_what_we_give_it(owner: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


async def test_foreign_attributes_are_there() -> None:
    gatherer = RTCIceGatherer(iceServers=[])
    dtls = RTCDtlsTransport(RTCIceTransport(gatherer), [RTCCertificate.generateCertificate()])
    made = {
        "gatherer": gatherer,
        "dtls": dtls,
        "ice": aioice.Connection(ice_controlling=False),
    }
    found = {
        where: {name: isinstance(getattr(made[where], name, NotImplemented), kind) for name, kind in names.items()}
        for where, names in ATTRIBUTES.items()
    }
    assert found == {where: dict.fromkeys(names, True) for where, names in ATTRIBUTES.items()}


@pytest.mark.parametrize(
    ("module", "base", "listed"),
    [(our_dtls, RTCDtlsTransport, {"_ssl": None}), (our_ice, aioice.Connection, ATTRIBUTES["ice"])],
    ids=["dtls", "ice"],
)
def test_no_private_name_of_a_base_class_is_used_that_is_not_listed(module: Any, base: Any, listed: Any) -> None:
    [ours] = [each for each in ast.walk(ast.parse(inspect.getsource(module))) if is_derived(each, base.__name__)]
    own = {each.name for each in ours.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    used = {
        each.attr
        for each in ast.walk(ours)
        if isinstance(each, ast.Attribute) and each.attr.startswith("_") and not each.attr.startswith("__")
    }
    created = {target for each in ast.walk(ours) if isinstance(each, ast.FunctionDef) for target in assigned(each)}
    methods = {name for owner, name, _ in METHODS if owner is base}
    assert used - own - created - methods - set(listed) == set()
    unused = set(listed) - used
    assert unused == set()


def is_derived(node: ast.AST, base: str) -> bool:
    return isinstance(node, ast.ClassDef) and base in [ast.unparse(each).rpartition(".")[2] for each in node.bases]


def assigned(function: ast.FunctionDef) -> set[str]:
    """What `__init__` gives the object that its base class does not have."""
    if function.name != "__init__":
        return set()
    targets = [
        each.targets[0] if isinstance(each, ast.Assign) else each.target
        for each in function.body
        if isinstance(each, ast.Assign | ast.AnnAssign)
    ]
    return {each.attr for each in targets if isinstance(each, ast.Attribute)}


def test_a_certificate_tells_what_it_is() -> None:
    assert isinstance(RTCCertificate.generateCertificate()._cert, x509.Certificate)


def test_a_turn_servers_transport_closes_in_a_task_that_can_be_cancelled() -> None:
    source = inspect.getsource(turn.TurnTransport)
    assert "self.__close_task = asyncio" in source  # what ice._abandon cancels


def test_the_head_of_a_websockets_answer_is_kept() -> None:
    assert "response" in inspect.signature(aiohttp.ClientWebSocketResponse.__init__).parameters
    assert "self._response = response" in inspect.getsource(aiohttp.ClientWebSocketResponse.__init__)


def test_a_widget_counts_its_views_and_says_which_version_draws_it() -> None:
    import ipywidgets

    assert ipywidgets.Widget._view_count.default_value is None  # no page counts before it is asked to
    assert ipywidgets.Image._view_module_version.default_value
