"""Whoever watches gets exactly the finals that the speakers got, however often either is cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
import uvloop

from tests.chaos.ward.browser import Browser
from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.link import Mode
from tests.chaos.ward.observer import Observer
from tests.chaos.ward.rounds import CAUGHT_UP_SECONDS, verdict, voice
from tests.chaos.ward.ward import Ward, opened

SESSIONS = 20
RECONNECTS = 50
REDIS_AWAY_SECONDS = 30.0

pytestmark = pytest.mark.needs("haproxy", "redis-server")


@pytest.mark.timeout(240)
def test_observers_that_come_back(tmp_path: Path) -> None:
    """One comes back fifty times, one stays; a task is killed, Redis is away for half a minute."""
    uvloop.run(observers_that_come_back(tmp_path))


async def observers_that_come_back(folder: Path) -> None:
    random = Random(7)  # noqa: S311
    async with (
        opened(folder, random) as ward,
        Crowd(ward, voice(), random) as crowd,
        asyncio.TaskGroup() as group,
    ):
        restless, steady = (Observer(Browser(ward.balancer.url, ward.token), random) for _ in range(2))
        watching = [group.create_task(observer.run()) for observer in (restless, steady)]
        speakers = await crowd.open(SESSIONS)
        coming_back = group.create_task(come_back(restless, random))
        await asyncio.sleep(10.0)
        await kill_one(ward)
        await coming_back
        await ward.cut("redis", Mode.HOLE, REDIS_AWAY_SECONDS)
        await crowd.end(speakers)
        for observer in (restless, steady):
            assert await observer.has(speakers, CAUGHT_UP_SECONDS) == []
        assert restless.connections > RECONNECTS
        assert steady.notices["events_degraded"] > 0
        assert {name for states in steady.states.values() for name in states} >= {
            "session.live",
            "session.completed",
        }
        for task in watching:
            task.cancel()
        assert await verdict(ward, crowd, speakers) == []


async def come_back(observer: Observer, random: Random) -> None:
    """Drop its connection fifty times, each a moment after it was opened."""
    for _ in range(RECONNECTS):
        async with asyncio.timeout(30.0):
            await observer.ready.wait()
        await asyncio.sleep(random.uniform(0.0, 0.6))
        observer.drop()
        await asyncio.sleep(0.05)


async def kill_one(ward: Ward) -> None:
    (victim, *_) = ward.tasks.values()
    await ward.kill(victim)
    await ward.start()
    await ward.forget(victim)
