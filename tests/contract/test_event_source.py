"""What an event source promises, asked of Redis 7, of the Redis 6.2 that the wheel carries, and of a cluster that loses a primary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_batch import RedisBatch
from app.adapters.redis_client import any_client
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_servers import servers_of
from app.adapters.redis_source import RedisSource
from app.adapters.redis_tickets import RedisTicketEntries
from app.auth.tickets import Ticket
from app.events.log import LogUnavailable
from app.events.model import START, Bounds, LivePartial, LogEvent
from audio.transcript import Partial
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.events import HERE, committed
from tests.support.redis_cluster import Cluster, cluster
from tests.support.redis_server import running, wheel_program

CLINICS = [ClinicId(name) for name in ("north", "south", "east", "west")]
"""In a cluster of three primaries they do not all share one."""

WAIT_SECONDS = 20.0


@pytest.fixture(scope="module", params=["redis 7", "redis 6.2", "cluster"])
def url(request: pytest.FixtureRequest, need: Callable[[str], Path]) -> Iterator[str]:
    if request.param == "cluster":
        need("redis-server")
        with cluster() as formed:
            yield formed.url
        return
    program = wheel_program() if request.param == "redis 6.2" else str(need("redis-server"))
    with running(program) as server:
        yield server.url


class Side:
    """A source that runs, and a log to write to."""

    def __init__(self, source: RedisSource, log: RedisEventLog, entries: RedisTicketEntries) -> None:
        self.source, self.log, self.entries = source, log, entries

    async def until_commits(self, clinic: ClinicId, seq: int) -> None:
        """Commit one final, as often as it takes."""
        ref = SessionRef(clinic, HERE)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    await self.log.announce(ref, 1, seq - 1, "task")
                    await self.log.commit(ref, 1, [committed(seq)])
                    return
                except LogUnavailable:
                    await asyncio.sleep(0.05)


async def side_of(url: str) -> AsyncIterator[Side]:
    client, sealer = any_client(url), LocalKeys(bytes(32))
    batch = RedisBatch(servers_of(client), LogUnavailable)
    source = RedisSource(client, sealer)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(batch.run()), group.create_task(source.run())]
        yield Side(source, RedisEventLog(batch, sealer, commit_seconds=5.0), RedisTicketEntries(client))
        for task in tasks:
            task.cancel()
    await client.aclose()


@pytest.fixture
async def side(url: str) -> AsyncIterator[Side]:
    async for side in side_of(url):
        await side.source._client.flushall()
        yield side


class Follower:
    def __init__(self) -> None:
        self.calls: list[str | LogEvent | LivePartial] = []
        self._told = asyncio.Event()

    def joined(self) -> None:
        self._add("joined")

    def left(self) -> None:
        self._add("left")

    def heard(self, event: LogEvent | LivePartial) -> None:
        self._add(event)

    def _add(self, call: str | LogEvent | LivePartial) -> None:
        self.calls.append(call)
        self._told.set()

    async def until(self, reached: Callable[[list[str | LogEvent | LivePartial]], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not reached(self.calls):
                self._told.clear()
                await self._told.wait()

    @property
    def events(self) -> list[LogEvent]:
        return [call for call in self.calls if isinstance(call, LogEvent)]


def followers_of(side: Side) -> dict[ClinicId, Follower]:
    followers = {clinic: Follower() for clinic in CLINICS}
    for clinic, follower in followers.items():
        side.source.follow(clinic, follower)
    return followers


async def test_each_clinics_follower_hears_what_its_log_takes_and_nothing_else(side: Side) -> None:
    followers = followers_of(side)
    for follower in followers.values():
        await follower.until(lambda calls: calls == ["joined"])
    for clinic in CLINICS:
        ref = SessionRef(clinic, HERE)
        await side.log.append(ref, "session.live", {"clinic": clinic})
        await side.log.announce(ref, 3, 4, "task")
        await side.log.commit(ref, 3, [committed(5, 3), committed(6, 3)])
    for clinic, follower in followers.items():
        await follower.until(lambda calls: len(calls) >= 5)
        assert [(e.kind, e.seq, e.epoch) for e in follower.events] == [
            ("session.live", 0, 0), ("rewound", 4, 3), ("final", 5, 3), ("final", 6, 3),
        ]  # fmt: skip
        assert follower.events[0].body == b'{"clinic":"' + clinic.encode() + b'"}'
        assert await side.source.after(clinic, START, 10) == follower.events
        prevs = [START, *(event.cursor for event in follower.events[:-1])]
        assert [event.prev for event in follower.events] == prevs


async def test_partials_are_heard_and_are_in_no_log(side: Side) -> None:
    follower, ref = Follower(), SessionRef(CLINICS[0], HERE)
    side.source.follow(CLINICS[0], follower)
    await follower.until(lambda calls: calls == ["joined"])
    async with asyncio.timeout(WAIT_SECONDS):
        while len(follower.calls) < 2:
            side.log.partial(ref, 2, Partial("r1", 0, 10, "head"))
            await asyncio.sleep(0.05)
    partial = follower.calls[1]
    assert isinstance(partial, LivePartial)
    assert (partial.session_id, partial.epoch) == (HERE, 2)
    assert await side.source.after(CLINICS[0], START, 10) == []


async def test_the_log_is_read_in_pages_and_says_how_far_it_reaches(side: Side) -> None:
    clinic, ref = CLINICS[0], SessionRef(CLINICS[0], HERE)
    assert await side.source.bounds(clinic) == Bounds()
    for number in range(5):
        await side.log.append(ref, "session.live", {"n": number})
    everything = await side.source.after(clinic, START, 100)
    assert await side.source.bounds(clinic) == Bounds(START, everything[0].cursor, everything[-1].cursor)
    assert await side.source.after(clinic, START, 2) == everything[:2]
    assert await side.source.after(clinic, everything[1].cursor, 2) == everything[2:4]
    assert await side.source.after(clinic, everything[4].cursor, 2) == []


async def test_who_follows_no_longer_hears_nothing_and_may_come_back_at_once(side: Side) -> None:
    clinic, ref, first, second = CLINICS[0], SessionRef(CLINICS[0], HERE), Follower(), Follower()
    side.source.follow(clinic, first)
    await first.until(lambda calls: calls == ["joined"])
    side.source.unfollow(clinic)
    side.source.follow(clinic, second)
    await second.until(lambda calls: calls == ["joined"])
    await side.log.append(ref, "session.live", {})
    await second.until(lambda calls: len(calls) == 2)
    assert first.calls == ["joined"]
    side.source.unfollow(clinic)


async def test_what_another_key_sealed_is_heard_without_its_body(side: Side) -> None:
    follower, ref = Follower(), SessionRef(CLINICS[0], HERE)
    side.source.follow(CLINICS[0], follower)
    await follower.until(lambda calls: calls == ["joined"])
    side.log._sealer = LocalKeys(bytes(range(32)))
    await side.log.append(ref, "session.live", {})
    await follower.until(lambda calls: len(calls) == 2)
    assert follower.events[0].body == b""


async def test_a_ticket_enters_once(side: Side) -> None:
    tickets = [Ticket(clinic, None, "nurse", "observer", 1, "t", False, 0) for clinic in CLINICS]
    for ticket in tickets:
        assert await side.entries.enter(ticket)
    for ticket in tickets:
        assert not await side.entries.enter(ticket)


@pytest.fixture
def breakable(need: Callable[[str], Path]) -> Iterator[Cluster]:
    need("redis-server")
    with cluster() as formed:
        yield formed


async def test_followers_of_a_primary_that_dies_are_told_and_hear_its_successor(breakable: Cluster) -> None:
    async for side in side_of(breakable.url):
        followers = followers_of(side)
        for clinic, follower in followers.items():
            await follower.until(lambda calls: calls == ["joined"])
            await side.until_commits(clinic, 1)
            await follower.until(lambda calls: len(calls) == 2)
        lost = CLINICS[0]
        await asyncio.to_thread(breakable.primary_of(f"clinic:{{{lost}}}:log").kill)
        await followers[lost].until(lambda calls: "left" in calls)
        await followers[lost].until(lambda calls: calls[-1] == "joined")
        for clinic, follower in followers.items():
            before = len(follower.events)
            await side.until_commits(clinic, 2)
            await follower.until(lambda _, f=follower, n=before: len(f.events) > n)  # type: ignore[misc]
            assert follower.events[-1].seq == 2
