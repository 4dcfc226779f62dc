"""Processes of one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.processes import Processes, processes


@pytest.fixture
def started() -> Iterator[Processes]:
    with processes() as all_of_them:
        yield all_of_them
