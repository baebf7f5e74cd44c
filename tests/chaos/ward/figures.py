"""How long it takes until people are captioned again when the task that they were at is gone."""

from __future__ import annotations

import asyncio

from tests.chaos.ward.crowd import Crowd, spread
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.ward import Task, Ward

BEFORE_SECONDS = 6.0


async def undisturbed(crowd: Crowd) -> str:
    """The times from any moment to the next caption of something new, with nothing wrong: people pause."""
    mark(crowd.speakers, anew=False)
    await asyncio.sleep(BEFORE_SECONDS)
    return captions(crowd.speakers)


async def kill(ward: Ward, crowd: Crowd) -> list[Speaker]:
    """SIGKILL a task; those who were there, once they are captioned again or a minute has passed."""
    (victim, *_) = ward.tasks.values()
    struck = at(crowd, victim)
    mark(struck, anew=True)
    await ward.kill(victim)
    await crowd.captioned(struck)
    await ward.forget(victim)
    return struck


async def terminate(ward: Ward, crowd: Crowd) -> tuple[int, list[Speaker]]:
    """The same with SIGTERM, and the exit status first. It lets go of people one by one: times count from each one's end."""
    (victim, *_) = ward.tasks.values()
    struck = at(crowd, victim)
    mark(struck, anew=True, from_end=True)
    status = await ward.terminate(victim)
    await crowd.captioned(struck)
    return status, struck


def at(crowd: Crowd, task: Task) -> list[Speaker]:
    """Those whose cookie names a task."""
    return [speaker for speaker in crowd.speakers if speaker.task == task.name]


def mark(speakers: list[Speaker], *, anew: bool, from_end: bool = False) -> None:
    """What is measured begins now; see ``Speaker.mark``."""
    for speaker in speakers:
        speaker.mark(anew=anew, from_end=from_end)
        speaker.again.clear()
        speaker.without = 0.0


def captions(speakers: list[Speaker]) -> str:
    """The times to captions since the last mark."""
    return spread([again for speaker in speakers for again in speaker.again])


def told(what: str, struck: list[Speaker]) -> str:
    """A line for people."""
    left = sum(speaker.marked for speaker in struck)
    return (
        f"{what} under {len(struck)}: captions again after {captions(struck)}{f', {left} not yet' if left else ''}; "
        f"without a connection for {spread([speaker.without for speaker in struck])}"
    )
