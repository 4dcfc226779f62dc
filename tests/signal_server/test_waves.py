from __future__ import annotations

import sys
from collections.abc import Iterator
from signal import SIGUSR2

import pytest

from ..conftest import run
from ..support import waves
from ..support.processes import Processes, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory of another process, and addresses to come from")

MIB = 1024 * 1024
FEW_ACCOUNTS = """
import gc, signal, sys
from signal_server import accounts
from signal_server.cli import main

accounts.ACCOUNTS = 100

def tell(*_):
    gc.collect()
    print('{"event": "blocks", "count": %d}' % sys.getallocatedblocks(), flush=True)

signal.signal(signal.SIGUSR2, tell)
sys.exit(main(["--listen", "127.0.0.1:0", *sys.argv[1:]]))
"""
"""A signal server whose tables are full after a small wave, as those of a real one are after a large one.

It tells the number of Python's blocks of memory when asked by SIGUSR2.
"""


@pytest.fixture(name="processes")
def processes_fixture() -> Iterator[Processes]:
    with processes() as started:
        yield started


@pytest.mark.timeout(400)
def test_memory_does_not_grow_from_the_second_small_wave_to_the_fourth(processes: Processes) -> None:
    signal = processes.listening(processes.start("-c", FEW_ACCOUNTS, *waves.FLAGS, name="signal"))

    def blocks() -> int:
        before = signal.process.count("blocks")
        signal.process.signal(SIGUSR2)
        return int(signal.process.wait_event("blocks", after=before)["count"])

    held = run(waves.held(signal, 800, blocks, at_once=100), timeout=390)
    assert held[3] - held[1] < 800, held  # of 1,600 connections, not even every second one has left a block
    assert signal.process.errors == []
    assert signal.process.stop() == 143


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_memory_does_not_grow_from_the_second_wave_of_50_000_to_the_fourth(processes: Processes) -> None:
    signal = processes.signal(*waves.FLAGS)
    held = run(waves.held(signal, 50_000, lambda: signal.process.resident, at_once=500), timeout=7100)
    assert held[3] - held[1] < 2 * MIB, [f"{each / MIB:.1f} MiB" for each in held]
    assert signal.process.errors == []
