from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comm
import ipywidgets
import pytest

from ..support.background import Background
from ..support.kernel import Kernel, kernel
from ..support.scripted_handle import RecordingComm


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    """The other side."""
    with Background() as background:
        yield background


@pytest.fixture(scope="module")
def setup() -> str:
    """What a module's kernel runs first."""
    return ""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, setup: str) -> Iterator[Kernel]:
    """A real kernel, the same for all tests of a module: it takes its time to start."""
    with kernel(tmp_path_factory.mktemp("kernel"), code=setup) as running:
        yield running


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The messages of all widgets of the test."""
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    RecordingComm.sent.clear()
    yield RecordingComm.sent
    ipywidgets.Widget.close_all()
