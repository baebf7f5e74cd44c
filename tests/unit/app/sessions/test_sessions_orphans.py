from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from app.archive.finisher import Finish, finish
from app.archive.records import epoch_key, folder, segment_key, session_key
from app.archive.store import StoreUnavailable
from app.sessions.deps import SessionLimits
from app.sessions.ownership import Claimant, claim
from app.sessions.views import archived_item
from audio.coverage import Ranges
from tests.support.archives import REF, Scribe, disk, finals, names
from tests.support.inline_loop import in_virtual_time
from tests.support.session_world import World

WINDOW = 120.0
LIMITS = SessionLimits(resume_window_seconds=WINDOW, created_seconds=600.0)


@asynccontextmanager
async def orphaned(
    root: Path, *, spoken: bool = True, recording: str = "audio+transcript"
) -> AsyncIterator[World]:
    """A session whose owner died after 80 samples and two finals; a third is in the log alone."""
    async with disk(root) as inner:
        scribe = Scribe(inner)
        await scribe.session(recording)  # type: ignore[arg-type]
        world = World(inner, limits=LIMITS)
        if spoken:
            await claim(inner, world.log, REF, Claimant("dead", "speaker", "2026-11-20T09:00:01.000Z", 10))
            await world.log.commit(REF, 1, finals(1, 3))
            if recording == "transcript":
                await scribe.note(1, finals(1, 2), live=[(0, 150)], settled=150)
            else:
                await scribe.segment(1, 0, 80, carried=finals(1, 2), live=[(0, 60)], settled=60)
        async with world.running():
            yield world


def back(world: World) -> None:
    world.store.before = world.store.after = type(world.store)(world.inner).before


async def finished(world: World) -> bool:
    return (await world.history()).finished


