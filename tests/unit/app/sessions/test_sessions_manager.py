from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from app.archive.records import epoch_key, parse_epoch_name
from app.archive.store import StoreUnavailable
from app.archive.verify import verify
from app.auth.principal import AuthError
from app.auth.tickets import Ticket
from app.sessions.attaching import Attaching
from app.sessions.deps import SessionLimits
from app.sessions.drain import RELEASE_SECONDS
from app.sessions.errors import Busy, SessionNotFound, Superseded
from app.sessions.session import Session
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import REF, Scribe, disk, names, sound
from tests.support.inline_loop import in_virtual_time, run
from tests.support.memory_log import MemoryLog
from tests.support.scripted_engine import ScriptedEngine, tone
from tests.support.session_world import Rows, World, one_task

OTHER = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8058")
SECOND = 16_000
WINDOW = 120.0


async def epochs(world: World) -> list[int]:
    numbers = [parse_epoch_name(name) for name in await names(world.inner)]
    return sorted(number for number in numbers if number is not None)


# Entering -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_speaker_is_told_where_to_begin(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        ready = speaker.ready
        assert (ready.session_id, ready.position, ready.window, ready.epoch) == (
            REF.session_id,
            0,
            262_144,
            1,
        )
        assert ready.config == {"language": "en-US", "engine": "null", "recording": "audio+transcript"}
        assert ready.limits["resumeWindowSeconds"] == 120
        resume = speaker.resume_ticket
        assert (resume.resume, resume.serial, resume.subject) == (True, 10, "dr.a")
        assert world.manager.owned(REF) is speaker.session
        assert world.manager.owned(OTHER) is None


@in_virtual_time
async def test_what_is_said_is_archived_and_stopping_completes_it(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 7 * SECOND))
        speaker.text(type="stop", position=7 * SECOND)
        completed = await speaker.until("completed")
        assert (completed["samples"], completed["coverage"]["missing"]) == (7 * SECOND, [])
        assert await speaker.until_closed() == 1000
        assert speaker.types()[-1] == "completed"
        await asyncio.sleep(1)
        assert world.manager.owned(REF) is None
        verdict = await verify(world.inner, REF)
        assert verdict is not None
        assert (verdict.samples, verdict.faults) == (7 * SECOND, [])


