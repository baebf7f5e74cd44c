"""Writes to S3 whose answers are lost, uploads that are cut: each object is there once, as it was meant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from app.client.session import StreamOptions
from audio.codec import read_audio
from tests.support.moto_server import MotoServer
from tests.support.moto_server import running as running_moto
from tests.support.s3_proxy import Fault, Request, S3Proxy, proxied
from tests.support.s3_served import ArchiveInS3
from tests.support.speaking import SECOND, Person, assert_complete, cut_off, running

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with running_moto() as server:
        yield server


@pytest.fixture
def said(sample_wav: Path) -> bytes:
    """The sample consultation."""
    return read_audio(sample_wav)


# Answers are lost --------------------------------------------------------------------------------


class FirstAnswersLost:
    """A proxy's rule: whatever is asked to be written is written, and the first answer to it is lost."""

    def __init__(self) -> None:
        self.met: set[str] = set()

    def __call__(self, request: Request) -> Fault | None:
        if request.method not in ("PUT", "POST", "DELETE") or str(request) in self.met:
            return None
        self.met.add(str(request))
        return Fault(drop="after")


@pytest.mark.timeout(120)
async def test_the_first_answer_to_every_write_is_lost(moto: MotoServer, tmp_path: Path, said: bytes) -> None:
    archive = await ArchiveInS3.new(moto)
    async with proxied(moto.url) as proxy:
        proxy.rule = lost = FirstAnswersLost()
        server = archive.served(tmp_path / "data", proxy.url, engine="pocketsphinx")
        async with server, await Person.of(server) as person:
            pcm = said[: 40 * SECOND]
            speaking = person.speaking(await person.create(), pcm, StreamOptions())
            async with running(speaking):
                await speaking.until(lambda s: s.acked.durable >= 3 * 5 * SECOND // 2)
                await server.kill()
                assert speaking.acked.durable < len(pcm) // 2
                await server.start()
            transcript = await assert_complete(person, speaking, pcm)
            assert transcript.finals
            await archive.assert_tidy("demo", speaking.session_id)
            assert await server.stop() == 0
        kinds = {name.partition(" ")[2].split("-")[0].split("?")[0] for name in lost.met}
        assert {"session.json", "1.json", "2.json", "000000000000"} <= kinds
        assert {"audio", "transcript", "manifest.json"} <= kinds


# Audio in several parts --------------------------------------------------------------------------

LONG_SECONDS = 360
TAIL_SECONDS = 40


class PartsCut:
    """A proxy's rule: the first try of each request of a multipart upload is cut, before or after it is carried out."""

    def __init__(self) -> None:
        self.met: dict[str, str] = {}

    def __call__(self, request: Request) -> Fault | None:
        path, _, query = request.target.partition("?")
        if "/audio-" not in path or request.method not in ("PUT", "POST"):
            return None
        step = "begin" if query.startswith("uploads") else "part" if request.method == "PUT" else "complete"
        number = query.partition("partNumber=")[2].partition("&")[0]
        name = f"{path.rpartition('/')[2]} {step}{number}"
        if step == "begin" or name in self.met:
            return None
        self.met[name] = "before" if number == "1" else "after"
        return Fault(drop=self.met[name])


class Unanswered(asyncio.Event):
    """A gate that an answer waits at for good; ``came`` is set when it has come there."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.came.set()
        return await super().wait()


def holds_the_last_answer(proxy: S3Proxy) -> asyncio.Event:
    """The end of an upload is carried out and not answered; the event is set when that is so."""
    gate = Unanswered()

    def rule(request: Request) -> Fault | None:
        path, _, query = request.target.partition("?")
        ends = request.method == "POST" and "/audio-" in path and query.startswith("uploadId=")
        return Fault(answer_gate=gate) if ends else None

    proxy.rule = rule
    return gate.came


async def one_audio(archive: ArchiveInS3, session_id: str) -> str:
    """The name of the session's one audio; nothing else is left of it, and no upload."""
    await archive.assert_tidy("demo", session_id)
    assert await archive.uploads() == []
    (key,) = await archive.keys(f"demo/{session_id}/audio-")
    return key.rpartition("/")[2]


@pytest.mark.timeout(240)
async def test_a_long_session_is_finished_again_and_again_and_has_one_audio(
    moto: MotoServer, tmp_path: Path
) -> None:
    noise = Random(7).randbytes((LONG_SECONDS + TAIL_SECONDS) * SECOND)  # noqa: S311 - it must not compress
    archive = await ArchiveInS3.new(moto)
    async with proxied(moto.url) as proxy:
        server = archive.served(tmp_path / "data", proxy.url, engine="null", resume_window_seconds="2")
        async with server, await Person.of(server) as person:
            created, options = await person.create(), StreamOptions(frame_bytes=32_000)
            speaking, session_id = person.speaking(created, noise, options), created.session_id
            ends = holds_the_last_answer(proxy)
            async with cut_off(speaking):
                await speaking.until(lambda s: s.acked.durable >= LONG_SECONDS * SECOND // 2)
            await asyncio.wait_for(ends.wait(), 60)
            assert await archive.keys(f"demo/{session_id}/audio-") == [f"demo/{session_id}/audio-1.flac"]
            await server.kill()

            proxy.rule = cut = PartsCut()
            await server.start()
            view = await person.reaches(session_id, "completed")
            assert len(await person.audio(session_id)) // 2 == view.samples >= LONG_SECONDS * SECOND // 2
            assert await one_audio(archive, session_id) == "audio-2.flac"
            assert {"before", "after"} == set(cut.met.values())
            assert {"audio-2.flac part1", "audio-2.flac part2", "audio-2.flac complete"} <= set(cut.met)

            again = person.speaking(await person.again(created), noise, options)
            await again.run()
            await assert_complete(person, again, noise)
            assert await one_audio(archive, session_id) == "audio-3.flac"
            stored = (await person.http.get(f"/v1/sessions/{session_id}/audio?format=flac")).content
            assert len(stored) > 8 * MEBIBYTE
            assert await server.stop() == 0
