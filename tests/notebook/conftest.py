from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comm
import ipywidgets
import pytest

from ..support.scripted_handle import RecordingComm


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The messages of all widgets of the test."""
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    RecordingComm.sent.clear()
    yield RecordingComm.sent
    ipywidgets.Widget.close_all()
