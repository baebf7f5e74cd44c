"""S3 that is away, then slow: nothing that was said is lost, clients are held, everything comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.client.session import StreamOptions
from app.protocol.messages import Notice
from audio.codec import read_audio
from audio.ring import RING_SAMPLES
from tests.support.moto_server import MotoServer
from tests.support.moto_server import running as running_moto
from tests.support.processes import resident_bytes
from tests.support.s3_proxy import Fault, Request, S3Proxy, proxied
from tests.support.s3_served import ArchiveInS3
from tests.support.server import ServerProcess
from tests.support.speaking import SECOND, Person, Speaking, assert_complete, running

BUSY = Fault(status=503, code="SlowDown")

SILENT = 8
"""Sessions that are recorded only."""

TRANSCRIBED = 2
FRAME_BYTES = 3_200
BEFORE_SECONDS = 12.0
AWAY_SECONDS = 30.0
SLOW_SECONDS = 30.0
SLOW = Fault(delay=6.0)
"""A segment of 5 s takes longer to write than to say."""

RING_BYTES = 2 * RING_SAMPLES
PIECE_SAMPLES = 25_000
"""What a ``Speaking`` takes from its source at once."""


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with running_moto() as server:
        yield server


@pytest.fixture
def said(sample_wav: Path) -> bytes:
    """The sample consultation."""
    return read_audio(sample_wav)


def notices(speaking: Speaking) -> list[str]:
    """Codes, in the order told, of those that the archive is the cause of."""
    told = [event.code for event in speaking.events if isinstance(event, Notice)]
    return [code for code in told if code.startswith("archive_")]


# S3 is away, then slow ---------------------------------------------------------------------------


@dataclass
class Watch:
    """What was seen every quarter of a second: memory of the servers, what their clients held."""

    servers: Sequence[ServerProcess]
    speakers: Sequence[Speaking]
    resident: list[list[int]] = field(default_factory=list)
    kept_most: int = 0
    waiting_most: int = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.resident.append([resident_bytes(server.process.pid) for server in self.servers])
            for speaking in self.speakers:
                self.kept_most = max(self.kept_most, speaking.client.outbox.samples_kept)
                waiting = speaking.acked.received - speaking.acked.durable
                self.waiting_most = max(self.waiting_most, waiting)
            await asyncio.sleep(0.25)

    def grown(self, since: int) -> list[int]:
        """Bytes by which each server ever grew over what it was at the look ``since``."""
        base = self.resident[since]
        return [max(look[n] for look in self.resident[since:]) - size for n, size in enumerate(base)]


async def fail_and_recover(proxy: S3Proxy, heard: Sequence[Speaking], watch: Watch) -> list[list[int]]:
    """Away, then slow. Finals of each of ``heard`` when S3 went away, half-way through that, and in the end."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(BEFORE_SECONDS)
    counts, looks = [[len(s.finals) for s in heard]], len(watch.resident) - 1
    proxy.rule = lambda _: BUSY
    began = loop.time()
    await asyncio.sleep(AWAY_SECONDS / 2)
    counts.append([len(s.finals) for s in heard])
    await asyncio.sleep(AWAY_SECONDS / 2)
    away, proxy.rule = loop.time() - began, lambda _: SLOW
    for speaking in watch.speakers:
        assert notices(speaking)[:1] == ["archive_degraded"], speaking.state()
        assert speaking.acked.received - speaking.acked.durable > RING_SAMPLES - FRAME_BYTES, speaking.state()
    await asyncio.sleep(SLOW_SECONDS)
    proxy.rule = lambda _: None
    counts.append([len(s.finals) for s in heard])
    print(f"away for {away:.1f} s; finals {counts}; RSS grew by {watch.grown(looks)} bytes")
    for grown, sessions in zip(watch.grown(looks), (SILENT, TRANSCRIBED), strict=True):
        assert grown <= sessions * RING_BYTES
    return counts


