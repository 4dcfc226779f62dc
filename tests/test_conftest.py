"""The guarantees of `tests/conftest.py` hold for tests that pytest itself has collected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .conftest import LOOPS

ROOT = Path(__file__).parent.parent

TESTS = """
import asyncio
import socket
import threading
import time

import pytest

@pytest.fixture
def number():
    return 7

@pytest.mark.parametrize("factor", [2, 3])
async def test_fixtures_and_parameters_arrive(number, factor):
    await asyncio.sleep(0)
    assert number * factor in (14, 21)

class TestOfAClass:
    async def test_has_its_instance(self):
        assert isinstance(self, TestOfAClass)

seen = set()

@pytest.mark.usefixtures("on_each_loop")
async def test_on_each_loop():
    seen.add(type(asyncio.get_running_loop()))

def test_the_loops_differed(on_each_loop):
    assert len(seen) == SEVERAL

@pytest.mark.usefixtures("in_virtual_time")
async def test_virtual_time_passes_at_once_and_in_order():
    loop, began, rang = asyncio.get_running_loop(), time.monotonic(), []
    for delay in (30.0, 10.0, 20.0):
        loop.call_later(delay, rang.append, delay)
    start = loop.time()
    await asyncio.sleep(25)
    assert rang == [10.0, 20.0]
    assert loop.time() == pytest.approx(start + 25)
    assert time.monotonic() - began < 10

@pytest.mark.usefixtures("in_virtual_time")
async def test_bad_by_waiting_in_virtual_time_for_what_never_comes():
    await asyncio.Event().wait()

async def test_bad_by_assertion():
    assert await asyncio.sleep(0, False)

async def test_bad_by_a_task():
    test_bad_by_a_task.left = asyncio.create_task(asyncio.sleep(3600), name="forgotten")

async def test_bad_by_a_thread():
    threading.Thread(target=threading.Event().wait, args=[1], name="forgotten too").start()

async def test_bad_by_a_socket():
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    socket.socket()

@pytest.mark.within(0.05)
async def test_bad_by_its_time():
    await asyncio.Event().wait()

@pytest.mark.within(0.05)
@pytest.mark.usefixtures("on_each_loop")
async def test_bad_by_its_time_on_each_loop():
    await asyncio.Event().wait()
"""


def test_an_async_test_passes_or_fails_as_a_blocking_one_and_must_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.replace("SEVERAL", str(len(LOOPS))))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-q", "-rA", "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = set(re.findall(r"^(PASSED|FAILED) test_it.py::(?:\w+::)?(\w+)", done.stdout, re.MULTILINE))
    tests = set(re.findall(r"def (test_\w+)", TESTS))
    assert outcomes == {("FAILED" if name.startswith("test_bad") else "PASSED", name) for name in tests}, done.stdout
    for reason in ("tasks left behind: ['forgotten']", "threads left behind: ['forgotten too']", "TimeoutError"):
        assert reason in done.stdout
    failed_by_time = re.findall(r"^FAILED test_it.py::test_bad_by_its_time_on_each_loop", done.stdout, re.MULTILINE)
    assert len(failed_by_time) == len(LOOPS)
