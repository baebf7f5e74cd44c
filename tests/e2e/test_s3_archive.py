"""The archive in S3, end to end: a real server, real HTTP, moto for what it does and MinIO for what it checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from app.client.session import StreamOptions
from tests.support.minio_server import MinioServer
from tests.support.minio_server import running as running_minio
from tests.support.moto_server import MotoServer
from tests.support.moto_server import running as running_moto
from tests.support.s3_proxy import Fault, Request, S3Proxy, proxied
from tests.support.s3_served import ArchiveInS3, signer
from tests.support.speaking import (
    SECOND,
    Person,
    Speaking,
    assert_complete,
    cut_off,
    running,
)

pytestmark = pytest.mark.long

ROLE = "arn:aws:iam::123456789012:role/kikitori-clinic"
OSAKAS_KEY = "arn:aws:kms:ap-northeast-1:123456789012:key/0190b6c5-0000-4000-8000-00000000aaaa"
SEGMENT = 5 * SECOND // 2
"""Samples in a whole segment."""


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with running_moto() as server:
        yield server


@pytest.fixture(scope="module")
def minio() -> Iterator[MinioServer]:
    with running_minio() as server:
        yield server


def register(data_dir: Path, **kms_keys: str) -> None:
    """Clinics with keys of their own."""
    data_dir.mkdir(parents=True)
    clinics = [{"clinicId": clinic, "kmsKey": key} for clinic, key in kms_keys.items()]
    (data_dir / "clinics.json").write_bytes(msgspec.json.encode({"clinics": clinics}))


async def spoken(person: Person, pcm: bytes) -> Speaking:
    """A session that was spoken to its end."""
    speaking = person.speaking(await person.create(), pcm, StreamOptions())
    await speaking.run()
    return speaking


async def assert_ranges(person: Person, session_id: str, pcm: bytes) -> None:
    """Parts of the audio are served as parts."""
    url = f"/v1/sessions/{session_id}/audio"
    whole = (await person.http.get(f"{url}?format=flac")).content
    part = await person.http.get(f"{url}?format=flac", headers={"Range": "bytes=1000-100999"})
    assert (part.status_code, part.content) == (206, whole[1_000:101_000])
    assert part.headers["content-range"] == f"bytes 1000-100999/{len(whole)}"
    last = await person.http.get(f"{url}?format=wav", headers={"Range": "bytes=-64000"})
    assert (last.status_code, last.content) == (206, pcm[-64_000:])
    beyond = await person.http.get(f"{url}?format=flac", headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416


def signers(proxy: S3Proxy, archive: ArchiveInS3, clinic: str) -> set[str]:
    """Who signed the requests on a clinic's objects, and the lists of them."""
    folder = f"/{archive.bucket}/{archive.prefix}{clinic}/"
    listed = "prefix=" + quote(f"{archive.prefix}{clinic}/", safe="")
    return {
        signer(request)
        for request in proxy.requests
        if request.target.startswith(folder) or listed in request.target
    }


async def test_a_session_in_s3_is_exact_encrypted_and_kept_apart(
    moto: MotoServer, tmp_path: Path, sample_pcm: bytes
) -> None:
    register(tmp_path / "data", osaka=OSAKAS_KEY)
    archive = await ArchiveInS3.new(moto)
    async with proxied(moto.url) as proxy:
        server = archive.served(
            tmp_path / "data", proxy.url, engine="pocketsphinx", s3_role_arn=ROLE, sts_endpoint=proxy.url
        )
        said = sample_pcm[: 15 * SECOND]
        async with server, await Person.of(server) as person, await Person.of(server, "osaka") as other:
            speaking = await spoken(person, said)
            transcript = await assert_complete(person, speaking, said)
            assert transcript.finals
            await assert_ranges(person, speaking.session_id, said)
            await archive.assert_tidy("demo", speaking.session_id)

            short = await spoken(other, sample_pcm[: 6 * SECOND])
            await assert_complete(other, short, sample_pcm[: 6 * SECOND])
            await archive.assert_tidy("osaka", short.session_id)
            hidden = await other.http.get(f"/v1/sessions/{speaking.session_id}")
            assert hidden.status_code == 404
            assert await server.stop() == 0

        folders = {"/".join(key.split("/")[:2]) for key in await archive.keys()}
        assert folders == {f"demo/{speaking.session_id}", f"osaka/{short.session_id}"}
        assert await archive.uploads() == []
        assert await archive.encryption("demo/") == {("aws:kms", moto.kms_key)}
        assert await archive.encryption("osaka/") == {("aws:kms", OSAKAS_KEY)}
        own, demo, osaka = moto.access_key, *(signers(proxy, archive, c) for c in ("demo", "osaka"))
        assert demo
        assert osaka
        assert not demo & osaka
        assert own not in demo | osaka
    assert moto.secret_key not in server.log()


