"""A task dies between each two steps of finishing a session: whoever comes next ends with the same."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
import uvloop

from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.link import Mode
from tests.chaos.ward.rounds import RESUME_SECONDS, verdict, voice
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.ward import Task, Ward, opened
from tests.support.s3_proxy import Fault, Request, S3Proxy, proxied

STEPS = 10
"""Enough to come to the deletes, with which a session that spoke for some seconds ends."""

KINDS = {
    "PUT segments",
    "DELETE audio",
    "DELETE transcript",
    "PUT audio",
    "PUT transcript",
    "PUT manifest",
    "DELETE segments",
}
"""After each of these a task must have died."""

_KIND = re.compile(r"[/.?-]")
WRITES = {"PUT", "POST", "DELETE"}
DONE = 30.0


class Step:
    """A proxy's rule: of the writes to a session the ``number``-th is carried out, and neither it nor a later one answered."""

    def __init__(self, session: str, number: int) -> None:
        self._session, self._number = f"/{session}/", number
        self._never = asyncio.Event()
        self.came = asyncio.Event()
        self.writes: list[str] = []

    @property
    def last(self) -> str:
        """What kind of write was the last to be carried out."""
        return self.writes[: self._number][-1]

    def __call__(self, request: Request) -> Fault | None:
        if request.method not in WRITES or self._session not in request.target:
            return None
        name = request.target.partition(self._session)[2]
        self.writes.append(f"{request.method} {_KIND.split(name)[0]}")
        if len(self.writes) < self._number:
            return None
        held = len(self.writes) > self._number
        self.came.set()
        return Fault(gate=self._never) if held else Fault(answer_gate=self._never)


@pytest.mark.needs("haproxy", "redis-server")
@pytest.mark.timeout(300)
def test_killed_between_each_two_steps(tmp_path: Path) -> None:
    uvloop.run(killed_between_each_two_steps(tmp_path))


async def killed_between_each_two_steps(folder: Path) -> None:
    random = Random(10)  # noqa: S311
    async with (
        opened(folder, random, resume_window_seconds=RESUME_SECONDS) as ward,
        Crowd(ward, voice(), random) as crowd,
        proxied(ward.archive.server.url) as proxy,
    ):
        speakers = await crowd.open(STEPS)
        await crowd.changed(lambda: all(speaker.durable and speaker.finals for speaker in speakers))
        steps = []
        for number, speaker in enumerate(speakers, 1):
            steps.append(await die_at(ward, crowd, speaker, Step(speaker.session, number), proxy))
        print("\n" + "\n".join(f"{step.last}, of {len(step.writes)}" for step in steps))
        assert {step.last for step in steps} >= KINDS
        await crowd.end(speakers)
        wrong = await verdict(ward, crowd, speakers)
        assert wrong == [], "\n".join([*wrong, str(ward.folder), *ward.told])


async def die_at(ward: Ward, crowd: Crowd, speaker: Speaker, step: Step, proxy: S3Proxy) -> Step:
    """Have somebody stop, and kill the task at this step, or when it is through; another takes its place."""
    await crowd.connected([speaker])
    victim = ward.tasks[speaker.task]
    await through(victim, proxy)
    proxy.rule = step
    speaker.stop()
    await crowd.changed(lambda: step.came.is_set() or speaker.completed is not None, DONE)
    await ward.kill(victim)
    await ward.start()
    await ward.forget(victim)
    await crowd.connected(crowd.speakers)
    return step


async def through(task: Task, proxy: S3Proxy) -> None:
    """Lead its way to S3 through the proxy."""
    where = urlsplit(proxy.url)
    link = task.links["s3"]
    link.target = (str(where.hostname), int(where.port or 0))
    await link.set(Mode.REFUSE)
    await link.set(Mode.OPEN)
