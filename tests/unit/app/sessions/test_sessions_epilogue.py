from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.archive.finisher import Finish, finish
from app.auth.principal import AuthError
from app.auth.tickets import Ticket
from app.protocol.messages import Ack
from app.sessions.deps import rfc3339
from app.sessions.epilogue import Epilogue, rewound
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.link import Link
from audio.coverage import Ranges
from tests.support.archives import CREATED_UNIX, REF, Scribe, disk, finals
from tests.support.inline_loop import in_virtual_time
from tests.support.session_world import World


@asynccontextmanager
async def ended(
    root: Path, reason: str = "stopped", serial: int = 10
) -> AsyncIterator[tuple[World, Epilogue]]:
    async with disk(root) as inner:
        scribe = Scribe(inner)
        await scribe.session()
        await scribe.epoch(1, (0, 0), serial=serial)
        await scribe.segment(1, 0, 400, carried=finals(1, 3))
        order = Finish(REF, 1, reason, finals(1, 3), Ranges([(0, 400)]), rfc3339(CREATED_UNIX))
        await finish(inner, order)
        world = World(inner)
        yield world, Epilogue(world.deps)


def ticket(serial: int = 10, *, resume: bool = True, ticket_id: str = "t", expires_at: int = 2**40) -> Ticket:
    return Ticket(REF.clinic_id, REF.session_id, "dr.a", "speaker", serial, ticket_id, resume, expires_at)


def sent(link: Link) -> list[dict[str, Any]]:
    return [msgspec.json.decode(text) for text in link.take([], Ack(0, 0, 0), 0.0)]


async def told(world: World, epilogue: Epilogue, entering: Ticket, after: int = 0) -> list[dict[str, Any]]:
    woken = asyncio.Event()
    link = await epilogue.link(REF, await world.history(), entering, after, woken.set)
    assert woken.is_set()
    messages = sent(link)
    assert (link.closing, link.close_code, link.waiting) == (True, 1000, False)
    return messages


@pytest.mark.parametrize("after", range(5))
def test_the_finals_that_were_missed_come_and_then_the_end(tmp_path: Path, after: int) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with ended(tmp_path) as (world, epilogue):
            messages = await told(world, epilogue, ticket(), after)
            assert [m["seq"] for m in messages if m["type"] == "final"] == list(range(after + 1, 4))
            assert messages[-1]["type"] == "completed"
            assert (messages[-1]["samples"], messages[-1]["finals"]) == (400, 3)
            rewinds = [m["seq"] for m in messages if m["type"] == "notice"]
            assert rewinds == ([3] if after > 3 else [])

    scenario()


@in_virtual_time
async def test_there_is_nothing_to_send_any_more(tmp_path: Path) -> None:
    async with ended(tmp_path) as (world, epilogue):
        ready = epilogue.ready(REF, await world.history(), "again")
        assert (ready.position, ready.window, ready.epoch, ready.resume_ticket) == (400, 0, 1, "again")
        assert ready.config["language"] == "en-US"


@in_virtual_time
async def test_a_resume_ticket_hears_the_end_as_often_as_it_asks(tmp_path: Path) -> None:
    async with ended(tmp_path) as (world, epilogue):
        for _ in range(3):
            assert (await told(world, epilogue, ticket()))[-1]["type"] == "completed"


@in_virtual_time
async def test_other_tickets_hear_it_once(tmp_path: Path) -> None:
    async with ended(tmp_path) as (world, epilogue):
        await told(world, epilogue, ticket(11, resume=False, ticket_id="a"))
        await told(world, epilogue, ticket(11, resume=False, ticket_id="b"))
        with pytest.raises(AuthError):
            await told(world, epilogue, ticket(11, resume=False, ticket_id="a"))


@in_virtual_time
async def test_used_and_older_tickets_are_refused(tmp_path: Path) -> None:
    async with ended(tmp_path) as (world, epilogue):
        with pytest.raises(AuthError):
            await told(world, epilogue, ticket(10, resume=False))
        with pytest.raises(Superseded):
            await told(world, epilogue, ticket(9))


@in_virtual_time
async def test_a_used_ticket_is_remembered_no_longer_than_it_lives(tmp_path: Path) -> None:
    async with ended(tmp_path) as (world, epilogue):
        for n in range(50):
            expires = int(world.deps.wall()) + 60
            await told(world, epilogue, ticket(11, resume=False, ticket_id=str(n), expires_at=expires))
            await asyncio.sleep(10)
        assert len(epilogue._entered) <= 7


@in_virtual_time
async def test_a_session_without_an_end_has_none_to_tell(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        await Scribe(inner).session()
        world = World(inner)
        with pytest.raises(SessionNotFound):
            await told(world, Epilogue(world.deps), ticket())


@pytest.mark.parametrize(
    ("reason", "seconds", "may"),
    [
        ("abandoned", 0, True),
        ("abandoned", 24 * 3600 - 1, True),
        ("abandoned", 24 * 3600, False),
        ("stopped", 0, False),
        ("unspoken", 0, False),
    ],
)
def test_only_a_session_that_was_abandoned_within_a_day_is_reopened(
    tmp_path: Path, reason: str, seconds: float, may: bool
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with ended(tmp_path, reason) as (world, epilogue):
            await asyncio.sleep(seconds)
            assert epilogue.may_reopen(await world.history()) is may

    scenario()


def test_withdrawn_finals_are_named() -> None:
    notice = rewound(7)
    assert (notice.code, notice.seq) == ("finals_rewound", 7)
