"""From the death of a task to captions again: ``python -m loadtest.bench.failover``.

Two tasks behind HAProxy on one Redis, one MinIO and one emulator of Transcribe; half of the people speak at the task that is killed.
Everything shares this machine's cores, which is most of what large numbers of people wait for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from random import Random

import uvloop

from tests.chaos.ward import figures
from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.rounds import voice
from tests.chaos.ward.ward import opened

END_SECONDS = 180.0


async def measure(sessions: int, streams: int, starts: int) -> None:
    """Open so many sessions, kill a task, replace the other, and print how long captions were away."""
    random = Random(sessions)
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        async with (
            opened(Path(folder), random, streams=streams, starts=starts) as ward,
            Crowd(ward, voice(), random) as crowd,
        ):
            await crowd.open(sessions)
            print(f"{sessions} sessions, {streams} streams, {starts} starts a second")
            print(f"undisturbed: captions after {await figures.undisturbed(crowd)}", flush=True)
            print(figures.told("SIGKILL", await figures.kill(ward, crowd)), flush=True)
            await ward.start()
            await ward.steady()
            _, struck = await figures.terminate(ward, crowd)
            print(figures.told("SIGTERM", struck), flush=True)
            await crowd.end(crowd.speakers, END_SECONDS)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--starts", type=int, default=100)
    given = parser.parse_args()
    uvloop.run(measure(given.sessions, given.streams, given.starts))


if __name__ == "__main__":
    main()
