"""What sessions that are over leave in memory while the log is away."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

from tenants.terms import SessionRef
from tests.support.archives import REF, Scribe
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import ScriptedEngine, tone
from tests.support.session_world import one_task

OTHER = SessionRef(REF.clinic_id, "01890a5d-ac96-774b-bcce-b302099a8058")


@in_virtual_time
async def test_finals_of_a_session_that_is_over_wait_in_the_archive_for_the_log(tmp_path: Path) -> None:
    async with one_task(tmp_path, engine=ScriptedEngine()) as world:
        speaker = await world.speaker()
        await speaker.say(tone(1))
        world.log.away = world.rows.away = True
        await speaker.say(tone(2))
        speaker.text(type="stop")
        completed = await speaker.until("completed")
        assert completed["finals"] == 2
        session = speaker.session
        assert session is not None
        book = weakref.ref(session.parts.book)
        del session
        speaker.session = None
        # The manager's tick holds on to the session that it looked at last.
        await Scribe(world.inner, OTHER).session()
        await world.speaker(world.ticket(10, OTHER))
        await asyncio.sleep(5)
        gc.collect()
        assert book() is None
        world.log.away = world.rows.away = False
        await asyncio.sleep(5)
        assert [final.seq for final in world.log.followed[REF]] == [1, 2]
        assert (REF, "session.completed") in world.log.events
