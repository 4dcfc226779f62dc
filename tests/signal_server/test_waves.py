from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from ..conftest import run
from ..support import waves
from ..support.processes import Processes, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory of another process, and addresses to come from")

MIB = 1024 * 1024
FEW_ACCOUNTS = (
    "import sys\nfrom signal_server import accounts\naccounts.ACCOUNTS = 100\n"
    "from signal_server.cli import main\nsys.exit(main(['--listen', '127.0.0.1:0', *sys.argv[1:]]))"
)
"""A signal server whose tables are full after a small wave, as those of a real one are after a large one."""


@pytest.fixture(name="processes")
def processes_fixture() -> Iterator[Processes]:
    with processes() as started:
        yield started


@pytest.mark.timeout(400)
def test_memory_does_not_grow_from_the_second_small_wave_to_the_fourth(processes: Processes) -> None:
    signal = processes.listening(processes.start("-c", FEW_ACCOUNTS, *waves.FLAGS, name="signal"))
    held = run(waves.resident(signal, 800, at_once=100), timeout=390)
    assert held[3] - held[1] < MIB, [f"{each / MIB:.1f} MiB" for each in held]
    assert signal.process.errors == []
    assert signal.process.stop() == 143


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_memory_does_not_grow_from_the_second_wave_of_50_000_to_the_fourth(processes: Processes) -> None:
    signal = processes.signal(*waves.FLAGS)
    held = run(waves.resident(signal, 50_000, at_once=500), timeout=7100)
    assert held[3] - held[1] < 2 * MIB, [f"{each / MIB:.1f} MiB" for each in held]
    assert signal.process.errors == []
