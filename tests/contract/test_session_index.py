"""What every session index promises, asked of Redis 7, of the Redis 6.2 that the wheel carries, and of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_client import any_client
from app.adapters.redis_index import RedisSessionIndex
from app.protocol.rest import SessionItem, SessionPage
from app.sessions.index import Reservation, SessionIndex, SessionQuery
from tenants.clinic import ClinicId
from tests.support.redis_cluster import cluster
from tests.support.redis_server import running, wheel_program

NORTH, SOUTH = ClinicId("north"), ClinicId("south")
FIRST = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


@pytest.fixture(scope="module", params=["redis 7", "redis 6.2", "cluster"])
def url(request: pytest.FixtureRequest, need: Callable[[str], Path]) -> Iterator[str]:
    program = wheel_program() if request.param == "redis 6.2" else str(need("redis-server"))
    if request.param == "cluster":
        with cluster() as nodes:
            yield nodes.url
        return
    with running(program) as server:
        yield server.url


@pytest.fixture
async def index(url: str) -> AsyncIterator[SessionIndex]:
    async with aclosing(any_client(url)) as client:
        await client.flushall()
        yield RedisSessionIndex(client, LocalKeys(bytes(32)), batch_rows=4, scan_rows=20, call_seconds=5.0)


def at(number: int) -> str:
    """When session ``number`` was created: ten minutes after the one before."""
    return (FIRST + timedelta(minutes=10 * number)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def item(number: int, clinic: str = "north", **fields: object) -> SessionItem:
    """A session whose id is a UUIDv7 of the time it was created."""
    digits = f"{int((FIRST + timedelta(minutes=10 * number)).timestamp() * 1000):012x}"
    values: dict[str, object] = {"state": "completed", "language": "ja-JP", "created_by": "dr-a"}
    return SessionItem(
        session_id=f"{digits[:8]}-{digits[8:]}-7000-8000-{number:012x}",
        clinic_id=clinic,
        created_at=at(number),
        **(values | fields),  # type: ignore[arg-type]  # a test's own keywords
    )


async def fill(index: SessionIndex, items: list[SessionItem]) -> None:
    await asyncio.gather(*(index.put(item) for item in items))


async def walk(index: SessionIndex, limit: int, **query: object) -> list[SessionPage]:
    """All pages of a query."""
    pages: list[SessionPage] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        asked = SessionQuery(cursor=cursor, limit=limit, **query)  # type: ignore[arg-type]  # a test's own keywords
        pages.append(await index.page(NORTH, asked))
        cursor = pages[-1].next_cursor
    return pages


async def test_an_empty_index_has_one_empty_page(index: SessionIndex) -> None:
    assert await index.page(NORTH, SessionQuery()) == SessionPage([], None)


async def test_pages_come_newest_first_and_hold_every_row_once(index: SessionIndex) -> None:
    items = [item(number) for number in range(11)]
    await fill(index, items)
    pages = await walk(index, 4)
    assert [len(page.items) for page in pages] == [4, 4, 3]
    assert [row for page in pages for row in page.items] == items[::-1]


async def test_the_last_page_has_no_cursor_even_when_it_is_full(index: SessionIndex) -> None:
    await fill(index, [item(number) for number in range(8)])
    assert [page.next_cursor for page in await walk(index, 4)] == [item(4).session_id, None]


async def test_a_row_that_was_put_again_is_replaced(index: SessionIndex) -> None:
    await index.put(item(1, state="live"))
    await index.put(item(1, state="completed", samples=16_000, finals=3, title="山田 花子"))
    page = await index.page(NORTH, SessionQuery())
    assert page.items == [item(1, state="completed", samples=16_000, finals=3, title="山田 花子")]


async def test_sessions_that_arrive_between_two_pages_disturb_neither(index: SessionIndex) -> None:
    await fill(index, [item(number) for number in range(4)])
    first = await index.page(NORTH, SessionQuery(limit=2))
    await index.put(item(9))
    second = await index.page(NORTH, SessionQuery(limit=2, cursor=first.next_cursor))
    assert [*first.items, *second.items] == [item(3), item(2), item(1), item(0)]


async def test_another_clinics_sessions_are_not_seen(index: SessionIndex) -> None:
    await index.put(item(1, clinic="south"))
    assert (await index.page(NORTH, SessionQuery())).items == []
    assert (await index.page(SOUTH, SessionQuery())).items == [item(1, clinic="south")]


async def test_states_external_ids_and_titles_are_filtered(index: SessionIndex) -> None:
    a = item(1, state="live", title="Knee, MÜLLER", external_id="X-1")
    b = item(2, state="completed", title="straße 5", external_id="X-2")
    c = item(3, state="live")
    await fill(index, [a, b, c])
    found = {
        "live": await index.page(NORTH, SessionQuery(state="live")),
        "title": await index.page(NORTH, SessionQuery(title_contains="müll")),
        "folded": await index.page(NORTH, SessionQuery(title_contains="STRASSE")),
        "external": await index.page(NORTH, SessionQuery(external_id="X-2")),
        "both": await index.page(NORTH, SessionQuery(state="live", external_id="X-2")),
    }
    assert {name: page.items for name, page in found.items()} == {
        "live": [c, a],
        "title": [a],
        "folded": [b],
        "external": [b],
        "both": [],
    }


async def test_times_bound_the_creation_from_inclusive_to_exclusive(index: SessionIndex) -> None:
    await fill(index, [item(number) for number in range(6)])
    between = await index.page(NORTH, SessionQuery(created_from=at(2), created_to=at(4)))
    assert between == SessionPage([item(3), item(2)], None)
    assert (await index.page(NORTH, SessionQuery(created_from=at(5)))).items == [item(5)]
    assert (await index.page(NORTH, SessionQuery(created_to=at(1)))).items == [item(0)]


async def test_times_may_be_written_in_any_form_of_rfc_3339(index: SessionIndex) -> None:
    await fill(index, [item(number) for number in range(3)])
    whole_second = (FIRST + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (await index.page(NORTH, SessionQuery(created_from=whole_second))).items == [item(2), item(1)]


async def test_a_cursor_stays_good_together_with_a_time(index: SessionIndex) -> None:
    await fill(index, [item(number) for number in range(8)])
    pages = await walk(index, 2, created_to=at(6), created_from=at(1))
    assert [row for page in pages for row in page.items] == [item(number) for number in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize(
    ("wrong", "why"), [("yesterday", "isoformat"), ("2026-11-20T09:00:00", "offset from UTC")]
)
async def test_a_time_that_is_none_is_the_callers_mistake(index: SessionIndex, wrong: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await index.page(NORTH, SessionQuery(created_from=wrong))


async def test_rare_matches_are_all_found_over_pages_that_cost_a_bounded_scan(index: SessionIndex) -> None:
    items = [item(number, title="needle" if number in {0, 30, 31, 59} else None) for number in range(60)]
    await fill(index, items)
    pages = await walk(index, 2, title_contains="needle")
    assert [row for page in pages for row in page.items] == [items[59], items[31], items[30], items[0]]
    assert all(len(page.items) <= 2 for page in pages)
    assert any(len(page.items) < 2 and page.next_cursor for page in pages)


async def test_a_row_that_is_there_stays_where_it_is_not_to_be_replaced(index: SessionIndex) -> None:
    await index.put(item(1, state="live"))
    await index.put(item(1, state="created"), replace=False)
    await index.put(item(2, state="created"), replace=False)
    page = await index.page(NORTH, SessionQuery())
    assert [row.state for row in page.items] == ["created", "live"]
    await index.put(item(1, state="completed"))
    page = await index.page(NORTH, SessionQuery())
    assert [row.state for row in page.items] == ["created", "completed"]


async def test_an_index_is_complete_once_it_is_said_to_be(index: SessionIndex) -> None:
    assert await index.completed_by() is None
    await index.mark_complete("a.1")
    assert await index.completed_by() == "a.1"
    await index.mark_complete("b.1")
    assert await index.completed_by() == "b.1"


async def test_a_key_that_is_forgotten_can_be_reserved_anew(index: SessionIndex) -> None:
    assert await index.reserve(NORTH, "k", None) is None
    await index.reserve(NORTH, "k", Reservation("abc", None))
    assert await index.reserve(NORTH, "k", None) == Reservation("abc", None)
    assert await index.reserve(NORTH, "k", Reservation("xyz", None)) is None


async def test_the_first_call_with_a_key_reserves_it(index: SessionIndex) -> None:
    assert await index.reserve(NORTH, "k", Reservation("abc", None)) is None
    assert await index.reserve(NORTH, "k", Reservation("abc", None)) == Reservation("abc", None)
    assert await index.reserve(NORTH, "k", Reservation("xyz", None)) == Reservation("abc", None)
    assert await index.reserve(NORTH, "other", Reservation("xyz", None)) is None
    assert await index.reserve(SOUTH, "k", Reservation("xyz", None)) is None


async def test_a_reservation_becomes_what_was_made_of_it(index: SessionIndex) -> None:
    await index.reserve(NORTH, "k", Reservation("abc", None))
    assert await index.reserve(NORTH, "k", Reservation("abc", "s-1")) == Reservation("abc", None)
    assert await index.reserve(NORTH, "k", Reservation("xyz", None)) == Reservation("abc", "s-1")
    assert await index.reserve(NORTH, "k", Reservation("abc", None)) == Reservation("abc", "s-1")


async def test_of_reservations_made_at_once_one_wins(index: SessionIndex) -> None:
    known = await asyncio.gather(*(index.reserve(NORTH, "k", Reservation("abc", None)) for _ in range(8)))
    assert known.count(None) == 1
