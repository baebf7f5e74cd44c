"""Doing the same to many objects, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def bounded_map(action: Callable[[T], Awaitable[R]], items: Sequence[T], *, limit: int) -> list[R]:
    """``action`` on each item, at most ``limit`` at once; results in the order of ``items``.

    The first failure cancels the others and is raised as it is. Cancellation-safe: no task outlives the call.
    """
    results: dict[int, R] = {}
    queue = iter(enumerate(items))

    async def work() -> None:
        for index, item in queue:
            results[index] = await action(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [results[index] for index in range(len(items))]
