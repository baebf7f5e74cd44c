"""What the session index puts into Redis, and what it does without one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_client import redis_client
from app.adapters.redis_index import IN_FLIGHT_SECONDS, RESERVED_SECONDS, RedisSessionIndex
from app.protocol.rest import SessionItem
from app.sessions.index import IndexUnavailable, Reservation, SessionQuery
from tenants.clinic import ClinicId
from tests.support.redis_server import RedisServer, running

NORTH = ClinicId("north")
ROW = SessionItem(
    session_id="01890a5d-ac96-774b-bcce-b302099a8057",
    clinic_id="north",
    state="live",
    language="en-US",
    created_at="2026-11-20T09:00:00Z",
    created_by="dr-a",
    title="Ms Tanaka",
)


@pytest.fixture
def server(need: Callable[[str], Path]) -> Iterator[RedisServer]:
    with running(str(need("redis-server"))) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = redis_client(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def index(client: Redis) -> RedisSessionIndex:
    return RedisSessionIndex(client, LocalKeys(bytes(32)))


async def test_redis_sees_ids_and_nothing_of_a_row(client: Redis, index: RedisSessionIndex) -> None:
    await index.put(ROW)
    assert set(await client.keys()) == {b"clinic:{north}:sessions", b"clinic:{north}:rows"}
    assert await client.zrange("clinic:{north}:sessions", 0, -1) == [ROW.session_id.encode()]
    (sealed,) = await client.hvals("clinic:{north}:rows")
    assert not any(word in sealed for word in (b"Tanaka", b"dr-a", b"live"))


async def test_rows_stay_and_reservations_go(client: Redis, index: RedisSessionIndex) -> None:
    await index.put(ROW)
    await index.reserve(NORTH, "dr-a /v1/sessions 1", Reservation("abc", None))
    (name,) = await client.keys("clinic:{north}:idempotency:*")
    assert b"dr-a" not in name
    assert await client.ttl(name) == IN_FLIGHT_SECONDS
    await index.reserve(NORTH, "dr-a /v1/sessions 1", Reservation("abc", ROW.session_id))
    assert await client.ttl(name) == RESERVED_SECONDS
    assert await client.ttl("clinic:{north}:rows") == -1


async def test_an_index_that_was_emptied_is_no_longer_complete(
    server: RedisServer, client: Redis, index: RedisSessionIndex
) -> None:
    await index.mark_complete("a.1")
    await client.connection_pool.disconnect()
    server.restart()
    assert await index.completed_by() is None


async def test_every_call_says_so_when_there_is_no_redis(
    server: RedisServer, client: Redis, index: RedisSessionIndex
) -> None:
    server.kill()
    for call in (
        index.put(ROW),
        index.page(NORTH, SessionQuery()),
        index.completed_by(),
        index.mark_complete("a.1"),
        index.reserve(NORTH, "k", Reservation("abc", None)),
    ):
        with pytest.raises(IndexUnavailable):
            await call


async def test_a_hanging_redis_costs_the_limit(server: RedisServer, client: Redis) -> None:
    index = RedisSessionIndex(client, LocalKeys(bytes(32)), call_seconds=0.1)
    server.pause()
    try:
        with pytest.raises(IndexUnavailable):
            await index.page(NORTH, SessionQuery())
    finally:
        server.resume()


async def test_rows_that_do_not_open_are_not_passed_over(client: Redis, index: RedisSessionIndex) -> None:
    await index.put(ROW)
    with pytest.raises(IndexUnavailable, match="Unsealable"):
        await RedisSessionIndex(client, LocalKeys(bytes(range(32)))).page(NORTH, SessionQuery())
