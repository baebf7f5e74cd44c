from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from app.archive.finisher import Finish, finish
from app.archive.records import session_key
from app.archive.store import ObjectMissing, StoreUnavailable
from app.sessions.recovery import Recovery
from audio.coverage import Ranges
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import REF, Scribe, disk, finals, names, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.session_world import World

CREATED = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8058")
FINISHED = SessionRef(ClinicId("south"), "01890a5d-ac96-774b-bcce-b302099a8059")
SECOND = 16_000


async def fill(world: World) -> None:
    """Three sessions: one whose owner died, one in which nobody spoke yet, one that is finished."""
    scribe = Scribe(world.inner)
    await scribe.session()
    await scribe.epoch(1, (0, 0), serial=10)
    await scribe.segment(1, 0, 80, carried=finals(1, 2))
    await Scribe(world.inner, CREATED).session()
    other = Scribe(world.inner, FINISHED)
    await other.session()
    await other.epoch(1, (0, 0), serial=10)
    await other.segment(1, 0, 80)
    await finish(
        world.inner, Finish(FINISHED, 1, "stopped", [], Ranges([(0, 80)]), "2026-11-20T09:30:00.000Z")
    )


@asynccontextmanager
async def after_a_start(root: Path) -> AsyncIterator[tuple[World, Recovery]]:
    async with disk(root) as inner:
        world = World(inner)
        await fill(world)
        recovery = Recovery(world.deps, world.manager)
        async with world.running(recovery.run):
            yield world, recovery


def states(world: World) -> dict[str, str]:
    return {session_id: row.state for session_id, row in world.rows.rows.items()}


@in_virtual_time
async def test_the_list_is_rebuilt_from_the_archive(tmp_path: Path) -> None:
    async with after_a_start(tmp_path) as (world, recovery):
        await asyncio.wait_for(recovery.done.wait(), 5)
        assert states(world) == {
            REF.session_id: "detached",
            CREATED.session_id: "created",
            FINISHED.session_id: "completed",
        }
        assert world.rows.complete
        row = world.rows.rows[REF.session_id]
        assert (row.clinic_id, row.samples, row.finals) == ("north", 80, 2)


@in_virtual_time
async def test_what_has_no_owner_is_finished_in_its_time(tmp_path: Path) -> None:
    async with after_a_start(tmp_path) as (world, _):
        await asyncio.sleep(1)
        assert len(world.manager.orphans) == 2
        await asyncio.sleep(125)
        assert states(world)[REF.session_id] == "completed"
        assert states(world)[CREATED.session_id] == "created"
        await asyncio.sleep(500)
        assert states(world)[CREATED.session_id] == "cancelled"
        assert len(world.manager.orphans) == 0