@in_virtual_time
async def test_there_is_no_place_in_a_session_that_is_not_there(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        with pytest.raises(SessionNotFound):
            await world.speaker(world.ticket(10, OTHER))
        clinics = Ticket(ClinicId("north"), None, "dr.a", "observer", 10, "x", False, 0)
        with pytest.raises(SessionNotFound):
            await world.manager.attach(clinics, 0, lambda: None)
        elsewhere = SessionRef(ClinicId("south"), REF.session_id)
        with pytest.raises(SessionNotFound):
            await world.speaker(world.ticket(10, elsewhere))


@in_virtual_time
async def test_a_ticket_enters_once(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        ticket = world.ticket()
        speaker = await world.speaker(ticket)
        with pytest.raises(AuthError):
            await world.speaker(ticket)
        assert not speaker.link.closing
        speaker.drop()
        with pytest.raises(AuthError):
            await world.speaker(ticket)


# Resuming -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_resuming_on_the_same_task_needs_no_new_epoch(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 2 * SECOND))
        speaker.drop()
        await asyncio.sleep(60)
        again = await world.speaker(speaker.resume_ticket)
        assert again.session is speaker.session
        assert (again.ready.position, again.ready.epoch) == (2 * SECOND, 1)
        assert await epochs(world) == [1]
        await again.say(sound(2 * SECOND, 3 * SECOND))
        again.text(type="stop")
        assert (await again.until("completed"))["samples"] == 3 * SECOND


@in_virtual_time
async def test_a_client_that_resumes_before_its_old_socket_is_gone_closes_it(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        old = await world.speaker()
        old.send(sound(0, SECOND))
        new = await world.speaker(old.resume_ticket)
        assert await old.until_closed() == 1012
        assert new.ready.position == SECOND
        new.send(sound(SECOND, 2 * SECOND))
        assert new.session is not None
        assert new.session.state.value == "live"
        assert new.session.parts.ring.head == 2 * SECOND


@in_virtual_time
async def test_a_newer_ticket_takes_the_session_over_with_a_new_epoch(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        old = await world.speaker(10)
        await old.say(sound(0, 2 * SECOND))
        new = await world.speaker(11)
        assert await old.until_closed() == 4409
        assert (new.ready.position, new.ready.epoch) == (2 * SECOND, 2)
        assert world.manager.owned(REF) is new.session is not old.session
        with pytest.raises(Superseded):
            await world.speaker(old.resume_ticket)
        with pytest.raises(Superseded):
            await world.speaker(10)
        await new.say(sound(2 * SECOND, 3 * SECOND))
        new.text(type="stop")
        assert (await new.until("completed"))["samples"] == 3 * SECOND
        assert await epochs(world) == [1, 2]


@in_virtual_time
async def test_a_take_over_waits_until_what_was_said_is_durable_and_no_longer_than_it_may(
    tmp_path: Path,
) -> None:
    async with one_task(tmp_path) as world:
        old = await world.speaker(10)
        old.send(sound(0, SECOND))

        async def full(verb: str, key: str) -> None:
            if "segments/" in key and verb == "create":
                raise StoreUnavailable(key, "full", "no_space")

        world.store.before = full
        with pytest.raises(Busy) as caught:
            await world.speaker(11)
        assert caught.value.code == "archive_away"
        assert await old.until_closed() == 4409
        world.store.before = World(world.inner).store.before
        await asyncio.sleep(10)
        new = await world.speaker(11)
        assert (new.ready.position, new.ready.epoch) == (SECOND, 2)


@in_virtual_time
async def test_what_the_client_missed_is_sent_first_and_what_it_cannot_have_is_withdrawn(
    tmp_path: Path,
) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1) + tone(2) + tone(3))
        await asyncio.sleep(1)
        speaker.read()
        assert speaker.seqs() == [1, 2, 3]
        speaker.drop()
        again = await world.speaker(speaker.resume_ticket, after=1)
        again.read()
        assert again.seqs() == [2, 3]
        ahead = await world.speaker(again.resume_ticket, after=9)
        assert [(m["type"], m["code"], m["seq"]) for m in ahead.read()] == [("notice", "finals_rewound", 3)]


@in_virtual_time
async def test_more_finals_than_memory_holds_are_read_from_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.sessions.finals.RECENT_FINALS", 2)
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        for word in range(1, 8):
            await speaker.say(tone(word))
        await asyncio.sleep(10)
        session = speaker.session
        assert session is not None
        assert session.parts.book.since(0) is None
        speaker.drop()
        again = await world.speaker(speaker.resume_ticket)
        again.read()
        assert again.seqs() == list(range(1, 8))


@in_virtual_time
async def test_archived_finals_are_not_told_before_they_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.sessions.finals.RECENT_FINALS", 2)
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        for word in range(1, 8):
            await speaker.say(tone(word))
        await asyncio.sleep(10)
        world.log.away = True
        confirming = asyncio.Event()

        async def unsure(verb: str, key: str) -> None:
            if verb == "read" and key == epoch_key(REF, 2):
                confirming.set()
                raise StoreUnavailable(key, "cannot say")

        world.store.before = unsure
        await speaker.say(tone(9))
        await confirming.wait()
        speaker.drop()
        assert (await world.history()).seq == 8
        again = await world.speaker(speaker.resume_ticket)
        again.read()
        assert again.seqs() == list(range(1, 8))
        world.store.before = World(world.inner).store.before
        await asyncio.sleep(5)
        again.read()
        assert again.seqs() == list(range(1, 9))


# Other tasks ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_session_goes_on_at_another_task_and_comes_back(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        log, rows = MemoryLog(), Rows()
        one, two = (World(inner, task=task, log=log, rows=rows) for task in ("task-a", "task-b"))
        async with one.running(), two.running():
            first = await one.speaker()
            await first.say(sound(0, SECOND))
            first.drop()
            await asyncio.sleep(10)
            second = await two.speaker(first.resume_ticket)
            assert (second.ready.position, second.ready.epoch) == (SECOND, 2)
            await second.say(sound(SECOND, 2 * SECOND))
            second.drop()
            await asyncio.sleep(10)
            # The first task has heard nothing of all that, and still has its session.
            third = await one.speaker(second.resume_ticket)
            assert (third.ready.position, third.ready.epoch) == (2 * SECOND, 3)
            assert third.session is not first.session
            await third.say(sound(2 * SECOND, 3 * SECOND))
            third.text(type="stop")
            completed = await third.until("completed")
            assert (completed["samples"], completed["coverage"]["missing"]) == (3 * SECOND, [])


TAKING_OVER_CALLS = 12
"""Requests to the archive for a session of another task: when a task dies, the others make them for all its sessions at once."""


@in_virtual_time
async def test_taking_a_session_over_costs_few_requests_however_long_it_is(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        log, rows = MemoryLog(), Rows()
        worlds = [
            World(inner, task=task, log=log, rows=rows, engine=ScriptedEngine())
            for task in ("task-a", "task-b")
        ]
        async with worlds[0].running(), worlds[1].running():
            speaker = await worlds[0].speaker()
            for minute, world in enumerate(worlds[::-1] * 2, 1):
                for word in range(1, 31):
                    await speaker.say(tone(word % 9 + 1))
                    await asyncio.sleep(2)
                speaker.read()
                assert speaker.seqs()[-1] == 30 * minute
                world.store.calls.clear()
                speaker = await world.speaker(speaker.resume_ticket, after=30 * minute - 2)
                calls = [call for call in world.store.calls if "/_tasks/" not in call[1]]
                assert speaker.ready.epoch == minute + 1
                speaker.read()
                assert speaker.seqs() == [30 * minute - 1, 30 * minute]
                assert len(calls) <= TAKING_OVER_CALLS, calls


@in_virtual_time
async def test_a_fenced_task_does_not_finish_what_another_one_goes_on_with(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        log, rows = MemoryLog(), Rows()
        one, two = (
            World(inner, task=task, log=log, rows=rows, engine=ScriptedEngine())
            for task in ("task-a", "task-b")
        )
        async with one.running(), two.running():
            first = await one.speaker(10)
            await first.say(tone(1))
            second = await two.speaker(11)
            await first.say(tone(2))
            assert await first.until_closed() == 4409
            assert one.manager.owned(REF) is None
            # Silent, but for a sign of life: nothing is written for longer than the resume window, twice.
            for _ in range(12):
                second.text(type="ping")
                await asyncio.sleep(25)
            await second.say(tone(1) + tone(3))
            second.text(type="stop")
            completed = await second.until("completed")
            assert completed["finals"] == 2
            verdict = await verify(inner, REF)
            assert verdict is not None
            assert verdict.faults == []


# The end --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_session_that_nobody_resumes_is_finished_and_may_be_reopened(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 2 * SECOND))
        speaker.drop()
        await asyncio.sleep(WINDOW - 5)
        assert not (await world.history()).finished
        await asyncio.sleep(10)
        history = await world.history()
        assert history.manifest is not None
        assert (history.finished, history.manifest.reason, history.manifest.samples) == (
            True,
            "abandoned",
            2 * SECOND,
        )
        assert world.manager.owned(REF) is None
        assert [state for _, state in world.rows.states][-1] == "completed"
        again = await world.speaker(speaker.resume_ticket)
        assert (again.ready.position, again.ready.epoch, again.ready.window) == (2 * SECOND, 2, 262_144)
        assert not (await world.history()).finished
        await again.say(sound(2 * SECOND, 3 * SECOND))
        again.text(type="stop")
        completed = await again.until("completed")
        assert (completed["samples"], completed["coverage"]["missing"]) == (3 * SECOND, [])
        assert await names(world.inner) == [
            "audio-2.flac",
            "epochs/1.json",
            "epochs/2.json",
            "manifest.json",
            "session.json",
            "transcript-2.json",
        ]


@in_virtual_time
async def test_when_the_time_for_it_is_over_an_abandoned_session_is_not_reopened(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=SessionLimits(reopen_seconds=1.0)) as world:
        speaker = await world.speaker()
        speaker.send(sound(0, SECOND))
        speaker.drop()
        await asyncio.sleep(WINDOW + 5)
        late = await world.speaker(speaker.resume_ticket)
        assert (late.session, late.ready.window) == (None, 0)
        assert (await late.until("completed"))["samples"] == SECOND
        assert await late.until_closed() == 1000


@in_virtual_time
async def test_a_stopped_session_tells_its_end_to_whoever_comes(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1) + tone(2))
        speaker.text(type="stop")
        first = await speaker.until("completed")
        await speaker.until_closed()
        await asyncio.sleep(1)
        before = await names(world.inner)
        for after, seqs in ((0, [1, 2]), (1, [2]), (2, [])):
            again = await world.speaker(speaker.resume_ticket, after=after)
            assert (again.session, again.ready.window, again.ready.position) == (None, 0, first["samples"])
            assert await again.until("completed") == first
            assert again.seqs() == seqs
            assert await again.until_closed() == 1000
        assert await names(world.inner) == before


@in_virtual_time
async def test_who_joins_while_a_session_ends_gets_no_window_and_the_end(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, SECOND))

        async def full(verb: str, key: str) -> None:
            if verb == "create":
                raise StoreUnavailable(key, "full", "no_space")

        world.store.before = full
        speaker.drop()
        world.manager.stop(REF)
        await asyncio.sleep(5)
        again = await world.speaker(speaker.resume_ticket)
        assert (again.ready.window, again.ready.position) == (0, SECOND)
        await asyncio.sleep(3)
        again.read()
        assert {m["window"] for m in again.got if m["type"] == "ack"} == {0}
        world.store.before = World(world.inner).store.before
        assert (await again.until("completed"))["samples"] == SECOND
        assert await again.until_closed() == 1000


@in_virtual_time
async def test_audio_sent_into_a_session_that_ends_is_refused(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, SECOND))
        world.store.before = lambda verb, key: asyncio.sleep(1)
        speaker.drop()
        world.manager.stop(REF)
        again = await world.speaker(speaker.resume_ticket)
        again.send(sound(0, 100))
        assert await again.until_closed() == 4413


@in_virtual_time
async def test_stopping_what_is_not_here_is_somebody_elses_to_do(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        assert not world.manager.stop(REF)
        await world.speaker()
        assert world.manager.stop(REF)


# Room, draining, failing ----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_full_task_takes_no_new_session_and_keeps_its_own(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=SessionLimits(max_sessions=1)) as world:
        await Scribe(world.inner, OTHER).session()
        speaker = await world.speaker()
        with pytest.raises(Busy) as caught:
            await world.speaker(world.ticket(10, OTHER))
        assert caught.value.code == "full"
        await world.speaker(speaker.resume_ticket)
        newer = await world.speaker(11)
        newer.text(type="stop")
        await newer.until("completed")
        await asyncio.sleep(1)
        await world.speaker(world.ticket(10, OTHER))


@in_virtual_time
async def test_those_who_are_about_to_enter_take_places_too(tmp_path: Path) -> None:
    async with one_task(tmp_path, limits=SessionLimits(max_sessions=1)) as world:
        await Scribe(world.inner, OTHER).session()
        claiming, claim = asyncio.Event(), asyncio.Event()

        async def slow(verb: str, key: str) -> None:
            if verb == "create" and "epochs/" in key:
                claiming.set()
                await claim.wait()
                raise StoreUnavailable(key, verb)

        world.store.before = slow
        async with asyncio.TaskGroup() as group:
            entering = group.create_task(failing(world))
            await claiming.wait()
            with pytest.raises(Busy) as caught:
                await world.speaker(world.ticket(10, OTHER))
            assert caught.value.code == "full"
            claim.set()
        assert entering.result()
        world.store.before = World(world.inner).store.before
        await world.speaker(world.ticket(10, OTHER))


async def failing(world: World) -> bool:
    with pytest.raises(StoreUnavailable):
        await world.speaker()
    return True


@in_virtual_time
async def test_draining_makes_all_durable_and_sends_everybody_elsewhere(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        await Scribe(inner, OTHER).session()
        world = World(inner, engine=ScriptedEngine())
        async with world.running():
            one = await world.speaker()
            two = await world.speaker(world.ticket(10, OTHER))
            await one.say(tone(1))
            await two.say(tone(2))
            await world.manager.drain()
            for speaker in (one, two):
                assert await speaker.until_closed() == 1012
                assert "draining" in speaker.types()
                assert "completed" not in speaker.types()
            with pytest.raises(Busy) as caught:
                await world.speaker(one.resume_ticket)
            assert caught.value.code == "draining"
            await world.manager.drain()
        history = await world.history()
        assert (history.end, history.seq, history.finished) == (len(tone(1)) // 2, 1, False)
        second = World(inner, log=world.log, task="task-b")
        async with second.running():
            again = await second.speaker(one.resume_ticket, after=1)
            assert (again.ready.position, again.ready.epoch) == (len(tone(1)) // 2, 2)


@in_virtual_time
async def test_a_speaker_that_goes_on_while_the_task_drains_loses_nothing(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        world = World(inner, engine=ScriptedEngine())
        async with world.running():
            speaker = await world.speaker()
            await speaker.say(sound(0, SECOND))
            async with asyncio.TaskGroup() as group:
                draining = group.create_task(world.manager.drain())
                for _ in range(200):
                    if speaker.closed is None:
                        head = speaker.session.parts.ring.head if speaker.session else 0
                        await speaker.say(sound(head, head + 1600))
                await draining
            durable = max(m["durable"] for m in speaker.got if m["type"] == "ack")
        assert (await world.history()).end >= durable > 0


@in_virtual_time
async def test_who_enters_at_the_moment_of_draining_is_not_left_behind(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        world = World(inner)
        async with world.running():
            claiming = asyncio.Event()

            async def slow(verb: str, key: str) -> None:
                if verb == "replace" and "epochs/" in key:
                    claiming.set()
                    await asyncio.sleep(1)

            world.store.before = slow
            async with asyncio.TaskGroup() as group:
                entering = group.create_task(refused_with(world))
                await claiming.wait()
                await world.manager.drain()
            assert entering.result() == "draining"


async def refused_with(world: World) -> str:
    with pytest.raises(Busy) as caught:
        await world.speaker()
    return caught.value.code


@in_virtual_time
async def test_draining_has_an_end_although_the_archive_is_away(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        world = World(inner)
        async with world.running():
            speaker = await world.speaker()
            speaker.send(sound(0, SECOND))

            async def away(verb: str, key: str) -> None:
                raise StoreUnavailable(key, verb)

            world.store.before = away
            begun = loop.time()
        assert loop.time() - begun < RELEASE_SECONDS + 10


@in_virtual_time
async def test_a_bug_in_one_session_ends_that_session_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_task(tmp_path) as world:
        await Scribe(world.inner, OTHER).session()
        one = await world.speaker()
        two = await world.speaker(world.ticket(10, OTHER))
        await one.say(sound(0, 2 * SECOND))
        assert one.session is not None
        monkeypatch.setattr(one.session.parts.recorder, "_write_next", None)
        one.text(type="flush")
        assert await one.until_closed() == 4500
        assert [m["code"] for m in one.got if m["type"] == "error"] == ["internal"]
        assert world.manager.owned(REF) is None
        await two.say(sound(0, SECOND))
        two.text(type="stop")
        assert (await two.until("completed"))["samples"] == SECOND
        again = await world.speaker(one.resume_ticket)
        assert again.ready.epoch == 2
        await again.say(sound(again.ready.position, 3 * SECOND))
        again.text(type="stop")
        assert (await again.until("completed"))["samples"] == 3 * SECOND


@in_virtual_time
async def test_a_crashed_session_that_nobody_resumes_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, 6 * SECOND))
        assert speaker.session is not None
        monkeypatch.setattr(speaker.session.parts.recorder, "_write_next", None)
        speaker.text(type="flush")
        await speaker.until_closed()
        await asyncio.sleep(WINDOW + 5)
        history = await world.history()
        assert (history.finished, history.end) == (True, 5 * SECOND)


@in_virtual_time
async def test_who_gives_up_while_entering_leaves_no_session_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_task(tmp_path) as world:
        hanging = asyncio.Event()

        async def hang(self: object, session: Session, after: int) -> list[object]:
            del self, session, after
            hanging.set()
            await asyncio.Event().wait()
            return []

        with monkeypatch.context() as patched:
            patched.setattr(Attaching, "_missed", hang)
            async with asyncio.TaskGroup() as group:
                entering = group.create_task(world.speaker())
                await hanging.wait()
                entering.cancel()
        await asyncio.sleep(1)
        assert world.manager.owned(REF) is None
        speaker = await world.speaker(11)
        assert speaker.ready.epoch == 2


@in_virtual_time
async def test_a_claim_that_fails_leaves_a_session_that_is_finished_in_time(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, SECOND))
        await asyncio.sleep(6)

        async def away(verb: str, key: str) -> None:
            if verb == "create" and "epochs/" in key:
                raise StoreUnavailable(key, verb)

        world.store.before = away
        with pytest.raises(StoreUnavailable):
            await world.speaker(11)
        world.store.before = World(world.inner).store.before
        assert world.manager.owned(REF) is None
        await asyncio.sleep(WINDOW + 5)
        assert (await world.history()).finished


# At once --------------------------------------------------------------------------------------------------------------


def delays(seed: int) -> Callable[[], float]:
    random = Random(seed)  # noqa: S311 - interleavings
    return lambda: random.choice((0.0, 0.001, 0.005, 0.05))


async def enter(world: World, ticket: Ticket) -> object:
    try:
        return await world.speaker(ticket)
    except (Superseded, AuthError, Busy) as refusal:
        return refusal


async def scramble(root: Path, seed: int) -> None:
    """Several tickets at several tasks at once: the newest wins in the end, and all that was promised is there."""
    random = Random(seed)  # noqa: S311 - interleavings
    async with disk(root) as inner:
        await Scribe(inner).session()
        log, rows = MemoryLog(), Rows()
        worlds = [World(inner, task=f"task-{n}", log=log, rows=rows) for n in range(2)]
        async with worlds[0].running(), worlds[1].running():
            async with asyncio.TaskGroup() as group:
                for serial in (10, 11, 12):
                    await asyncio.sleep(random.choice((0, 0.001, 0.05)))
                    world = random.choice(worlds)
                    group.create_task(enter(world, world.ticket(serial)))
            world = random.choice(worlds)
            speaker = await world.speaker(13)
            position = speaker.ready.position
            await speaker.say(sound(position, position + SECOND))
            speaker.text(type="stop")
            completed = await speaker.until("completed")
            assert (completed["samples"], completed["coverage"]["missing"]) == (position + SECOND, [])
            assert (await world.history()).speaker_serial == 13


@pytest.mark.parametrize("seed", range(20))
def test_many_tickets_at_many_tasks_end_with_the_newest(tmp_path: Path, seed: int) -> None:
    run(scramble(tmp_path, seed), delays(seed))
