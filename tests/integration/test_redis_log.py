"""What the event log puts into Redis, and how it bears a Redis that hangs, dies or forgets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_client import redis_client
from app.adapters.redis_log import KEEP_SECONDS, PURPOSE, LogMessage, RedisEventLog, parse_message
from app.events.log import CommitOutcome, LogUnavailable
from audio.transcript import CommittedFinal, Final, Word
from tenants.clinic import ClinicId
from tenants.keys import Sealer
from tenants.terms import SessionRef
from tests.support.redis_server import RedisServer, running

REF = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8057")
SESSION = f"clinic:{{north}}:session:{REF.session_id}"
PENDING, LOG, EVENTS = f"{SESSION}:pending", "clinic:{north}:log", "clinic:{north}:events"


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
def sealer() -> Sealer:
    return LocalKeys(bytes(32))


@pytest.fixture
def log(client: Redis, sealer: Sealer) -> RedisEventLog:
    return RedisEventLog(client, sealer, commit_seconds=5.0)


def final(seq: int, text: str = "headache", epoch: int = 1) -> CommittedFinal:
    return CommittedFinal(seq, epoch, Final(f"r{seq}", 0, 50, text, (Word(text, 0, 50, 0.5),), "en-US"))


async def entries(client: Redis) -> list[tuple[str, dict[bytes, bytes]]]:
    """The clinic's log as it stands."""
    kept: Any = await client.xrange(LOG)
    return [(name.decode(), fields) for name, fields in kept]


async def published(client: Redis, log: RedisEventLog, seqs: int) -> list[LogMessage]:
    """What a subscriber hears of a session that is created and says ``seqs`` finals."""
    subscription = client.pubsub()
    await subscription.subscribe(EVENTS)
    await log.append(REF, "session.created", {"title": "Ms Tanaka"})
    await log.announce(REF, 1, 0, "task-a")
    await log.commit(REF, 1, [final(seq) for seq in range(1, seqs + 1)])
    heard: list[LogMessage] = []
    while len(heard) <= seqs:
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5.0)
        if message is not None:
            heard.append(parse_message(message["data"]))
    await subscription.aclose()  # type: ignore[no-untyped-call]  # so in redis-py
    return heard


async def test_subscribers_hear_each_event_with_its_cursor_and_the_one_before(
    client: Redis, log: RedisEventLog, sealer: Sealer
) -> None:
    heard = await published(client, log, 3)
    assert [(event.kind, event.seq, event.epoch) for event in heard] == [
        ("session.created", 0, 0),
        ("final", 1, 1),
        ("final", 2, 1),
        ("final", 3, 1),
    ]
    assert [event.prev for event in heard] == ["0-0", *(event.cursor for event in heard[:-1])]
    opened = [sealer.unseal("north", REF.session_id, PURPOSE, event.body) for event in heard]
    assert msgspec.json.decode(opened[0]) == {"title": "Ms Tanaka"}
    assert msgspec.json.decode(opened[1], type=CommittedFinal) == final(1)


async def test_the_log_holds_what_was_published_under_the_same_cursors(
    client: Redis, log: RedisEventLog
) -> None:
    heard = await published(client, log, 2)
    kept = await entries(client)
    assert [(cursor, fields[b"kind"].decode(), fields[b"body"]) for cursor, fields in kept] == [
        (event.cursor, event.kind, event.body) for event in heard
    ]
    assert kept[1][1].keys() == {b"session", b"kind", b"seq", b"epoch", b"body"}


async def test_the_names_are_those_of_the_contract_and_what_was_said_is_sealed(
    client: Redis, log: RedisEventLog
) -> None:
    await published(client, log, 2)
    assert set(await client.keys()) == {name.encode() for name in (SESSION, PENDING, LOG)}
    kept = repr([await client.zrange(PENDING, 0, -1), await entries(client)])
    assert not any(word in kept for word in ("headache", "Tanaka"))
    assert await client.hgetall(SESSION) == {b"epoch": b"1", b"seq": b"2", b"base": b"0", b"task": b"task-a"}


async def test_a_session_is_forgotten_when_nothing_happens_to_it(client: Redis, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, [final(1)])
    assert [await client.ttl(name) for name in (SESSION, PENDING)] == [KEEP_SECONDS, KEEP_SECONDS]
    for name in (SESSION, PENDING):
        await client.expire(name, 60)
    await log.commit(REF, 1, [final(2)])
    assert [await client.ttl(name) for name in (SESSION, PENDING)] == [KEEP_SECONDS, KEEP_SECONDS]


async def test_the_log_and_the_pending_finals_are_bounded(client: Redis, sealer: Sealer) -> None:
    log = RedisEventLog(client, sealer, commit_seconds=5.0, log_length=100, pending_length=10)
    await log.announce(REF, 1, 0, "a")
    for first in range(1, 1000, 50):
        await log.commit(REF, 1, [final(seq) for seq in range(first, first + 50)])
    # Redis trims whole nodes of 100 entries.
    assert 100 <= await client.xlen(LOG) <= 200
    assert [kept.seq for kept in await log.pending(REF)] == list(range(991, 1001))


async def test_a_log_that_forgot_its_scripts_is_given_them_again(client: Redis, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await client.script_flush()
    assert await log.commit(REF, 1, [final(1)]) is CommitOutcome.COMMITTED


async def test_a_log_that_was_emptied_asks_for_an_announcement(
    server: RedisServer, client: Redis, log: RedisEventLog
) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, [final(1)])
    await client.connection_pool.disconnect()
    server.restart()
    assert await log.commit(REF, 1, [final(2)]) is CommitOutcome.UNKNOWN
    assert await log.announce(REF, 1, 1, "a") == []
    assert await log.commit(REF, 1, [final(2)]) is CommitOutcome.COMMITTED
    assert await log.pending(REF) == [final(2)]


async def test_a_commit_waits_100_ms_for_a_log_that_hangs_and_its_repeat_doubles_nothing(
    server: RedisServer, client: Redis, sealer: Sealer
) -> None:
    log = RedisEventLog(client, sealer)
    await log.announce(REF, 1, 0, "a")
    server.pause()
    try:
        started = time.monotonic()
        with pytest.raises(LogUnavailable) as failed:
            await log.commit(REF, 1, [final(1)])
        assert 0.09 < time.monotonic() - started < 2.0
    finally:
        server.resume()
    assert "headache" not in str(failed.value)
    patient = RedisEventLog(client, sealer, commit_seconds=5.0)
    assert await patient.commit(REF, 1, [final(1)]) is CommitOutcome.COMMITTED
    assert await patient.pending(REF) == [final(1)]
    assert await client.xlen(LOG) == 1


async def test_every_call_says_so_when_there_is_no_log(server: RedisServer, log: RedisEventLog) -> None:
    server.kill()
    for call in (
        log.announce(REF, 1, 0, "a"),
        log.commit(REF, 1, [final(1)]),
        log.pending(REF),
        log.archived(REF, 1, 1),
        log.append(REF, "session.live", {}),
    ):
        with pytest.raises(LogUnavailable):
            await call


async def test_finals_that_do_not_open_are_as_good_as_none(client: Redis, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, [final(1)])
    with pytest.raises(LogUnavailable, match="Unsealable"):
        await RedisEventLog(client, LocalKeys(bytes(range(32)))).pending(REF)


@pytest.mark.parametrize("data", [b"", b"1-0 0-0 s final 1\nbody", b"\xff 0-0 s final 1 1\nbody"])
def test_a_message_of_another_form_is_told_from_ours(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # unpacking, decoding or int: each says it its own way
        parse_message(data)
