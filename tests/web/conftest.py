"""What tests of the page share: the processes that they start, a signal server, and a server of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.page_host import PageHost, page_host
from ..support.processes import Processes, Signal, processes


@pytest.fixture(scope="module")
def lasting() -> Iterator[Processes]:
    """Processes that end with the module."""
    with processes() as started:
        yield started


@pytest.fixture(name="processes")
def processes_fixture() -> Iterator[Processes]:
    """Processes that end with the test."""
    with processes() as started:
        yield started


@pytest.fixture(scope="module")
def signal(lasting: Processes) -> Signal:
    return lasting.signal()


@pytest.fixture(scope="module")
def host() -> Iterator[PageHost]:
    with page_host() as host:
        yield host
