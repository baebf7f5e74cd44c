"""All who speak at once, and the one clock they speak by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Self

from tests.chaos.ward.browser import Browser
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.voice import Voice
from tests.chaos.ward.ward import Ward

TICK_SECONDS = 0.1
LATE_SECONDS = 0.5
OPEN_PER_SECOND = 20.0
READY_SECONDS = 60.0


class Crowd:
    """``async with`` runs the clock; leaving it drops whoever still speaks."""

    def __init__(self, ward: Ward, voice: Voice, random: Random) -> None:
        self._ward, self._voice, self._random = ward, voice, random
        self.speakers: list[Speaker] = []
        self.latest = 0.0
        """By how many seconds the latest tick missed its time."""
        self._group = asyncio.TaskGroup()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._clock: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._clock = self._group.create_task(self._tick())
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in (self._clock, *self._tasks.values()):
            if task is not None:
                task.cancel()
        await self._group.__aexit__(None, None, None)

    def join(self, name: str = "") -> Speaker:
        """One more, who begins at once."""
        number = len(self.speakers)
        random = Random(self._random.getrandbits(64))  # noqa: S311
        offset = random.randrange(self._voice.samples)
        browser = Browser(self._ward.balancer.url, self._ward.token)
        speaker = Speaker(browser, self._voice, offset, random, self._ward.began, name or f"s{number}")
        self.speakers.append(speaker)
        self._tasks[number] = self._group.create_task(speaker.run())
        return speaker

    async def open(self, count: int, *, per_second: float = OPEN_PER_SECOND) -> list[Speaker]:
        """So many more, one after the other; returns when each has a session and a connection."""
        opened = []
        for _ in range(count):
            opened.append(self.join())
            await asyncio.sleep(1 / per_second)
        await self.connected(opened)
        return opened

    async def connected(self, speakers: Iterable[Speaker], seconds: float = READY_SECONDS) -> None:
        """Return when each has a connection that is ready, or is through."""
        waiting = [speaker for speaker in speakers if not speaker.completed]
        try:
            async with asyncio.timeout(seconds):
                for speaker in waiting:
                    await speaker.ready.wait()
        except TimeoutError:
            left = [speaker.state() for speaker in waiting if not speaker.ready.is_set()]
            raise AssertionError(f"{len(left)} are not connected after {seconds} s: {left[:5]}") from None

    async def captioned(self, speakers: Iterable[Speaker], seconds: float = 60.0) -> None:
        """Return when each has been shown something new since its mark, or is through; or after ``seconds``."""
        until = time.monotonic() + seconds
        while any(s.marked and not s.completed for s in speakers) and time.monotonic() < until:  # noqa: ASYNC110 - several people's captions
            await asyncio.sleep(0.05)

    async def changed(self, holds: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Return when ``holds``, which is asked over and over."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, [speaker.state() for speaker in self.speakers]
            await asyncio.sleep(TICK_SECONDS)

    async def end(self, speakers: Sequence[Speaker], seconds: float = 120.0) -> None:
        """Stop them, and return when all are completed."""
        for speaker in speakers:
            speaker.stop()
        tasks = [self._tasks[self.speakers.index(speaker)] for speaker in speakers]
        await asyncio.wait(tasks, timeout=seconds)
        left = [speaker.state() for speaker in speakers if not speaker.completed]
        assert not left, f"{len(left)} of {len(speakers)} are not completed after {seconds} s: {left[:5]}"

    def faults(self) -> list[str]:
        """What broke the contract, of whom."""
        return [f"{fault}: {speaker.state()}" for speaker in self.speakers for fault in speaker.faults[:1]]

    async def _tick(self) -> None:
        begin, turn = time.monotonic(), 0
        while True:
            speakers = [speaker for speaker in self.speakers if not speaker.completed]
            late = time.monotonic() - (begin + turn * TICK_SECONDS)
            self.latest = max(self.latest, late)
            if late > LATE_SECONDS:
                begin, turn = time.monotonic(), 0
            for place, speaker in enumerate(speakers):
                speaker.tick(late=late > LATE_SECONDS)
                # A burst every tenth of a second would be nothing that two hundred microphones do.
                if place % 10 == 9:
                    due = begin + (turn + place / len(speakers)) * TICK_SECONDS
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            turn += 1
            await asyncio.sleep(max(0.001, begin + turn * TICK_SECONDS - time.monotonic()))


def spread(seconds: Sequence[float]) -> str:
    """p50, p99 and the worst, for people."""
    if not seconds:
        return "none"
    row = sorted(seconds)
    p50, p99 = row[len(row) // 2], row[min(len(row) - 1, int(len(row) * 0.99))]
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, worst {row[-1]:.2f} s of {len(row)}"
