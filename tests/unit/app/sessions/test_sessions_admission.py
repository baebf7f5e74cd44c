from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from app.archive.reader import read_session
from app.archive.store import StoreUnavailable
from app.auth.principal import Forbidden, Principal, Scope
from app.protocol.rest import Consent, CreateSession
from app.sessions.admission import Desk, Serials
from app.sessions.deps import SessionLimits
from app.sessions.errors import Busy, IdempotencyInFlight, NotTheSpeaker, SessionNotFound, Unprocessable
from app.sessions.recovery import Recovery
from audio.engine import Engine
from audio.engines.null import NullEngine
from tenants.clinic import Clinic, ClinicId
from tenants.terms import SessionRef
from tests.support.archives import disk
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import ScriptedEngine
from tests.support.session_world import World

EVERYTHING = frozenset(Scope)
DOCTOR = Principal("dr.a", ClinicId("north"), EVERYTHING - {Scope.TAKEOVER})
COLLEAGUE = Principal("dr.b", ClinicId("north"), EVERYTHING - {Scope.TAKEOVER})
HEAD = Principal("dr.c", ClinicId("north"), EVERYTHING)
STRANGER = Principal("dr.a", ClinicId("south"), EVERYTHING)
REQUEST = CreateSession("en-US", title="Knee", external_id="X-1", metadata={"room": "3"})


class Clinics:
    def __init__(self, languages: tuple[str, ...] = ()) -> None:
        self.languages = languages

    async def find(self, clinic_id: ClinicId) -> Clinic | None:
        return Clinic(clinic_id, languages=self.languages)

    async def add(self, clinic: Clinic) -> None:
        raise AssertionError


@asynccontextmanager
async def opened(
    root: Path,
    *,
    engine: Engine | None = None,
    languages: tuple[str, ...] = (),
    limits: SessionLimits | None = None,
) -> AsyncIterator[tuple[World, Desk]]:
    async with disk(root) as inner:
        world = World(inner, engine=engine or ScriptedEngine(), limits=limits or SessionLimits())
        numbers = iter(range(1, 1000))
        desk = Desk(
            world.deps,
            world.manager,
            world.tickets,
            herald=world.herald,
            registry=Clinics(languages),
            new_session_id=lambda: f"01890a5d-ac96-774b-bcce-{next(numbers):012x}",
        )
        async with world.running():
            yield world, desk


@in_virtual_time
async def test_a_session_is_in_the_archive_and_in_the_list_before_it_is_promised(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        admission = await desk.create(DOCTOR, REQUEST, None)
        ref = SessionRef(DOCTOR.clinic_id, admission.item.session_id)
        record = await read_session(world.inner, ref)
        assert record is not None
        assert (record.created_by, record.language, record.title, record.metadata) == (
            "dr.a",
            "en-US",
            "Knee",
            {"room": "3"},
        )
        assert world.rows.rows[ref.session_id] == admission.item
        assert admission.item.state == "created"
        ticket = world.tickets.verify(admission.ticket.token)
        assert (ticket.role, ticket.session_id, ticket.subject, ticket.resume) == (
            "speaker",
            ref.session_id,
            "dr.a",
            False,
        )
        speaker = await world.speaker(ticket)
        assert speaker.ready.position == 0
        await asyncio.sleep(1)
        assert ("session.created" in [kind for _, kind in world.log.events]) is True


@in_virtual_time
async def test_a_session_in_which_nobody_speaks_is_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        admission = await desk.create(DOCTOR, REQUEST, None)
        await asyncio.sleep(605)
        assert world.rows.rows[admission.item.session_id].state == "cancelled"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"language": "de-DE"}, "language_not_available"),
        ({"language": "ja-JP"}, "language_not_available"),
        ({"vocabulary": "bones"}, "vocabulary_not_available"),
        ({"consent": Consent(given=False, at="2026-11-20T09:00:00Z")}, "consent_missing"),
    ],
)
def test_what_cannot_be_granted_is_refused_and_leaves_nothing(
    tmp_path: Path, fields: dict[str, object], code: str
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with opened(tmp_path, languages=("en-US",)) as (world, desk):
            with pytest.raises(Unprocessable) as caught:
                await desk.create(DOCTOR, msgspec.structs.replace(REQUEST, **fields), "key")
            assert caught.value.code == code
            assert [row async for row in world.inner.list("")] == []
            assert world.rows.reserved == {}

    scenario()


@in_virtual_time
async def test_an_engine_that_only_records_takes_any_language(tmp_path: Path) -> None:
    async with opened(tmp_path, engine=NullEngine()) as (_, desk):
        assert (await desk.create(DOCTOR, CreateSession("tlh"), None)).item.language == "tlh"


@in_virtual_time
async def test_a_full_task_creates_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=SessionLimits(max_sessions=1)) as (world, desk):
        admission = await desk.create(DOCTOR, REQUEST, None)
        await world.speaker(world.tickets.verify(admission.ticket.token))
        with pytest.raises(Busy):
            await desk.create(DOCTOR, REQUEST, None)


# The same key again ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_repeat_gives_the_same_session_and_a_fresh_ticket(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        first = await desk.create(DOCTOR, REQUEST, "key")
        again = await desk.create(DOCTOR, REQUEST, "key")
        assert again.item.session_id == first.item.session_id
        older, newer = (world.tickets.verify(a.ticket.token) for a in (first, again))
        assert newer.serial > older.serial
        other = await desk.create(COLLEAGUE, REQUEST, "key")
        assert other.item.session_id != first.item.session_id
        unkeyed = await desk.create(DOCTOR, REQUEST, None)
        assert unkeyed.item.session_id != first.item.session_id


