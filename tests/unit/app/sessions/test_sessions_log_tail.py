"""What followers of the log have in the end is what the archive tells, whatever the log slept through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.archive.history import Fence
from app.archive.reader import read_finals
from app.archive.store import ObjectCorrupt, ObjectMissing, StoreError
from app.events.log import Announced
from app.protocol.rest import SessionItem
from app.sessions.committer import CHECK_SECONDS
from app.sessions.deps import SessionLimits
from app.sessions.log_tail import TOLD_AGAIN, log_position
from tests.support.archives import CREATED_AT, REF
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import ScriptedEngine, tone
from tests.support.session_world import World, one_task

WINDOW = 20.0
LIMITS = SessionLimits(resume_window_seconds=WINDOW)


async def archived(world: World) -> list[str]:
    return [final.final.text for final in await read_finals(world.inner, REF, await world.history(), after=0)]


def followed(world: World) -> list[str]:
    return [final.final.text for final in world.log.followed.get(REF, [])]


def told(world: World) -> list[str]:
    return [kind for _, kind in world.log.events if kind.startswith("session.")]


@in_virtual_time
async def test_a_session_that_ends_while_the_log_is_away_is_told_of_to_its_end_and_then_as_over(
    tmp_path: Path,
) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine(), limits=LIMITS) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1))
        await speaker.until("final")
        world.log.away = True
        await speaker.say(tone(2))
        speaker.text(type="stop")
        await speaker.until("completed")
        assert (followed(world), "session.completed" in told(world)) == (["w1"], False)
        world.log.away = False
        await asyncio.sleep(5)
        assert followed(world) == await archived(world) == ["w1", "w2"]
        assert told(world)[-1] == "session.completed"
        assert await world.log.pending(REF) == []


@in_virtual_time
async def test_whoever_finishes_for_a_dead_owner_tells_the_log_what_that_one_could_not(
    tmp_path: Path,
) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine(), limits=LIMITS) as world:
        speaker = await world.speaker()
        world.log.away = True
        await speaker.say(tone(1))
        await speaker.until("final")
        world.manager.give_up()
        await asyncio.sleep(WINDOW / 2)
        world.log.away = False
        await asyncio.sleep(3 * WINDOW)
        assert (await world.history()).finished
        assert followed(world) == await archived(world) == ["w1"]
        assert told(world)[-1] == "session.completed"


@in_virtual_time
async def test_a_log_that_was_emptied_hears_of_a_quiet_session_by_itself(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine(), limits=LIMITS) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1))
        await speaker.until("final")
        world.log.forget_everything()
        world.log.followed.clear()
        assert await world.log.epochs([REF]) == [None]
        for _ in range(int(WINDOW)):
            speaker.text(type="ping")
            await asyncio.sleep(0.5)
        assert await world.log.epochs([REF]) == [speaker.ready.epoch]
        assert followed(world) == ["w1"]


@pytest.mark.parametrize("left", [2, 1, 0])
@pytest.mark.parametrize("ends", [False, True])
def test_a_log_that_lost_its_end_has_it_again_though_nothing_more_is_said(
    tmp_path: Path, left: int, ends: bool
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with one_task(tmp_path, engine=ScriptedEngine(), limits=LIMITS) as world:
            speaker = await world.speaker()
            for number in (1, 2, 3):
                await speaker.say(tone(number))
                await speaker.until("final")
            await asyncio.sleep(1)
            world.log.forget_after(REF, left)
            del world.log.followed[REF][left:]
            if ends:
                speaker.text(type="stop")
                await speaker.until("completed")
                await asyncio.sleep(1)
                assert told(world)[-1] == "session.completed"
            else:
                for _ in range(int(CHECK_SECONDS) + 2):
                    speaker.text(type="ping")
                    await asyncio.sleep(1)
            assert followed(world) == await archived(world) == ["w1", "w2", "w3"]
            assert [final.seq for final in world.log.committed] == [1, 2, 3]

    scenario()


@pytest.mark.parametrize("error", [ObjectMissing, ObjectCorrupt])
def test_finals_that_cannot_be_read_for_the_log_end_nothing(tmp_path: Path, error: type[StoreError]) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with one_task(tmp_path, engine=ScriptedEngine(), limits=LIMITS) as world:
            healthy = world.store.before

            async def damaged(verb: str, key: str) -> None:
                if verb == "read" and "transcript-" in key:
                    raise error(key, "cannot be read")

            speaker = await world.speaker()
            world.log.away = True
            await speaker.say(tone(1))
            await speaker.until("final")
            world.manager.give_up()
            await asyncio.sleep(2 * WINDOW)
            assert (await world.history()).finished
            world.store.before, world.log.away = damaged, False
            await asyncio.sleep(10)
            world.herald.tell(item_beside())
            await asyncio.sleep(10)
            assert world.rows.rows["beside"].state == "live"
            assert "session.completed" not in told(world)
            world.store.before = healthy
            await asyncio.sleep(5)
            assert followed(world) == ["w1"]
            assert told(world)[-1] == "session.completed"

    scenario()


def item_beside() -> SessionItem:
    return SessionItem("beside", "north", "live", "en-US", CREATED_AT, "dr.a")


def test_a_log_that_told_nothing_is_told_no_more_than_so_much() -> None:
    fence_of_none = Fence(())
    assert log_position(Announced([], None), 3, fence_of_none) == 0
    assert log_position(Announced([], None), TOLD_AGAIN + 3, fence_of_none) == 3
    assert log_position(Announced([], 2, 1), 3, fence_of_none) == 2
    assert log_position(Announced([], 9, 1), 3, fence_of_none) == 3
