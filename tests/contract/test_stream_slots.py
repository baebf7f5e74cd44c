"""What all stream slots promise, asked of those of one process and of those in Redis 7, the wheel's Redis 6.2, and a cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from app.adapters.redis_client import any_client
from app.adapters.redis_slots import RedisSlots, RedisSlotTimes
from audio.engine import Throttled, Unavailable
from audio.slots import LocalSlots, RegionLimits, Slot, StreamSlots
from tests.support.redis_cluster import cluster
from tests.support.redis_server import running, wheel_program

TIMES = RedisSlotTimes(settle=0.0, poll=0.02, call=5.0, window=1.0)
A, B = "a-1", "b-1"
NAMES = itertools.count()


class Kit:
    """Makes slots of one kind; those of Redis are empty at first and shared by all that one kit makes."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    @asynccontextmanager
    async def slots(
        self, *, streams: int = 1, starts: int = 100, max_waiting: int = 1000
    ) -> AsyncIterator[StreamSlots]:
        limits = {A: RegionLimits(streams, starts), B: RegionLimits(streams, starts)}
        if self._url is None:
            local = LocalSlots(limits, max_waiting=max_waiting)
            yield local
            local.close()
            return
        client = any_client(self._url)
        await client.flushall()
        holder = f"task-{next(NAMES)}"
        slots = RedisSlots(
            client,
            limits,
            holder=holder,
            rng=Random(1),  # noqa: S311 - jitter
            times=TIMES,
            max_waiting=max_waiting,
        )
        talking = asyncio.ensure_future(slots.run())
        try:
            yield slots
        finally:
            talking.cancel()
            await asyncio.wait([talking])
            await client.aclose()
        assert talking.cancelled()


@pytest.fixture(scope="module", params=["local", "redis 7", "redis 6.2", "cluster"])
def url(request: pytest.FixtureRequest, need: Callable[[str], Path]) -> Iterator[str | None]:
    if request.param == "local":
        yield None
        return
    program = wheel_program() if request.param == "redis 6.2" else str(need("redis-server"))
    if request.param == "cluster":
        with cluster() as nodes:
            yield nodes.url
        return
    with running(program) as server:
        yield server.url


@pytest.fixture
def kit(url: str | None) -> Kit:
    return Kit(url)


async def get(slots: StreamSlots, *regions: str, priority: str = "normal", since: float = 1e9) -> Slot:
    return await slots.acquire(regions or [A], session="s", priority=priority, since=since)


async def quiet() -> None:
    """Time enough for anything that is going to happen."""
    await asyncio.sleep(0.2)


async def hint(slots: StreamSlots, *regions: str) -> bool:
    await quiet()
    return slots.room_hint(regions or [A])


async def test_a_slot_is_given_in_the_first_region_that_has_room(kit: Kit) -> None:
    async with kit.slots() as slots:
        first, second = await get(slots, A, B), await get(slots, A, B)
        assert [first.region, second.region] == [A, B]
        assert first.held
        assert second.held
        first.release()
        assert (await get(slots, B, A)).region == A


async def test_who_finds_no_room_waits_until_a_slot_is_released_and_no_more_are_given_than_there_are(
    kit: Kit,
) -> None:
    async with kit.slots(streams=2) as slots, asyncio.TaskGroup() as tasks:
        held = [await get(slots), await get(slots)]
        waiting = tasks.create_task(get(slots))
        await quiet()
        assert not waiting.done()
        held[0].release()
        held[0].release()
        third = await waiting
        late = tasks.create_task(get(slots))
        await quiet()
        assert not late.done()
        assert [slot.held for slot in (*held, third)] == [False, True, True]
        third.release()
        await late


async def test_the_turn_is_by_priority_then_by_age_then_by_who_asked_first(kit: Kit) -> None:
    order: list[str] = []

    async def wait(slots: StreamSlots, name: str, priority: str, since: float) -> None:
        slot = await get(slots, priority=priority, since=since)
        order.append(name)
        slot.release()

    async with kit.slots() as slots, asyncio.TaskGroup() as tasks:
        held = await get(slots)
        for name, priority, since in [
            ("young", "normal", 1e9 + 3.0),
            ("as old", "normal", 1e9),
            ("as old, later", "normal", 1e9),
            ("older by a millisecond", "normal", 1e9 - 0.001),
            ("high", "high", 1e9 + 9.0),
            ("high, older", "high", 1e9 + 8.0),
            ("from now", "normal", 0.0),
        ]:
            tasks.create_task(wait(slots, name, priority, since))
            await asyncio.sleep(0)
        await quiet()
        held.release()
    assert order == [
        "high, older",
        "high",
        "older by a millisecond",
        "as old",
        "as old, later",
        "young",
        "from now",
    ]


