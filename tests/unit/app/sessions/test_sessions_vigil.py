from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.archive.store import StoreUnavailable
from app.archive.verify import verify
from app.sessions.deps import SessionLimits
from app.sessions.ownership import Claimant, claim
from tenants.terms import SessionRef
from tests.support.archives import REF, Scribe, disk, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.memory_log import MemoryLog
from tests.support.scripted_engine import ScriptedEngine, tone
from tests.support.session_world import Rows, Speaker, World, one_task

SECOND = 16_000
WINDOW = 120.0
LIMITS = SessionLimits(resume_window_seconds=WINDOW)


async def away(verb: str, key: str) -> None:
    raise StoreUnavailable(key, verb)


def back(world: World) -> None:
    world.store.before = type(world.store)(world.inner).before


async def stay(speaker: Speaker, seconds: float) -> None:
    for _ in range(int(seconds)):
        speaker.text(type="ping")
        await asyncio.sleep(1)
        speaker.read()


def closing(speaker: Speaker) -> int | None:
    return speaker.closed


def durable(speaker: Speaker) -> int:
    return max((m["durable"] for m in speaker.got if m["type"] == "ack"), default=0)


@in_virtual_time
async def test_what_the_log_confirms_costs_the_archive_nothing(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=LIMITS) as world:
        speaker = await world.speaker()
        await asyncio.sleep(1)
        world.store.calls.clear()
        await stay(speaker, 300)
        assert [key for _, key in world.store.calls if key.startswith("north/")] == []
        assert world.manager.owned(REF) is speaker.session


@pytest.mark.parametrize("gone", ["log", "store"])
def test_one_of_the_two_is_enough(tmp_path: Path, gone: str) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with one_task(tmp_path, limits=LIMITS) as world:
            speaker = await world.speaker()
            if gone == "log":
                world.log.away = True
            else:
                world.store.before = away
            await stay(speaker, 3 * WINDOW)
            assert closing(speaker) is None
            world.log.away = False
            back(world)
            speaker.text(type="stop")
            await speaker.until("completed")

    scenario()


@in_virtual_time
async def test_a_log_that_forgot_everything_leaves_it_to_the_archive(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=LIMITS) as world:
        speaker = await world.speaker()
        world.log.forget_everything()
        await stay(speaker, 2 * WINDOW)
        assert closing(speaker) is None


@in_virtual_time
async def test_an_owner_that_nothing_confirms_lets_go_after_half_the_window(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=LIMITS) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 6 * SECOND))
        world.log.away, world.store.before = True, away
        begun = world.deps.clock()
        await stay(speaker, WINDOW / 2 - 20)
        assert closing(speaker) is None
        await stay(speaker, 40)
        assert closing(speaker) == 4503
        assert world.deps.clock() - begun < WINDOW
        assert [m["code"] for m in speaker.got if m["type"] == "error"] == ["ownership_unconfirmed"]
        assert world.manager.owned(REF) is None
        world.log.away = False
        back(world)
        again = await world.speaker(speaker.resume_ticket)
        assert (again.ready.position, again.ready.epoch) == (durable(speaker), 2)
        again.drop()
        await asyncio.sleep(2 * WINDOW)
        assert (await world.history()).finished


@in_virtual_time
async def test_what_nobody_confirmed_and_nobody_resumes_is_finished(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=LIMITS) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 6 * SECOND))
        world.log.away, world.store.before = True, away
        await stay(speaker, WINDOW)
        world.log.away = False
        back(world)
        await asyncio.sleep(WINDOW + 10)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert (manifest.samples, manifest.reason) == (5 * SECOND, "abandoned")


@in_virtual_time
async def test_an_owner_that_the_log_told_of_a_newer_one_is_fenced(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=LIMITS) as world:
        speaker = await world.speaker()
        await asyncio.sleep(1)
        await claim(world.inner, world.log, REF, Claimant("task-b", "speaker", "now", 11))
        await stay(speaker, 20)
        assert closing(speaker) == 4409
        assert world.manager.owned(REF) is None


@in_virtual_time
async def test_a_newer_owner_that_the_log_never_heard_of_is_found_by_its_tasks_record(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        one, two = (World(inner, task=f"task-{n}", rows=Rows(), limits=LIMITS) for n in (1, 2))
        two.log.away = True
        async with one.running(), two.running():
            first = await one.speaker(10)
            await first.say(sound(0, 6 * SECOND))
            second = await two.speaker(11)
            await stay(first, 40)
            assert first.closed == 4409
            assert second.closed is None
            assert two.manager.owned(REF) is second.session


@in_virtual_time
async def test_an_archive_that_is_only_slow_confirms_everybody_in_turn(tmp_path: Path) -> None:
    refs = [SessionRef(REF.clinic_id, f"01890a5d-ac96-774b-bcce-{n:012x}") for n in range(20)]
    async with disk(tmp_path) as inner:
        for ref in refs:
            await Scribe(inner, ref).session()
        world = World(inner, limits=SessionLimits(resume_window_seconds=16.0))
        async with world.running():
            speakers = [await world.speaker(world.ticket(10, ref)) for ref in refs]
            world.log.away = True

            async def slow(verb: str, key: str) -> None:
                if verb == "read" and "/epochs/" in key:
                    await asyncio.sleep(0.9)

            world.store.before = slow
            for _ in range(40):
                await asyncio.sleep(1)
                for speaker in speakers:
                    speaker.text(type="ping")
                    speaker.read()
            assert [speaker.closed for speaker in speakers] == [None] * len(refs)


# Zombies --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_one_that_stood_still_promises_nothing_before_it_is_confirmed(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        log, rows = MemoryLog(), Rows()
        one, two = (
            World(inner, task=f"task-{n}", log=log, rows=rows, limits=LIMITS, engine=ScriptedEngine())
            for n in (1, 2)
        )
        async with one.running(), two.running():
            first = await one.speaker()
            await first.say(tone(1))
            await asyncio.sleep(6)
            first.read()
            promised, head = durable(first), len(tone(1)) // 2
            assert promised == head

            # Stopped: the client goes elsewhere, and speaks on.
            second = await two.speaker(first.resume_ticket, after=1)
            await second.say(tone(2))
            one.stood_still += 30
            # Goes on, with what was still in its socket, before anything of it has looked at a clock.
            first.send(tone(3))
            assert first.session is not None
            first.session.parts.recorder.cut()
            await stay(first, 1)
            assert first.closed == 1012
            assert durable(first) == promised
            second.text(type="stop")
            completed = await second.until("completed")
            assert (completed["samples"], completed["finals"]) == (2 * head, 2)
            verdict = await verify(inner, REF)
            assert verdict is not None
            assert verdict.faults == []


@in_virtual_time
async def test_one_that_stood_still_and_kept_its_session_goes_on(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=LIMITS) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 2 * SECOND))
        world.stood_still += 30
        world.log.away, world.store.before = True, away
        await stay(speaker, 10)
        assert closing(speaker) is None
        assert durable(speaker) == 0
        world.log.away = False
        back(world)
        await stay(speaker, 20)
        assert durable(speaker) == 2 * SECOND
        speaker.text(type="stop")
        assert (await speaker.until("completed"))["samples"] == 2 * SECOND