async def test_a_killed_session_is_resumed_from_s3(
    moto: MotoServer, tmp_path: Path, sample_pcm: bytes
) -> None:
    said, archive = sample_pcm[: 30 * SECOND], await ArchiveInS3.new(moto)
    server = archive.served(tmp_path / "data", moto.url, engine="null")
    async with server, await Person.of(server) as person:
        speaking = person.speaking(await person.create(), said, StreamOptions())
        async with running(speaking):
            await speaking.until(lambda s: s.acked.durable >= 3 * SEGMENT)
            await server.kill()
            assert speaking.acked.durable < len(said) // 2
            await server.start()
        await assert_complete(person, speaking, said)
        assert speaking.client.sent.connections == 2
        await archive.assert_tidy("demo", speaking.session_id)
        assert {f"demo/{speaking.session_id}/epochs/{n}.json" for n in (1, 2)} <= set(await archive.keys())


async def test_a_killed_session_is_finished_from_s3_alone(
    moto: MotoServer, tmp_path: Path, sample_pcm: bytes
) -> None:
    """By another server that has nothing of the first one's but the bucket."""
    archive = await ArchiveInS3.new(moto)
    first = archive.served(tmp_path / "first", moto.url, engine="null")
    async with first, await Person.of(first) as person:
        speaking = person.speaking(await person.create(), sample_pcm, StreamOptions())
        async with cut_off(speaking):
            await speaking.until(lambda s: s.acked.durable >= 3 * SEGMENT)
            await first.kill()
            acked = speaking.acked.durable
    second = archive.served(tmp_path / "second", moto.url, engine="null", resume_window_seconds="2")
    async with second, await Person.of(second) as person:
        view = await person.reaches(speaking.session_id, "completed")
        kept = await person.audio(speaking.session_id)
        assert kept == sample_pcm[: len(kept)]
        assert len(kept) // 2 == view.samples >= acked
        status, report = await person.verify(speaking.session_id)
        assert status == 0, report
        await archive.assert_tidy("demo", speaking.session_id)
    assert await archive.uploads() == []


async def test_what_s3_refuses_is_told_and_not_guessed(
    moto: MotoServer, tmp_path: Path, sample_pcm: bytes
) -> None:
    def denied(request: Request) -> Fault | None:
        return Fault(status=403, code="AccessDenied") if request.method == "PUT" else None

    archive = await ArchiveInS3.new(moto)
    async with proxied(moto.url) as proxy:
        server = archive.served(tmp_path / "data", proxy.url, engine="null")
        async with server, await Person.of(server) as person:
            proxy.rule = denied
            refused = await person.http.post("/v1/sessions", json={"language": "en-US"})
            assert (refused.status_code, refused.json()["code"]) == (503, "archive_unavailable")
            assert await archive.keys() == []
            proxy.rule = lambda _: None
            said = sample_pcm[: 6 * SECOND]
            await assert_complete(person, await spoken(person, said), said)


async def test_a_session_in_minio(minio: MinioServer, tmp_path: Path, sample_pcm: bytes) -> None:
    """Signatures, checksums, conditions and keys are really checked there."""
    said, archive = sample_pcm[: 30 * SECOND], await ArchiveInS3.new(minio)
    server = archive.served(tmp_path / "data", minio.url, engine="null")
    async with server, await Person.of(server) as person:
        speaking = person.speaking(await person.create(), said, StreamOptions())
        async with running(speaking):
            await speaking.until(lambda s: s.acked.durable >= 3 * SEGMENT)
            await server.kill()
            await server.start()
        await assert_complete(person, speaking, said)
        await assert_ranges(person, speaking.session_id, said)
        await archive.assert_tidy("demo", speaking.session_id)
    assert await archive.uploads() == []
    ((scheme, key),) = await archive.encryption("")
    assert (scheme, key.rpartition("/")[2].removeprefix("arn:aws:kms:")) == ("aws:kms", minio.kms_key)
