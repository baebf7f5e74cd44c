from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from app.archive.store import StoreUnavailable
from app.sessions.deps import SessionLimits
from app.sessions.drain import RELEASE_SECONDS
from app.sessions.errors import Busy
from audio.engine import Engine
from audio.engines.null import NullEngine
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import Scribe, disk, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import Script, ScriptedEngine, tone
from tests.support.session_world import Speaker, World

SECOND = 16_000
DRAIN = 4.0
LIMITS = SessionLimits(drain_seconds=DRAIN)
REFS = [SessionRef(ClinicId("north"), f"01890a5d-ac96-774b-bcce-b30209{n:06x}") for n in range(10)]


@asynccontextmanager
async def spoken(root: Path, engine: Engine | None = None) -> AsyncIterator[tuple[World, list[Speaker]]]:
    """A task with ten sessions; a second of each was spoken."""
    async with disk(root) as inner:
        world = World(inner, limits=LIMITS, engine=engine or NullEngine())
        async with world.running():
            speakers = []
            for ref in REFS:
                await Scribe(inner, ref).session()
                speakers.append(await world.speaker(world.ticket(10, ref)))
            for speaker in speakers:
                speaker.send(sound(0, SECOND))
            yield world, speakers


async def closings(world: World, speakers: list[Speaker]) -> tuple[float, list[float]]:
    """Drain; how long it took, and when after its beginning each connection was closed, in order."""
    begun, closed = world.deps.clock(), list[float]()

    async def one(speaker: Speaker) -> None:
        assert await speaker.until_closed() == 1012
        closed.append(world.deps.clock() - begun)

    async with asyncio.TaskGroup() as group:
        for speaker in speakers:
            group.create_task(one(speaker))
        await world.manager.drain()
        took = world.deps.clock() - begun
    return took, closed


@in_virtual_time
async def test_sessions_are_given_back_one_after_the_other(tmp_path: Path) -> None:
    async with spoken(tmp_path) as (world, speakers):
        took, closed = await closings(world, speakers)
        assert took <= DRAIN + 1
        gaps = [late - early for early, late in pairwise(closed)]
        assert all(gap == pytest.approx(DRAIN / len(REFS), abs=0.2) for gap in gaps)
        for ref, speaker in zip(REFS, speakers, strict=True):
            (draining,) = [m for m in speaker.got if m["type"] == "draining"]
            assert 0 <= draining["reconnectInMs"] <= 250
            assert (await world.history(ref)).end == SECOND
            assert world.rows.rows[ref.session_id].state == "detached"


@in_virtual_time
async def test_nobody_new_comes_in_from_the_first_moment(tmp_path: Path) -> None:
    async with spoken(tmp_path) as (world, speakers):
        world.manager.close()
        with pytest.raises(Busy) as caught:
            world.manager.require_room()
        assert caught.value.code == "draining"
        # Who loses its connection now is sent to another task at once, and finds its session free there.
        speakers[7].drop()
        with pytest.raises(Busy):
            await world.speaker(speakers[7].resume_ticket)
        await asyncio.sleep(1)
        assert world.manager.owned(REFS[7]) is None
        assert (await world.history(REFS[7])).end == SECOND


@in_virtual_time
async def test_a_session_that_ends_while_the_task_drains_is_finished_and_told_so(tmp_path: Path) -> None:
    async with spoken(tmp_path) as (world, speakers):
        held = asyncio.Event()

        async def slow(verb: str, key: str) -> None:
            if "audio-" in key and verb == "create":
                await held.wait()

        world.store.before = slow
        speakers[3].text(type="stop")
        async with asyncio.TaskGroup() as group:
            group.create_task(world.manager.drain())
            await asyncio.sleep(5)
            speakers[3].drop()
            again = await world.speaker(speakers[3].resume_ticket)
            assert again.ready.window == 0
            held.set()
            assert (await again.until("completed"))["samples"] == SECOND


@pytest.mark.parametrize("hanging", ["engine", "archive", "both"])
def test_it_has_an_end_whatever_hangs(tmp_path: Path, hanging: str) -> None:
    @in_virtual_time
    async def scenario() -> None:
        engine = ScriptedEngine(Script(stall_after=1)) if hanging != "archive" else None
        async with spoken(tmp_path, engine) as (world, speakers):
            for speaker in speakers:
                speaker.send(tone(1))
            if hanging != "engine":

                async def away(verb: str, key: str) -> None:
                    if "segments/" in key:
                        await asyncio.Event().wait()
                    raise StoreUnavailable(key, verb)

                world.store.before = away
            took, closed = await closings(world, speakers)
            assert took <= DRAIN + RELEASE_SECONDS + 5
            assert len(closed) == len(REFS)
            if hanging == "engine":
                # A speaker is not left without captions for long.
                assert took <= DRAIN + LIMITS.release_seconds

    scenario()


@in_virtual_time
async def test_who_does_not_want_to_wait_gets_the_end_at_once(tmp_path: Path) -> None:
    async with spoken(tmp_path, ScriptedEngine(Script(stall_after=1))) as (world, speakers):
        begun = world.deps.clock()
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(world.manager.drain())
            await asyncio.sleep(3)
            world.manager.give_up()
            await draining
        assert world.deps.clock() - begun < 10
        for speaker in speakers:
            assert await speaker.until_closed() == 1012
