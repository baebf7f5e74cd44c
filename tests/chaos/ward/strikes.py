"""What goes wrong in a ward, at random: each strike ends with everything put right again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.link import Mode
from tests.chaos.ward.observer import Observer
from tests.chaos.ward.ward import Task, Ward

Strike = Callable[[], Awaitable[None]]

LANES = 2
"""Strikes at the same time."""

PAUSE_SECONDS = (0.5, 4.0)
SHORT_SECONDS = (0.3, 8.0)
LONG_SECONDS = (5.0, 20.0)
FREEZE_SECONDS = (2.0, 30.0)


class Strikes:
    """``rage`` strikes until its time is over. ``counts`` has what was done how often."""

    def __init__(self, ward: Ward, crowd: Crowd, observers: list[Observer], random: Random) -> None:
        self._ward, self._crowd, self._observers, self._random = ward, crowd, observers, random
        self._held: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._all: dict[str, tuple[int, Strike]] = {
            "kill": (4, self._kill),
            "terminate": (2, self._terminate),
            "freeze": (2, self._freeze),
            "redis": (2, lambda: self._cut("redis", Mode.REFUSE, Mode.HOLE)),
            "redis of one": (2, lambda: self._cut_one("redis", Mode.REFUSE, Mode.HOLE)),
            "empty redis": (1, self._ward.empty_redis),
            "s3": (2, lambda: self._cut("s3", Mode.REFUSE, Mode.HOLE, Mode.BUSY)),
            "s3 of one": (1, lambda: self._cut_one("s3", Mode.REFUSE, Mode.HOLE, Mode.BUSY)),
            "lost answers": (2, lambda: self._cut("s3", Mode.LOSE)),
            "engine": (2, lambda: self._cut("engine", Mode.REFUSE, Mode.HOLE)),
            "balancer": (1, self._reload),
            "sockets": (4, self._drop),
        }

    async def rage(self, seconds: float) -> None:
        """Strike, in several lanes, for so long and until the last strike is over; all is whole when this returns."""
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(LANES):
                group.create_task(self._lane(until))

    async def _lane(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        names, weights = [*self._all], [weight for weight, _ in self._all.values()]
        while loop.time() < until:
            (name,) = self._random.choices(names, weights)
            self.counts[name] += 1
            await self._all[name][1]()
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Task | None]:
        """A task that no other strike has; None where there would be no other left to serve."""
        free = [task for task in self._ward.tasks.values() if task.running and task.name not in self._held]
        task = self._random.choice(free) if len(free) > 1 else None
        if task is not None:
            self._held.add(task.name)
        try:
            yield task
        finally:
            if task is not None:
                self._held.discard(task.name)

    async def _kill(self) -> None:
        async with self._one() as task:
            if task is not None:
                await self._ward.kill(task)
                await asyncio.sleep(self._random.uniform(0.0, 3.0))
                await self._ward.start()
                await self._ward.forget(task)

    async def _terminate(self) -> None:
        async with self._one() as task:
            if task is not None:
                await self._ward.start()
                status = await self._ward.terminate(task)
                assert status == 0, f"{task.name} ended with {status} after SIGTERM"

    async def _freeze(self) -> None:
        async with self._one() as task:
            if task is not None:
                await self._ward.freeze(task, self._random.uniform(*FREEZE_SECONDS))

    async def _cut(self, what: str, *modes: Mode) -> None:
        if what in self._held:
            return
        self._held.add(what)
        try:
            await self._ward.cut(what, self._random.choice(modes), self._random.uniform(*SHORT_SECONDS))
        finally:
            self._held.discard(what)

    async def _cut_one(self, what: str, *modes: Mode) -> None:
        if what in self._held:
            return
        self._held.add(what)
        try:
            async with self._one() as task:
                if task is not None:
                    seconds = self._random.uniform(*LONG_SECONDS)
                    await self._ward.cut(what, self._random.choice(modes), seconds, [task])
        finally:
            self._held.discard(what)

    async def _reload(self) -> None:
        self._ward.tell("balancer reloads")
        await asyncio.to_thread(self._ward.balancer.reload)

    async def _drop(self) -> None:
        for speaker in self._random.sample(self._crowd.speakers, len(self._crowd.speakers) // 3):
            if speaker.line is not None:
                speaker.line.drop("struck")
        for observer in self._observers:
            if self._random.random() < 0.5:
                observer.drop()
