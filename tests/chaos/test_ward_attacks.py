"""Attacks on who owns a session and on what the server depends on: the archive is right in every case."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
import uvloop

from tests.chaos.ward.browser import Browser
from tests.chaos.ward.crowd import Crowd, spread
from tests.chaos.ward.link import Mode
from tests.chaos.ward.observer import Observer
from tests.chaos.ward.rounds import CAUGHT_UP_SECONDS, HARMLESS, RESUME_SECONDS, unburied, verdict, voice
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.ward import Task, Ward, opened
from tests.support.haproxy import COOKIE

SESSIONS = 30
FROZEN_SECONDS = 30.0
CUT_SECONDS = 20.0

pytestmark = pytest.mark.needs("haproxy", "redis-server")


async def assert_right(ward: Ward, crowd: Crowd) -> None:
    """End everybody; all is as if nothing had happened."""
    await ward.steady()
    await crowd.end(crowd.speakers)
    wrong = await verdict(ward, crowd, crowd.speakers)
    assert wrong == [], "\n".join([*wrong, str(ward.folder), *ward.told])


@pytest.mark.timeout(180)
def test_zombies(tmp_path: Path) -> None:
    """One task stands still for half a minute and goes on, another cannot reach Redis, a third is well."""
    uvloop.run(zombies(tmp_path))


async def zombies(folder: Path) -> None:
    random = Random(3)  # noqa: S311
    async with (
        opened(folder, random, tasks=3, resume_window_seconds=RESUME_SECONDS) as ward,
        Crowd(ward, voice(), random) as crowd,
    ):
        await crowd.open(SESSIONS)
        frozen, cut_off, _ = ward.tasks.values()
        await asyncio.sleep(3.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(ward.freeze(frozen, FROZEN_SECONDS))
            group.create_task(ward.cut("redis", Mode.HOLE, FROZEN_SECONDS, [cut_off]))
            await asyncio.sleep(FROZEN_SECONDS / 2)
            await crowd.connected(crowd.speakers)
        await asyncio.sleep(5.0)
        await assert_right(ward, crowd)


@pytest.mark.timeout(120)
def test_upgrade_that_comes_too_late(tmp_path: Path) -> None:
    """A connection is opened, and the handshake with a ticket of long ago is sent when another task has the session.

    With the same ticket it takes the session away, once, and its speaker is back by itself; with an older one it is refused.
    """
    uvloop.run(late_upgrades(tmp_path))


async def late_upgrades(folder: Path) -> None:
    random = Random(4)  # noqa: S311
    async with (
        opened(folder, random, resume_window_seconds=RESUME_SECONDS) as ward,
        Crowd(ward, voice(), random) as crowd,
    ):
        speakers = await crowd.open(10)
        same, newer = speakers[:5], speakers[5:]
        first, second = ward.tasks.values()
        late = [(speaker, speaker.resume_ticket, await early(first)) for speaker in speakers]
        for speaker in newer:
            speaker.resume_ticket = ""  # It asks for another, which is newer.
        for task in (second, first, second):
            for speaker in speakers:
                await move(speaker, task)
        answers = [await handshake(ward, *one) for one in late]
        # A ticket to resume with is good for as long as it is the newest one that was used.
        assert answers == [101] * len(same) + [409] * len(newer)
        await crowd.changed(lambda: all(speaker.closes[1012] for speaker in same))
        await crowd.connected(speakers)
        await assert_right(ward, crowd)
        troubled = [s.state() for s in speakers if s.errors or s.notices.keys() - HARMLESS]
        assert troubled == []
        assert {code for speaker in same for code in speaker.closes} == {0, 1000, 1012}
        assert {code for speaker in newer for code in speaker.closes} == {0, 1000}
        print(f"\nwithout a connection for {spread([speaker.without for speaker in same])}")


async def early(task: Task) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a task over which nothing is said yet."""
    return await asyncio.open_connection("127.0.0.1", task.port)


async def move(speaker: Speaker, task: Task) -> None:
    """Have somebody come back at this task."""
    speaker.browser.jar.take([f"{COOKIE}={task.name}; path=/"])
    line = speaker.line
    assert line is not None
    speaker.ready.clear()
    line.drop("moved")
    async with asyncio.timeout(15.0):
        await speaker.ready.wait()
    assert speaker.task == task.name


