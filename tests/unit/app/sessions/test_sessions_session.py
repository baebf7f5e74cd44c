from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.archive.records import manifest_key
from app.archive.store import StoreUnavailable
from app.archive.verify import verify
from app.sessions.deps import SessionLimits
from app.sessions.ending import Ending
from app.sessions.session import PAUSE_AFTER_SECONDS, Session
from app.sessions.state import SessionState
from audio.engine import Rejected
from tests.support.archives import REF, a_final, names, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import PAUSE, Script, ScriptedEngine, tone
from tests.support.session_world import Speaker, World, one_task

SECOND = 16_000


def session_of(speaker: Speaker) -> Session:
    assert speaker.session is not None
    return speaker.session


async def no_store(verb: str, key: str) -> None:
    raise StoreUnavailable(key, verb, "io_error")


def back(world: World) -> None:
    world.store.before = world.store.after = type(world.store)(world.inner).before


# Captions -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_is_heard_is_shown_and_then_committed(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1, 2))
        final = await speaker.until("final")
        assert (final["seq"], final["text"], final["language"]) == (1, "w1 w2", "en-US")
        partials = [m for m in speaker.got if m["type"] == "partial"]
        assert {m["id"] for m in partials} == {final["id"]}
        assert speaker.types()[-1] != "partial"


@in_virtual_time
async def test_the_log_may_delay_the_word_final_but_not_the_caption(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        world.log.away = True
        world.store.before = no_store
        await speaker.say(tone(1))
        await asyncio.sleep(30)
        speaker.read()
        assert speaker.seqs() == []
        assert [m["text"] for m in speaker.got if m["type"] == "partial"][-1] == "w1"
        assert "archive_degraded" in [m.get("code") for m in speaker.got]
        back(world)
        assert (await speaker.until("final"))["seq"] == 1
        assert "archive_recovered" in [m.get("code") for m in speaker.got]
        speaker.text(type="stop")
        assert (await speaker.until("completed"))["finals"] == 1


@in_virtual_time
async def test_what_the_archive_has_the_log_need_not_keep(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1))
        await asyncio.sleep(1)
        assert [f.seq for f in await world.log.pending(REF)] == [1]
        await asyncio.sleep(6)
        assert await world.log.pending(REF) == []


