from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.auth.principal import Principal, Scope
from app.sessions.catalog import Catalog, find_session
from app.sessions.errors import Busy, NoAudio, NotFinished, SessionNotFound, SpeakerConnected
from app.sessions.index import SessionQuery
from app.sessions.recovery import Recovery
from tenants.clinic import ClinicId
from tests.support.archives import REF, Scribe, disk, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import ScriptedEngine, tone
from tests.support.session_world import World

DOCTOR = Principal("dr.a", ClinicId("north"), frozenset(Scope))
STRANGER = Principal("dr.a", ClinicId("south"), frozenset(Scope))
ID = REF.session_id
SECOND = 16_000


@asynccontextmanager
async def opened(root: Path, recording: str = "audio+transcript") -> AsyncIterator[tuple[World, Catalog]]:
    async with disk(root) as inner:
        await Scribe(inner).session(recording)  # type: ignore[arg-type]
        world = World(inner, engine=ScriptedEngine())
        recovery = Recovery(world.deps, world.manager)
        async with world.running(recovery.run):
            await recovery.done.wait()
            yield world, Catalog(world.deps, world.manager, recovery)


@in_virtual_time
async def test_another_clinics_session_is_as_one_that_is_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        for principal, session_id in (
            (STRANGER, ID),
            (DOCTOR, ID[:-1] + "0"),
            (DOCTOR, "../north"),
            (DOCTOR, ""),
        ):
            for call in (catalog.view, catalog.transcript, catalog.audio, catalog.stop):
                with pytest.raises(SessionNotFound):
                    await call(principal, session_id)
        ref, history = await find_session(world.store, DOCTOR.clinic_id, ID)
        assert (ref, history.session.session_id) == (REF, ID)


@in_virtual_time
async def test_an_id_that_is_none_never_reaches_the_store(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, _):
        world.store.calls.clear()
        with pytest.raises(SessionNotFound):
            await find_session(world.store, DOCTOR.clinic_id, "..%2f..%2fsecret")
        assert world.store.calls == []


