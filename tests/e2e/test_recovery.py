"""Whatever dies, nothing that was promised is lost: the server, its Redis, either in the middle of anything."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from app.client.session import StreamOptions
from app.protocol.close import CloseCode
from app.protocol.messages import Draining, FinalMessage, Notice, PartialMessage
from app.protocol.rest import FinalView
from tests.support.processes import children, left_of
from tests.support.raw_socket import eventually
from tests.support.server import ServerProcess
from tests.support.speaking import (
    SECOND,
    Person,
    assert_finals_hold,
    assert_tidy,
    assert_whole,
    cut_off,
    names,
    running,
)
from tests.support.wire import wire

pytestmark = pytest.mark.timeout(120)

StartServer = Callable[..., ServerProcess]
ENGINES = ["null", pytest.param("pocketsphinx", marks=pytest.mark.long)]

SEGMENT = 5 * SECOND // 2
"""Samples in a whole segment."""


@asynccontextmanager
async def served(server: ServerProcess) -> AsyncIterator[Person]:
    async with server, await Person.of(server) as person:
        yield person


async def assert_nothing_runs_on(server: ServerProcess) -> None:
    """Kill the server: its Redis and its decoders go with it."""
    family = children(server.process.pid)
    assert "redis-server" in {child.name for child in family}
    record = msgspec.json.decode((server.data_dir / "redis.json").read_bytes(), type=dict[str, str | int])
    await server.kill()
    assert await left_of(family) == []
    # A process of several threads is a zombie a moment before its sockets are closed.
    await eventually(partial(takes_calls, str(record["socket"])), lambda taken: not taken, 5.0)


async def takes_calls(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            peer.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


# kill -9 in the middle --------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_killed_session_is_resumed(
    server_factory: StartServer, sample_pcm: bytes, engine: str
) -> None:
    said = sample_pcm if engine == "null" else sample_pcm[: 40 * SECOND]
    async with served(server_factory(engine=engine)) as person:
        created = await person.create()
        silent = await person.create()
        speaking = person.speaking(created, said, StreamOptions())
        async with running(speaking):
            await speaking.until(lambda s: s.acked.durable >= 3 * SEGMENT)
            await assert_nothing_runs_on(person.server)
            acked = speaking.acked.durable
            assert acked < len(said) // 2
            await person.server.start()
        await assert_whole(person, speaking, said)
        assert speaking.client.sent.connections == 2
        assert (await person.view(silent.session_id)).state == "created"
        assert await person.listed() == {created.session_id: "completed", silent.session_id: "created"}


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_session_that_nobody_resumes_is_finished_and_can_be_reopened(
    server_factory: StartServer, sample_pcm: bytes, engine: str
) -> None:
    said = sample_pcm if engine == "null" else sample_pcm[: 40 * SECOND]
    async with served(server_factory(engine=engine, resume_window_seconds="2")) as person:
        created = await person.create()
        speaking = person.speaking(created, said, StreamOptions())
        async with cut_off(speaking):
            await speaking.until(lambda s: s.acked.durable >= 4 * SEGMENT)
            await person.server.kill()
            acked = speaking.acked.durable
        await person.server.start()
        view = await person.view(created.session_id)
        assert view.state == "detached"
        assert view.positions.durable >= acked

        abandoned = await person.reaches(created.session_id, "completed")
        kept = await person.audio(created.session_id)
        assert len(kept) // 2 == abandoned.samples >= acked
        assert kept == said[: len(kept)]
        assert len(kept) < len(said)
        stored = (await person.transcript(created.session_id)).finals
        assert abandoned.finals == len(stored)
        status, report = await person.verify(created.session_id)
        assert status == 0, report
        await assert_tidy(person, created.session_id)

        reopened = person.speaking(await person.again(created), said, StreamOptions())
        await reopened.run()
        transcript = await assert_whole(person, reopened, said)
        assert transcript.finals[: len(stored)] == stored
        assert engine == "null" or len(transcript.finals) > len(stored)


async def test_a_speaker_who_comes_back_while_it_is_given_up_loses_nothing(
    server_factory: StartServer, sample_pcm: bytes
) -> None:
    async with served(server_factory(engine="null", resume_window_seconds="1")) as person:
        created = await person.create()
        speaking = person.speaking(created, sample_pcm, StreamOptions())
        async with cut_off(speaking):
            await speaking.until(lambda s: s.acked.received >= len(sample_pcm) // 2 - SEGMENT)
        back = person.speaking(await person.again(created), sample_pcm, StreamOptions())
        await person.reaches(created.session_id, "finishing")
        await back.run()
        await assert_whole(person, back, sample_pcm)


async def finals_of(person: Person, session_id: str) -> list[FinalView]:
    """The finals, once there are any."""
    async with asyncio.timeout(30):
        while True:
            transcript = await person.transcript(session_id)
            if transcript.finals:
                return transcript.finals
            await asyncio.sleep(0.05)


async def test_finals_that_died_with_redis_are_taken_back_until_the_client_has_heard_of_it(
    server_factory: StartServer, sample_pcm: bytes
) -> None:
    async with served(server_factory(engine="pocketsphinx", segment_seconds="12")) as person:
        created = await person.create()
        async with wire(created.stream_url, created.ticket) as (line, ready):
            await line.speak(sample_pcm[: 14 * SECOND])
            lost = await line.hear(FinalMessage)
            await person.server.kill()
        await person.server.start()
        assert (await person.transcript(created.session_id)).finals == []

        async with wire(created.stream_url, ready.resume_ticket, after=lost.seq):
            pass
        (again, *_) = await finals_of(person, created.session_id)
        async with wire(created.stream_url, ready.resume_ticket, after=lost.seq) as (line, _):
            notice = await line.hear(Notice)
            assert (notice.code, notice.seq) == ("finals_rewound", 0)
            final = await line.hear(FinalMessage)
        assert (final.seq, final.id, final.text) == (1, again.id, again.text)


# Orderly ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "engine"),
    [
        pytest.param(signal.SIGINT, "pocketsphinx", marks=pytest.mark.long, id="ctrl-c"),
        pytest.param(signal.SIGTERM, "null", id="term"),
    ],
)
async def test_a_server_that_is_told_to_end_loses_nothing(
    server_factory: StartServer, sample_pcm: bytes, number: signal.Signals, engine: str
) -> None:
    said = sample_pcm[: 30 * SECOND]
    async with served(server_factory(engine=engine)) as person:
        created = await person.create()
        speaking = person.speaking(created, said, StreamOptions(realtime=True))
        async with cut_off(speaking):
            await speaking.until(lambda s: s.acked.received > SEGMENT // 2)
            family = children(person.server.process.pid)
            assert await person.server.stop(number) == 0
            assert await left_of(family) == []
            await speaking.until(lambda s: len(s.client.sent.close_codes) == 1)
        assert any(isinstance(event, Draining) for event in speaking.events)
        assert list(speaking.client.sent.close_codes) == [CloseCode.RESTARTING]
        assert not (person.server.data_dir / "redis.json").exists()

        await person.server.start()
        view = await person.view(created.session_id)
        assert view.state == "detached"
        assert view.positions.durable >= speaking.acked.received
        status, report = await person.verify(created.session_id)
        assert status == 0, report
        stored = (await person.transcript(created.session_id)).finals
        assert_finals_hold(speaking.finals, stored[: len(speaking.finals)])

        resumed = person.speaking(await person.again(created), said, StreamOptions())
        await resumed.run()
        transcript = await assert_whole(person, resumed, said)
        assert transcript.finals[: len(stored)] == stored


@pytest.mark.long
async def test_a_client_that_stays_goes_on_by_itself_after_a_restart(
    server_factory: StartServer, sample_pcm: bytes
) -> None:
    said = sample_pcm[: 30 * SECOND]
    async with served(server_factory(engine="pocketsphinx")) as person:
        speaking = person.speaking(await person.create(), said, StreamOptions())
        async with running(speaking):
            await speaking.until(lambda s: len(s.finals) >= 2)
            assert await person.server.stop() == 0
            await person.server.start()
        await assert_whole(person, speaking, said)
        assert speaking.rewinds == 0
        assert list(speaking.client.sent.close_codes) == [CloseCode.RESTARTING, CloseCode.DONE]


# Redis ------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_captions_and_the_list_survive_the_death_of_redis(
    server_factory: StartServer, sample_pcm: bytes
) -> None:
    said = sample_pcm[: 40 * SECOND]
    async with served(server_factory(engine="pocketsphinx")) as person:
        before = await person.create("before")
        speaking = person.speaking(await person.create(), said, StreamOptions())
        async with running(speaking):
            await speaking.until(lambda s: len(s.finals) >= 2)
            (redis,) = [c for c in children(person.server.process.pid) if c.name == "redis-server"]
            redis.kill()
            told = len(speaking.events)
            await speaking.until(
                lambda s: {PartialMessage, FinalMessage} <= {type(event) for event in s.events[told:]}
            )
        await assert_whole(person, speaking, said)
        assert speaking.rewinds == 0
        assert speaking.client.sent.connections == 1
        expected = {before.session_id: "created", speaking.session_id: "completed"}
        async with asyncio.timeout(20):
            while True:
                answer = await person.http.get("/v1/sessions")
                if answer.status_code == 200 and await person.listed() == expected:
                    break
                await asyncio.sleep(0.05)


# Killed while finishing -------------------------------------------------------------------------

Moment = Callable[[set[str]], bool]

MOMENTS: dict[str, Moment] = {
    "stop_sent": lambda _: True,
    "audio": lambda there: any(name.startswith("audio-") for name in there),
    "transcript": lambda there: any(name.startswith("transcript-") for name in there),
    "manifest": lambda there: "manifest.json" in there,
    "first_segment_gone": lambda there: "manifest.json" in there and "segments/000000000000-1" not in there,
    "half_of_the_segments_gone": lambda there: (
        "manifest.json" in there and sum(name.startswith("segments/") for name in there) < 10
    ),
}


def kill_at(pid: int, folder: Path, moment: Moment) -> set[str]:
    """SIGKILL as soon as the folder looks so; what was in it then. Runs in a thread: moments are short."""
    while True:
        there = set(names(folder))
        if moment(there):
            os.kill(pid, signal.SIGKILL)
            return there


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
async def test_killed_at_every_step_of_finishing(
    server_factory: StartServer, sample_pcm: bytes, engine: str
) -> None:
    """With the whole sample on the null engine, so that there is much to tidy up; on the other, finals are at stake."""
    said = sample_pcm if engine == "null" else sample_pcm[: 12 * SECOND]
    moments = MOMENTS if engine == "null" else {name: MOMENTS[name] for name in ("stop_sent", "manifest")}
    async with served(server_factory(engine=engine)) as person:
        for name, moment in moments.items():
            speaking = person.speaking(await person.create(name), said, StreamOptions())
            async with running(speaking):
                await speaking.until(lambda s: s.client.outbox.finished)
                folder, pid = person.folder(speaking.session_id), person.server.process.pid
                there = await asyncio.to_thread(kill_at, pid, folder, moment)
                await person.server.process.wait()
                print(f"{name}: {len(there)} objects when killed")
                await person.server.start()
            await assert_whole(person, speaking, said)


@pytest.mark.long
async def test_what_a_killed_finisher_left_is_tidied_up_without_a_client(
    server_factory: StartServer, sample_pcm: bytes
) -> None:
    async with served(server_factory(engine="null", resume_window_seconds="1")) as person:
        for name in ("audio", "first_segment_gone"):
            speaking = person.speaking(await person.create(name), sample_pcm, StreamOptions())
            async with cut_off(speaking):
                await speaking.until(lambda s: s.client.outbox.finished)
                folder, pid = person.folder(speaking.session_id), person.server.process.pid
                await asyncio.to_thread(kill_at, pid, folder, MOMENTS[name])
                await person.server.process.wait()
            await person.server.start()
            await person.reaches(speaking.session_id, "completed")
            assert await person.audio(speaking.session_id) == sample_pcm
            status, report = await person.verify(speaking.session_id)
            assert status == 0, report
            await assert_tidy(person, speaking.session_id)
