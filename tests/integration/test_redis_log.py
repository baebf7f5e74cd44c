"""What the event log puts into Redis, and how it bears a Redis that hangs, dies or forgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_client import redis_client
from app.adapters.redis_log import KEEP_SECONDS, PURPOSE, LogMessage, RedisEventLog, parse_message
from app.events.log import CommitOutcome, LogUnavailable
from audio.transcript import CommittedFinal, Final, Partial, Word
from tenants.clinic import ClinicId
from tenants.keys import Sealer
from tenants.terms import SessionRef
from tests.support.memory_log import had
from tests.support.redis_logs import batching, event_log
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
async def log(server: RedisServer, sealer: Sealer) -> AsyncIterator[RedisEventLog]:
    async with event_log(server.url, sealer) as log:
        yield log


def final(seq: int, text: str = "headache", epoch: int = 1) -> CommittedFinal:
    return CommittedFinal(seq, epoch, Final(f"r{seq}", 0, 50, text, (Word(text, 0, 50, 0.5),), "en-US"))


async def entries(client: Redis) -> list[tuple[str, dict[bytes, bytes]]]:
    """The clinic's log as it stands."""
    kept: Any = await client.xrange(LOG)
    return [(name.decode(), fields) for name, fields in kept]


class Subscriber:
    """Somebody who listens to the clinic's channel."""

    def __init__(self, channel: PubSub) -> None:
        self._channel = channel

    async def hear(self, count: int) -> list[LogMessage]:
        """The next ``count`` messages."""
        heard: list[LogMessage] = []
        while len(heard) < count:
            message = await self._channel.get_message(ignore_subscribe_messages=True, timeout=5.0)
            if message is not None:
                heard.append(parse_message(message["data"]))
        return heard

    async def hears_nothing(self) -> bool:
        """Whether nothing comes for a while."""
        return await self._channel.get_message(ignore_subscribe_messages=True, timeout=0.2) is None


@asynccontextmanager
async def subscribed(client: Redis) -> AsyncIterator[Subscriber]:
    channel = client.pubsub()
    await channel.subscribe(EVENTS)
    await channel.get_message(timeout=5.0)
    yield Subscriber(channel)
    await channel.aclose()  # type: ignore[no-untyped-call]  # so in redis-py


async def published(client: Redis, log: RedisEventLog, seqs: int) -> list[LogMessage]:
    """What a subscriber hears of a session that is created and says ``seqs`` finals."""
    async with subscribed(client) as subscriber:
        await log.append(REF, "session.created", {"title": "Ms Tanaka"})
        await log.announce(REF, 1, 0, "task-a")
        await log.commit(REF, 1, [final(seq) for seq in range(1, seqs + 1)])
        return await subscriber.hear(seqs + 1)


def partial(end: int, name: str = "r1") -> Partial:
    return Partial(name, 0, end, f"head {end}")


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
    assert [fields[b"prev"].decode() for _, fields in kept] == [event.prev for event in heard]
    assert kept[1][1].keys() == {b"prev", b"session", b"kind", b"seq", b"epoch", b"body"}


async def test_the_names_are_those_of_the_contract_and_what_was_said_is_sealed(
    client: Redis, log: RedisEventLog
) -> None:
    await published(client, log, 2)
    assert set(await client.keys()) == {name.encode() for name in (SESSION, PENDING, LOG)}
    kept = repr([await client.zrange(PENDING, 0, -1), await entries(client)])
    assert not any(word in kept for word in ("headache", "Tanaka"))
    assert await client.hgetall(SESSION) == {
        b"epoch": b"1",
        b"seq": b"2",
        b"base": b"0",
        b"told": b"2",
        b"task": b"task-a",
    }


async def test_a_session_is_forgotten_when_nothing_happens_to_it(client: Redis, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, [final(1)])
    assert [await client.ttl(name) for name in (SESSION, PENDING)] == [KEEP_SECONDS, KEEP_SECONDS]
    for name in (SESSION, PENDING):
        await client.expire(name, 60)
    await log.commit(REF, 1, [final(2)])
    assert [await client.ttl(name) for name in (SESSION, PENDING)] == [KEEP_SECONDS, KEEP_SECONDS]


async def test_the_log_and_the_pending_finals_are_bounded(
    server: RedisServer, client: Redis, sealer: Sealer
) -> None:
    async with event_log(server.url, sealer, log_length=100, pending_length=10) as log:
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
    assert had(await log.announce(REF, 1, 1, "a")) == ([], None)
    assert await log.commit(REF, 1, [final(2)]) is CommitOutcome.COMMITTED
    assert await log.pending(REF) == [final(2)]


async def test_a_flushed_redis_knows_nothing_and_begins_a_new_log(client: Redis, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, [final(1), final(2)])
    await client.flushall()
    assert await log.epochs([REF]) == [None]
    assert await log.commit(REF, 1, [final(3)]) is CommitOutcome.UNKNOWN
    assert had(await log.announce(REF, 1, 2, "a")) == ([], None)
    assert had(await log.announce(REF, 1, 0, "a")) == ([], None)
    assert await log.commit(REF, 1, [final(1), final(2), final(3)]) is CommitOutcome.COMMITTED
    kept = await entries(client)
    assert [fields[b"seq"] for _, fields in kept] == [b"1", b"2", b"3"]
    assert kept[0][1][b"prev"] == b"0-0"