@in_virtual_time
async def test_a_view_follows_the_session_through_its_life(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        view = await catalog.view(DOCTOR, ID)
        assert (view.state, view.owner, view.epoch, view.samples) == ("created", None, 0, 0)
        speaker = await world.speaker()
        await speaker.say(tone(1))
        view = await catalog.view(DOCTOR, ID)
        assert (view.state, view.owner, view.epoch) == ("live", "task-a", 1)
        assert (view.positions.received, view.positions.durable) == (len(tone(1)) // 2, 0)
        await asyncio.sleep(6)
        view = await catalog.view(DOCTOR, ID)
        assert view.positions.durable == view.positions.received
        assert view.coverage is not None
        assert view.coverage.archived == [(0, len(tone(1)) // 2)]
        speaker.drop()
        assert (await catalog.view(DOCTOR, ID)).state == "detached"
        again = await world.speaker(speaker.resume_ticket)
        again.text(type="stop")
        completed = await again.until("completed")
        await asyncio.sleep(1)
        view = await catalog.view(DOCTOR, ID)
        assert (view.state, view.owner, view.audio_sha256) == ("completed", None, completed["audioSha256"])
        assert (view.samples, view.finals) == (completed["samples"], 1)


@in_virtual_time
async def test_a_transcript_holds_what_is_final_so_far(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        assert (await catalog.transcript(DOCTOR, ID)).finals == []
        speaker = await world.speaker()
        await speaker.say(tone(1))
        await asyncio.sleep(6)
        await speaker.say(tone(2))
        assert [f.text for f in (await catalog.transcript(DOCTOR, ID)).finals] == ["w1", "w2"]
        speaker.text(type="stop")
        await speaker.until("completed")
        await asyncio.sleep(1)
        transcript = await catalog.transcript(DOCTOR, ID)
        assert [(f.seq, f.text) for f in transcript.finals] == [(1, "w1"), (2, "w2")]
        assert (transcript.state, transcript.language) == ("completed", "en-US")


@in_virtual_time
async def test_what_goes_on_here_is_told_without_the_archive(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        speaker = await world.speaker()
        await speaker.say(tone(1))
        await asyncio.sleep(1)

        async def hang(verb: str, key: str) -> None:
            await asyncio.Event().wait()

        world.store.before = hang
        async with asyncio.timeout(0.1):
            view = await catalog.view(DOCTOR, ID)
            transcript = await catalog.transcript(DOCTOR, ID)
            with pytest.raises(SpeakerConnected):
                await catalog.stop(DOCTOR, ID)
        assert (view.state, view.owner, view.epoch) == ("live", "task-a", 1)
        assert (view.positions.received, view.positions.durable) == (len(tone(1)) // 2, 0)
        assert (view.language, view.created_by, view.recording) == ("en-US", "dr.a", "audio+transcript")
        assert [f.text for f in transcript.finals] == ["w1"]
        world.store.before = World(world.inner).store.before


@in_virtual_time
async def test_finals_of_another_tasks_session_come_from_archive_and_log(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        other = World(world.inner, engine=ScriptedEngine(), task="task-b", log=world.log)
        async with other.running():
            speaker = await other.speaker()
            await speaker.say(tone(1))
            await asyncio.sleep(6)
            await speaker.say(tone(2))
            await asyncio.sleep(0.1)
            transcript = await catalog.transcript(DOCTOR, ID)
            assert [f.text for f in transcript.finals] == ["w1", "w2"]
            world.log.away = True
            assert [f.text for f in (await catalog.transcript(DOCTOR, ID)).finals] == ["w1"]
            world.log.away = False


@in_virtual_time
async def test_audio_is_there_when_the_session_is_finished(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        with pytest.raises(NotFinished):
            await catalog.audio(DOCTOR, ID)
        speaker = await world.speaker()
        await speaker.say(sound(0, SECOND))
        with pytest.raises(NotFinished):
            await catalog.audio(DOCTOR, ID)
        speaker.text(type="stop")
        await speaker.until("completed")
        audio = await catalog.audio(DOCTOR, ID)
        assert (audio.key, audio.samples) == (f"north/{ID}/audio-1.flac", SECOND)
        assert audio.size == len((await world.inner.read(audio.key)).data)


@in_virtual_time
async def test_a_session_that_keeps_no_audio_has_none(tmp_path: Path) -> None:
    async with opened(tmp_path, "transcript") as (world, catalog):
        speaker = await world.speaker()
        await speaker.say(tone(1))
        view = await catalog.view(DOCTOR, ID)
        assert view.coverage is not None
        assert view.coverage.archived == []
        speaker.text(type="stop")
        await speaker.until("completed")
        with pytest.raises(NoAudio):
            await catalog.audio(DOCTOR, ID)


# Stopping -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_session_whose_speaker_is_there_is_not_stopped_from_outside(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        speaker = await world.speaker()
        with pytest.raises(SpeakerConnected):
            await catalog.stop(DOCTOR, ID)
        await speaker.say(sound(0, SECOND))
        speaker.drop()
        await catalog.stop(DOCTOR, ID)
        await catalog.stop(DOCTOR, ID)
        await asyncio.sleep(2)
        manifest = (await world.history()).manifest
        assert manifest is not None
        assert (manifest.reason, manifest.samples) == ("stopped", SECOND)
        await catalog.stop(DOCTOR, ID)
        await asyncio.sleep(2)
        assert (await world.history()).manifest == manifest


@in_virtual_time
async def test_a_session_that_nobody_owns_is_stopped_in_the_background(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        await catalog.stop(DOCTOR, ID)
        await asyncio.sleep(2)
        assert (await catalog.view(DOCTOR, ID)).state == "cancelled"
        assert world.rows.rows[ID].state == "cancelled"


@in_virtual_time
async def test_a_speaker_at_another_task_is_not_stopped_from_outside_but_one_who_is_gone_is(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (world, catalog):
        other = World(world.inner, task="task-b", log=world.log, rows=world.rows)
        async with other.running():
            speaker = await other.speaker()
            await speaker.say(sound(0, SECOND))
            await asyncio.sleep(40)
            with pytest.raises(SpeakerConnected):
                await catalog.stop(DOCTOR, ID)
            world.rows.away = True
            assert not await catalog._is_spoken_elsewhere(REF, await world.history())
            world.rows.away = False
            speaker.drop()
            await asyncio.sleep(1)
            await catalog.stop(DOCTOR, ID)
            await asyncio.sleep(2)
            manifest = (await world.history()).manifest
            assert manifest is not None
            assert (manifest.reason, manifest.samples) == ("stopped", SECOND)


# The list and the checks ----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_list_waits_for_its_rebuilding_and_not_for_ever(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        world = World(inner)
        recovery = Recovery(world.deps, world.manager)
        catalog = Catalog(world.deps, world.manager, recovery)
        with pytest.raises(Busy) as caught:
            await catalog.page(DOCTOR, SessionQuery())
        assert caught.value.code == "index_rebuilding"
        async with world.running(recovery.run):
            page = await catalog.page(DOCTOR, SessionQuery())
            assert [item.session_id for item in page.items] == [ID]
            assert (await catalog.page(STRANGER, SessionQuery())).items == []


@in_virtual_time
async def test_the_checks_say_what_is_wrong(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, catalog):
        assert catalog.checks().status == "ready"
        assert set(catalog.checks().checks.values()) == {"ok"}
        world.rows.away = True
        await asyncio.sleep(2)
        assert catalog.checks().status == "not_ready"
        assert catalog.checks().checks["redis"] == "unavailable"
        world.rows.away = False
        await asyncio.sleep(2)
        assert catalog.checks().status == "ready"
        await world.manager.drain()
        assert catalog.checks().status == "draining"