@in_virtual_time
async def test_a_repeat_after_somebody_spoke_gives_a_ticket_that_takes_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        first = await desk.create(DOCTOR, REQUEST, "key")
        old = await world.speaker(world.tickets.verify(first.ticket.token))
        again = await desk.create(DOCTOR, REQUEST, "key")
        new = await world.speaker(world.tickets.verify(again.ticket.token))
        assert await old.until_closed() == 4409
        assert new.ready.epoch == 2


@in_virtual_time
async def test_one_key_stands_for_one_request(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, desk):
        await desk.create(DOCTOR, REQUEST, "key")
        with pytest.raises(Unprocessable) as caught:
            await desk.create(DOCTOR, CreateSession("en-US", title="Hip"), "key")
        assert caught.value.code == "idempotency_key_reused"


@in_virtual_time
async def test_of_two_calls_with_one_key_at_once_one_creates(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        world.store.before = lambda verb, key: asyncio.sleep(0.1)
        calls = (desk.create(DOCTOR, REQUEST, "key") for _ in range(3))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(r, IdempotencyInFlight) for r in results) == 2
        assert len(world.rows.rows) == 1


@pytest.mark.parametrize("away", ["store", "rows"])
def test_a_creation_that_failed_may_be_tried_again_with_its_key(tmp_path: Path, away: str) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with opened(tmp_path) as (world, desk):
            if away == "store":

                async def full(verb: str, key: str) -> None:
                    if verb == "create":
                        raise StoreUnavailable(key, "full", "no_space")

                world.store.before = full
                with pytest.raises(StoreUnavailable):
                    await desk.create(DOCTOR, REQUEST, "key")
                world.store.before = World(world.inner).store.before
            else:
                put = world.rows.put

                async def gone(item: object) -> None:
                    world.rows.away = True
                    await put(item)  # type: ignore[arg-type]

                world.rows.put = gone  # type: ignore[method-assign,assignment]
                with pytest.raises(Busy) as caught:
                    await desk.create(DOCTOR, REQUEST, None)
                assert caught.value.code == "index_unavailable"
                world.rows.put, world.rows.away = put, False  # type: ignore[method-assign]
            assert (await desk.create(DOCTOR, REQUEST, "key")).item.state == "created"

    scenario()


@in_virtual_time
async def test_an_archive_that_takes_no_new_session_is_known_to_be_away_until_it_takes_something(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (world, desk), asyncio.TaskGroup() as group:
        recovering = group.create_task(Recovery(world.deps, world.manager).run())
        await asyncio.sleep(1)

        async def full(verb: str, key: str) -> None:
            if verb == "create":
                raise StoreUnavailable(key, "full", "no_space")

        world.store.before = full
        with pytest.raises(StoreUnavailable):
            await desk.create(DOCTOR, REQUEST, None)
        await asyncio.sleep(10)
        told = [world.deps.health.takes_sessions]
        world.store.before = World(world.inner).store.before
        await asyncio.sleep(3)
        told += [world.deps.health.takes_sessions]
        assert told == [False, True]
        assert [row async for row in world.inner.list("_")] == []
        recovering.cancel()


@in_virtual_time
async def test_a_session_that_was_never_promised_is_cancelled_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        world.rows.away = True
        with pytest.raises(Busy):
            await desk.create(DOCTOR, REQUEST, None)
        world.rows.away = False
        await asyncio.sleep(605)
        assert [row.state for row in world.rows.rows.values()] == ["cancelled"]


# Tickets --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_tickets_are_for_those_who_may(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        session_id = (await desk.create(DOCTOR, REQUEST, None)).item.session_id
        for principal in (DOCTOR, HEAD):
            issued = await desk.ticket(principal, session_id, "speaker")
            assert world.tickets.verify(issued.token).subject == principal.subject
        with pytest.raises(NotTheSpeaker):
            await desk.ticket(COLLEAGUE, session_id, "speaker")
        observing = world.tickets.verify((await desk.ticket(COLLEAGUE, session_id, "observer")).token)
        assert (observing.role, observing.session_id) == ("observer", session_id)
        for role in ("speaker", "observer"):
            with pytest.raises(SessionNotFound):
                await desk.ticket(STRANGER, session_id, role)
            with pytest.raises(SessionNotFound):
                await desk.ticket(DOCTOR, "../../etc", role)


@pytest.mark.parametrize(("scope", "role"), [(Scope.WRITE, "speaker"), (Scope.READ, "observer")])
def test_without_its_scope_there_is_no_ticket(tmp_path: Path, scope: Scope, role: str) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with opened(tmp_path) as (_, desk):
            session_id = (await desk.create(DOCTOR, REQUEST, None)).item.session_id
            poor = Principal("dr.a", DOCTOR.clinic_id, EVERYTHING - {scope})
            with pytest.raises(Forbidden):
                await desk.ticket(poor, session_id, role)  # type: ignore[arg-type]

    scenario()


@in_virtual_time
async def test_a_clinics_ticket_is_for_observers_of_all_its_sessions(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, desk):
        ticket = world.tickets.verify((await desk.clinic_ticket(DOCTOR)).token)
        assert (ticket.role, ticket.session_id, ticket.clinic_id) == ("observer", None, "north")


def test_serials_rise_whatever_the_clock_does() -> None:
    now = 1000.0
    serials = Serials(lambda: now)
    given = [serials.after(0), serials.after(0), serials.after(2_000_000_000_000)]
    now = 500.0
    given += [serials.after(0)]
    assert given == [1_000_000_000, 1_000_000_001, 2_000_000_000_001, 2_000_000_000_002]
