"""Observers on a real Redis that is cut, hangs, dies or forgets, while sessions speak: each final once, and in order."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_batch import RedisBatch
from app.adapters.redis_client import cluster_client, redis_client
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_servers import servers_of
from app.adapters.redis_source import RedisSource
from app.events.hub import Hub, HubDraining
from app.events.log import CommitOutcome, LogUnavailable
from app.events.model import START, Bounds, Cursor, LivePartial, LogEvent
from app.events.outbox import Ending
from app.events.source import EventSource, Follower
from app.telemetry.metrics import Metrics
from audio.transcript import CommittedFinal, Partial
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.events import BESIDE, HERE, committed
from tests.support.redis_cluster import cluster
from tests.support.redis_server import RedisServer, running

NORTH = ClinicId("north")
SESSIONS = [SessionRef(NORTH, HERE), SessionRef(NORTH, BESIDE)]
SEALER = LocalKeys(bytes(32))
WAIT_SECONDS = 20.0

Message = dict[str, Any]


@pytest.fixture
def server(need: Callable[[str], Path]) -> Iterator[RedisServer]:
    with running(str(need("redis-server"))) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = redis_client(server.url)
    yield client
    await client.aclose()


@asynccontextmanager
async def beside(*parts: Callable[[], Awaitable[None]]) -> AsyncIterator[asyncio.TaskGroup]:
    """Run what runs beside a test."""

    async def keep(part: Callable[[], Awaitable[None]]) -> None:
        await part()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep(part)) for part in parts]
        yield group
        for task in tasks:
            task.cancel()


@pytest.fixture
async def log(client: Redis) -> AsyncIterator[RedisEventLog]:
    batch = RedisBatch(servers_of(client), LogUnavailable)
    async with beside(batch.run):
        yield RedisEventLog(batch, SEALER, commit_seconds=5.0)


@pytest.fixture
async def source(client: Redis) -> AsyncIterator[RedisSource]:
    source = RedisSource(client, SEALER)
    async with beside(source.run):
        yield source


@asynccontextmanager
async def hub_on(source: EventSource) -> AsyncIterator[Hub]:
    hub = Hub(source, Metrics())
    async with beside(hub.run):
        await asyncio.sleep(0)
        yield hub


@pytest.fixture
async def hub(source: RedisSource) -> AsyncIterator[Hub]:
    async with hub_on(source) as hub:
        yield hub


class Writer:
    """The owner of the sessions: commits finals, and again what Redis has forgotten."""

    def __init__(self, log: RedisEventLog, refs: list[SessionRef]) -> None:
        self.log, self.refs = log, refs
        self.finals: dict[str, list[CommittedFinal]] = {ref.session_id: [] for ref in refs}
        self.committed = dict.fromkeys(self.finals, 0)

    async def announce(self) -> None:
        for ref in self.refs:
            await self.log.announce(ref, 1, self.committed[ref.session_id], "task")

    async def say(self, count: int, pause: float = 0.0) -> None:
        """So many finals in each session."""
        for _ in range(count):
            for ref in self.refs:
                book = self.finals[ref.session_id]
                book.append(committed(len(book) + 1))
                await self.commit(ref)
            await asyncio.sleep(pause)

    async def commit(self, ref: SessionRef) -> None:
        """Until the log has everything."""
        book = self.finals[ref.session_id]
        while self.committed[ref.session_id] < len(book):
            at = self.committed[ref.session_id]
            try:
                outcome = await self.log.commit(ref, 1, book[at:])
                if outcome is CommitOutcome.UNKNOWN:
                    self.committed[ref.session_id] = await self._tell_again(ref, at)
                    continue
            except LogUnavailable:
                await asyncio.sleep(0.05)
                continue
            assert outcome is CommitOutcome.COMMITTED
            self.committed[ref.session_id] = len(book)

    async def _tell_again(self, ref: SessionRef, at: int) -> int:
        # What the log has lost is committed in it again, whatever the archive has.
        announced = await self.log.announce(ref, 1, at, "task")
        assert announced is not None
        known = min(announced.known or 0, at)
        if known < at:
            await self.log.announce(ref, 1, known, "task")
        return known


class Watcher:
    """An observer and all that it was told; it stays until it has what it wants."""

    def __init__(self, hub: Hub, session: str | None = None) -> None:
        self.hub, self.session = hub, session
        self.messages: list[Message] = []
        self.cursor: Cursor | None = None
        self.there = asyncio.Event()

    async def watch(self, until: Callable[[Watcher], bool]) -> None:
        """Observe on from the cursor until ``until`` holds."""
        async with (
            asyncio.timeout(WAIT_SECONDS),
            self.hub.observing(NORTH, self.session, self.cursor) as observer,
        ):
            while not until(self):
                texts = await observer.next()
                assert texts, observer.ending
                for text in texts:
                    self.note(json.loads(text))

    def note(self, message: Message) -> None:
        self.messages.append(message)
        if "cursor" in message:
            cursor = Cursor.parse(message["cursor"])
            if "prev" in message:
                assert self.cursor is not None
                assert Cursor.parse(message["prev"]) <= self.cursor, "a break in prev"
            self.cursor = cursor
        self.there.set()

    def finals(self, session: str) -> list[int]:
        return [m["seq"] for m in self.messages if m["type"] == "final" and m["sessionId"] == session]

    def codes(self) -> list[str]:
        return [m["code"] for m in self.messages if m["type"] == "notice"]


def has_all(writer: Writer, count: int) -> Callable[[Watcher], bool]:
    """Whether a watcher has ``count`` finals of each session that it watches."""

    def holds(watcher: Watcher) -> bool:
        wanted = [s for s in writer.finals if watcher.session in (None, s)]
        return all(len(watcher.finals(session)) >= count for session in wanted)

    return holds


def check(watcher: Watcher, writer: Writer, count: int) -> None:
    """Every final once and in order."""
    for session in writer.finals:
        wanted = list(range(1, count + 1)) if watcher.session in (None, session) else []
        assert watcher.finals(session) == wanted


async def subscribed(*watchers: Watcher) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        for watcher in watchers:
            await watcher.there.wait()


async def cut_subscribers(client: Redis) -> None:
    with suppress(ConnectionError):
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]


async def test_events_come_in_order_and_a_session_observer_gets_its_own(hub: Hub, log: RedisEventLog) -> None:
    writer = Writer(log, SESSIONS)
    await log.append(SESSIONS[0], "session.created", {"samples": 0})
    everything, one = Watcher(hub), Watcher(hub, HERE)
    async with asyncio.TaskGroup() as group:
        for watcher in (everything, one):
            group.create_task(watcher.watch(has_all(writer, 10)))
        await subscribed(everything, one)
        await log.append(SESSIONS[0], "session.live", {"samples": 5})
        await writer.announce()
        await writer.say(10)
    for watcher in (everything, one):
        check(watcher, writer, 10)
        assert watcher.messages[0]["type"] == "subscribed"
        live = watcher.messages[1]
        assert (live["type"], live["sessionId"], live["samples"]) == ("session.live", HERE, 5)
        assert live["prev"] == watcher.messages[0]["cursor"]
        for before, after in zip(watcher.messages, watcher.messages[1:], strict=False):
            assert after["prev"] == before["cursor"]


async def test_partials_are_shown_until_their_final(hub: Hub, log: RedisEventLog) -> None:
    writer, watcher = Writer(log, SESSIONS[:1]), Watcher(hub)
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(has_all(writer, 1)))
        await subscribed(watcher)
        await writer.announce()
        while not any(m["type"] == "partial" for m in watcher.messages):
            watcher.there.clear()
            log.partial(SESSIONS[0], 1, Partial("r1", 0, 5, "head"))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await watcher.there.wait()
        await writer.say(1)
    kinds = [m["type"] for m in watcher.messages]
    assert kinds[0] == "subscribed"
    assert set(kinds[1:-1]) == {"partial"}
    assert kinds[-1] == "final"
    assert watcher.messages[1] == {
        "type": "partial", "sessionId": HERE, "id": "r1", "start": 0, "end": 5, "text": "head",
    }  # fmt: skip


async def test_a_replay_goes_on_live_with_nothing_missed_and_nothing_twice(
    hub: Hub, log: RedisEventLog
) -> None:
    writer = Writer(log, SESSIONS)
    await writer.announce()
    await writer.say(300)
    watchers = [Watcher(hub), Watcher(hub, BESIDE)]
    async with asyncio.TaskGroup() as group:
        for watcher in watchers:
            watcher.cursor = START
            group.create_task(watcher.watch(has_all(writer, 400)))
        group.create_task(writer.say(100))
    for watcher in watchers:
        check(watcher, writer, 400)


@pytest.mark.parametrize("seed", range(3))
async def test_subscriptions_that_are_cut_at_any_moment_miss_nothing(
    hub: Hub, log: RedisEventLog, client: Redis, seed: int
) -> None:
    rng, writer = Random(seed), Writer(log, SESSIONS)  # noqa: S311
    watchers = [Watcher(hub), Watcher(hub, HERE)]
    async with asyncio.TaskGroup() as group:
        for watcher in watchers:
            group.create_task(watcher.watch(has_all(writer, 200)))
        await subscribed(*watchers)
        await writer.announce()
        saying = group.create_task(writer.say(200, 0.003))
        while not saying.done():
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            await cut_subscribers(client)
    for watcher in watchers:
        check(watcher, writer, 200)


@pytest.mark.parametrize("seed", range(3))
async def test_an_observer_that_comes_back_50_times_has_exactly_what_was_committed(
    hub: Hub, log: RedisEventLog, client: Redis, seed: int
) -> None:
    rng, writer, watcher = Random(seed), Writer(log, SESSIONS), Watcher(hub)  # noqa: S311
    await writer.announce()
    async with asyncio.TaskGroup() as group:
        watcher.cursor = START
        saying = group.create_task(writer.say(250, 0.004))
        for _ in range(50):
            wanted = len(watcher.messages) + rng.randrange(1, 12)
            await watcher.watch(lambda w, n=wanted: saying.done() or len(w.messages) >= n)  # type: ignore[misc]
            if rng.random() < 0.2:
                await cut_subscribers(client)
            await asyncio.sleep(rng.uniform(0, 0.01))
        await watcher.watch(has_all(writer, 250))
    check(watcher, writer, 250)


class Lossy:
    """A source whose channel drops, doubles and delays what it carries."""

    def __init__(self, source: EventSource, rng: Random) -> None:
        self._source, self._rng = source, rng

    def follow(self, clinic_id: ClinicId, follower: Follower) -> None:
        self._source.follow(clinic_id, _Deaf(follower, self._rng))

    def unfollow(self, clinic_id: ClinicId) -> None:
        self._source.unfollow(clinic_id)

    async def bounds(self, clinic_id: ClinicId) -> Bounds:
        return await self._source.bounds(clinic_id)

    async def after(self, clinic_id: ClinicId, cursor: Cursor, limit: int) -> list[LogEvent]:
        return await self._source.after(clinic_id, cursor, limit)


class _Deaf:
    def __init__(self, follower: Follower, rng: Random) -> None:
        self._follower, self._rng = follower, rng
        self._held: list[LogEvent | LivePartial] = []
        self.joined, self.left = follower.joined, follower.left

    def heard(self, event: LogEvent | LivePartial) -> None:
        chance = self._rng.random()
        if chance < 0.2:
            return
        if chance < 0.4:
            self._held.append(event)
            return
        if chance < 0.5:
            self._follower.heard(event)
        self._follower.heard(event)
        while self._held and self._rng.random() < 0.5:
            self._follower.heard(self._held.pop())


@pytest.mark.parametrize("seed", range(3))
async def test_what_the_channel_loses_doubles_or_delays_is_put_right_from_the_log(
    source: RedisSource, log: RedisEventLog, seed: int
) -> None:
    async with hub_on(Lossy(source, Random(seed))) as hub:  # noqa: S311
        writer, watchers = Writer(log, SESSIONS), [Watcher(hub), Watcher(hub, BESIDE)]
        async with asyncio.TaskGroup() as group:
            for watcher in watchers:
                group.create_task(watcher.watch(has_all(writer, 200)))
            await subscribed(*watchers)
            await writer.announce()
            await writer.say(200)
            while not all(has_all(writer, 200)(watcher) for watcher in watchers):
                await log.append(SESSIONS[0], "session.live", {})
                await asyncio.sleep(0.01)
        for watcher in watchers:
            check(watcher, writer, 200)


async def test_a_redis_that_dies_and_comes_back_empty_is_told_of_and_nothing_final_is_missed(
    server: RedisServer, hub: Hub, log: RedisEventLog
) -> None:
    writer, watcher = Writer(log, SESSIONS), Watcher(hub)
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(lambda w: has_all(writer, 60)(w) and "events_recovered" in w.codes()))
        await subscribed(watcher)
        await writer.announce()
        await writer.say(30)
        server.kill()
        await told(watcher, "events_degraded")
        saying = group.create_task(writer.say(30))
        server.start()
        await saying
    check(watcher, writer, 60)
    assert watcher.codes() == ["events_degraded", "events_recovered"]


async def test_a_redis_that_hangs_is_told_of_and_nothing_is_missed(
    server: RedisServer, hub: Hub, log: RedisEventLog
) -> None:
    writer, watcher = Writer(log, SESSIONS), Watcher(hub)
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(lambda w: has_all(writer, 20)(w) and "events_recovered" in w.codes()))
        await subscribed(watcher)
        await writer.announce()
        await writer.say(10)
        server.pause()
        try:
            await told(watcher, "events_degraded")
        finally:
            server.resume()
        await writer.say(10)
    check(watcher, writer, 20)
    assert watcher.codes() == ["events_degraded", "events_recovered"]


async def told(watcher: Watcher, code: str) -> None:
    """Until the watcher has that notice, which is of no event."""
    async with asyncio.timeout(WAIT_SECONDS):
        while code not in watcher.codes():
            watcher.there.clear()
            await watcher.there.wait()
    notice = next(m for m in watcher.messages if m.get("code") == code)
    assert notice.keys() == {"type", "code", "message"}


async def test_a_cut_that_heals_at_once_is_not_worth_a_word(
    hub: Hub, log: RedisEventLog, client: Redis
) -> None:
    writer, watcher = Writer(log, SESSIONS), Watcher(hub)
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(has_all(writer, 10)))
        await subscribed(watcher)
        await writer.announce()
        await writer.say(5)
        await cut_subscribers(client)
        await writer.say(5)
    check(watcher, writer, 10)
    assert watcher.codes() == []


async def test_finals_that_were_withdrawn_are_told_of_and_their_successors_follow(
    hub: Hub, log: RedisEventLog
) -> None:
    writer, watcher = Writer(log, SESSIONS[:1]), Watcher(hub)
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(lambda w: len(w.finals(HERE)) >= 7))
        await subscribed(watcher)
        await writer.announce()
        await writer.say(5)
        await log.archived(SESSIONS[0], 1, 4)
        await log.announce(SESSIONS[0], 2, 3, "another")
        await log.commit(SESSIONS[0], 2, [committed(4, 2, "neck"), committed(5, 2, "back")])
    assert watcher.finals(HERE) == [1, 2, 3, 4, 5, 4, 5]
    rewound = next(m for m in watcher.messages if m["type"] == "notice")
    assert (rewound["code"], rewound["seq"], rewound["sessionId"]) == ("finals_rewound", 3, HERE)
    assert watcher.messages[-1]["text"] == "back"


async def test_a_cursor_that_the_log_no_longer_reaches_back_to_is_expired(
    hub: Hub, client: Redis, log: RedisEventLog
) -> None:
    writer = Writer(log, SESSIONS[:1])
    await writer.announce()
    await writer.say(5)
    first: Any = await client.xrange("clinic:{north}:log", count=1)
    await client.xtrim("clinic:{north}:log", maxlen=2, approximate=False)
    watcher = Watcher(hub)
    watcher.cursor = START
    await watcher.watch(lambda w: len(w.finals(HERE)) >= 2)
    async with hub.observing(NORTH, None, Cursor.parse(first[0][0].decode())) as observer:
        assert (await observer.next(), observer.ending) == ([], Ending.EXPIRED)


async def who_watched_before_redis_was_emptied(
    hub: Hub, client: Redis, log: RedisEventLog, count: int
) -> Watcher:
    """Somebody who has so many finals of one session, of which the log knows nothing any more."""
    writer, watcher = Writer(log, SESSIONS[:1]), Watcher(hub)
    await writer.announce()
    watcher.cursor = START
    await asyncio.gather(watcher.watch(lambda w: len(w.finals(HERE)) >= count), writer.say(count))
    # Cursors are the log's milliseconds: in this one a new log might begin with the old one's last.
    await asyncio.sleep(0.002)
    await client.flushall()
    return watcher


async def test_a_cursor_is_expired_by_a_redis_that_was_emptied_but_not_the_beginning(
    hub: Hub, client: Redis, log: RedisEventLog
) -> None:
    watcher = await who_watched_before_redis_was_emptied(hub, client, log, 3)
    for expected in (Ending.EXPIRED, Ending.EXPIRED):
        async with hub.observing(NORTH, None, watcher.cursor) as observer:
            assert (await observer.next(), observer.ending) == ([], expected)
        await log.append(SESSIONS[0], "session.live", {})
    async with hub.observing(NORTH, None, START) as observer:
        first, second = json.loads((await observer.next())[0]), json.loads((await observer.next())[0])
    assert (first["cursor"], second["type"], second["prev"]) == ("0-0", "session.live", "0-0")


async def test_who_comes_back_to_an_emptied_log_hears_what_a_new_owner_withdrew(
    hub: Hub, client: Redis, log: RedisEventLog
) -> None:
    watcher = await who_watched_before_redis_was_emptied(hub, client, log, 5)
    # The archive had three of them when their owner died.
    await log.announce(SESSIONS[0], 2, 3, "another")
    await log.commit(SESSIONS[0], 2, [committed(4, 2, "neck"), committed(5, 2, "back")])
    async with hub.observing(NORTH, None, watcher.cursor) as observer:
        assert (await observer.next(), observer.ending) == ([], Ending.EXPIRED)
    watcher.cursor = START
    await watcher.watch(lambda w: len(w.finals(HERE)) >= 7)
    told = [(m.get("code", m["type"]), m["seq"], m.get("text")) for m in watcher.messages[-3:]]
    assert [(kind, seq) for kind, seq, _ in told] == [("finals_rewound", 3), ("final", 4), ("final", 5)]
    assert [text for *_, text in told[1:]] == ["neck", "back"]


async def test_while_redis_is_away_nobody_new_observes_and_who_drains_sends_all_away(
    server: RedisServer, hub: Hub, log: RedisEventLog
) -> None:
    async with hub.observing(NORTH, None, None) as observer:
        await observer.next()
        await log.append(SESSIONS[0], "session.live", {})
        live = await observer.next()
        server.kill()
        assert "events_degraded" in (await observer.next())[0]
        with pytest.raises(LogUnavailable):
            async with hub.observing(NORTH, HERE, None):
                raise AssertionError
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(hub.drain())
            assert (await observer.next(), observer.ending) == ([], Ending.RESTARTING)
            with pytest.raises(HubDraining):
                async with hub.observing(NORTH, None, None):
                    raise AssertionError
            assert not draining.done()
    assert Counter(json.loads(text)["type"] for text in live) == {"session.live": 1}


@pytest.mark.long
async def test_a_cluster_that_loses_a_primary_loses_no_final_and_doubles_none(
    need: Callable[[str], Path],
) -> None:
    need("redis-server")
    with cluster() as formed:
        client = cluster_client(formed.url)
        batch = RedisBatch(servers_of(client), LogUnavailable)
        source = RedisSource(client, SEALER)
        async with beside(batch.run, source.run), hub_on(source) as hub:
            log = RedisEventLog(batch, SEALER, commit_seconds=1.0)
            writer, watchers = Writer(log, SESSIONS), [Watcher(hub), Watcher(hub, HERE)]
            async with asyncio.TaskGroup() as group:
                for watcher in watchers:
                    group.create_task(watcher.watch(has_all(writer, 400)))
                await subscribed(*watchers)
                await writer.announce()
                saying = group.create_task(writer.say(400, 0.005))
                await asyncio.sleep(0.3)
                await asyncio.to_thread(formed.primary_of("clinic:{north}:log").kill)
                await told(watchers[0], "events_degraded")
                await saying
            for watcher in watchers:
                check(watcher, writer, 400)
        await client.aclose()