async def test_finals_of_older_owners_keep_their_epoch_in_the_log(client: Redis, log: RedisEventLog) -> None:
    async with subscribed(client) as subscriber:
        await log.announce(REF, 4, 0, "a")
        await log.commit(REF, 4, [final(1), final(2, epoch=3), final(3, epoch=4)])
        rewound, *heard = await subscriber.hear(4)
    assert (rewound.kind, rewound.seq, rewound.epoch) == ("rewound", 0, 4)
    assert [(event.seq, event.epoch) for event in heard] == [(1, 1), (2, 3), (3, 4)]


async def test_finals_that_are_withdrawn_are_said_to_be_in_the_same_step(
    client: Redis, log: RedisEventLog
) -> None:
    async with subscribed(client) as subscriber:
        await log.announce(REF, 1, 0, "a")
        await log.commit(REF, 1, [final(1), final(2), final(3)])
        await log.archived(REF, 1, 3)
        await log.announce(REF, 2, 1, "b")
        await log.announce(REF, 3, 1, "c")
        await log.commit(REF, 3, [final(2, epoch=3)])
        heard = await subscriber.hear(5)
    assert [(event.kind, event.seq, event.epoch, event.body) for event in heard[3:4]] == [
        ("rewound", 1, 2, b"")
    ]
    assert [(event.kind, event.seq) for event in heard[4:]] == [("final", 2)]
    assert [event.prev for event in heard] == ["0-0", *(event.cursor for event in heard[:-1])]
    assert [name for name, _ in await entries(client)] == [event.cursor for event in heard]


async def test_a_partial_is_published_and_is_in_no_log(
    client: Redis, log: RedisEventLog, sealer: Sealer
) -> None:
    async with subscribed(client) as subscriber:
        log.partial(REF, 7, partial(100))
        (heard,) = await subscriber.hear(1)
    assert (heard.cursor, heard.prev, heard.session_id) == ("-", "-", REF.session_id)
    assert (heard.kind, heard.seq, heard.epoch) == ("partial", 0, 7)
    assert b"head" not in heard.body
    opened = sealer.unseal("north", REF.session_id, PURPOSE, heard.body)
    assert msgspec.json.decode(opened, type=Partial) == partial(100)
    assert await client.keys() == []


async def test_of_partials_of_one_result_in_one_turn_the_newest_is_published_and_order_is_kept(
    client: Redis, log: RedisEventLog, sealer: Sealer
) -> None:
    await log.announce(REF, 1, 0, "a")
    async with subscribed(client) as subscriber:
        for end in (100, 200, 300):
            log.partial(REF, 1, partial(end))
            log.partial(REF, 1, partial(end, "r2"))
        log.event(REF, "notice", {"code": "engine_waiting"})
        committing = asyncio.ensure_future(log.commit(REF, 1, [final(1)]))
        await asyncio.sleep(0)
        log.partial(REF, 1, partial(400, "r3"))
        heard = await subscriber.hear(5)
        assert await subscriber.hears_nothing()
    await committing
    assert [event.kind for event in heard] == ["partial", "partial", "notice", "final", "partial"]
    opened = [sealer.unseal("north", REF.session_id, PURPOSE, event.body) for event in heard[:2]]
    assert [msgspec.json.decode(one, type=Partial) for one in opened] == [partial(300), partial(300, "r2")]


async def test_partials_that_nobody_listens_to_are_not_sent_but_for_one_now_and_then(
    server: RedisServer, client: Redis, sealer: Sealer
) -> None:
    now = 0.0
    async with event_log(server.url, sealer, clock=lambda: now) as log:

        async def publish(count: int) -> int:
            before = await publishes(client)
            for end in range(count):
                log.partial(REF, 1, partial(end, f"r{end}"))
                await log.pending(REF)
            return await publishes(client) - before

        assert await publish(5) == 1
        now = 1.5
        assert await publish(5) == 1
        async with subscribed(client) as subscriber:
            now = 3.0
            assert await publish(5) == 5
            assert len(await subscriber.hear(5)) == 5


async def publishes(client: Redis) -> int:
    """How many PUBLISH commands Redis has carried out."""
    stats: dict[str, dict[str, int]] = await client.info("commandstats")
    return stats.get("cmdstat_publish", {}).get("calls", 0)


async def test_a_commit_waits_100_ms_for_a_log_that_hangs_and_its_repeat_doubles_nothing(
    server: RedisServer, client: Redis, sealer: Sealer
) -> None:
    async with batching(client) as batch:
        log = RedisEventLog(batch, sealer)
        await RedisEventLog(batch, sealer, commit_seconds=5.0).announce(REF, 1, 0, "a")
        server.pause()
        try:
            started = time.monotonic()
            with pytest.raises(LogUnavailable) as failed:
                await log.commit(REF, 1, [final(1)])
            assert 0.09 < time.monotonic() - started < 2.0
        finally:
            server.resume()
        assert "headache" not in str(failed.value)
        patient = RedisEventLog(batch, sealer, commit_seconds=5.0)
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
        log.epochs([REF]),
    ):
        with pytest.raises(LogUnavailable):
            await call


async def test_finals_that_do_not_open_are_as_good_as_none(server: RedisServer, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, [final(1)])
    async with event_log(server.url, LocalKeys(bytes(range(32)))) as other:
        with pytest.raises(LogUnavailable, match="Unsealable"):
            await other.pending(REF)


@pytest.mark.parametrize("data", [b"", b"1-0 0-0 s final 1\nbody", b"\xff 0-0 s final 1 1\nbody"])
def test_a_message_of_another_form_is_told_from_ours(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # unpacking, decoding or int: each says it its own way
        parse_message(data)
