"""Slots that several tasks share, and a Redis that hangs, dies or forgets."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

import pytest
from redis.asyncio import Redis

from app.adapters import redis_slot_scripts as scripts
from app.adapters.redis_client import redis_client
from app.adapters.redis_slots import RedisSlot, RedisSlots, RedisSlotTimes
from audio.slots import RegionLimits, Slot
from tests.support.redis_server import RedisServer, running

A, B = "a-1", "b-1"
QUICK = RedisSlotTimes(lease=1.5, beat=0.1, alive=0.6, settle=0.4, poll=0.02, call=0.15)
ROOT = Path(__file__).parents[2]

CHILD = """
import asyncio, sys
from random import Random
from app.adapters.redis_client import redis_client
from app.adapters.redis_slots import RedisSlot, RedisSlots, RedisSlotTimes
from audio.slots import RegionLimits

async def main(url, holder, count, since):
    client = redis_client(url)
    times = RedisSlotTimes(lease=1.5, beat=0.1, alive=0.6, settle=0.0, poll=0.02)
    slots = RedisSlots(client, {"a-1": RegionLimits(4, 100)}, holder=holder, rng=Random(1), times=times)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(slots.run())
        for number in range(count):
            print("waiting", flush=True)
            await slots.acquire(["a-1"], session="s", priority="normal", since=since)
            print("got", flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
"""


@pytest.fixture
def server(need: Callable[[str], Path]) -> Iterator[RedisServer]:
    with running(str(need("redis-server"))) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = redis_client(server.url)
    yield client
    await client.aclose()


class Task:
    """Slots as a task has them, on a client of its own."""

    def __init__(self, slots: RedisSlots) -> None:
        self.slots = slots

    async def get(self, since: float = 0.0, priority: str = "normal", region: str = A) -> Slot:
        return await self.slots.acquire([region], session="s", priority=priority, since=since)


@asynccontextmanager
async def task(
    server: RedisServer,
    holder: str,
    *,
    streams: int = 4,
    starts: int = 1000,
    times: RedisSlotTimes = QUICK,
) -> AsyncIterator[Task]:
    client = redis_client(server.url)
    limits = {A: RegionLimits(streams, starts), B: RegionLimits(streams, starts)}
    slots = RedisSlots(client, limits, holder=holder, rng=Random(holder), times=times)  # noqa: S311 - jitter
    talking = asyncio.ensure_future(slots.run())
    try:
        yield Task(slots)
    finally:
        talking.cancel()
        await asyncio.wait([talking])
        await client.aclose()
    assert talking.cancelled()


@contextmanager
def child(
    server: RedisServer, holder: str, count: int, since: float = 0.0
) -> Iterator[subprocess.Popen[str]]:
    """A process that takes ``count`` of four slots, one after the other; says ``waiting`` and ``got``."""
    command = [sys.executable, "-c", CHILD, server.url, holder, str(count), str(since)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """What it says next."""
    assert process.stdout is not None
    return [(await asyncio.to_thread(process.stdout.readline)).strip() for _ in range(count)]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


async def taken(client: Redis, region: str = A) -> int:
    return int(await client.zcard(scripts.slots_key(region)))


async def test_two_processes_share_one_quota_and_the_slots_of_a_killed_one_are_taken_when_they_expire(
    server: RedisServer, client: Redis
) -> None:
    with child(server, "first", 3) as first, ExitStack() as later:
        assert await lines(first, 6) == ["waiting", "got"] * 3
        second = later.enter_context(child(server, "second", 3))
        assert await lines(second, 3) == ["waiting", "got", "waiting"]
        await asyncio.sleep(1.0)
        assert await taken(client) == 4
        first.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert await lines(second, 3) == ["got", "waiting", "got"]
        assert 0.9 < time.monotonic() - killed < 4.0
        assert await taken(client) == 3


async def test_who_waits_in_a_killed_process_leaves_the_queue(server: RedisServer, client: Redis) -> None:
    async with task(server, "here") as here:
        held = [await here.get() for _ in range(4)]
        with child(server, "there", 1, since=1.0) as there:
            await lines(there, 1)
            await until(lambda: queued(client, 1))
            there.send_signal(signal.SIGKILL)
            held[0].release()
            await asyncio.wait_for(here.get(), 5.0)
        assert await client.zcard(scripts.queue_key(A)) == 0


async def queued(client: Redis, count: int) -> bool:
    return int(await client.zcard(scripts.queue_key(A))) == count


async def test_a_task_that_ends_in_order_gives_its_slots_back_at_once(
    server: RedisServer, client: Redis
) -> None:
    async with task(server, "a") as leaving:
        for _ in range(4):
            await leaving.get()
        assert await taken(client) == 4
    assert await taken(client) == 0


async def test_nothing_stays_in_a_redis_that_nobody_uses(server: RedisServer, client: Redis) -> None:
    with child(server, "first", 4) as first:
        await lines(first, 8)
        with child(server, "second", 1) as second:
            await lines(second, 1)
            await until(lambda: queued(client, 1))
    await until(lambda: empty(client), 5.0)


async def empty(client: Redis) -> bool:
    return not await client.keys()


async def test_renewal_keeps_slots_as_long_as_their_task_lives(server: RedisServer, client: Redis) -> None:
    async with task(server, "a", streams=3) as one:
        held = [await one.get() for _ in range(3)]
        await asyncio.sleep(2 * QUICK.lease)
        assert await taken(client) == 3
        assert all(slot.held for slot in held)


def overtaken(order: list[tuple[int, float]], turns: list[tuple[int, float]]) -> int:
    """The most that were still waiting in front of one who was served."""
    waiting = sorted(turns)
    most = 0
    for one in order:
        most = max(most, waiting.index(one))
        waiting.remove(one)
    return most


async def wait_and_hold(
    task: Task,
    turn: tuple[int, float],
    served: dict[str, tuple[int, float]],
    inside: list[int],
    seconds: float,
) -> None:
    slot = await task.get(turn[1], "high" if turn[0] == 0 else "normal")
    assert isinstance(slot, RedisSlot)
    served[slot.name] = turn
    inside.append(inside[-1] + 1)
    await asyncio.sleep(seconds)
    inside.append(inside[-1] - 1)
    slot.release()


async def watch_starts(client: Redis, starts: dict[str, float]) -> None:
    """Each start that Redis allows, in order: the lease, and Redis's time of it in seconds."""
    async with client.monitor() as monitor:
        async for entry in monitor.listen():
            words = entry["command"].split(" ")
            if words[0].lower() == "zadd" and words[1].endswith(":starts"):
                starts[words[3]] = float(words[2]) / 1000.0


@pytest.mark.long
async def test_200_waiters_of_four_tasks_get_25_slots_in_order_and_25_starts_a_second(
    server: RedisServer, client: Redis
) -> None:
    turns = [(number % 4 // 3 ^ 1, 1e9 + number) for number in range(200)]
    random.Random(3).shuffle(turns)  # noqa: S311 - an order
    served: dict[str, tuple[int, float]] = {}
    starts: dict[str, float] = {}
    inside = [0]
    times = RedisSlotTimes(settle=0.2, call=5.0)
    async with AsyncExitStack() as stack:
        tasks = [
            await stack.enter_async_context(task(server, f"t{number}", streams=25, starts=25, times=times))
            for number in range(4)
        ]
        blocking = [await tasks[0].get() for _ in range(25)]
        monitoring = asyncio.ensure_future(watch_starts(client, starts))
        async with asyncio.TaskGroup() as group:
            for number, turn in enumerate(turns):
                group.create_task(wait_and_hold(tasks[number % 4], turn, served, inside, 0.3))
            await until(lambda: queued(client, 200))
            for slot in blocking:
                slot.release()
        monitoring.cancel()
        await asyncio.wait([monitoring])
    assert max(inside) <= 25
    assert len(served) == 200
    # Who is served may have in front of it those of other tasks for whom a place is kept until they come for it.
    assert overtaken([served[lease] for lease in starts], turns) < 25
    times_of = list(starts.values())
    assert max(sum(1 for other in times_of if at <= other < at + 1.0) for at in times_of) <= 25
    assert times_of[-1] - times_of[0] < 20.0


async def test_with_one_slot_the_order_is_exact_across_tasks(server: RedisServer) -> None:
    turns = [(number % 2, 1e9 + number / 1000) for number in range(40)]
    served: dict[str, tuple[int, float]] = {}
    inside = [0]
    async with AsyncExitStack() as stack:
        tasks = [
            await stack.enter_async_context(task(server, f"t{number}", streams=1)) for number in range(3)
        ]
        blocking = await tasks[0].get()
        async with asyncio.TaskGroup() as group:
            for number, turn in enumerate(turns):
                group.create_task(wait_and_hold(tasks[number % 3], turn, served, inside, 0.0))
            await asyncio.sleep(0.3)
            blocking.release()
    assert list(served.values()) == sorted(turns)
    assert max(inside) == 1


async def get_all(*tasks: Task, count: int) -> list[Slot]:
    return [await one.get() for one in tasks for _ in range(count)]


async def test_while_redis_hangs_running_sessions_keep_their_slots_and_new_ones_wait(
    server: RedisServer, client: Redis
) -> None:
    async with task(server, "a") as one, task(server, "b") as other, asyncio.TaskGroup() as group:
        held = await get_all(one, other, count=2)
        server.pause()
        try:
            waiting = [group.create_task(one.get(2.0)), group.create_task(other.get(1.0))]
            await asyncio.sleep(2 * QUICK.lease)
            assert all(slot.held for slot in held)
            assert not one.slots.room_hint([B])
            assert one.slots.stats.away
            await asyncio.wait_for(held[0].restart(), 0.1)
            assert not any(waiter.done() for waiter in waiting)
        finally:
            server.resume()
        await until(lambda: back(one, other))
        await asyncio.sleep(QUICK.settle + 0.2)
        assert not any(waiter.done() for waiter in waiting)
        assert await taken(client) == 4
        assert [one.slots.stats.over_quota, other.slots.stats.over_quota] == [0, 0]
        held[0].release()
        await asyncio.wait_for(waiting[1], 5.0)
        assert not waiting[0].done()
        held[3].release()
        await asyncio.wait_for(waiting[0], 5.0)


async def back(*tasks: Task) -> bool:
    return not any(one.slots.stats.away for one in tasks)


@pytest.mark.parametrize("how", ["restarted", "emptied", "away, then back empty"])
async def test_a_redis_that_forgot_is_told_of_running_sessions_before_anything_new_is_given(
    server: RedisServer, client: Redis, how: str
) -> None:
    async with task(server, "a") as one, task(server, "b") as other, asyncio.TaskGroup() as group:
        held = await get_all(one, other, count=2)
        waiting = [group.create_task(one.get(2.0)), group.create_task(other.get(1.0))]
        await until(lambda: queued(client, 2))
        if how == "emptied":
            await client.flushall()
        else:
            await client.connection_pool.disconnect()
            server.kill()
            await asyncio.sleep(0.0 if how == "restarted" else 2.0)
            server.start()
        await until(lambda: four(client))
        await asyncio.sleep(QUICK.settle + 0.3)
        assert all(slot.held for slot in held)
        assert not any(waiter.done() for waiter in waiting)
        assert await taken(client) == 4
        for stats in (one.slots.stats, other.slots.stats):
            assert (stats.reentered >= 2, stats.over_quota) == (True, 0)
        held[0].release()
        await asyncio.wait_for(waiting[1], 5.0)
        held[1].release()
        await asyncio.wait_for(waiting[0], 5.0)
        assert await taken(client) == 4


async def four(client: Redis) -> bool:
    return await taken(client) == 4


async def test_leases_that_were_given_away_meanwhile_come_back_above_the_quota_and_are_counted(
    server: RedisServer, client: Redis
) -> None:
    async with task(server, "a") as one, task(server, "b") as other:
        cut_off = [await one.get() for _ in range(2)]
        await client.zremrangebyrank(scripts.slots_key(A), 0, -1)
        taking = [await other.get() for _ in range(4)]
        await client.zrem(scripts.HOLDERS_KEY, "a")
        await until(lambda: counted(one, 2))
        assert await taken(client) == 6
        late = asyncio.ensure_future(other.get())
        for slot in taking[:2]:
            slot.release()
        await asyncio.sleep(0.3)
        assert not late.done()
        cut_off[0].release()
        await asyncio.wait_for(late, 5.0)


async def counted(task: Task, count: int) -> bool:
    return task.slots.stats.over_quota == count


async def test_a_grant_whose_answer_was_lost_is_found_again_and_not_doubled(
    server: RedisServer, client: Redis
) -> None:
    async with task(server, "a") as one, asyncio.TaskGroup() as group:
        await one.get()
        for _ in range(3):
            server.pause()
            getting = group.create_task(one.get())
            await asyncio.sleep(QUICK.call + 0.05)
            server.resume()
            await asyncio.wait_for(getting, 5.0)
        await asyncio.sleep(0.3)
        assert await taken(client) == one.slots.stats.held == 4


async def test_waits_cancelled_while_redis_hangs_leave_nothing_behind(
    server: RedisServer, client: Redis
) -> None:
    async with task(server, "a") as one:
        await one.get()
        server.pause()
        waiting = [asyncio.ensure_future(one.get()) for _ in range(5)]
        await asyncio.sleep(QUICK.call + 0.05)
        for waiter in waiting:
            waiter.cancel()
        await asyncio.wait(waiting)
        server.resume()
        await until(lambda: back(one))
        await until(lambda: is_one(client))
        assert one.slots.stats.held == 1
        assert await queued(client, 0)


async def is_one(client: Redis) -> bool:
    return await taken(client) == 1


async def test_a_redis_that_forgot_its_scripts_is_given_them_again(
    server: RedisServer, client: Redis
) -> None:
    async with task(server, "a") as one:
        await one.get()
        await client.script_flush()
        assert (await asyncio.wait_for(one.get(), 5.0)).held


async def test_without_redis_a_server_starts_and_ends(server: RedisServer) -> None:
    server.kill()
    async with task(server, "a") as one:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.get(), 0.5)
        server.start()
        assert (await asyncio.wait_for(one.get(), 5.0)).held


@pytest.mark.parametrize("holder", ["", "a:b", "a b", "a,b", "x" * 129])
async def test_a_holder_whose_name_would_break_others_is_refused(client: Redis, holder: str) -> None:
    with pytest.raises(ValueError, match="holder"):
        RedisSlots(client, {A: RegionLimits()}, holder=holder, rng=Random(1))  # noqa: S311 - jitter


async def test_the_cost_for_a_thousand_sessions_is_small(server: RedisServer, client: Redis) -> None:
    times = RedisSlotTimes(settle=0.0, call=5.0)
    async with task(server, "a", streams=2000, starts=100_000, times=times) as one:
        own = [time.process_time(), await cpu_of(client), time.monotonic()]
        held = await asyncio.gather(*(one.get() for _ in range(1000)))
        print_costs("1 000 slots at once", own, await cpu_of(client), 1000)
        alone = await one.get()
        own = [time.process_time(), await cpu_of(client), time.monotonic()]
        for _ in range(200):
            alone.release()
            alone = await one.get()
        print_costs("one after the other", own, await cpu_of(client), 200)
        own = [time.process_time(), await cpu_of(client), time.monotonic()]
        for _ in range(20):
            await one.slots._renew()
        print_costs("renewal of 1 001 leases", own, await cpu_of(client), 20)
        assert time.monotonic() - own[2] < 20 * 0.1
        assert all(slot.held for slot in held)


async def test_a_turn_costs_the_same_however_many_wait_for_a_region_that_is_full(
    server: RedisServer, client: Redis
) -> None:
    times = RedisSlotTimes(settle=0.0, call=5.0)
    async with task(server, "a", streams=25, starts=100_000, times=times) as one:
        await get_all(one, count=25)
        waiting = [asyncio.ensure_future(one.get()) for _ in range(1000)]
        await until(lambda: queued(client, 1000))
        own = [time.process_time(), await cpu_of(client), time.monotonic()]
        for _ in range(200):
            await one.slots._turn()
        print_costs("a turn while 1 000 wait, with room elsewhere", own, await cpu_of(client), 200)
        assert time.monotonic() - own[2] < 200 * 0.01
        for waiter in waiting:
            waiter.cancel()
        await asyncio.wait(waiting)


async def cpu_of(client: Redis) -> float:
    usage = await client.info("cpu")
    return float(usage["used_cpu_user"]) + float(usage["used_cpu_sys"])


def print_costs(what: str, before: list[float], redis: float, count: int) -> None:
    own = (time.process_time() - before[0]) / count * 1000
    wall = (time.monotonic() - before[2]) / count * 1000
    print(
        f"{what}: {wall:.3f} ms each; CPU {own:.3f} ms here, {(redis - before[1]) / count * 1000:.3f} ms in Redis"
    )
