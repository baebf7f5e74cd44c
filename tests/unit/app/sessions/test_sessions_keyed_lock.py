from __future__ import annotations

import asyncio
from random import Random

import pytest

from app.sessions.keyed_lock import KeyedLock
from tests.support.virtual_time import run


def test_those_with_one_key_take_turns_in_order_and_others_do_not_wait() -> None:
    async def scenario() -> None:
        lock, order = KeyedLock(), list[str]()

        async def work(name: str, key: str) -> None:
            async with lock.held(key):
                order.append(f"{name} in")
                await asyncio.sleep(1)
                order.append(f"{name} out")

        async with asyncio.TaskGroup() as group:
            for name, key in (("a", "x"), ("b", "x"), ("c", "y")):
                group.create_task(work(name, key))
        assert order[:3] == ["a in", "c in", "a out"]
        assert order.index("a out") < order.index("b in")
        assert len(lock) == 0

    run(scenario())


def test_a_lock_is_forgotten_when_nobody_holds_it_or_waits_for_it() -> None:
    async def scenario() -> None:
        lock = KeyedLock()
        async with lock.held("x"), lock.held("y"):
            assert len(lock) == 2
            waiting = asyncio.timeout(1)
            with pytest.raises(TimeoutError):
                async with waiting, lock.held("x"):
                    raise AssertionError
            assert len(lock) == 2
        assert len(lock) == 0

    run(scenario())


def test_whoever_fails_gives_it_back() -> None:
    async def scenario() -> None:
        lock = KeyedLock()
        with pytest.raises(KeyError):
            async with lock.held("x"):
                raise KeyError
        async with lock.held("x"):
            assert len(lock) == 1
        assert len(lock) == 0

    run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_never_two_at_once_whoever_gives_up(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - interleavings

    async def scenario() -> None:
        lock, inside = KeyedLock(), dict.fromkeys("xyz", 0)

        async def work(key: str) -> None:
            await asyncio.sleep(random.random())
            async with lock.held(key):
                inside[key] += 1
                assert inside[key] == 1
                try:
                    await asyncio.sleep(random.random() / 5)
                finally:
                    inside[key] -= 1

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(random.choice("xyz"))) for _ in range(60)]
            for task in random.sample(tasks, 20):
                await asyncio.sleep(0.02)
                task.cancel()
        assert len(lock) == 0

    run(scenario())