async def test_who_cannot_be_served_where_it_may_go_holds_up_nobody_elsewhere(kit: Kit) -> None:
    async with kit.slots() as slots, asyncio.TaskGroup() as tasks:
        held = await get(slots, A)
        waiting = tasks.create_task(get(slots, A, priority="high"))
        await quiet()
        assert (await get(slots, A, B)).region == B
        assert not waiting.done()
        held.release()
        await waiting


async def test_a_cancelled_wait_leaves_the_queue(kit: Kit) -> None:
    async with kit.slots() as slots, asyncio.TaskGroup() as tasks:
        held = await get(slots)
        gone = tasks.create_task(get(slots, since=1.0))
        next_one = tasks.create_task(get(slots, since=2.0))
        await quiet()
        gone.cancel()
        held.release()
        assert (await next_one).held
        assert gone.cancelled()


@pytest.mark.parametrize("turns", range(8))
async def test_a_wait_cancelled_at_any_moment_costs_no_slot(kit: Kit, turns: int) -> None:
    async with kit.slots() as slots, asyncio.TaskGroup() as tasks:
        held = await get(slots)
        waiting = tasks.create_task(get(slots))
        await quiet()
        held.release()
        for _ in range(turns):
            await asyncio.sleep(0 if turns < 4 else 0.0005)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            waiting.result().release()
        assert (await asyncio.wait_for(get(slots), 5.0)).held


async def test_no_second_has_more_starts_than_the_rate_allows(kit: Kit) -> None:
    at: list[float] = []

    async def start(slots: StreamSlots) -> None:
        await get(slots)
        at.append(asyncio.get_running_loop().time())

    async with kit.slots(streams=100, starts=5) as slots, asyncio.TaskGroup() as tasks:
        began = asyncio.get_running_loop().time()
        for _ in range(12):
            tasks.create_task(start(slots))
    assert at[4] - began < 0.5
    assert at[5] - at[0] > 0.9
    assert at[10] - at[5] > 0.9
    assert at[11] - began < 3.5


async def test_a_start_that_the_rate_refuses_is_sought_in_the_next_region(kit: Kit) -> None:
    async with kit.slots(streams=10, starts=2) as slots:
        assert [(await get(slots, A, B)).region for _ in range(4)] == [A, A, B, B]


async def test_a_restart_counts_as_a_start_keeps_its_slot_and_goes_first(kit: Kit) -> None:
    order: list[str] = []

    async def restart(slot: Slot) -> None:
        await slot.restart()
        order.append("restart")

    async def start(slots: StreamSlots) -> None:
        await get(slots, priority="high")
        order.append("new")

    async with kit.slots(streams=3, starts=2) as slots, asyncio.TaskGroup() as tasks:
        held = await get(slots), await get(slots)
        tasks.create_task(start(slots))
        await quiet()
        for slot in held:
            tasks.create_task(restart(slot))
        await quiet()
        assert order == []
        tasks.create_task(restart(held[0])).cancel()
    assert order == ["restart", "restart", "new"]
    assert held[0].held is False  # the slots are closed


async def test_a_released_slot_starts_nothing(kit: Kit) -> None:
    async with kit.slots() as slots:
        slot = await get(slots)
        slot.release()
        with pytest.raises(Unavailable):
            await slot.restart()


async def test_the_hint_says_whether_there_is_room(kit: Kit) -> None:
    async with kit.slots() as slots:
        assert await hint(slots, A)
        slot = await get(slots, A)
        assert not await hint(slots, A)
        assert await hint(slots, A, B)
        slot.release()
        assert await hint(slots, A)


async def test_too_many_waiters_are_refused(kit: Kit) -> None:
    async with kit.slots(max_waiting=2) as slots:
        await get(slots)
        waiting = [asyncio.ensure_future(get(slots)) for _ in range(2)]
        await quiet()
        with pytest.raises(Throttled):
            await get(slots)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("regions", [[], ["elsewhere"], [A, "elsewhere"]])
async def test_an_unknown_region_is_the_callers_mistake(kit: Kit, regions: list[str]) -> None:
    async with kit.slots() as slots:
        with pytest.raises(ValueError, match="region"):
            await slots.acquire(regions, session="s", priority="normal", since=0.0)


async def test_closing_ends_waits_and_slots(kit: Kit) -> None:
    async with AsyncExitStack() as stack:
        slots = await stack.enter_async_context(kit.slots())
        held = await get(slots)
        waiting = asyncio.ensure_future(get(slots))
        await quiet()
    with pytest.raises(Unavailable):
        await waiting
    assert not held.held
    held.release()
    with pytest.raises(Unavailable):
        await get(slots)
    assert not slots.room_hint([A])
