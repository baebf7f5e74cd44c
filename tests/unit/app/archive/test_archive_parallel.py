from __future__ import annotations

import asyncio

import pytest

from app.archive.parallel import bounded_map
from tests.support.virtual_time import run


def test_results_come_in_the_order_of_the_items_whatever_is_ready_first() -> None:
    async def slow_first(item: int) -> int:
        await asyncio.sleep(10 - item)
        return item * item

    assert run(bounded_map(slow_first, range(10), limit=4)) == [n * n for n in range(10)]
    assert run(bounded_map(slow_first, [], limit=4)) == []


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_no_more_than_the_limit_are_under_way(limit: int) -> None:
    now, most = 0, 0

    async def act(_: int) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(1)
        now -= 1

    run(bounded_map(act, range(20), limit=limit))
    assert most == min(limit, 20)


def test_the_first_failure_is_raised_as_it_is_and_ends_the_others() -> None:
    ended: list[int] = []

    async def act(item: int) -> None:
        try:
            await asyncio.sleep(1 if item == 2 else 100)
        except asyncio.CancelledError:
            ended.append(item)
            raise
        raise KeyError(item)

    with pytest.raises(KeyError, match="2"):
        run(bounded_map(act, range(4), limit=4))
    assert sorted(ended) == [0, 1, 3]


def test_cancelling_leaves_no_task_behind() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await bounded_map(lambda _: asyncio.sleep(100), range(9), limit=3)

    run(scenario())
