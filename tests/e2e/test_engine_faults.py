"""Whatever goes wrong with Amazon Transcribe: the same finals, the same archive, and nothing left over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.support.engine_faults import ALL, Blow, disturbed, fault_of, notices, stage
from tests.support.speaking import SECOND, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

STRIKE_SECONDS = (10.5, 16.0)
"""After a stream has been well for 10 s its death says nothing of its region."""


async def test_whatever_befalls_a_stream_the_finals_are_the_same(tmp_path: Path, sample_pcm: bytes) -> None:
    random = Random(1)  # noqa: S311 - moments
    plan = [Blow(trouble, random.uniform(*STRIKE_SECONDS)) for trouble in ALL]
    excerpt = sample_pcm[8 * SECOND : 30 * SECOND]
    quota = {"transcribe_streams": "40", "transcribe_starts": "40"}
    async with stage(tmp_path, "--max-streams", "40", "--max-starts-per-second", "40", **quota) as here:
        assert await disturbed(here, excerpt, plan) == []
        assert await here.left() == {}
        assert await here.server.stop() == 0


async def test_sessions_without_a_place_are_recorded_and_heard_when_there_is_one(
    tmp_path: Path, sample_pcm: bytes
) -> None:
    short, long = sample_pcm[: 20 * SECOND], sample_pcm[: 24 * SECOND]
    async with stage(tmp_path, "--max-streams", "2", transcribe_streams="2") as here:
        first = [await here.session(short) for _ in range(2)]
        later = [await here.session(long) for _ in range(2)]
        async with running(*first):
            await asyncio.gather(*(speaking.until(lambda one: bool(one.partial_ids)) for speaking in first))
            async with running(*later):
                await asyncio.gather(
                    *(speaking.until(lambda one: "engine_waiting" in notices(one)) for speaking in later)
                )
        for speaking in first:
            assert await fault_of(here, speaking, short, first[0].finals) == ""
        for speaking in later:
            assert speaking.completed is not None
            coverage, whole = speaking.completed.coverage, len(long) // 2
            assert await here.person.audio(speaking.session_id) == long
            assert coverage["archived"] == [(0, whole)]
            (missed,) = coverage["untranscribed"]
            assert missed[0] == 0
            assert coverage["live"] == [(missed[1], whole)]
            assert 0 < missed[1] < 10 * SECOND
            assert speaking.finals
            assert all(final.start >= missed[1] for final in speaking.finals)
            assert "transcript_gap" in notices(speaking)
        assert (await here.call("GET", "/counters"))["highest_open_streams"] <= 2
        assert await here.left() == {}
        assert await here.server.stop() == 0
