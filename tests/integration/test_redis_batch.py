"""Calls in one pipeline under trouble: a Redis that hangs, dies, refuses or forgets scripts, callers that give up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from redis.asyncio import Redis

from app.adapters.redis_batch import Command, RedisBatch, script_call
from app.adapters.redis_client import RedisScript, redis_client
from app.adapters.redis_servers import servers_of
from app.events.log import LogUnavailable
from tests.support.redis_logs import batching
from tests.support.redis_server import RedisServer, running

PUSH = RedisScript("return redis.call('RPUSH', KEYS[1], ARGV[1])")
SAY = RedisScript("return ARGV[1]")


@pytest.fixture
def server(need: Callable[[str], Path]) -> Iterator[RedisServer]:
    with running(str(need("redis-server"))) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with redis_client(server.url) as client:
        yield client


@pytest.fixture
async def batch(client: Redis) -> AsyncIterator[RedisBatch]:
    async with batching(client) as batch:
        yield batch


def echo(text: str) -> Command:
    return Command("k", ("ECHO", text))


def push(text: str) -> Command:
    return script_call(PUSH, ["list"], [text])


async def said(batch: RedisBatch, text: str, seconds: float = 5.0) -> str:
    answer = await batch.call(echo(text), seconds)
    assert isinstance(answer, bytes)
    return answer.decode()


async def connections(client: Redis) -> int:
    stats = await client.info("stats")
    return int(stats["total_connections_received"])


async def test_calls_of_one_turn_are_answered_each_with_its_own(batch: RedisBatch) -> None:
    answers = await asyncio.gather(*(said(batch, str(number)) for number in range(3000)))
    assert answers == [str(number) for number in range(3000)]
    assert batch.waiting == 0


async def test_several_calls_are_answered_in_order_and_the_first_failure_is_raised(batch: RedisBatch) -> None:
    assert await batch.calls([echo(str(number)) for number in range(5)], 5.0) == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert await batch.calls([], 5.0) == []
    wrong = [Command("k", ("NO_SUCH",)), Command("k", ("NEITHER",)), echo("x")]
    with pytest.raises(LogUnavailable, match="ResponseError"):
        await batch.calls(wrong, 5.0)
    assert await said(batch, "again") == "again"


async def test_the_order_of_calls_and_posts_is_kept(client: Redis, batch: RedisBatch) -> None:
    wanted: list[bytes] = []
    calls: list[asyncio.Future[object]] = []
    for number in range(200):
        text = str(number)
        wanted.append(text.encode())
        if number % 3:
            calls.append(asyncio.ensure_future(batch.call(push(text), 5.0)))
            await asyncio.sleep(0)
        else:
            batch.post(number, "list", partial(push, text))
    await asyncio.gather(*calls)
    assert await client.lrange("list", 0, -1) == wanted


async def test_a_post_replaces_one_of_its_name_that_still_waits_and_hears_its_answer(
    batch: RedisBatch,
) -> None:
    heard: list[object] = []
    for number in range(5):
        batch.post("name", "k", partial(echo, str(number)), heard.append)
    batch.post("other", "k", lambda: echo("x"), heard.append)
    await said(batch, "end")
    assert heard == [b"4", b"x"]


async def test_scripts_that_redis_was_made_to_forget_are_sent_again_and_run_once(
    client: Redis, batch: RedisBatch
) -> None:
    await batch.call(push("1"), 5.0)
    await client.script_flush()
    answers = await asyncio.gather(
        batch.call(push("2"), 5.0),
        batch.call(script_call(SAY, ["k"], ["x"]), 5.0),
        batch.call(push("3"), 5.0),
    )
    assert list(answers) == [2, b"x", 3]
    assert await client.lrange("list", 0, -1) == [b"1", b"2", b"3"]


async def test_a_call_that_gives_up_harms_no_other(server: RedisServer, batch: RedisBatch) -> None:
    await said(batch, "warm")
    server.pause()
    quick = [asyncio.ensure_future(said(batch, "late", 0.05)) for _ in range(3)]
    patient = [asyncio.ensure_future(said(batch, str(number))) for number in range(3)]
    await asyncio.wait(quick)
    server.resume()
    for one in quick:
        with pytest.raises(LogUnavailable, match="TimeoutError"):
            one.result()
    assert await asyncio.gather(*patient) == ["0", "1", "2"]


@pytest.mark.parametrize("seed", range(5))
async def test_calls_cancelled_at_any_moment_leave_each_other_call_its_own_answer(
    batch: RedisBatch, seed: int
) -> None:
    rng = Random(seed)  # noqa: S311 - an order

    async def one(number: int) -> None:
        call = asyncio.ensure_future(said(batch, str(number)))
        if rng.random() < 0.5:
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            if call.cancelled():
                return
        assert await call == str(number)

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(one(number))
            if rng.random() < 0.2:
                await asyncio.sleep(0)
    assert batch.waiting == 0


async def test_a_redis_that_hangs_is_sent_one_pipeline_and_nothing_piles_up(
    server: RedisServer, client: Redis
) -> None:
    async with batching(client, seconds=0.3) as batch:
        before = await connections(client)
        await said(batch, "warm")
        server.pause()
        try:
            began = time.monotonic()
            while time.monotonic() - began < 1.0:
                results = await asyncio.gather(
                    *(said(batch, "x", 0.05) for _ in range(100)), return_exceptions=True
                )
                assert all(isinstance(result, LogUnavailable) for result in results)
                assert batch.waiting == 0
        finally:
            server.resume()
        assert await said(batch, "again") == "again"
        # One for each pipeline that was given up, and those of the test.
        assert await connections(client) - before <= 6


async def test_more_calls_than_may_wait_are_refused_and_more_posts_dropped(
    server: RedisServer, client: Redis
) -> None:
    async with batching(client, max_waiting=10) as batch:
        await said(batch, "warm")
        server.pause()
        try:
            first = asyncio.ensure_future(said(batch, "first"))
            await asyncio.sleep(0.02)
            for number in range(30):
                batch.post(number, "k", lambda: echo("x"))
            assert batch.waiting == 10
            with pytest.raises(LogUnavailable, match="Full"):
                await said(batch, "one too many")
            batch.post(3, "k", lambda: echo("in place of another"))
            assert batch.waiting == 10
        finally:
            server.resume()
        assert await first == "first"
        assert await said(batch, "again") == "again"


async def test_a_pipeline_that_came_too_late_gives_nobody_its_answers(
    server: RedisServer, client: Redis
) -> None:
    async with batching(client, seconds=0.1) as batch:
        await said(batch, "warm")
        for number in range(5):
            server.pause()
            late = asyncio.ensure_future(said(batch, "late"))
            with pytest.raises(LogUnavailable, match="TimeoutError"):
                await late
            server.resume()
            assert await said(batch, f"new {number}") == f"new {number}"


async def test_calls_fail_at_once_while_there_is_no_redis_and_go_on_when_there_is(
    server: RedisServer, batch: RedisBatch
) -> None:
    await batch.call(push("1"), 5.0)
    server.kill()
    for _ in range(3):
        with pytest.raises(LogUnavailable, match="ConnectionError"):
            await batch.call(push("2"), 5.0)
    server.start()
    assert await batch.call(push("3"), 5.0) == 1


async def test_calls_that_wait_when_it_ends_fail(server: RedisServer, client: Redis) -> None:
    async with batching(client) as batch:
        await said(batch, "warm")
        server.pause()
        sent = asyncio.ensure_future(said(batch, "sent"))
        await asyncio.sleep(0.02)
        waiting = asyncio.ensure_future(said(batch, "waiting"))
        await asyncio.sleep(0.02)
    server.resume()
    for call in (sent, waiting):
        with pytest.raises(LogUnavailable, match="Closed"):
            await call
    with pytest.raises(LogUnavailable, match="Closed"):
        await said(batch, "late")
    batch.post("name", "k", lambda: echo("late"))
    assert batch.waiting == 0


async def test_what_is_called_before_it_runs_waits_until_it_does(client: Redis) -> None:
    batch = RedisBatch(servers_of(client), LogUnavailable)
    early = asyncio.ensure_future(said(batch, "early"))
    await asyncio.sleep(0.02)
    running_batch = asyncio.ensure_future(batch.run())
    assert await early == "early"
    running_batch.cancel()
    await asyncio.wait([running_batch])
