"""``python -m app doctor`` as a process, against real servers: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import minio_server, moto_server, redis_cluster, redis_server
from tests.support.aws_emulator import Emulator, started
from tests.support.minio_server import MinioServer
from tests.support.moto_server import MotoServer
from tests.support.s3_archive import BUCKET, REGION, S3Server, plain_client
from tests.support.server import ROOT, clean_environment

pytestmark = pytest.mark.timeout(120)

ROLE = "arn:aws:iam::123456789012:role/clinic"
WRONG_SECRET = "hunter2-swordfish"
LINE = re.compile(r"(ok  |WARN|FAIL)  ([^:]+): (\S.*)")
ADVICE = re.compile(r" {6}\S.*")


@dataclass(frozen=True)
class Told:
    """What the doctor said: level and sentence of each check, and the whole."""

    status: int
    text: str
    found: Mapping[str, tuple[str, str]]

    @property
    def not_ok(self) -> dict[str, str]:
        return {name: level for name, (level, _) in self.found.items() if level != "ok"}

    def says(self, name: str, level: str, *words: str) -> None:
        assert name in self.found, self.text
        assert self.found[name][0] == level, self.text
        for word in words:
            assert word in self.text, self.text


async def ask(data: Path, environment: Mapping[str, str] | None = None, **settings: str) -> Told:
    """Run it to its end."""
    named = {f"KIKITORI_{name.upper()}": value for name, value in settings.items()}
    named |= {"KIKITORI_DATA_DIR": str(data), "AWS_EC2_METADATA_DISABLED": "true"}
    named |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "doctor",
        cwd=ROOT, env=clean_environment({**named, **(environment or {})}), stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    assert err.decode() == ""
    return Told(process.returncode, out.decode(), _parsed(out.decode()))


def _parsed(text: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = LINE.fullmatch(line)
        if match is None:
            assert ADVICE.fullmatch(line), line
            continue
        level = match[1].strip()
        found[match[2]] = (level, match[3])
        told = number + 1 < len(lines) and bool(ADVICE.fullmatch(lines[number + 1]))
        assert told == (level != "ok"), f"advice belongs to what is not well, and to nothing else: {line}"
    return found


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with started(tmp_path_factory.mktemp("emulator"), "--refuse-by-status") as it:
        yield it


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """The URL of a Redis on a port of loopback."""
    with redis_server.running() as server:
        yield _on_a_port(server)


def _on_a_port(server: redis_server.RedisServer) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _tell(server.socket_path, "CONFIG SET bind 127.0.0.1")
    _tell(server.socket_path, f"CONFIG SET port {port}")
    return f"redis://127.0.0.1:{port}"


def _tell(path: Path, command: str) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(path))
        peer.sendall(f"{command}\r\n".encode())
        assert peer.recv(64) == b"+OK\r\n"


async def _make_bucket(server: S3Server, bucket: str, *, versioning: bool = True) -> None:
    rule = {
        "ID": "parts",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    sse = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}
    async with plain_client(server) as client:
        await client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        if versioning:
            await client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        await client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [sse]})
        await client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}
        )
        await client.put_public_access_block(
            Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True)
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bucket(moto: MotoServer) -> AsyncIterator[str]:
    """A bucket as it should be."""
    await _make_bucket(moto, BUCKET)
    yield BUCKET


def _register(data: Path, *clinics: dict[str, Any]) -> None:
    data.mkdir(exist_ok=True)
    (data / "clinics.json").write_text(json.dumps({"clinics": clinics}))


def _production(s3: S3Server, emulator: Emulator, bucket: str, redis: str) -> dict[str, str]:
    return {
        "archive_url": f"s3://{bucket}/archive",
        "s3_endpoint": s3.url,
        "sts_endpoint": s3.url,
        "kms_key": s3.kms_key,
        "engine": "aws",
        "transcribe_endpoint": emulator.endpoint,
        "redis_url": redis,
        "master_key": "A" * 43 + "=",
    }


def _signed_in(s3: S3Server, emulator: Emulator, secret: str = "") -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": secret or s3.secret_key,
        "SSL_CERT_FILE": str(emulator.authority),
    }


async def _left(server: S3Server, bucket: str) -> list[str]:
    async with plain_client(server) as client:
        answer = await client.list_objects_v2(Bucket=bucket)
    return [row["Key"] for row in answer.get("Contents", ())]


# On one machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pocketsphinx", "null"])
async def test_one_machine_needs_nothing_and_nothing_is_made(tmp_path: Path, engine: str) -> None:
    told = await ask(tmp_path / "data", engine=engine)
    assert (told.status, told.not_ok) == (0, {})
    assert {"settings", "data folder", "master key", "archive", "redis", "engine"} <= told.found.keys()
    assert "redis-server" in told.found["redis"][1]
    assert not (tmp_path / "data").exists()


async def test_wrong_settings_are_all_told_and_nothing_else_is_done(tmp_path: Path) -> None:
    told = await ask(tmp_path / "data", port="no", engine="azure", redis_url=f"http://:{WRONG_SECRET}@h")
    assert told.status == 2
    assert told.found.keys() == {"settings"}
    for name in ("KIKITORI_PORT", "KIKITORI_ENGINE", "KIKITORI_REDIS_URL"):
        assert name in told.text
    assert WRONG_SECRET not in told.text


async def test_options_that_contradict_each_other_are_wrong_settings(tmp_path: Path) -> None:
    told = await ask(tmp_path / "data", engine="aws", transcribe_language_options="ja-JP,xx-XX")
    assert told.status == 2
    told.says("settings", "FAIL", "KIKITORI_TRANSCRIBE_LANGUAGE_OPTIONS")


async def test_a_master_key_that_others_can_read_and_an_archive_without_its_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "archive" / "demo").mkdir(parents=True)
    told = await ask(data, engine="null")
    assert told.status == 1
    told.says("master key", "FAIL", "put the file master.key back")
    (data / "master.key").write_bytes(bytes(32))
    (data / "master.key").chmod(0o644)
    told = await ask(data, engine="null")
    told.says("master key", "FAIL", "chmod 600")
    told.says("redis", "ok")


# Redis ---------------------------------------------------------------------------------------------------------------


async def test_redis_that_is_down_stops_no_other_check(tmp_path: Path) -> None:
    told = await ask(tmp_path / "data", engine="null", redis_url=f"redis://me:{WRONG_SECRET}@127.0.0.1:1")
    assert told.status == 1
    told.says("redis", "FAIL", "cannot be reached", "KIKITORI_REDIS_URL")
    assert told.not_ok.keys() == {name for name in told.found if name.startswith("redis")}
    told.says("engine", "ok")
    assert WRONG_SECRET not in told.text


async def test_redis_that_forgets_is_refused(tmp_path: Path) -> None:
    with redis_server.running() as server:
        url = _on_a_port(server)
        _tell(server.socket_path, "CONFIG SET maxmemory-policy allkeys-lru")
        told = await ask(tmp_path / "data", engine="null", redis_url=url)
        assert (told.status, told.not_ok) == (1, {"redis memory": "FAIL"})
        told.says("redis memory", "FAIL", "allkeys-lru", "set maxmemory-policy to noeviction")


async def test_redis_with_rules_and_a_password(tmp_path: Path) -> None:
    with redis_server.running() as server:
        url = _on_a_port(server)
        _tell(server.socket_path, f"ACL SETUSER doc on >{WRONG_SECRET}x ~* &* +@all -eval")
        named = url.replace("//", f"//doc:{WRONG_SECRET}x@")
        told = await ask(tmp_path / "data", engine="null", redis_url=named)
        assert (told.status, told.not_ok) == (1, {"redis scripts": "FAIL"})
        told.says("redis scripts", "FAIL", "forbid EVAL")
        assert WRONG_SECRET not in told.text
        told = await ask(
            tmp_path / "data", engine="null", redis_url=url.replace("//", f"//doc:{WRONG_SECRET}@")
        )
        told.says("redis", "FAIL", "the user or the password")
        assert WRONG_SECRET not in told.text


async def test_a_redis_cluster_is_told_from_a_single_server(tmp_path: Path, redis: str) -> None:
    with redis_cluster.cluster() as nodes:
        told = await ask(tmp_path / "data", engine="null", redis_url=nodes.url)
        assert (told.status, told.not_ok) == (0, {})
        told.says("redis pub/sub", "ok", "arrives")
        single = f"redis://127.0.0.1:{nodes.nodes[0].port}"
        told = await ask(tmp_path / "data", engine="null", redis_url=single)
        told.says("redis version", "FAIL", "it is a Redis Cluster", "redis+cluster://")
    told = await ask(tmp_path / "data", engine="null", redis_url=redis.replace("redis:", "redis+cluster:"))
    told.says("redis", "FAIL", "no Redis Cluster", "CLUSTER INFO")
    told = await ask(tmp_path / "data", engine="null", redis_url="redis+cluster://127.0.0.1:1")
    told.says("redis", "FAIL", "cannot be reached", "KIKITORI_REDIS_URL")


# AWS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
async def test_all_is_well(
    tmp_path: Path, moto: MotoServer, emulator: Emulator, bucket: str, redis: str
) -> None:
    other_key = moto.kms_key[:-1] + "1"
    _register(tmp_path / "data", {"clinicId": "demo"}, {"clinicId": "north", "kmsKey": other_key})
    told = await ask(
        tmp_path / "data", _signed_in(moto, emulator), **_production(moto, emulator, bucket, redis)
    )
    assert (told.status, told.not_ok) == (0, {}), told.text
    for name in (
        "kms key of default",
        "kms key of north",
        "clock",
        f"transcribe {REGION}",
        "s3 conditional put",
    ):
        assert name in told.found, told.text
    assert "environment" in told.found["aws credentials"][1]
    assert await _left(moto, bucket) == []
    for secret in (moto.secret_key, moto.access_key, "AAAAAAAA"):
        assert secret not in told.text


@pytest.mark.asyncio(loop_scope="module")
async def test_no_bucket(tmp_path: Path, moto: MotoServer, emulator: Emulator, redis: str) -> None:
    told = await ask(
        tmp_path / "data", _signed_in(moto, emulator), **_production(moto, emulator, "no-such-bucket", redis)
    )
    assert told.status == 1
    told.says("s3 bucket", "FAIL", "the bucket does not exist", "KIKITORI_ARCHIVE_URL")
    told.says("s3 put", "WARN", "not checked")
    told.says(f"transcribe {REGION}", "ok")


@pytest.mark.asyncio(loop_scope="module")
async def test_settings_of_a_bucket_that_should_be_otherwise(
    tmp_path: Path, moto: MotoServer, emulator: Emulator, redis: str
) -> None:
    name = "bare-archive"
    async with plain_client(moto) as client:
        await client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    told = await ask(
        tmp_path / "data", _signed_in(moto, emulator), **_production(moto, emulator, name, redis)
    )
    assert told.status == 0, told.text
    assert {"s3 versioning", "s3 public access", "s3 lifecycle"} <= told.not_ok.keys()
    assert set(told.not_ok.values()) == {"WARN"}
    told.says("s3 versioning", "WARN", "versioning is off")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bucket_in_another_region(
    tmp_path: Path, moto: MotoServer, emulator: Emulator, bucket: str, redis: str
) -> None:
    told = await ask(
        tmp_path / "data",
        _signed_in(moto, emulator),
        **_production(moto, emulator, bucket, redis),
        aws_regions="eu-west-1",
    )
    assert told.status == 1
    told.says("s3 bucket", "FAIL", f"the bucket is in {REGION}", f"begin with {REGION}")


@pytest.mark.asyncio(loop_scope="module")
async def test_credentials_that_reach_another_clinic(
    tmp_path: Path, moto: MotoServer, emulator: Emulator, bucket: str, redis: str
) -> None:
    # moto heeds no session policy: to the doctor it is a role whose credentials are not held to the clinic.
    _register(tmp_path / "data", {"clinicId": "demo"})
    settings = {**_production(moto, emulator, bucket, redis), "s3_role_arn": ROLE}
    told = await ask(tmp_path / "data", _signed_in(moto, emulator), **settings)
    assert (told.status, told.not_ok) == (1, {"walls of demo": "FAIL"}), told.text
    assert await _left(moto, bucket) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_no_credentials(
    tmp_path: Path, moto: MotoServer, emulator: Emulator, bucket: str, redis: str
) -> None:
    told = await ask(
        tmp_path / "data",
        {"SSL_CERT_FILE": str(emulator.authority)},
        **_production(moto, emulator, bucket, redis),
    )
    assert told.status == 1
    told.says("aws credentials", "FAIL", "none were found", "AWS_ACCESS_KEY_ID")
    told.says("s3 bucket", "FAIL", "there are no credentials")
    told.says(f"transcribe {REGION}", "FAIL", "no AWS credentials were found")


async def test_transcribe_refuses(tmp_path: Path, emulator: Emulator) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": WRONG_SECRET,
        "SSL_CERT_FILE": str(emulator.authority),
    }
    told = await ask(
        tmp_path / "data", environment, engine="aws", transcribe_endpoint=emulator.endpoint,
        aws_regions=f"{REGION},us-east-1",
    )  # fmt: skip
    assert told.status == 1
    for region in (REGION, "us-east-1"):
        told.says(f"transcribe {region}", "FAIL", "AWS_SECRET_ACCESS_KEY")
    assert WRONG_SECRET not in told.text


async def test_transcribe_may_not_be_used(tmp_path: Path, emulator: Emulator) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "SECRETEXAMPLE",
        "SSL_CERT_FILE": str(emulator.authority),
    }
    emulator.arm("refuse", exception="AccessDeniedException")
    try:
        told = await ask(tmp_path / "data", environment, engine="aws", transcribe_endpoint=emulator.endpoint)
    finally:
        emulator.disarm()
    assert told.status == 1
    told.says(f"transcribe {REGION}", "FAIL", "transcribe:StartStreamTranscriptionWebSocket")


async def test_transcribe_is_down(tmp_path: Path, emulator: Emulator) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "SECRETEXAMPLE"}
    told = await ask(tmp_path / "data", environment, engine="aws", transcribe_endpoint="wss://localhost:1")
    assert told.status == 1
    told.says(f"transcribe {REGION}", "FAIL", "cannot be reached", "KIKITORI_TRANSCRIBE_ENDPOINT")
    told.says("clock", "WARN", "could not be compared")


# An S3 that checks signatures, policies and keys ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def minio() -> Iterator[MinioServer]:
    with minio_server.running() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(minio: MinioServer) -> AsyncIterator[str]:
    async with plain_client(minio) as client:
        await client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        await client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    yield BUCKET


def _disk_engine(settings: dict[str, str]) -> dict[str, str]:
    return {**settings, "engine": "null"}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_secret(
    tmp_path: Path, minio: MinioServer, strict: str, emulator: Emulator, redis: str
) -> None:
    told = await ask(
        tmp_path / "data",
        _signed_in(minio, emulator, WRONG_SECRET),
        **_disk_engine(_production(minio, emulator, strict, redis)),
    )
    assert told.status == 1
    told.says("s3 bucket", "FAIL", "the secret key is wrong")
    assert WRONG_SECRET not in told.text


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_that_is_not_there(
    tmp_path: Path, minio: MinioServer, strict: str, emulator: Emulator, redis: str
) -> None:
    _register(tmp_path / "data", {"clinicId": "north", "kmsKey": "another-key"})
    told = await ask(
        tmp_path / "data",
        _signed_in(minio, emulator),
        **_disk_engine(_production(minio, emulator, strict, redis)),
    )
    assert told.status == 1
    told.says("kms key of default", "ok")
    told.says("kms key of north", "FAIL", "kmsKey")
    assert await _left(minio, strict) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_a_role_whose_credentials_are_held_to_the_clinic(
    tmp_path: Path, minio: MinioServer, strict: str, emulator: Emulator, redis: str
) -> None:
    _register(tmp_path / "data", {"clinicId": "demo"}, {"clinicId": "north"})
    # MinIO's session policies know no action of KMS, so no key is named.
    settings = {
        **_disk_engine(_production(minio, emulator, strict, redis)),
        "s3_role_arn": ROLE,
        "kms_key": "",
    }
    told = await ask(tmp_path / "data", _signed_in(minio, emulator), **settings)
    assert told.status == 0, told.text
    for clinic in ("demo", "north"):
        for name in (f"role for {clinic}", f"objects of {clinic}", f"walls of {clinic}"):
            told.says(name, "ok")
    assert await _left(minio, strict) == []
