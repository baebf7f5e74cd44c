"""A full disk stops the speaker, loses nothing that was acknowledged, and is got over when there is room again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from app.client.session import StreamOptions
from app.protocol.close import CloseCode
from app.protocol.messages import Notice
from tests.support.raw_socket import eventually
from tests.support.server import ServerProcess
from tests.support.speaking import SECOND, Person, Speaking, assert_whole, cut_off, running
from tests.support.tiny_disk import tiny_disk

pytestmark = pytest.mark.timeout(120)

StartServer = Callable[..., ServerProcess]

MEBIBYTE = 1024 * 1024
DISK_BYTES = 12 * MEBIBYTE
ROOM_BYTES = MEBIBYTE
"""What is left beside the ballast: room for half a minute."""


class Disk:
    """A folder on a small file system, most of it taken up by ballast."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, DISK_BYTES - ROOM_BYTES)

    @property
    def url(self) -> str:
        """The archive on it."""
        return f"file:{self.folder}/archive"

    def fill(self) -> None:
        """Take the last of the room."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(512))

    def free(self) -> None:
        """Give the ballast up."""
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tiny_disk(DISK_BYTES) as folder:
        yield Disk(folder)


@asynccontextmanager
async def served(server_factory: StartServer, disk: Disk, **settings: str) -> AsyncIterator[Person]:
    server = server_factory(engine="null", archive_url=disk.url, **settings)
    async with server, await Person.of(server) as person:
        yield person


def is_held(speaking: Speaking) -> bool:
    """Told that the archive takes nothing, and at the end of its window."""
    codes = [event.code for event in speaking.events if isinstance(event, Notice)]
    return "archive_degraded" in codes and speaking.acked.received > 0 and speaking.acked.window == 0


async def test_a_speaker_is_held_while_the_disk_is_full_and_goes_on_after(
    server_factory: StartServer, sample_pcm: bytes, disk: Disk
) -> None:
    async with served(server_factory, disk) as person:
        speaking = person.speaking(await person.create(), sample_pcm, StreamOptions())
        async with running(speaking) as (task,):
            await speaking.until(is_held)
            held = speaking.acked
            assert held.durable < held.received < len(sample_pcm) // 2
            # Two more acks or pongs: whoever waits is neither sent away nor let on.
            heard = len(speaking.events)
            await speaking.until(lambda s: len(s.events) >= heard + 3)
            assert not task.done()
            assert (speaking.acked.received, speaking.acked.durable) == (held.received, held.durable)
            view = await person.view(speaking.session_id)
            assert (view.state, view.positions.durable) == ("live", held.durable)
            disk.free()
        await assert_whole(person, speaking, sample_pcm)
        codes = [event.code for event in speaking.events if isinstance(event, Notice)]
        assert codes == ["archive_degraded", "archive_recovered"]
        assert list(speaking.client.sent.close_codes) == [CloseCode.DONE]


@pytest.mark.long
async def test_what_was_acknowledged_before_a_full_disk_survives_a_kill(
    server_factory: StartServer, sample_pcm: bytes, disk: Disk
) -> None:
    async with served(server_factory, disk, resume_window_seconds="2") as person:
        created = await person.create()
        speaking = person.speaking(created, sample_pcm, StreamOptions())
        async with cut_off(speaking):
            await speaking.until(is_held)
            disk.fill()
            await person.server.kill()
            acked = speaking.acked.durable
        assert acked > 5 * SECOND // 2

        await person.server.start()
        view = await person.view(created.session_id)
        assert view.state == "detached"
        assert view.positions.durable >= acked
        status, report = await person.verify(created.session_id)
        assert status == 0, report

        disk.free()
        abandoned = await person.reaches(created.session_id, "completed")
        kept = await person.audio(created.session_id)
        assert len(kept) // 2 == abandoned.samples >= acked
        assert kept == sample_pcm[: len(kept)]

        reopened = person.speaking(await person.again(created), sample_pcm, StreamOptions())
        await reopened.run()
        await assert_whole(person, reopened, sample_pcm)


async def test_a_full_disk_takes_no_new_session_and_says_when_to_ask_again(
    server_factory: StartServer, sample_pcm: bytes, disk: Disk
) -> None:
    async with served(server_factory, disk) as person:
        created = await person.create()
        disk.fill()
        for _ in range(3):
            refusal = await person.http.post("/v1/sessions", json={"language": "en-US"})
            assert refusal.status_code == 503, refusal.text
            assert refusal.headers["content-type"] == "application/problem+json"
            assert refusal.json()["code"] == "archive_unavailable"
            assert int(refusal.headers["retry-after"]) >= 1
        ready = await person.http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["archive"]) == (503, "unavailable")
        assert (await person.http.get("/healthz")).status_code == 200

        said = sample_pcm[: 8 * SECOND]
        speaking = person.speaking(created, said, StreamOptions())
        async with running(speaking):
            await speaking.client_refused()
            disk.free()
        await assert_whole(person, speaking, said)
        assert (await person.create()).state == "created"
        await eventually(lambda: person.http.get("/readyz"), lambda ready: ready.status_code == 200)
        assert set((await person.listed()).values()) == {"completed", "created"}
