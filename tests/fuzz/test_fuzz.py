from __future__ import annotations

import random
import subprocess
import sys

import pytest

from . import driver
from .driver import Finding, fuzz
from .targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_comes_is_accepted_or_refused_as_documented(target: str) -> None:
    assert fuzz(target, seed=random.randrange(10**6), seconds=0.8, least=6) >= 6


def test_a_case_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setitem(TARGETS, "numbers", lambda rng: seen.append(rng.random()))
    for _ in range(2):
        driver.play("numbers", 1, 2)
    driver.play("numbers", 1, 3)
    assert seen[0] == seen[1] != seen[2]


def test_a_finding_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rng: random.Random) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(TARGETS, "broken", fail)
    with pytest.raises(Finding, match="--target broken --seed 7 --case 0"):
        fuzz("broken", seed=7, seconds=0.1)


def test_the_command_plays_every_target() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "0.1", "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(TARGETS)
