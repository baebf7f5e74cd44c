"""Rounds of chaos: people speak, things go wrong, all is put right, and everything must be as if nothing had happened."""

from __future__ import annotations

import asyncio
import time
import wave
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.ward.browser import Browser
from tests.chaos.ward.checker import Checker, unlisted
from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.observer import Observer
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.strikes import Strikes
from tests.chaos.ward.voice import Voice
from tests.chaos.ward.ward import Ward, opened

SAMPLE = Path(__file__).parents[2] / "data" / "consultation.wav"
SESSIONS = 24
OBSERVERS = 3
TASKS = 3
ROUND_SECONDS = 45.0
CAUGHT_UP_SECONDS = 30.0
HARMLESS = {"engine_waiting", "engine_restarted"}
"""Notices that a page need not show."""

RESUME_SECONDS = "60"
"""Longer than any strike: nobody is given up, so each session must come to the end that its speaker means."""

BURIED_SECONDS = 90.0
"""For what tasks noted of sessions to go: a resume window, which is seen a few beats late."""


@dataclass
class Report:
    """What happened, and what was wrong; ``str`` is for people."""

    seed: int
    rounds: int = 0
    spoke: list[Speaker] = field(default_factory=list)
    samples: int = 0
    finals: int = 0
    rewinds: int = 0
    connections: int = 0
    observed: int = 0
    strikes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        struck = ", ".join(f"{name} {count}" for name, count in self.strikes.most_common())
        head = (
            f"seed {self.seed}: {self.rounds} rounds, {len(self.spoke)} sessions with {self.samples / 16_000:.0f} s of sound on "
            f"{self.connections} connections, {self.finals} finals, {self.rewinds} rewinds, {self.observed} connections of "
            f"observers; {struck}"
        )
        return "\n".join([head, *self.faults])


def voice() -> Voice:
    """The sample consultation."""
    with wave.open(str(SAMPLE)) as file:
        return Voice(file.readframes(file.getnframes()))


async def verdict(
    ward: Ward, crowd: Crowd, speakers: list[Speaker], earlier: Sequence[Speaker] = ()
) -> list[str]:
    """What is wrong with sessions that have ended, in Redis and in the archive; ``earlier``: see ``Checker.faults``."""
    listed = await unlisted(Browser(ward.balancer.url, ward.token), speakers)
    return crowd.faults() + listed + await asyncio.to_thread(_checker(ward).faults, speakers, earlier)


async def unburied(ward: Ward, speakers: Sequence[Speaker]) -> list[str]:
    """What tasks, whose resume window is ``RESUME_SECONDS``, have not forgotten after ``BURIED_SECONDS``."""
    return await asyncio.to_thread(_checker(ward).unburied, speakers, BURIED_SECONDS)


def _checker(ward: Ward) -> Checker:
    return Checker(ward.archive, str(ward.redis.socket_path))


async def chaos(folder: Path, seed: int, seconds: float, *, observers: int = OBSERVERS) -> Report:
    """Rounds for so long, each of less than a minute; stops at the first that leaves anything wrong."""
    report, random = Report(seed), Random(seed)  # noqa: S311
    async with opened(folder, random, tasks=TASKS, resume_window_seconds=RESUME_SECONDS) as ward:
        until = time.monotonic() + seconds
        while not report.faults and time.monotonic() < until:
            length = min(ROUND_SECONDS, max(20.0, until - time.monotonic()))
            await _round(ward, random, length, report, observers)
        report.faults += await unburied(ward, report.spoke)
        if report.faults:
            report.faults += [f"logs: {ward.folder}", *ward.told]
    return report


async def _round(ward: Ward, random: Random, seconds: float, report: Report, observers: int) -> None:
    async with Crowd(ward, voice(), random) as crowd, asyncio.TaskGroup() as group:
        watchers = [
            Observer(Browser(ward.balancer.url, ward.token), random, lossy=True) for _ in range(observers)
        ]
        watching = [group.create_task(watcher.run()) for watcher in watchers]
        speakers = await crowd.open(SESSIONS)
        strikes = Strikes(ward, crowd, watchers, random)
        await strikes.rage(seconds)
        await ward.steady()
        await crowd.end(speakers)
        for watcher in watchers:
            report.faults += await watcher.has(speakers, CAUGHT_UP_SECONDS)
        for task in watching:
            task.cancel()
        report.faults += await verdict(ward, crowd, speakers, report.spoke)
    _add(report, speakers, watchers, strikes)


def _add(report: Report, speakers: list[Speaker], watchers: list[Observer], strikes: Strikes) -> None:
    report.rounds += 1
    report.spoke += speakers
    report.samples += sum(speaker.spoken_to or 0 for speaker in speakers)
    report.finals += sum(len(speaker.finals) for speaker in speakers)
    report.rewinds += sum(speaker.rewinds for speaker in speakers)
    report.connections += sum(speaker.connections for speaker in speakers)
    report.observed += sum(watcher.connections for watcher in watchers)
    report.strikes += strikes.counts