async def handshake(
    ward: Ward, speaker: Speaker, ticket: str, line: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> int:
    """Ask for the stream at last; the status of the answer."""
    reader, writer = line
    head = [
        f"GET {urlsplit(speaker.url).path} HTTP/1.1",
        f"Host: {ward.balancer.url.partition('://')[2]}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        f"Sec-WebSocket-Protocol: kikitori.v1, ticket.{ticket}",
        "",
        "",
    ]
    writer.write("\r\n".join(head).encode())
    async with asyncio.timeout(15.0):
        status = int((await reader.readline()).split()[1])
    writer.transport.abort()
    return status


@pytest.mark.timeout(270)
def test_kill_right_after_stop(tmp_path: Path) -> None:
    """A task is killed within half a second of ``stop``, again and again, while answers of writes get lost."""
    uvloop.run(kills_after_stop(tmp_path))


async def kills_after_stop(folder: Path) -> None:
    random = Random(5)  # noqa: S311
    async with (
        opened(folder, random, resume_window_seconds=RESUME_SECONDS) as ward,
        Crowd(ward, voice(), random) as crowd,
    ):
        await crowd.open(SESSIONS)
        await asyncio.sleep(4.0)
        for number in range(5):
            if number >= 2:
                await ward.set("s3", Mode.LOSE)
            stopping = crowd.speakers[number * SESSIONS // 5 : (number + 1) * SESSIONS // 5]
            for speaker in stopping:
                speaker.stop()
            await asyncio.sleep(random.uniform(0.0, 0.5))
            (victim, *_) = ward.tasks.values()
            await ward.kill(victim)
            await ward.start()
            await ward.forget(victim)
            await crowd.end(stopping)
        lost = sum(task.links["s3"].answers_lost for task in ward.tasks.values())
        await ward.set("s3", Mode.OPEN)
        assert lost > 5
        await assert_right(ward, crowd)
        assert await unburied(ward, crowd.speakers) == []


@pytest.mark.timeout(300)
def test_dependencies_away(tmp_path: Path) -> None:
    """Redis, S3 and Transcribe are away, in turn and together, for twenty seconds each."""
    uvloop.run(dependencies_away(tmp_path))


async def dependencies_away(folder: Path) -> None:
    random = Random(6)  # noqa: S311
    async with (
        opened(folder, random, resume_window_seconds=RESUME_SECONDS) as ward,
        Crowd(ward, voice(), random) as crowd,
    ):
        await crowd.open(SESSIONS)
        ways = {"redis": Mode.HOLE, "s3": Mode.BUSY, "engine": Mode.REFUSE}
        for what, mode in ways.items():
            await ward.cut(what, mode, CUT_SECONDS)
            await asyncio.sleep(3.0)
        other_ways = {"redis": Mode.REFUSE, "s3": Mode.HOLE, "engine": Mode.HOLE}
        async with asyncio.TaskGroup() as group:
            for what, mode in other_ways.items():
                group.create_task(ward.cut(what, mode, CUT_SECONDS))
        await ward.empty_redis()
        await asyncio.sleep(10.0)
        await crowd.connected(crowd.speakers)
        await assert_right(ward, crowd)


@pytest.mark.timeout(180)
def test_kill_together_with_a_failover(tmp_path: Path) -> None:
    """A task and Redis die at one moment; the replica may lack the last finals, which only a speaker may be told."""
    uvloop.run(kill_and_fail_over(tmp_path))


async def kill_and_fail_over(folder: Path) -> None:
    random = Random(8)  # noqa: S311
    opening = opened(folder, random, replica=True, resume_window_seconds=RESUME_SECONDS)
    async with opening as ward, Crowd(ward, voice(), random) as crowd, asyncio.TaskGroup() as group:
        watcher = Observer(Browser(ward.balancer.url, ward.token), random, lossy=True)
        watching = group.create_task(watcher.run())
        await crowd.open(SESSIONS)
        await asyncio.sleep(8.0)
        (victim, *_) = ward.tasks.values()
        async with asyncio.TaskGroup() as dying:
            dying.create_task(ward.kill(victim))
            dying.create_task(ward.fail_over())
        await ward.start()
        await ward.forget(victim)
        await crowd.connected(crowd.speakers)
        await asyncio.sleep(5.0)
        await assert_right(ward, crowd)
        assert await watcher.has(crowd.speakers, CAUGHT_UP_SECONDS) == []
        print(
            f"\n{sum(speaker.rewinds for speaker in crowd.speakers)} rewinds of {len(crowd.speakers)} sessions"
        )
        watching.cancel()
