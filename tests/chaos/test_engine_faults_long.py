"""Each fault of Amazon Transcribe at any moment of a session of a minute."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random, SystemRandom

import pytest

from audio.codec import read_audio
from tests.support.engine_faults import ALL, Blow, disturbed, stage
from tests.support.speaking import SECOND

SEED = "KIKITORI_TEST_SEED"
"""An environment variable, to see a run again; no two are quite the same."""

BETWEEN_SECONDS = 0.7
"""Between the beginnings of two sessions. A region where five streams die young in a row is left alone, as it should be: were all
sessions to begin at once, what is asked here would be about that."""


@pytest.mark.timeout(300)
async def test_each_fault_at_any_moment(tmp_path: Path, sample_wav: Path) -> None:
    seed = int(os.environ.get(SEED) or SystemRandom().getrandbits(32))
    print(f"seed {seed}")
    random = Random(seed)  # noqa: S311
    minute = read_audio(sample_wav)[: 60 * SECOND]
    troubles = random.sample(ALL, len(ALL))
    plan = [
        Blow(trouble, random.uniform(0.2, 58.0), number * BETWEEN_SECONDS)
        for number, trouble in enumerate(troubles)
    ]
    quota = {"transcribe_streams": "40", "transcribe_starts": "40"}
    async with stage(tmp_path, "--max-streams", "40", "--max-starts-per-second", "40", **quota) as here:
        assert await disturbed(here, minute, plan) == []
        assert await here.left() == {}
        assert await here.server.stop() == 0