@pytest.mark.timeout(300)
async def test_s3_is_away_and_then_slow(moto: MotoServer, tmp_path: Path, said: bytes) -> None:
    pcm = [(said[n * 3 * SECOND :] + said)[: 80 * SECOND] for n in range(SILENT + TRANSCRIBED)]
    archive = await ArchiveInS3.new(moto)
    other = await ArchiveInS3.new(moto)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(moto.url))
        servers = [
            archive.served(tmp_path / "null", proxy.url, engine="null"),
            other.served(tmp_path / "sphinx", proxy.url, engine="pocketsphinx", pocketsphinx_workers="2"),
        ]
        for server in servers:
            await stack.enter_async_context(server)
        people = [await stack.enter_async_context(await Person.of(server)) for server in servers]
        owners = [people[0]] * SILENT + [people[1]] * TRANSCRIBED
        options = StreamOptions(realtime=True, frame_bytes=FRAME_BYTES)
        speakers = [
            person.speaking(await person.create(), audio, options, seed)
            for seed, (person, audio) in enumerate(zip(owners, pcm, strict=True))
        ]
        heard, watch = speakers[SILENT:], Watch(servers, speakers)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            async with running(*speakers):
                counts = await fail_and_recover(proxy, heard, watch)
            watching.cancel()
        assert all(during > before for before, during in zip(*counts[:2], strict=True))
        assert watch.kept_most <= RING_SAMPLES + PIECE_SAMPLES
        for person, speaking, audio in zip(owners, speakers, pcm, strict=True):
            assert notices(speaking)[-1] == "archive_recovered", speaking.state()
            assert list(speaking.client.sent.close_codes) == [1000], speaking.state()
            assert speaking.client.sent.samples_repeated == 0
            await assert_complete(person, speaking, audio)
            place = archive if person is people[0] else other
            await place.assert_tidy("demo", speaking.session_id)
        for server in servers:
            assert await server.stop() == 0
    print(f"held at most {watch.waiting_most} samples that were not durable; clients kept {watch.kept_most}")


# S3 goes away while sessions end -----------------------------------------------------------------

ENDS = ["PUT /segments/", "PUT /audio-", "PUT /transcript-", "PUT /manifest.json", "DELETE /segments/"]
"""At the first request of a kind S3 goes away, for one session each."""

GONE_SECONDS = 15.0
"""Longer than a call tries."""


class GoneFrom:
    """A proxy's rule: from its first request of a kind on, a session's requests meet 503 for a while."""

    def __init__(self, kinds: dict[str, str], clock: Callable[[], float]) -> None:
        self._kinds, self._clock = kinds, clock
        self.since: dict[str, float] = {}

    def __call__(self, request: Request) -> Fault | None:
        session_id = next((known for known in self._kinds if known in request.target), None)
        if session_id is None:
            return None
        method, _, text = self._kinds[session_id].partition(" ")
        if request.method == method and text in request.target:
            self.since.setdefault(session_id, self._clock())
        began = self.since.get(session_id)
        return BUSY if began is not None and self._clock() - began < GONE_SECONDS else None


@pytest.mark.timeout(180)
async def test_s3_goes_away_while_sessions_end(moto: MotoServer, tmp_path: Path, said: bytes) -> None:
    pcm = said[: 12 * SECOND]
    archive = await ArchiveInS3.new(moto)
    async with proxied(moto.url) as proxy:
        server = archive.served(tmp_path / "data", proxy.url, engine="null")
        async with server, await Person.of(server) as person:
            speakers = [person.speaking(await person.create(), pcm, StreamOptions()) for _ in ENDS]
            kinds = {speaking.session_id: kind for speaking, kind in zip(speakers, ENDS, strict=True)}
            proxy.rule = gone = GoneFrom(kinds, asyncio.get_running_loop().time)
            async with running(*speakers):
                await asyncio.sleep(GONE_SECONDS / 2)
                # The list is the index's, which needs no archive.
                assert set((await person.listed()).values()) == {"finishing"}
            assert set(gone.since) == set(kinds)
            for speaking in speakers:
                await assert_complete(person, speaking, pcm)
                await archive.assert_tidy("demo", speaking.session_id)
                assert list(speaking.client.sent.close_codes) == [1000], speaking.state()
            assert await archive.uploads() == []
            assert await server.stop() == 0
