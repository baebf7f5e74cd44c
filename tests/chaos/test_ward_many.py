"""Two hundred people speak when a task dies, and again when one is replaced: nothing is lost, everybody is captioned again."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
import uvloop

from tests.chaos.ward import figures
from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.rounds import HARMLESS, verdict, voice
from tests.chaos.ward.ward import Ward, opened

SESSIONS = int(os.environ.get("KIKITORI_CHAOS_SESSIONS") or 200)
END_SECONDS = 180.0

pytestmark = pytest.mark.needs("haproxy", "redis-server")


@pytest.mark.timeout(420)
def test_kill_and_then_replace_one_of_two(tmp_path: Path) -> None:
    uvloop.run(kill_and_replace(tmp_path))


async def kill_and_replace(folder: Path) -> None:
    random = Random(1)  # noqa: S311
    async with opened(folder, random) as ward, Crowd(ward, voice(), random) as crowd:
        await crowd.open(SESSIONS)
        print(f"\n{SESSIONS} sessions; undisturbed, captions after {await figures.undisturbed(crowd)}")
        struck = await figures.kill(ward, crowd)
        print(figures.told("SIGKILL", struck))
        assert not any(speaker.marked for speaker in struck)
        assert {code for speaker in crowd.speakers for code in speaker.closes} <= {1006}
        await ward.start()
        await ward.steady()
        await replace(ward, crowd)
        await crowd.end(crowd.speakers, END_SECONDS)
        print(f"the clock of the speakers was late by at most {crowd.latest:.2f} s")
        assert await verdict(ward, crowd, crowd.speakers) == []


async def replace(ward: Ward, crowd: Crowd) -> None:
    """SIGTERM the task at which everybody speaks by now; nobody is shown an error."""
    before = {speaker.name: speaker.closes.copy() for speaker in crowd.speakers}
    status, struck = await figures.terminate(ward, crowd)
    print(figures.told("SIGTERM", struck))
    assert status == 0
    assert not any(speaker.marked for speaker in struck)
    troubled = [
        speaker.state()
        for speaker in struck
        if speaker.errors
        or speaker.notices.keys() - HARMLESS
        or (speaker.closes - before[speaker.name]).keys() != {1012}
    ]
    assert troubled == []


@pytest.mark.timeout(420)
def test_kill_with_the_default_quotas(tmp_path: Path) -> None:
    uvloop.run(kill_with_few_streams(tmp_path))


async def kill_with_few_streams(folder: Path) -> None:
    random = Random(2)  # noqa: S311
    async with (
        opened(folder, random, streams=25, starts=25) as ward,
        Crowd(ward, voice(), random) as crowd,
    ):
        await crowd.open(SESSIONS)
        print(f"\n{SESSIONS} for 25 streams; undisturbed, captions after {await figures.undisturbed(crowd)}")
        print(figures.told("SIGKILL", await figures.kill(ward, crowd)))
        await crowd.connected(crowd.speakers)
        await crowd.end(crowd.speakers, END_SECONDS)
        captioned = sum(bool(speaker.captions) for speaker in crowd.speakers)
        print(f"{captioned} of {SESSIONS} were captioned at some time")
        assert await verdict(ward, crowd, crowd.speakers) == []
