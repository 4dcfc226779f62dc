"""Plays cases of a target until the time is up. A case is known by target, seed and number, and can be played again."""

from __future__ import annotations

import logging
import random
import time

from .targets import TARGETS


class Finding(AssertionError):
    """A case that broke the invariant."""


def play(target: str, seed: int, number: int) -> None:
    """One case. Raises `Finding`."""
    try:
        TARGETS[target](random.Random(f"{target}/{seed}/{number}"))
    except Exception as exc:
        again = f"python -m tests.fuzz --target {target} --seed {seed} --case {number}"
        raise Finding(f"{target}: {repr(exc)[:1000]}; to play it again: {again}") from exc


def fuzz(target: str, *, seed: int, seconds: float, least: int = 1) -> int:
    """Play cases for so long, and at least so many; how many there were. Raises `Finding` at the first that fails."""
    end, number = time.monotonic() + seconds, 0
    logging.disable(logging.CRITICAL)
    try:
        while number < least or time.monotonic() < end:
            play(target, seed, number)
            number += 1
    finally:
        logging.disable(logging.NOTSET)
    return number
