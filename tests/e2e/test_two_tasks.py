"""Two servers on one data folder and one Redis: whichever dies, or stands still, the other goes on with its sessions."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from app.client.session import StreamOptions
from app.protocol.close import CloseCode
from app.protocol.messages import Completed, Draining, Stop
from app.protocol.rest import SessionCreated
from tests.chaos.ward.link import Link
from tests.support import redis_server
from tests.support.server import ServerProcess
from tests.support.speaking import SECOND, Person, assert_tidy, assert_whole, cut_off, sha256
from tests.support.wire import wire

PATIENCE_SECONDS = 3.0

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def two_tasks(folder: Path, **settings: str) -> AsyncIterator[tuple[Person, Person]]:
    """Somebody of a clinic at each of two servers."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server.running(shutil.which("redis-server")))
        people = []
        for task in ("a", "b"):
            cable = await stack.enter_async_context(Link(redis.socket_path, Random(1)))  # noqa: S311
            server = ServerProcess(
                folder / "data",
                environment=None,
                redis_url=f"redis://127.0.0.1:{cable.port}/0",
                task_id=task,
                **settings,
            )
            server.log_path = folder / f"{task}.log"
            await stack.enter_async_context(server)
            people.append(await stack.enter_async_context(await Person.of(server)))
        yield people[0], people[1]


def at(person: Person, url: str) -> str:
    """A stream's URL at another server."""
    return urlunsplit(urlsplit(url)._replace(netloc=urlsplit(person.server.url).netloc))


async def again(person: Person, created: SessionCreated) -> SessionCreated:
    """The same session, to be spoken into at this person's server."""
    fresh = await person.again(created)
    return msgspec.structs.replace(fresh, stream_url=at(person, created.stream_url))


