from __future__ import annotations

from pathlib import Path

import pytest

from app.sessions.deps import SessionLimits
from app.sessions.errors import Busy
from app.sessions.hold import GivenUp
from app.sessions.orphans import Orphans
from app.sessions.owned import Owned
from app.sessions.roll import Roll
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import REF, disk
from tests.support.inline_loop import in_virtual_time
from tests.support.session_world import World, one_task


def refused(owned: Owned) -> str:
    with pytest.raises(Busy) as caught:
        owned.require_room()
    return caught.value.code


@in_virtual_time
async def test_places_are_held_for_those_who_are_about_to_begin(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        world = World(inner, limits=SessionLimits(max_sessions=2))
        owned = Owned(world.deps, world.herald, Orphans(world.deps, world.herald, Roll(120)))
        owned.require_room()
        with owned.entering():
            owned.require_room()
            with owned.entering():
                assert refused(owned) == "full"
        with pytest.raises(ZeroDivisionError), owned.entering():
            raise ZeroDivisionError
        owned.require_room()
        owned.closed = True
        assert refused(owned) == "draining"


@in_virtual_time
async def test_it_knows_its_sessions_by_clinic_and_id(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        owned = world.manager._owned
        assert (list(owned), len(owned), owned.refs()) == ([speaker.session], 1, [REF])
        assert owned.find(REF) is speaker.session
        assert owned.find(SessionRef(ClinicId("south"), REF.session_id)) is None


@in_virtual_time
async def test_one_that_is_given_up_at_once_is_watched_and_its_speaker_sent_away(tmp_path: Path) -> None:
    async with one_task(tmp_path) as world:
        speaker = await world.speaker()
        assert speaker.session is not None
        speaker.session.hold.lose(GivenUp())
        assert await speaker.until_closed() == 1012
        await speaker.session.ended.wait()
        assert world.manager.owned(REF) is None
        assert list(world.manager.orphans.refs()) == [REF]