@in_virtual_time
async def test_a_list_that_is_complete_is_left_as_it_is(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        world = World(inner)
        await fill(world)
        world.rows.complete = "elsewhere.1"
        recovery = Recovery(world.deps, world.manager)
        async with world.running(recovery.run):
            await asyncio.sleep(5)
            assert world.rows.rows == {}
            assert len(world.manager.orphans) == 2


@in_virtual_time
async def test_a_list_that_is_complete_can_be_used_while_the_archive_is_read(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        world = World(inner)
        await fill(world)
        world.rows.complete = "elsewhere.1"
        reading, read = asyncio.Event(), asyncio.Event()

        async def slow(verb: str, key: str) -> None:
            if verb == "read" and key.endswith("session.json"):
                reading.set()
                await read.wait()

        world.store.before = slow
        recovery = Recovery(world.deps, world.manager)
        async with world.running(recovery.run):
            await asyncio.wait_for(reading.wait(), 5)
            assert recovery.done.is_set()
            world.rows.away = True
            await asyncio.sleep(2)
            assert not world.deps.health.takes_sessions
            world.rows.away = False
            read.set()
            await asyncio.sleep(2)
            answers: bool = world.deps.health.index_answers
            assert answers
            assert len(world.manager.orphans) == 2


@in_virtual_time
async def test_a_list_that_was_emptied_is_rebuilt_again(tmp_path: Path) -> None:
    async with after_a_start(tmp_path) as (world, recovery):
        await asyncio.wait_for(recovery.done.wait(), 5)
        world.rows.rows.clear()
        world.rows.complete = None
        await asyncio.sleep(3)
        assert len(world.rows.rows) == 3
        assert recovery.done.is_set()


@in_virtual_time
async def test_sessions_that_are_owned_are_told_as_they_are_and_left_alone(tmp_path: Path) -> None:
    async with after_a_start(tmp_path) as (world, recovery):
        await asyncio.wait_for(recovery.done.wait(), 5)
        speaker = await world.speaker(11)
        await speaker.say(sound(80, SECOND))
        await asyncio.sleep(1)
        for _ in range(20):
            world.rows.rows.clear()
            world.rows.complete = None
            speaker.text(type="ping")
            await asyncio.sleep(20)
        assert world.manager.owned(REF) is speaker.session
        assert states(world)[REF.session_id] == "live"
        speaker.text(type="stop")
        assert (await speaker.until("completed"))["samples"] == SECOND


@in_virtual_time
async def test_what_another_task_made_of_an_owned_session_is_put_right(tmp_path: Path) -> None:
    async with after_a_start(tmp_path) as (world, recovery):
        await asyncio.wait_for(recovery.done.wait(), 5)
        speaker = await world.speaker(11)
        await speaker.say(sound(80, SECOND))
        await asyncio.sleep(1)
        rows = world.rows.rows
        # Redis was emptied, and another task was quicker to read the archive, which does not tell who speaks.
        rows[REF.session_id] = msgspec.structs.replace(rows[REF.session_id], state="detached")
        world.rows.complete = "elsewhere.1"
        await asyncio.sleep(2)
        assert states(world)[REF.session_id] == "live"


@pytest.mark.parametrize("away", ["rows", "store"])
def test_it_waits_for_what_is_away(tmp_path: Path, away: str) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with disk(tmp_path) as inner:
            world = World(inner)
            await fill(world)

            async def gone(verb: str, key: str) -> None:
                raise StoreUnavailable(key, verb)

            world.rows.away = away == "rows"
            if away == "store":
                world.store.before = gone
            recovery = Recovery(world.deps, world.manager)
            async with world.running(recovery.run):
                await asyncio.sleep(10)
                assert not recovery.done.is_set()
                health = world.deps.health
                assert (health.index_answers, health.archive_answers) == (away != "rows", away != "store")
                world.rows.away = False
                world.store.before = World(inner).store.before
                await asyncio.wait_for(recovery.done.wait(), 5)
                assert len(world.rows.rows) == 3
                await asyncio.sleep(2)
                assert health.takes_sessions

    scenario()


@in_virtual_time
async def test_damage_to_one_session_hides_no_other(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        world = World(inner)
        await fill(world)
        broken = SessionRef(ClinicId("east"), "01890a5d-ac96-774b-bcce-b302099a8050")
        await inner.create(session_key(broken), b"nonsense")
        await inner.create("_audit/2026/x", b"the system's own")
        await inner.create("north/not-a-session/thing", b"stray")

        async def vanish(verb: str, key: str) -> None:
            if verb == "read" and CREATED.session_id in key:
                raise ObjectMissing(key, "gone")

        world.store.before = vanish
        recovery = Recovery(world.deps, world.manager)
        async with world.running(recovery.run):
            await asyncio.wait_for(recovery.done.wait(), 5)
            assert sorted(states(world)) == sorted([REF.session_id, FINISHED.session_id])


@in_virtual_time
async def test_what_a_finisher_left_when_it_died_is_swept_away(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        world = World(inner)
        await fill(world)
        await Scribe(inner, FINISHED).segment(1, 0, 80)
        recovery = Recovery(world.deps, world.manager)
        async with world.running(recovery.run):
            await asyncio.wait_for(recovery.done.wait(), 5)
            await asyncio.sleep(2)
            assert not [n for n in await names(inner, FINISHED) if n.startswith("segments/")]
            assert states(world)[FINISHED.session_id] == "completed"
