"""A minute of a server that is killed, ended and started again at random, under speakers whose connections drop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from random import Random, SystemRandom

import pytest

from app.client.session import StreamOptions
from audio.codec import read_audio
from tests.support.processes import children, left_of
from tests.support.server import ServerProcess
from tests.support.speaking import SECOND, Person, Speaking, assert_whole

SESSIONS = 10
CHAOS_SECONDS = 60.0
LIFE_SECONDS = (2.0, 8.0)
"""How long a server may live."""

DROP_SECONDS = (0.1, 0.8)
"""How long until the next connection is cut."""

SEED = "KIKITORI_TEST_SEED"
"""An environment variable, to see a run again; no two are quite the same."""


async def end_server(server: ServerProcess, random: Random) -> str:
    """End it in one way or another; which."""
    way = random.choice(["kill", "kill", "term", "term then kill"])
    if way == "kill":
        await server.kill()
    else:
        server.process.send_signal(signal.SIGTERM)
        patience = 90.0 if way == "term" else random.uniform(0.0, 1.0)
        try:
            async with asyncio.timeout(patience):
                status = await server.process.wait()
        except TimeoutError:
            assert way == "term then kill", f"still there {patience} s after SIGTERM"
            await server.kill()
        else:
            assert status == 0
    return way


async def haunt(server: ServerProcess, random: Random, until: float) -> list[str]:
    """End the server and start it again, over and over; how often in which way."""
    ways: list[str] = []
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await asyncio.sleep(random.uniform(*LIFE_SECONDS))
        if random.random() < 0.2:
            (redis,) = [c for c in children(server.process.pid) if c.name == "redis-server"]
            redis.kill()
            ways.append("redis")
        else:
            family = children(server.process.pid)
            ways.append(await end_server(server, random))
            assert await left_of(family) == []
            await server.start()
    return ways


async def cut(speakers: list[Speaking], random: Random, until: float) -> None:
    """Drop one connection after another."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await asyncio.sleep(random.uniform(*DROP_SECONDS))
        random.choice(speakers).client.drop()


@pytest.mark.timeout(300)
async def test_a_minute_of_kills(tmp_path: Path, sample_wav: Path) -> None:
    seed = int(os.environ.get(SEED) or SystemRandom().getrandbits(32))
    print(f"seed {seed}")
    sample_pcm = read_audio(sample_wav)
    random = Random(seed)  # noqa: S311
    settings = {"engine": "pocketsphinx", "pocketsphinx_workers": "4", "drain_seconds": "1"}
    async with (
        ServerProcess(tmp_path / "data", environment=None, **settings) as server,
        await Person.of(server) as person,
    ):
        said, speakers = [], []
        for number in range(SESSIONS):
            start = random.randrange(30) * SECOND
            said.append(sample_pcm[start : start + random.randrange(20, 60) * SECOND])
            options = StreamOptions(realtime=True, frame_bytes=random.choice([320, 3_200, 8_190]))
            speakers.append(person.speaking(await person.create(), said[-1], options, seed + number))
        until = asyncio.get_running_loop().time() + CHAOS_SECONDS
        async with asyncio.TaskGroup() as group:
            for speaker in speakers:
                group.create_task(speaker.run())
            haunted = group.create_task(haunt(server, random, until))
            group.create_task(cut(speakers, random, until))
        for speaker, pcm in zip(speakers, said, strict=True):
            await assert_whole(person, speaker, pcm)
        assert set((await person.listed()).values()) == {"completed"}
        family = children(server.process.pid)
        assert await server.stop() == 0
        assert await left_of(family) == []
    print(
        f"ended by {haunted.result()}; {sum(s.client.sent.connections for s in speakers)} connections, "
        f"{sum(len(s.finals) for s in speakers)} finals, {sum(s.rewinds for s in speakers)} rewinds"
    )
