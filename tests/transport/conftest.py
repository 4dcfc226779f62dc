"""`on_each_loop`, for what meets both event loops: their sockets differ in what they forgive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ..conftest import run

try:
    from uvloop import new_event_loop as uvloop
except ImportError:  # Windows
    LOOPS = [asyncio.new_event_loop]
else:
    LOOPS = [asyncio.new_event_loop, uvloop]


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__module__)
def on_each_loop(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return partial(run, loop_factory=request.param)