@in_virtual_time
async def test_what_nobody_resumes_is_finished_with_what_is_durable(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.watch(REF, WINDOW, history=await world.history())
        assert len(world.manager.orphans) == 1
        await asyncio.sleep(WINDOW - 1)
        assert not await finished(world)
        await asyncio.sleep(2)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert (manifest.state, manifest.reason, manifest.samples, manifest.finals) == (
            "completed",
            "abandoned",
            80,
            3,
        )
        assert (manifest.epoch, manifest.coverage["missing"]) == (2, [])
        assert len(world.manager.orphans) == 0
        assert world.rows.rows[REF.session_id].state == "completed"
        assert await names(world.inner) == [
            "audio-2.flac",
            "epochs/1.json",
            "epochs/2.json",
            "manifest.json",
            "session.json",
            "transcript-2.json",
        ]


@in_virtual_time
async def test_a_transcript_only_session_ends_with_its_last_final(tmp_path: Path) -> None:
    async with orphaned(tmp_path, recording="transcript") as world:
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(1)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert (manifest.samples, manifest.finals) == (250, 3)
        assert manifest.coverage["live"] == [(0, 150), (200, 250)]


@in_virtual_time
async def test_a_session_that_somebody_writes_to_is_given_another_window(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.watch(REF, WINDOW, history=await world.history())
        await asyncio.sleep(WINDOW - 5)
        await Scribe(world.inner).segment(1, 80, 160)
        await asyncio.sleep(WINDOW)
        assert not await finished(world)
        await asyncio.sleep(10)
        assert await finished(world)


@in_virtual_time
async def test_a_session_that_another_task_took_is_that_tasks_while_it_lives(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.watch(REF, WINDOW, epoch=1)
        other = World(world.inner, task="task-b", log=world.log, rows=world.rows, limits=LIMITS)
        async with other.running():
            speaker = await other.speaker(11)
            for _ in range(20):
                speaker.text(type="ping")
                await asyncio.sleep(WINDOW / 5)
            assert len(world.manager.orphans) == 0
            assert not await finished(world)
            assert other.manager.owned(REF) is speaker.session


@in_virtual_time
async def test_one_that_died_right_after_it_took_a_session_has_a_window_too(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.watch(REF, WINDOW, epoch=1)
        await asyncio.sleep(WINDOW - 1)
        await claim(world.inner, world.log, REF, Claimant("task-b", "speaker", "now", 11))
        await asyncio.sleep(WINDOW)
        assert not await finished(world)
        await asyncio.sleep(10)
        assert await finished(world)


@in_virtual_time
async def test_this_tasks_own_attempts_are_nobody_elses(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.watch(REF, WINDOW, epoch=1)
        await claim(world.inner, world.log, REF, Claimant(world.task, "speaker", "now", 11))
        await asyncio.sleep(WINDOW + 1)
        assert await finished(world)


@in_virtual_time
async def test_what_is_dropped_is_left_alone(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.watch(REF, WINDOW)
        world.manager.orphans.drop(REF)
        world.manager.orphans.drop(REF)
        await asyncio.sleep(2 * WINDOW)
        assert not await finished(world)


@in_virtual_time
async def test_what_is_dropped_while_it_is_looked_at_is_left_alone(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:

        async def drop(verb: str, key: str) -> None:
            del verb, key
            world.manager.orphans.drop(REF)

        world.store.before = drop
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(10)
        assert not await finished(world)
        assert len(world.manager.orphans) == 0
        assert "epochs/2.json" not in await names(world.inner)


@in_virtual_time
async def test_what_is_dropped_while_the_archive_is_away_does_not_come_back(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:

        async def drop_and_fail(verb: str, key: str) -> None:
            world.manager.orphans.drop(REF)
            raise StoreUnavailable(key, verb)

        world.store.before = drop_and_fail
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(1)
        assert len(world.manager.orphans) == 0


@in_virtual_time
async def test_a_speaker_that_comes_while_its_session_is_finished_goes_on_after_it(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        claimed = asyncio.Event()

        async def slow(verb: str, key: str) -> None:
            if (verb, key) == ("create", f"{folder(REF)}audio-2.flac"):
                claimed.set()
                await asyncio.sleep(1)

        world.store.before = slow
        world.manager.orphans.watch(REF, 0)
        await claimed.wait()
        speaker = await world.speaker(11)
        assert (speaker.ready.position, speaker.ready.epoch) == (80, 3)
        await asyncio.sleep(5)
        assert not await finished(world)
        assert world.manager.owned(REF) is speaker.session
        assert world.rows.rows[REF.session_id].state == "live"
        await speaker.say(bytes(1600))
        speaker.text(type="stop")
        completed = await speaker.until("completed")
        assert (completed["samples"], completed["finals"], completed["coverage"]["missing"]) == (880, 3, [])


@in_virtual_time
async def test_an_order_to_stop_is_carried_out_at_once_and_for_good(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.stop(REF)
        await asyncio.sleep(1)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert (manifest.reason, manifest.state) == ("stopped", "completed")


@in_virtual_time
async def test_an_order_to_stop_outlives_an_archive_that_is_away(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:

        async def away(verb: str, key: str) -> None:
            raise StoreUnavailable(key, verb)

        world.store.before = away
        world.manager.orphans.stop(REF)
        await asyncio.sleep(60)
        back(world)
        await asyncio.sleep(10)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert manifest.reason == "stopped"


# Nobody spoke ---------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_session_in_which_nobody_spoke_is_cancelled_after_ten_minutes(tmp_path: Path) -> None:
    async with orphaned(tmp_path, spoken=False) as world:
        world.manager.orphans.watch(REF, WINDOW, history=await world.history())
        await asyncio.sleep(590)
        assert not await finished(world)
        await asyncio.sleep(20)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert (manifest.state, manifest.reason, manifest.samples) == ("cancelled", "unspoken", 0)
        assert world.rows.rows[REF.session_id].state == "cancelled"


@in_virtual_time
async def test_a_session_in_which_nobody_spoke_may_be_stopped_at_once(tmp_path: Path) -> None:
    async with orphaned(tmp_path, spoken=False) as world:
        world.manager.orphans.stop(REF)
        await asyncio.sleep(1)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert manifest.state == "cancelled"


# Trouble --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_one_that_is_damaged_holds_up_no_other(tmp_path: Path) -> None:
    other = type(REF)(REF.clinic_id, "01890a5d-ac96-774b-bcce-b302099a8058")
    async with orphaned(tmp_path) as world:
        await world.inner.create(session_key(other), b"nonsense")
        world.manager.orphans.watch(other, 0)
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(2)
        assert await finished(world)
        assert len(world.manager.orphans) == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["create", "replace", "read", "list", "delete"])
def test_an_archive_that_fails_delays_it_and_no_more(tmp_path: Path, when: str, verb: str) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with orphaned(tmp_path) as world:

            async def fail(what: str, key: str) -> None:
                if what == verb and world.deps.clock() < 30:
                    raise StoreUnavailable(key, what)

            setattr(world.store, when, fail)
            world.manager.orphans.watch(REF, 0)
            await asyncio.sleep(25)
            # A base whose answer alone is lost is found to be there.
            assert len(world.manager.orphans) == ((when, verb) != ("after", "replace"))
            await asyncio.sleep(WINDOW + 30)
            manifest = (await world.history()).manifest
            assert manifest is not None
            assert (manifest.samples, manifest.finals, manifest.coverage["missing"]) == (80, 3, [])
            assert [n for n in await names(world.inner) if n.startswith(("segments", "finals"))] == []

    scenario()


@in_virtual_time
async def test_what_a_dead_finisher_left_is_swept_away(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.stop(REF)
        await asyncio.sleep(1)
        await Scribe(world.inner).segment(1, 0, 80)
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(1)
        assert segment_key(REF, 0, 1).removeprefix(folder(REF)) not in await names(world.inner)
        assert len(world.manager.orphans) == 0


@in_virtual_time
async def test_what_a_dead_finisher_told_nobody_is_told(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        history = await world.history()
        world.log.forget_after(REF, 1)
        world.rows.rows[REF.session_id] = msgspec.structs.replace(archived_item(history), state="finishing")
        order = Finish(REF, 1, "stopped", finals(1, 2), Ranges([(0, 60)]), "2026-11-20T09:01:00.000Z", 80)
        await finish(world.inner, order)
        for _ in range(2):
            world.manager.orphans.watch(REF, 0)
            await asyncio.sleep(3)
        assert world.rows.rows[REF.session_id].state == "completed"
        assert [kind for _, kind in world.log.events] == ["session.completed"]
        assert [final.seq for final in world.log.committed] == [1, 2]


@in_virtual_time
async def test_whether_anybody_was_told_is_asked_again_when_the_list_is_back(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        world.manager.orphans.stop(REF)
        await asyncio.sleep(1)
        world.rows.away = True
        world.rows.rows.clear()
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(60)
        world.rows.away = False
        await asyncio.sleep(10)
        assert world.rows.rows[REF.session_id].state == "completed"
        assert len(world.manager.orphans) == 0


@in_virtual_time
async def test_a_session_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        for name in await names(world.inner):
            await world.inner.delete(folder(REF) + name)
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(1)
        assert len(world.manager.orphans) == 0
        assert epoch_key(REF, 2).removeprefix(folder(REF)) not in await names(world.inner)


@in_virtual_time
async def test_who_is_quicker_is_let_finish_and_not_relied_on(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:

        async def overtake(verb: str, key: str) -> None:
            if (verb, key) == ("replace", epoch_key(REF, 2)):
                world.store.before = World(world.inner).store.before
                await claim(world.inner, world.log, REF, Claimant("task-b", "finish", "now"))

        world.store.before = overtake
        world.manager.orphans.watch(REF, 0)
        await asyncio.sleep(WINDOW - 1)
        # The other one died before it was through.
        assert not await finished(world)
        await asyncio.sleep(15)
        assert await finished(world)
        assert world.manager.orphans.is_over(REF, 0.0)
        assert not world.manager.orphans.is_over(REF, world.deps.clock() + 1)


@in_virtual_time
async def test_what_is_watched_already_keeps_its_time(tmp_path: Path) -> None:
    async with orphaned(tmp_path) as world:
        history = await world.history()
        world.manager.orphans.watch(REF, 10, history=history)
        world.manager.orphans.watch_new(REF, 1000, history=history)
        await asyncio.sleep(12)
        assert await finished(world)
