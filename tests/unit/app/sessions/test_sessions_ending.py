from __future__ import annotations

from pathlib import Path

import pytest

from app.archive.store import StoreUnavailable
from app.archive.verify import verify
from app.sessions.ending import Ending, finish_owned
from app.sessions.errors import SessionNotFound
from app.sessions.ownership import Claimant, claim
from audio.coverage import Ranges
from tests.support.archives import REF, Scribe, disk, finals
from tests.support.inline_loop import in_virtual_time
from tests.support.session_world import World


@in_virtual_time
async def test_an_owner_finishes_for_as_long_as_it_takes(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        world = World(inner)
        won = await claim(inner, world.log, REF, Claimant("task-a", "speaker", "now", 10))
        await Scribe(inner).segment(won.epoch, 0, 400, carried=finals(1, 2), live=[(0, 300)])

        async def away(verb: str, key: str) -> None:
            if world.deps.clock() < 60:
                raise StoreUnavailable(key, verb)

        world.store.before = away
        manifest = await finish_owned(
            world.deps, REF, epoch=won.epoch, ending=Ending.STOPPED, live=Ranges([(0, 300)]), samples=400
        )
        assert 60 <= world.deps.clock() < 65
        assert (manifest.reason, manifest.state, manifest.samples, manifest.finals) == (
            "stopped",
            "completed",
            400,
            2,
        )
        verdict = await verify(inner, REF)
        assert verdict is not None
        assert verdict.faults == []


@in_virtual_time
async def test_what_is_gone_cannot_be_finished(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        world = World(inner)
        with pytest.raises(SessionNotFound):
            await finish_owned(world.deps, REF, epoch=1, ending=Ending.ABANDONED, live=Ranges(), samples=0)


def test_the_reasons_are_those_of_the_manifest() -> None:
    assert [str(ending) for ending in Ending] == ["stopped", "abandoned", "unspoken", "released"]
