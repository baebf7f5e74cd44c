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

STEPS = (
    "PUT segments",
    "DELETE audio",
    "DELETE transcript",
    "PUT audio",
    "PUT transcript",
    "PUT manifest",
    "DELETE segments",
)
"""The kinds of writes that a session's end consists of. Audio and transcript are written side by side."""

_KIND = re.compile(r"[/.?-]")
WRITES = {"PUT", "POST", "DELETE"}
DONE = 30.0


class Step:
    """A proxy's rule: of the writes to a session the first of a kind is carried out, and neither it nor a later one answered."""

    def __init__(self, session: str, kind: str) -> None:
        self._session, self._kind = f"/{session}/", kind
        self._never = asyncio.Event()
        self.came = asyncio.Event()

    def __call__(self, request: Request) -> Fault | None:
        if request.method not in WRITES or self._session not in request.target:
            return None
        name = request.target.partition(self._session)[2]
        if self.came.is_set():
            return Fault(gate=self._never)
        if f"{request.method} {_KIND.split(name)[0]}" != self._kind:
            return None
        self.came.set()
        return Fault(answer_gate=self._never)


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
        speakers = await crowd.open(len(STEPS))
        await crowd.changed(lambda: all(speaker.durable and speaker.finals for speaker in speakers))
        for kind, speaker in zip(STEPS, speakers, strict=True):
            await die_at(ward, crowd, speaker, Step(speaker.session, kind), proxy)
        await crowd.end(speakers)
        wrong = await verdict(ward, crowd, speakers)
        assert wrong == [], "\n".join([*wrong, str(ward.folder), *ward.told])


async def die_at(ward: Ward, crowd: Crowd, speaker: Speaker, step: Step, proxy: S3Proxy) -> None:
    """Have somebody stop, and kill the task at this step; another takes its place."""
    await crowd.connected([speaker])
    victim = ward.tasks[speaker.task]
    await through(victim, proxy)
    proxy.rule = step
    speaker.stop()
    async with asyncio.timeout(DONE):
        await step.came.wait()
    await ward.kill(victim)
    await ward.start()
    await ward.forget(victim)
    await crowd.connected(crowd.speakers)


async def through(task: Task, proxy: S3Proxy) -> None:
    """Lead its way to S3 through the proxy."""
    where = urlsplit(proxy.url)
    link = task.links["s3"]
    link.target = (str(where.hostname), int(where.port or 0))
    await link.set(Mode.REFUSE)
    await link.set(Mode.OPEN)
