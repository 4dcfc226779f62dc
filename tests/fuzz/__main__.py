"""See the package."""

from __future__ import annotations

import argparse
import random
import traceback

from . import __doc__ as about
from .driver import Finding, fuzz, play
from .targets import TARGETS


def main() -> int:
    """Fuzz every target for its share of the time; 1 where one fails."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=about)
    parser.add_argument("--seconds", type=float, default=20.0, help="for all targets together (20)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--case", type=int, help="play only this one again")
    options = parser.parse_args()
    targets = [options.target] if options.target else list(TARGETS)
    failed = 0
    for target in targets:
        try:
            if options.case is not None:
                play(target, options.seed, options.case)
                continue
            count = fuzz(target, seed=options.seed, seconds=options.seconds / len(targets))
            print(f"{target:16} {count:8} cases, seed {options.seed}", flush=True)
        except Finding as finding:
            failed += 1
            traceback.print_exception(finding)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
