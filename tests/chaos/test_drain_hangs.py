"""A server with two hundred sessions that is told to end while its archive hangs: it ends, and what is not safe is its clients'."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest

from app.protocol.close import CloseCode
from app.protocol.messages import Draining
from audio.codec import read_audio
from tests.chaos.ward.link import Link, Mode
from tests.support.moto_server import running as running_moto
from tests.support.s3_served import ArchiveInS3
from tests.support.speaking import SECOND, Person
from tests.support.wire import Wire, wire

SESSIONS = 200
AT_ONCE = 8
STOP_SECONDS = 120
"""What a platform gives a task between SIGTERM and SIGKILL."""

SPARE_SECONDS = 30


async def speaker(stack: AsyncExitStack, person: Person, pcm: bytes, places: asyncio.Semaphore) -> Wire:
    async with places:
        created = await person.create()
        line, _ = await stack.enter_async_context(wire(created.stream_url, created.ticket))
        await line.speak(pcm)
        return line


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_two_hundred_sessions_are_let_go_although_the_archive_hangs(
    tmp_path: Path, sample_wav: Path
) -> None:
    pcm, places = read_audio(sample_wav)[:SECOND], asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:
        moto = stack.enter_context(running_moto())
        target = urlsplit(moto.url)
        assert target.hostname is not None
        assert target.port is not None
        cable = await stack.enter_async_context(Link((target.hostname, target.port), Random(1)))  # noqa: S311
        archive = await ArchiveInS3.new(moto)
        server = archive.served(tmp_path / "data", f"http://127.0.0.1:{cable.port}", engine="null")
        await stack.enter_async_context(server)
        person = await stack.enter_async_context(await Person.of(server))
        async with asyncio.TaskGroup() as group:
            entering = [group.create_task(speaker(stack, person, pcm, places)) for _ in range(SESSIONS)]
        lines = [task.result() for task in entering]

        await cable.set(Mode.HOLE)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.TaskGroup() as group:
            closing = [group.create_task(line.closed(STOP_SECONDS)) for line in lines]
        told = time.monotonic() - begun
        async with asyncio.timeout(STOP_SECONDS):
            assert await server.process.wait() == 0
        took = time.monotonic() - begun
        print(f"{SESSIONS} sessions: all speakers sent away after {told:.1f} s, ended after {took:.1f} s")
        assert {task.result() for task in closing} == {CloseCode.RESTARTING}
        assert all(any(isinstance(message, Draining) for message in line.heard) for line in lines)
        assert took < STOP_SECONDS - SPARE_SECONDS
