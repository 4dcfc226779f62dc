"""Where notebooks run, made once, and processes for their other sides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.notebook_kernel import Place
from ..support.processes import Processes, processes


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A checkout, and an environment of its own."""
    return Place.make(tmp_path_factory.mktemp("notebooks"))


@pytest.fixture(scope="module")
def started() -> Iterator[Processes]:
    """Processes that live as long as a module's tests."""
    with processes() as all_of_them:
        yield all_of_them
