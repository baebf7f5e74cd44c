"""Redis may go also where another of its servers takes over: everybody goes on by themselves, and has everything once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from app.protocol.messages import Completed, FinalMessage, Flush, Flushed, Pause, Stop
from app.sessions.herald import REPEAT_SECONDS
from tests.support.captioned import talking, utterances
from tests.support.outages import (
    LIFE,
    assert_in_order,
    assert_no_new_sessions,
    assert_ready,
    assert_refused,
    assert_stands,
    assert_told_once,
    finals,
    safe,
)
from tests.support.raw_socket import eventually
from tests.support.redis_cluster import free_ports
from tests.support.redis_modes import Clustered, Place, Replicated, clustered, made, replicated
from tests.support.speaking import Speaking, running
from tests.support.watching import BEGINNING, watching
from tests.support.wire import wire

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.needs("redis-server"),
]

PCM = utterances(40)
OUTAGE = ["events_degraded", "events_recovered"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place_with_replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place[Replicated]]:
    async with made(tmp_path_factory, replicated) as place:
        yield place


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place_in_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place[Clustered]]:
    async with made(tmp_path_factory, clustered) as place:
        yield place


@pytest_asyncio.fixture(loop_scope="module")
async def with_replica(place_with_replica: Place[Replicated]) -> AsyncIterator[Place[Replicated]]:
    yield place_with_replica
    await place_with_replica.mend()


@pytest_asyncio.fixture(loop_scope="module")
async def in_cluster(place_in_cluster: Place[Clustered]) -> AsyncIterator[Place[Clustered]]:
    yield place_in_cluster
    await place_in_cluster.mend()


@pytest.mark.long
async def test_a_replica_takes_over(with_replica: Place[Replicated]) -> None:
    place = with_replica
    async with place.pair.people("replica") as (a, b), watching(a) as here, watching(b) as there:
        people = (a, b, b)
        speakers = [(person, talking(person, await person.create(), PCM)) for person in people]
        first, second, ending = (speaking for _, speaking in speakers)
        async with running(first, second, ending) as (_, _, ended):
            for speaking in (first, second, ending):
                await finals(speaking, 2)
            place.redis.strike("replica")
            for watcher in (here, there):
                await watcher.until_noticed("events_degraded")
            for person in (a, b):
                await assert_no_new_sessions(person)
            for speaking in (first, second, ending):
                await finals(speaking, 1)
            ending.client.stop()
            await ended
            for watcher in (here, there):
                assert "session.completed" not in watcher.lives[ending.session_id]
            await place.redis.take_over()
            for watcher in (here, there):
                await watcher.until_noticed("events_recovered")
                await assert_told_once(watcher, ending)
            for speaking in (first, second):
                await finals(speaking, 2)
                speaking.client.stop()
        await assert_in_order(speakers, (here, there), PCM)
        assert here.notices == there.notices == OUTAGE
        for person, watcher in ((a, there), (b, here)):
            await assert_ready(person, watcher)


@pytest.mark.long
async def test_what_the_replica_lacked_is_in_the_log_again(with_replica: Place[Replicated]) -> None:
    place, clinic = with_replica, "lacked"
    async with place.pair.people(clinic) as (a, b), watching(a) as here, watching(b) as there:
        speakers = [(person, talking(person, await person.create(), PCM)) for person in (a, b)]
        async with running(*(speaking for _, speaking in speakers)):
            for _, speaking in speakers:
                await finals(speaking, 2)
            await place.redis.cut_off()
            for _, speaking in speakers:
                await finals(speaking, 2)
                for watcher in (here, there):
                    await watcher.until_told(speaking.session_id, speaking.finals)
            place.redis.strike(clinic)
            for watcher in (here, there):
                await watcher.until_noticed("events_degraded")
            await place.redis.take_over()
            for watcher in (here, there):
                await watcher.until_noticed("events_recovered")
            for _, speaking in speakers:
                await finals(speaking, 2)
                speaking.client.stop()
        await assert_in_order(speakers, (here, there), PCM)
        assert here.notices == there.notices == OUTAGE


@pytest.mark.long
async def test_who_says_nothing_more_is_told_of_all_the_same(with_replica: Place[Replicated]) -> None:
    place, clinic = with_replica, "quiet"
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        created = await a.create()
        async with wire(created.stream_url, created.ticket) as (line, _):
            await line.speak(PCM[:64_000])
            await line.say(Flush())
            await line.hear(Flushed)
            await place.redis.follow()
            await place.redis.cut_off()
            await line.speak(PCM[64_000:128_000])
            await line.say(Flush(), Pause())
            last = (await line.hear(Flushed)).seq
            quiet = [message for message in line.heard if isinstance(message, FinalMessage)]
            assert len(quiet) == last
            await there.until_told(created.session_id, quiet)
            place.redis.strike(clinic)
            await there.until_noticed("events_degraded")
            await place.redis.take_over()
            await there.until_noticed("events_recovered")
            async with watching(b, BEGINNING) as late:
                await late.until_told(created.session_id, quiet)
            await line.say(Stop(64_000))
            await line.hear(Completed)
        await there.until(lambda one: one.lives[created.session_id] == LIFE)
        await there.until_told(created.session_id, quiet)


@pytest.mark.long
async def test_who_ends_right_after_it_too(with_replica: Place[Replicated]) -> None:
    place, clinic = with_replica, "ends"
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        created = await a.create()
        async with wire(created.stream_url, created.ticket) as (line, _):
            await place.redis.follow()
            await there.until(lambda one: "session.live" in one.lives[created.session_id])
            await place.redis.cut_off()
            await line.speak(PCM[:64_000])
            await line.say(Flush())
            await line.hear(Flushed)
            place.redis.strike(clinic)
            await there.until_noticed("events_degraded")
            await place.redis.take_over()
            await line.say(Stop(32_000))
            await line.hear(Completed)
            told = [message for message in line.heard if isinstance(message, FinalMessage)]
        await there.until_noticed("events_recovered")
        async with watching(b, BEGINNING) as late:
            for watcher in (there, late):
                await watcher.until(lambda one: "session.completed" in one.lives[created.session_id])
                await watcher.until_told(created.session_id, told)


@pytest.mark.long
async def test_rows_that_the_replica_lacked_are_listed_again(with_replica: Place[Replicated]) -> None:
    place, clinic = with_replica, "rows"
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        first, second = [talking(a, await a.create(), PCM[:32_000]) for _ in range(2)]
        await first.run()
        await there.until(lambda one: "session.completed" in one.lives[first.session_id])
        await place.redis.follow()
        await place.redis.cut_off()
        await second.run()
        await there.until(lambda one: "session.completed" in one.lives[second.session_id])
        created = await b.create()
        await there.until(lambda one: "session.created" in one.lives[created.session_id])
        place.redis.strike(clinic)
        await there.until_noticed("events_degraded")
        await place.redis.take_over()
        await there.until_noticed("events_recovered")
        wanted = dict.fromkeys([first.session_id, second.session_id], "completed")
        wanted[created.session_id] = "created"
        await eventually(a.listed, lambda listed: listed == wanted, 2 * REPEAT_SECONDS + 10)


@pytest.mark.long
async def test_a_cluster_helps_itself(in_cluster: Place[Clustered]) -> None:
    place, clinic = in_cluster, "shard"
    elsewhere = place.redis.elsewhere(clinic)
    async with AsyncExitStack() as stack:
        a, b = await stack.enter_async_context(place.pair.people(clinic))
        c, d = await stack.enter_async_context(place.pair.people(elsewhere))
        watchers = [await stack.enter_async_context(watching(person)) for person in (a, b, c, d)]
        here, there, *untouched = watchers
        other = talking(c, await c.create(), PCM)
        speakers = [(person, talking(person, await person.create(), PCM)) for person in (a, b, b)]
        first, second, ending = (speaking for _, speaking in speakers)
        async with running(other, first, second, ending) as (*_, ended):
            for speaking in (other, first, second, ending):
                await finals(speaking, 2)
            place.redis.strike(clinic)
            ending.client.stop()
            await assert_refused(a)
            await assert_refused(b)
            for watcher in (here, there):
                await watcher.until_noticed("events_degraded")
            await place.redis.take_over()
            await ended
            for watcher in (here, there):
                await watcher.until_noticed("events_recovered")
                await assert_told_once(watcher, ending)
            for speaking in (other, first, second):
                await finals(speaking, 2)
                speaking.client.stop()
        await assert_in_order(speakers, (here, there), PCM)
        await assert_in_order([(c, other)], untouched, PCM)
        assert here.notices == there.notices == OUTAGE
        assert [watcher.notices for watcher in untouched] == [[], []]
        for person, watcher in ((a, there), (b, here)):
            await assert_ready(person, watcher)


async def resumed_elsewhere(speaking: Speaking) -> None:
    """The speaker has come back through the door, and more is said and safe."""
    await speaking.until(lambda one: one.client.sent.connections >= 2)
    await finals(speaking, 2)
    await safe(speaking, 0.5)


@pytest.mark.long
async def test_its_owner_dies_too_and_nothing_is_withdrawn(with_replica: Place[Replicated]) -> None:
    place, clinic = with_replica, "both"
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        place.lead_to(a)
        speaking = place.at_the_door(a, await a.create(), PCM)
        async with running(speaking):
            await finals(speaking, 3)
            place.door.target = free_ports(1)[0]
            await a.server.kill()
            await place.redis.follow()
            place.redis.strike(clinic)
            await there.until_noticed("events_degraded")
            await place.redis.take_over()
            await there.until_noticed("events_recovered")
            await eventually(lambda: b.http.get("/readyz"), lambda answer: answer.status_code == 200)
            place.lead_to(b)
            await resumed_elsewhere(speaking)
            speaking.client.stop()
        assert (speaking.rewinds, there.rewinds) == (0, 0)
        await assert_stands(b, [there], speaking, PCM)
        assert there.finals == there.standing


@pytest.mark.long
@pytest.mark.parametrize("lost", [False, True])
async def test_its_owner_dies_with_what_only_redis_had(with_replica: Place[Replicated], lost: bool) -> None:
    place, clinic = with_replica, f"lost-{lost}".lower()
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        place.lead_to(a)
        speaking = place.at_the_door(a, await a.create(), PCM)
        async with running(speaking):
            await finals(speaking, 2)
            if lost:
                await place.redis.cut_off()
            await finals(speaking, 1)
            place.lead_to(b)
            a.server.process.kill()
            place.redis.strike(clinic)
            await there.until_noticed("events_degraded")
            await place.redis.take_over()
            await there.until_noticed("events_recovered")
            await resumed_elsewhere(speaking)
            speaking.client.stop()
        await a.server.process.wait()
        # Who claimed while Redis was away, or had lost it, could not know of a final that no segment carried yet.
        assert speaking.rewinds <= 1
        assert there.rewinds <= 1
        await assert_stands(b, [there], speaking, PCM)


@pytest.mark.long
async def test_its_owner_dies_together_with_its_shard(in_cluster: Place[Clustered]) -> None:
    place, clinic = in_cluster, "shard-and-owner"
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        place.lead_to(a)
        speaking = place.at_the_door(a, await a.create(), PCM)
        async with running(speaking):
            await finals(speaking, 3)
            place.lead_to(b)
            a.server.process.kill()
            place.redis.strike(clinic)
            await there.until_noticed("events_degraded")
            await place.redis.take_over()
            await there.until_noticed("events_recovered")
            await resumed_elsewhere(speaking)
            speaking.client.stop()
        await a.server.process.wait()
        # Who claimed while Redis was away, or had lost it, could not know of a final that no segment carried yet.
        assert speaking.rewinds <= 1
        assert there.rewinds <= 1
        await assert_stands(b, [there], speaking, PCM)