@in_virtual_time
async def test_an_engine_that_refuses_the_session_leaves_it_recorded(tmp_path: Path) -> None:
    engine = ScriptedEngine(Script(open_error=Rejected("language", "not this one")))
    async with one_task(tmp_path, engine=engine) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1))
        await asyncio.sleep(1)
        speaker.read()
        assert [m["code"] for m in speaker.got if m["type"] == "notice"] == ["engine_degraded"]
        speaker.text(type="stop")
        completed = await speaker.until("completed")
        assert completed["coverage"]["untranscribed"] == [[0, len(tone(1)) // 2]]


# Flush and pause ------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_flush_is_answered_after_its_finals_and_makes_them_durable(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1, pause=0))
        speaker.text(type="flush")
        flushed = await speaker.until("flushed")
        assert flushed == {"type": "flushed", "position": len(tone(1, pause=0)) // 2, "seq": 1}
        assert speaker.types().index("final") < speaker.types().index("flushed")
        await asyncio.sleep(1)  # a segment would come by itself only after 5 s
        assert session_of(speaker).durable == flushed["position"]


@in_virtual_time
async def test_every_flush_is_answered(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        for _ in range(3):
            speaker.text(type="flush")
        await asyncio.sleep(1)
        speaker.read()
        assert speaker.types().count("flushed") == 3


@in_virtual_time
async def test_without_an_engine_a_flush_is_answered_too(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, SECOND))
        speaker.text(type="flush")
        assert (await speaker.until("flushed", 1))["position"] == SECOND


@in_virtual_time
async def test_a_pause_makes_durable_and_final_what_was_said(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1, pause=0))
        speaker.text(type="pause")
        await asyncio.sleep(1)
        speaker.read()
        assert speaker.seqs() == [1]
        assert session_of(speaker).durable == len(tone(1, pause=0)) // 2
        await asyncio.sleep(50)
        speaker.text(type="pause")
        await asyncio.sleep(50)
        assert not speaker.link.closing
        await speaker.say(tone(2))
        assert (await speaker.until("final"))["seq"] == 1
        await asyncio.sleep(1)
        speaker.read()
        assert speaker.seqs() == [1, 2]


@in_virtual_time
async def test_what_was_said_before_the_connection_broke_becomes_final_after_a_while(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1, pause=PAUSE / SECOND / 2))
        speaker.drop()
        await asyncio.sleep(PAUSE_AFTER_SECONDS - 1)
        assert session_of(speaker).durable > 0
        assert session_of(speaker).parts.book.committed == 0
        await asyncio.sleep(2)
        assert session_of(speaker).parts.book.committed == 1


# States ---------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_each_change_of_state_is_told(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        speaker.send(sound(0, SECOND))
        await asyncio.sleep(1)
        speaker.drop()
        await asyncio.sleep(1)
        again = await world.speaker(speaker.resume_ticket)
        await asyncio.sleep(1)
        again.text(type="stop")
        await again.until("completed")
        await asyncio.sleep(1)
        assert [state for _, state in world.rows.states] == [
            "live",
            "detached",
            "live",
            "finishing",
            "completed",
        ]
        assert [kind for _, kind in world.log.events] == [
            "session.live",
            "session.detached",
            "session.live",
            "session.completed",
        ]
        row = world.rows.rows[REF.session_id]
        assert (row.samples, row.finals) == (SECOND, 0)
        assert row.started_at is not None
        assert row.ended_at is not None
        counted = {s: world.deps.metrics.sessions.labels(s.value)._value.get() for s in SessionState}
        assert set(counted.values()) == {0}


@in_virtual_time
async def test_a_quiet_connection_is_closed_and_the_session_detached(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        speaker.send(sound(0, SECOND))
        assert await speaker.until_closed() == 4408
        assert session_of(speaker).state is SessionState.DETACHED
        again = await world.speaker(speaker.resume_ticket)
        assert again.ready.position == SECOND


# Endings --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_ending_waits_for_the_engines_last_finals(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine(Script(speed=2.0))) as world:
        speaker = await world.speaker()
        for word in (1, 2, 3):
            speaker.send(tone(word))
        speaker.text(type="stop")
        completed = await speaker.until("completed")
        assert (completed["finals"], speaker.seqs()) == (3, [1, 2, 3])
        assert speaker.types()[-1] == "completed"
        verdict = await verify(world.inner, REF)
        assert verdict is not None
        assert (verdict.finals, verdict.faults) == (3, [])


@in_virtual_time
async def test_an_engine_that_hangs_holds_up_the_end_for_no_longer_than_it_may(tmp_path: Path) -> None:
    engine, limits = ScriptedEngine(Script(stall_after=100)), SessionLimits(end_seconds=10)
    async with one_task(tmp_path, engine=engine, limits=limits) as world:
        speaker = await world.speaker()
        speaker.send(tone(1))
        speaker.text(type="stop")
        completed = await speaker.until("completed", 15)
        assert completed["coverage"]["untranscribed"] == [[0, len(tone(1)) // 2]]
        assert completed["coverage"]["missing"] == []


@in_virtual_time
async def test_an_ending_is_made_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        speaker.send(tone(1))
        parts, steps = session_of(speaker).parts, list[str]()

        def noted(owner: Any, name: str) -> None:
            real = getattr(owner, name)

            async def call() -> None:
                steps.append(name)
                await real()

            monkeypatch.setattr(owner, name, call)

        assert parts.transcriber is not None
        noted(parts.recorder, "drain")
        noted(parts.transcriber, "end")
        noted(parts.committer, "settle")
        speaker.text(type="stop")
        await speaker.until("completed")
        assert steps == ["drain", "end", "settle", "drain"]


@in_virtual_time
async def test_the_first_reason_to_end_stands(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        speaker.text(type="stop")
        session_of(speaker).end(Ending.RELEASED)
        await speaker.until("completed")
        history = await world.history()
        assert history.manifest is not None
        assert history.manifest.reason == "stopped"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["create", "delete", "list", "read"])
def test_an_archive_that_fails_while_finishing_delays_the_end_and_no_more(
    tmp_path: Path, when: str, verb: str
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with one_task(tmp_path) as world:
            speaker = await world.speaker()
            await speaker.say(sound(0, 6 * SECOND))

            async def fail(what: str, key: str) -> None:
                if what == verb and world.deps.clock() < begun + 20:
                    raise StoreUnavailable(key, what)

            begun = world.deps.clock()
            setattr(world.store, when, fail)
            speaker.text(type="stop")
            completed = await speaker.until("completed")
            assert world.deps.clock() > begun + 15
            assert (completed["samples"], completed["coverage"]["missing"]) == (6 * SECOND, [])
            assert await speaker.until_closed() == 1000
            assert [n for n in await names(world.inner) if n.startswith("segments/")] == []

    scenario()


@in_virtual_time
async def test_a_manifest_whose_answer_was_lost_completes_the_session(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        await speaker.say(sound(0, SECOND))
        lost = [manifest_key(REF)]

        async def lose(verb: str, key: str) -> None:
            if verb == "create" and key in lost:
                lost.remove(key)
                raise StoreUnavailable(key, "no answer")

        world.store.after = lose
        speaker.text(type="stop")
        assert (await speaker.until("completed"))["samples"] == SECOND
        assert await speaker.until_closed() == 1000
        assert lost == []


# Sessions that keep no audio ------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_transcript_only_session_keeps_no_sound_anywhere(tmp_path: Path) -> None:
    async with one_task(tmp_path, recording="transcript", engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1) + tone(2))
        await asyncio.sleep(7)
        speaker.read()
        final_ends = [m["end"] for m in speaker.got if m["type"] == "final"]
        assert session_of(speaker).durable == final_ends[-1]
        speaker.text(type="stop")
        completed = await speaker.until("completed")
        assert (completed["finals"], completed["audioSha256"], completed["coverage"]["archived"]) == (
            2,
            None,
            [],
        )
        assert await names(world.inner) == [
            "epochs/1.json",
            "manifest.json",
            "session.json",
            "transcript-1.json",
        ]


@in_virtual_time
async def test_a_transcript_only_session_resumes_after_its_last_final(tmp_path: Path) -> None:
    async with one_task(tmp_path, recording="transcript", engine=ScriptedEngine()) as world:
        speaker = await world.speaker(10)
        await speaker.say(tone(1) + tone(2, pause=0))
        # A crash: nobody drains anything, and the first final is in the log alone.
        session_of(speaker).parts.recorder.cut = lambda: None  # type: ignore[method-assign]
        world.manager.give_up()
        await asyncio.sleep(0.01)
        again = await world.speaker(11, after=0)
        assert again.ready.position == int(0.3 * SECOND)
        await again.say((tone(1) + tone(2))[2 * again.ready.position :])
        again.text(type="stop")
        completed = await again.until("completed")
        assert [m["text"] for m in again.got if m["type"] == "final"] == ["w1", "w2"]
        assert completed["finals"] == 2


@in_virtual_time
async def test_a_new_owner_hears_again_what_the_old_one_had_not_settled_and_nothing_twice(
    tmp_path: Path,
) -> None:
    spoken = tone(1) + tone(2) + tone(3, pause=0.1)
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker(10)
        await speaker.say(spoken)

        await session_of(speaker).parts.recorder.drain()
        world.manager.give_up()
        await asyncio.sleep(0.01)
        again = await world.speaker(11)
        assert again.ready.position == len(spoken) // 2
        await again.say(tone(4))
        again.text(type="stop")
        await again.until("completed")
        finals = [m for m in again.got if m["type"] == "final"]
        assert [word for m in finals for word in m["text"].split()] == ["w1", "w2", "w3", "w4"]
        assert len({m["id"] for m in finals}) == len(finals)
        assert again.seqs() == list(range(1, len(finals) + 1))
        verdict = await verify(world.inner, REF)
        assert verdict is not None
        assert verdict.faults == []
        assert verdict.coverage["untranscribed"] == []


@in_virtual_time
async def test_what_was_said_is_in_no_row_and_no_event(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1))
        speaker.text(type="stop")
        await speaker.until("completed")
        await asyncio.sleep(1)
        assert "w1" not in str(world.rows.rows)
        assert a_final(1, 0, 1).text == "w1"
