"""``make chaos``: rounds of chaos for ten minutes, or ``--minutes``, with a seed that it prints."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

import uvloop

from tests.chaos.ward.rounds import OBSERVERS, chaos

SEED = "KIKITORI_TEST_SEED"
"""An environment variable, to see a run again; no two are quite the same."""


def seed() -> int:
    """The seed that was asked for, else a new one; printed."""
    chosen = int(os.environ.get(SEED) or SystemRandom().getrandbits(32))
    print(f"seed {chosen}", flush=True)
    return chosen


def main() -> int:
    """The command; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.ward", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--observers", type=int, default=OBSERVERS)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    report = uvloop.run(chaos(folder, seed(), given.minutes * 60, observers=given.observers))
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
