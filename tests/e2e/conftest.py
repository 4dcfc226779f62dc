"""Processes and an upstream for end-to-end tests.

``upstream`` and ``tunnel`` live as long as the session, for tests that leave them as they are; ``processes`` starts
what one test may kill.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.processes import Processes, Signal, Tunnel, processes
from ..support.upstream import Upstream


@pytest.fixture(scope="session")
def lasting() -> Iterator[Processes]:
    """Processes that live as long as the session."""
    with processes() as started:
        yield started


@pytest.fixture(scope="module")
def started() -> Iterator[Processes]:
    """Processes that live as long as a module's tests."""
    with processes() as running:
        yield running


@pytest.fixture(name="processes")
def processes_fixture() -> Iterator[Processes]:
    """Processes of one test."""
    with processes() as started:
        yield started


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[Upstream]:
    """The upstream behind `tunnel`."""
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    """The upstream behind `tunnel`, without answers and records of other tests."""
    shared_upstream.answers.clear()
    shared_upstream.requests.clear()
    return shared_upstream


@pytest.fixture
def own_upstream() -> Iterator[Upstream]:
    """An upstream for a tunnel of the test's own."""
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def signal(lasting: Processes) -> Signal:
    """Our signal server."""
    return lasting.signal()


@pytest.fixture(scope="session")
def tunnel(lasting: Processes, signal: Signal, shared_upstream: Upstream) -> Tunnel:
    """A serve and a proxy that have met."""
    return lasting.tunnel("shared", shared_upstream.url, signal.url)