@pytest.mark.parametrize("engine", ["null", pytest.param("pocketsphinx", marks=pytest.mark.long)])
async def test_a_session_whose_task_was_killed_goes_on_at_the_other(
    tmp_path: Path, sample_pcm: bytes, engine: str
) -> None:
    said = sample_pcm[: 30 * SECOND]
    async with two_tasks(tmp_path, engine=engine, segment_seconds="1") as (a, b):
        created = await a.create()
        speaking = a.speaking(created, said, StreamOptions(realtime=True))
        async with cut_off(speaking):
            await speaking.until(lambda s: s.acked.durable >= 2 * SECOND // 2)
            await a.server.kill()
        resumed = b.speaking(await again(b, created), said, StreamOptions())
        await resumed.run()
        await assert_whole(b, resumed, said)
        assert await b.listed() == {created.session_id: "completed"}
        view = await b.view(created.session_id)
        assert view.epoch == 2


@pytest.mark.long
async def test_a_session_that_nobody_resumes_is_finished_by_the_other_after_a_whole_window(
    tmp_path: Path, sample_pcm: bytes
) -> None:
    window, said, loop = 4.0, sample_pcm[: 30 * SECOND], asyncio.get_running_loop()
    async with two_tasks(tmp_path, engine="null", segment_seconds="1", resume_window_seconds="4") as (a, b):
        created = await a.create()
        speaking = a.speaking(created, said, StreamOptions(realtime=True))
        async with cut_off(speaking):
            await speaking.until(lambda s: s.acked.durable >= 3 * SECOND // 2)
            acked = speaking.acked.durable
            await a.server.kill()
            died = loop.time()
        finished = await b.reaches(created.session_id, "completed")
        assert loop.time() - died >= window
        kept = await b.audio(created.session_id)
        assert len(kept) // 2 == finished.samples >= acked
        assert kept == said[: len(kept)]
        await assert_tidy(b, created.session_id)
        # What the dead one told of itself is taken away.
        tasks = b.server.data_dir / "archive" / "_tasks"
        async with asyncio.timeout(30):
            while list(tasks.glob("a.*")):  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.1)


@pytest.mark.long
async def test_a_paused_session_is_not_taken_from_a_task_that_lives(
    tmp_path: Path, sample_pcm: bytes
) -> None:
    said = sample_pcm[: 4 * SECOND]
    async with two_tasks(tmp_path, engine="null", segment_seconds="1", resume_window_seconds="2") as (a, b):
        created = await a.create()
        async with wire(created.stream_url, created.ticket) as (line, _):
            await line.speak(said[: 2 * SECOND])
            await line.hear_durable(2 * SECOND // 2)
            # The other one starts anew, reads the archive, and sees a session in which nothing moves.
            await b.server.kill()
            await b.server.start()
            await asyncio.sleep(8)
            assert (await b.view(created.session_id)).state == "detached"
            answer = await b.http.post(f"/v1/sessions/{created.session_id}/stop")
            assert (answer.status_code, answer.json()["code"]) == (409, "speaker_connected")
            await line.speak(said[2 * SECOND :])
            await line.say(Stop(len(said) // 2))
            completed = await line.hear(Completed)
            assert await line.closed() == CloseCode.DONE
        assert (completed.samples, completed.audio_sha256) == (len(said) // 2, sha256(said))


async def test_one_that_stood_still_finds_out_that_its_session_went_on_without_it(
    tmp_path: Path, sample_pcm: bytes
) -> None:
    said, loop = sample_pcm[: 12 * SECOND], asyncio.get_running_loop()
    async with two_tasks(tmp_path, engine="null", segment_seconds="1") as (a, b):
        created = await a.create()
        async with wire(created.stream_url, created.ticket) as (old, ready):
            await old.speak(said[: 4 * SECOND])
            await old.hear_durable(4 * SECOND // 2)
            stopped_at = loop.time()
            a.server.process.send_signal(signal.SIGSTOP)
            try:
                # What a client that has not noticed yet still sends.
                await old.speak(said[4 * SECOND : 6 * SECOND])
                url = at(b, created.stream_url)
                async with wire(url, ready.resume_ticket) as (line, resumed):
                    assert (resumed.position, resumed.epoch) == (4 * SECOND // 2, 2)
                    await line.speak(said[4 * SECOND : 8 * SECOND])
                    await line.hear_durable(8 * SECOND // 2)
                    # A client waits for so long before it goes elsewhere.
                    await asyncio.sleep(max(0.0, stopped_at + PATIENCE_SECONDS - loop.time()))
                    told = len(old.heard)
                    a.server.process.send_signal(signal.SIGCONT)
                    assert await old.closed() == CloseCode.RESTARTING
                    assert (
                        max([m.durable for m in old.heard[told:] if hasattr(m, "durable")], default=0)
                        <= 4 * SECOND // 2
                    )
                    await line.speak(said[8 * SECOND :])
                    await line.say(Stop(len(said) // 2))
                    completed = await line.hear(Completed)
            finally:
                a.server.process.send_signal(signal.SIGCONT)
        assert (completed.samples, completed.audio_sha256) == (len(said) // 2, sha256(said))
        assert await b.audio(created.session_id) == said
        status, report = await b.verify(created.session_id)
        assert status == 0, report
        await assert_tidy(b, created.session_id)


async def test_a_task_that_is_told_to_end_gives_its_sessions_to_the_other_one_by_one(
    tmp_path: Path, sample_pcm: bytes
) -> None:
    said = sample_pcm[: 4 * SECOND]
    settings = {"engine": "null", "drain_seconds": "6", "sticky_cookie": "STUCK"}
    async with two_tasks(tmp_path, **settings) as (a, b), AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        created = [await a.create() for _ in range(3)]
        lines, tickets = [], []
        for session in created:
            line, ready = await stack.enter_async_context(wire(session.stream_url, session.ticket))
            await line.speak(said[: 2 * SECOND])
            lines.append(line)
            tickets.append(ready.resume_ticket)
        a.server.process.send_signal(signal.SIGTERM)
        closing = [tasks.create_task(line.closed()) for line in lines]
        await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
        # The sockets stand, the others speak on, and nobody new gets in.
        assert sum(task.done() for task in closing) < len(closing)
        assert (await a.http.get("/readyz")).json()["status"] == "draining"
        refused = await a.http.post("/v1/sessions", json={"language": "en-US"})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["set-cookie"] == "STUCK=; Max-Age=0; Path=/"
        with pytest.raises(InvalidStatus) as caught:
            await stack.enter_async_context(wire(created[0].stream_url, tickets[0]))
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Set-Cookie"] == "STUCK=; Max-Age=0; Path=/"
        for session, ticket, closed in zip(created, tickets, closing, strict=True):
            assert await closed == CloseCode.RESTARTING
            async with wire(at(b, session.stream_url), ticket) as (line, ready):
                # All of it was made durable before the socket was closed.
                assert ready.position == 2 * SECOND // 2
                await line.speak(said[2 * SECOND :])
                await line.say(Stop(len(said) // 2))
                completed = await line.hear(Completed)
            assert (completed.samples, completed.audio_sha256) == (len(said) // 2, sha256(said))
        assert await a.server.process.wait() == 0
        assert all(Draining in map(type, line.heard) for line in lines)
        assert await b.listed() == {session.session_id: "completed" for session in created}
        assert list((b.server.data_dir / "archive" / "_tasks").glob("a.*")) == []


async def test_a_second_signal_ends_a_server_that_drains_at_once(tmp_path: Path, sample_pcm: bytes) -> None:
    async with two_tasks(tmp_path, engine="null", drain_seconds="60") as (a, b), AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        lines = []
        for _ in range(3):
            session = await a.create()
            line, _ready = await stack.enter_async_context(wire(session.stream_url, session.ticket))
            await line.speak(sample_pcm[:SECOND])
            lines.append((session, line))
        a.server.process.send_signal(signal.SIGTERM)
        closing = [tasks.create_task(line.closed()) for _, line in lines]
        await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(30):
            assert await a.server.stop() == 0
        for session, _ in lines:
            assert (await b.view(session.session_id)).state == "detached"
