"""Redis may go: speakers notice nothing, observers are told, and afterwards everybody has everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest
import pytest_asyncio
import redis

from app.adapters.redis_scripts import session_key
from app.protocol.messages import Completed, FinalMessage, Flush, Flushed, Pause, Stop
from tenants.clinic import ClinicId
from tests.support.aws_emulator import started
from tests.support.captioned import Pair, resuming, talking, two_servers, utterances
from tests.support.outages import (
    SETTLE_SECONDS,
    assert_no_new_sessions,
    assert_ready,
    assert_seen,
    finals,
    safe,
    said,
)
from tests.support.raw_socket import eventually
from tests.support.redis_cluster import free_ports
from tests.support.redis_server import RedisServer
from tests.support.redis_server import running as redis_running
from tests.support.speaking import assert_complete, assert_finals_hold, cut_off, running
from tests.support.watching import BEGINNING, watching
from tests.support.wire import wire

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.needs("redis-server"),
]

PCM = utterances(40)


@dataclass(frozen=True)
class Place:
    """Two servers and their Redis. An outage ends when it is closed, at the latest when its block is left."""

    redis: RedisServer
    pair: Pair

    def killed(self) -> ExitStack:
        """Redis is gone; afterwards there is an empty one."""
        self.redis.kill()
        outage = ExitStack()
        outage.callback(self.redis.start)
        return outage

    def hanging(self) -> ExitStack:
        """Redis takes connections and answers nothing; afterwards it goes on with what it was sent."""
        self.redis.pause()
        outage = ExitStack()
        outage.callback(self.redis.resume)
        return outage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("away")
    with ExitStack() as stack:
        server = stack.enter_context(redis_running(port=free_ports(1)[0]))
        emulator = stack.enter_context(started(folder, "--max-streams", "40"))
        url = f"redis://127.0.0.1:{server.port}"
        # Owners ask Redis every eighth of the window whether it knows them.
        async with two_servers(folder, url, emulator, resume_window_seconds="16") as pair:
            yield Place(server, pair)


@pytest.mark.long
async def test_redis_dies_and_comes_back_empty(place: Place) -> None:
    async with place.pair.people("dies") as (a, b), watching(a) as here, watching(b) as there:
        created = await a.create()
        speaking = talking(a, created, PCM)
        with ExitStack() as outage:
            async with cut_off(speaking):
                await finals(speaking, 1)
                outage.enter_context(place.killed())
                for watcher in (here, there):
                    await watcher.until_noticed("events_degraded")
                await assert_no_new_sessions(a)
                await finals(speaking, 1)
                speaking.client.drop()
                await finals(speaking, 1)
                await safe(speaking, 0.5)
                assert speaking.client.sent.connections == 2
            # The speaker goes on at the other server, with nothing but the resume ticket. Redis gives out the places at the
            # engine, so it is there that captions wait for it.
            resumed = resuming(b, created, speaking, PCM)
            async with running(resumed):
                await safe(resumed, 0.5)
                outage.close()
                for watcher in (here, there):
                    await watcher.until_noticed("events_recovered")
                await resumed.until(lambda one: len(one.finals) >= len(speaking.finals) + 2)
                resumed.client.stop()
        assert resumed.finals[: len(speaking.finals)] == speaking.finals
        assert resumed.rewinds == speaking.rewinds == 0
        for watcher in (here, there):
            await assert_seen(watcher, resumed)
            assert watcher.notices == ["events_degraded", "events_recovered"]
        await assert_complete(b, resumed, said(resumed, PCM))
        for person, watcher in ((a, there), (b, here)):
            await assert_ready(person, watcher)
            assert (await person.listed())[created.session_id] == "completed"


@pytest.mark.long
async def test_redis_hangs_while_one_goes_on_and_one_comes_to_the_end(place: Place) -> None:
    async with place.pair.people("hangs") as (a, b), watching(b) as there:
        sessions = [await person.create() for person in (a, b)]
        lasting, ending = (talking(p, session, PCM) for p, session in zip((a, b), sessions, strict=True))
        async with running(lasting, ending) as (_, ended):
            await finals(ending, 1)
            await finals(lasting, 1)
            with place.hanging():
                await there.until_noticed("events_degraded")
                await assert_no_new_sessions(b)
                await finals(ending, 1)
                ending.client.stop()
                await ended
                lasting.client.drop()
                await finals(lasting, 1)
                await safe(lasting, 0.5)
                assert lasting.client.sent.connections == 2
                assert "session.completed" not in there.lives[ending.session_id]
            await there.until_noticed("events_recovered")
            await assert_seen(there, ending)
            await finals(lasting, 1)
            lasting.client.stop()
        for person, speaking in ((a, lasting), (b, ending)):
            assert speaking.rewinds == 0
            await assert_seen(there, speaking)
            await assert_complete(person, speaking, said(speaking, PCM))
        assert there.notices == ["events_degraded", "events_recovered"]
        await assert_ready(a, there)


async def test_redis_is_emptied(place: Place) -> None:
    clinic = ClinicId("emptied")
    async with place.pair.people(clinic) as (a, b), watching(b) as there:
        before = talking(a, await a.create(), PCM[:32_000])
        await before.run()
        created, silent = await a.create(), await b.create()
        speaking = talking(a, created, PCM)
        async with running(speaking), wire(silent.stream_url, silent.ticket) as (line, _):
            await line.speak(PCM[:64_000])
            await line.say(Flush(), Pause())
            last = (await line.hear(Flushed)).seq
            assert last > 0
            quiet = [message for message in line.heard if isinstance(message, FinalMessage)]
            await finals(speaking, 2)
            with redis.Redis(unix_socket_path=str(place.redis.socket_path)) as client:
                client.flushall()
                # Nobody says anything there: its owner finds out by itself that it was forgotten.
                for session in (created, silent):
                    known = partial(known_last, client, session_key(clinic, session.session_id))
                    await eventually(known, lambda seq: seq is not None)
            states = {before.session_id: "completed", created.session_id: "live", silent.session_id: "live"}
            await eventually(b.listed, lambda listed: listed == states, SETTLE_SECONDS)
            await finals(speaking, 1)
            speaking.client.stop()
            async with watching(a, BEGINNING) as late:
                await late.until_told(silent.session_id, quiet)
            await line.say(Stop(32_000))
            await line.hear(Completed)
            quiet = [message for message in line.heard if isinstance(message, FinalMessage)]
        await there.until_told(silent.session_id, quiet)
        await assert_seen(there, speaking)
        assert speaking.rewinds == 0
        await assert_complete(a, speaking, said(speaking, PCM))
        assert_finals_hold(quiet, (await a.transcript(silent.session_id)).finals)
        await there.until(
            lambda one: all("session.completed" in one.lives[s.session_id] for s in (created, silent))
        )
        assert set(there.notices) <= {"events_degraded", "events_recovered"}


async def known_last(client: redis.Redis, key: str) -> object:
    """The owner's epoch that Redis knows."""
    return client.hget(key, "epoch")
