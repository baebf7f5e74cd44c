"""The S3 store over real HTTP: what is sent, what happens when S3 or the network fails, who may read what."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from botocore.exceptions import ClientError

from app.adapters.s3_calls import S3Limits, Signing, Surroundings
from app.adapters.s3_credentials import StsScope
from app.adapters.s3_place import S3Place, clinic_policy
from app.adapters.s3_store import S3Store
from app.archive.store import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
    Version,
    VersionConflict,
)
from tests.support.minio_server import MinioServer
from tests.support.minio_server import running as running_minio
from tests.support.moto_server import MotoServer
from tests.support.moto_server import running as running_moto
from tests.support.s3_archive import BUCKET, REGION, S3Server, new_place, plain_client, sign_in
from tests.support.s3_proxy import Fault, Request, S3Proxy, proxied

MEBIBYTE = 1024 * 1024
KEY = "tokyo-1/0190b6c5/segments/000000000000-1"
MANIFEST = "tokyo-1/0190b6c5/manifest.json"
SECRET = b"said in confidence"
QUICK = S3Limits(pause_seconds=0.005, pause_seconds_max=0.02, budget_seconds=5.0, part_bytes=5 * MEBIBYTE)
BUSY = Fault(status=503, code="SlowDown")
ROLE = "arn:aws:iam::123456789012:role/kikitori-clinic"


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with running_moto() as server:
        yield server


@pytest.fixture(scope="module")
def minio() -> Iterator[MinioServer]:
    with running_minio() as server:
        yield server


@dataclass
class Bench:
    """A store, the proxy before its server, and what its retries were told and waited for."""

    store: S3Store
    proxy: S3Proxy
    place: S3Place
    server: S3Server
    retries: list[str]
    pauses: list[float]

    async def listed(self, prefix: str = "") -> list[str]:
        return [row.key async for row in self.store.list(prefix)]

    async def uploads(self) -> list[Any]:
        async with plain_client(self.server) as client:
            answer = await client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.place.prefix)
        return list(answer.get("Uploads", ()))

    async def head(self, key: str) -> dict[str, Any]:
        async with plain_client(self.server) as client:
            answer: dict[str, Any] = await client.head_object(Bucket=BUCKET, Key=self.place.name(key))
        return answer


@asynccontextmanager
async def bench_on(
    server: S3Server, limits: S3Limits = QUICK, kms: Callable[[str], str | None] | None = None, **options: Any
) -> AsyncIterator[Bench]:
    retries: list[str] = []
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.05))

    place = await new_place(server)
    around = Surroundings(sleep=sleep, observe=retries.append)
    async with (
        proxied(server.url) as proxy,
        S3Store(
            place,
            region=REGION,
            endpoint=proxy.url,
            kms_key_of=kms or (lambda _: server.kms_key),
            limits=limits,
            around=around,
            **options,
        ) as store,
    ):
        yield Bench(store, proxy, place, server, retries, pauses)


@pytest.fixture
async def bench(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """On moto."""
    sign_in(monkeypatch, moto)
    async with bench_on(moto) as made:
        yield made


@pytest.fixture
async def strict(minio: MinioServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """On MinIO."""
    sign_in(monkeypatch, minio)
    async with bench_on(minio) as made:
        yield made


@pytest.fixture(params=["moto", "minio"])
async def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    server: S3Server = request.getfixturevalue(request.param)
    sign_in(monkeypatch, server)
    async with bench_on(server) as made:
        yield made


async def stream(size: int, piece: int = 700_000, tail: bytes = b"") -> AsyncIterator[bytes]:
    for at in range(0, size, piece):
        yield bytes(min(piece, size - at))
    yield tail


# -- what is lost on the way -------------------------------------------------------------------------------------------


async def test_a_put_whose_answer_was_lost_is_a_success(bench: Bench) -> None:
    bench.proxy.fail(Fault(drop="after"), "PUT")
    version = await bench.store.create(KEY, SECRET)
    assert (await bench.store.read(KEY)).version == version
    assert len(bench.proxy.seen("PUT")) == 2


async def test_a_put_whose_answer_was_lost_fails_where_other_content_is(bench: Bench) -> None:
    await bench.store.create(KEY, b"other")
    bench.proxy.fail(Fault(drop="after"), "PUT")
    with pytest.raises(ObjectExists):
        await bench.store.create(KEY, SECRET)


async def test_a_replace_whose_answer_was_lost_is_a_success(bench: Bench) -> None:
    first = await bench.store.create(MANIFEST, b"one")
    bench.proxy.fail(Fault(drop="after"), "PUT")
    second = await bench.store.replace(MANIFEST, b"two", first)
    found = await bench.store.read(MANIFEST)
    assert (found.data, found.version) == (b"two", second)


async def test_of_two_that_replace_with_the_same_one_wins_though_answers_are_lost(bench: Bench) -> None:
    first = await bench.store.create(MANIFEST, b"one")
    bench.proxy.fail(Fault(drop="after"), "PUT", times=2)
    both = (bench.store.replace(MANIFEST, b"two", first) for _ in range(2))
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["VersionConflict", "str"]


async def test_a_request_that_never_arrived_is_made_again(bench: Bench) -> None:
    bench.proxy.fail(Fault(drop="before"), "PUT", times=3)
    await bench.store.create(KEY, SECRET)
    assert (await bench.store.read(KEY)).data == SECRET


async def test_an_answer_cut_in_the_middle_is_asked_for_again(bench: Bench) -> None:
    content = bytes(range(256)) * 1_000
    await bench.store.create(KEY, content)
    bench.proxy.fail(Fault(cut=100_000), "GET", times=2)
    assert (await bench.store.read(KEY)).data == content
    assert bench.retries == ["unavailable", "unavailable"]


async def test_an_answer_that_was_changed_is_not_believed(bench: Bench) -> None:
    await bench.store.create(KEY, SECRET)
    bench.proxy.fail(Fault(rewrite=(b"confidence", b"c0nfidence")), "GET", times=99)
    with pytest.raises(ObjectCorrupt):
        await bench.store.read(KEY)


async def test_content_damaged_on_its_way_to_s3_is_sent_again(strict: Bench) -> None:
    strict.proxy.fail(Fault(damage=(b"confidence", b"c0nfidence")), "PUT", times=2)
    await strict.store.create(KEY, SECRET)
    assert (await strict.store.read(KEY)).data == SECRET
    assert strict.retries == ["checksum", "checksum"]


# -- S3 is busy, slow or away ------------------------------------------------------------------------------------------


async def test_a_busy_s3_is_asked_again_after_pauses_that_grow_and_differ(bench: Bench) -> None:
    bench.proxy.fail(BUSY, "PUT", times=6)
    await bench.store.create(KEY, SECRET)
    assert (await bench.store.read(KEY)).data == SECRET
    assert bench.retries == ["throttled"] * 6
    assert len(set(bench.pauses)) == 6
    assert max(bench.pauses) <= QUICK.pause_seconds_max


async def test_it_waits_as_long_as_it_is_asked_to(bench: Bench) -> None:
    bench.proxy.fail(replace(BUSY, headers=("Retry-After: 3",)), "PUT")
    await bench.store.create(KEY, SECRET)
    (pause,) = bench.pauses
    assert 3.0 <= pause <= 3.0 + QUICK.pause_seconds_max


async def test_it_does_not_wait_longer_than_its_budget(bench: Bench) -> None:
    bench.proxy.fail(replace(BUSY, headers=("Retry-After: 60",)), "PUT")
    with pytest.raises(StoreUnavailable) as caught:
        await bench.store.create(KEY, SECRET)
    assert (caught.value.reason, caught.value.key, bench.pauses) == ("throttled", KEY, [])
    assert str(caught.value) == f"{KEY}: S3 asks for fewer requests (attempts: 1)"


async def test_calls_share_how_often_they_try_again(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, replace(QUICK, retry_tokens=50)) as bench:
        bench.proxy.rule = lambda _: BUSY
        work = (bench.store.create(f"{KEY}-{number}", b"x") for number in range(20))
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        assert {getattr(outcome, "reason", None) for outcome in outcomes} == {"throttled"}
        assert len(bench.proxy.requests) == 20 + 10
        bench.proxy.rule = lambda _: None
        await bench.store.create(KEY, b"x")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_failing_s3_is_asked_again(bench: Bench, status: int) -> None:
    for method in ("PUT", "GET"):
        bench.proxy.fail(Fault(status=status), method, times=2)
        await bench.store.create(KEY, SECRET)
        assert (await bench.store.read(KEY)).data == SECRET


async def test_a_slow_s3_is_given_up_and_asked_again(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, replace(QUICK, attempt_seconds=0.3, budget_seconds=2.0)) as bench:
        never = asyncio.Event()
        bench.proxy.fail(Fault(answer_gate=never), "PUT", times=2)
        version = await bench.store.create(KEY, SECRET)
        assert (await bench.store.read(KEY)).version == version
        assert set(bench.retries) == {"timeout"}
        bench.proxy.rule = lambda _: Fault(gate=never)
        with pytest.raises(StoreUnavailable) as caught:
            await bench.store.read(KEY)
        assert caught.value.reason == "timeout"


async def test_where_nobody_answers_it_says_so(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, replace(QUICK, budget_seconds=0.1)) as bench:
        pass
    async with S3Store(
        bench.place,
        region=REGION,
        endpoint=bench.proxy.url,  # Closed with its bench.
        kms_key_of=lambda _: None,
        limits=replace(QUICK, budget_seconds=0.1),
    ) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.create(KEY, SECRET)
    assert caught.value.reason == "unavailable"


async def test_no_more_connections_than_allowed(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, replace(QUICK, connections=3)) as bench:
        await asyncio.gather(*(bench.store.create(f"{KEY}-{number}", b"x") for number in range(12)))
        assert bench.proxy.open_most == 3


async def test_who_waits_too_long_for_a_connection_is_turned_away(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, replace(QUICK, connections=1, budget_seconds=0.2)) as bench:
        gate = asyncio.Event()
        bench.proxy.fail(Fault(gate=gate), "PUT")
        first = asyncio.ensure_future(bench.store.create(KEY, b"x"))
        await bench.proxy.came.wait()
        with pytest.raises(StoreUnavailable) as caught:
            await bench.store.create(f"{KEY}-2", b"x")
        assert caught.value.reason == "timeout"
        gate.set()
        await first


async def test_a_closed_store_is_unavailable(bench: Bench) -> None:
    await bench.store.close()
    for work in (bench.store.create(KEY, b""), bench.store.read(KEY), bench.listed()):
        with pytest.raises(StoreUnavailable) as caught:
            await work
        assert caught.value.reason == "closed"


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_a_cancelled_put_waits_for_its_answer(bench: Bench) -> None:
    gate = asyncio.Event()
    bench.proxy.fail(Fault(gate=gate), "PUT")
    work = asyncio.ensure_future(bench.store.create(KEY, SECRET))
    await bench.proxy.came.wait()
    work.cancel()
    done, _ = await asyncio.wait((work,), timeout=0.05)
    assert not done
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await bench.store.read(KEY)).data == SECRET


async def test_a_cancelled_put_does_not_wait_for_ever(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, replace(QUICK, settle_seconds=0.05)) as bench:
        bench.proxy.fail(Fault(gate=asyncio.Event()), "PUT")
        work = asyncio.ensure_future(bench.store.create(KEY, SECRET))
        await bench.proxy.came.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(work, 2.0)
        assert await bench.listed() == []


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_long_stream_goes_in_parts(either: Bench) -> None:
    store, proxy = either.store, either.proxy
    version = await store.create(KEY, stream(17 * MEBIBYTE, tail=b"the end"))
    found = await store.read(KEY)
    assert (found.size, found.version) == (17 * MEBIBYTE + 7, version)
    assert found.data == bytes(17 * MEBIBYTE) + b"the end"
    assert (await store.read(KEY, 17 * MEBIBYTE)).data == b"the end"
    sizes = sorted(len(asked.body) for asked in proxy.seen("PUT", "partNumber"))
    assert sizes == [2 * MEBIBYTE + 7] + [5 * MEBIBYTE] * 3
    told = await either.head(KEY)
    assert told["ServerSideEncryption"] == "aws:kms"
    assert told["SSEKMSKeyId"].endswith(either.server.kms_key)
    assert proxy.open_most <= QUICK.parts_at_once
    with pytest.raises(ObjectExists):
        await store.create(KEY, stream(17 * MEBIBYTE))


async def test_what_is_large_asks_before_it_is_sent(either: Bench) -> None:
    """A server refuses a conditional put before it has read it, and cuts the connection."""
    content = bytes(11 * MEBIBYTE)
    version = await either.store.create(KEY, stream(len(content)))
    assert await either.store.create(KEY, content) == version
    with pytest.raises(ObjectExists):
        await either.store.create(KEY, content + b"!")
    assert all("partNumber" in asked.target for asked in either.proxy.seen("PUT"))


async def test_a_short_stream_goes_as_one_put(bench: Bench) -> None:
    await bench.store.create(KEY, stream(5 * MEBIBYTE))
    assert [str(asked) for asked in bench.proxy.requests] == [
        "HEAD 000000000000-1",
        "PUT 000000000000-1",
    ]


async def test_a_short_stream_whose_answer_was_lost_is_a_success(bench: Bench) -> None:
    bench.proxy.fail(Fault(drop="after"), "PUT")
    version = await bench.store.create(KEY, stream(1_000))
    assert (await bench.store.read(KEY)).version == version


@pytest.mark.parametrize(
    ("method", "text", "fault"),
    [
        ("PUT", "partNumber=2", Fault(drop="after")),
        ("PUT", "partNumber=2", BUSY),
        ("POST", "uploadId", Fault(drop="after")),
        ("POST", "uploadId", BUSY),
        ("POST", "uploads", BUSY),
    ],
)
async def test_a_stream_survives_what_puts_survive(
    either: Bench, method: str, text: str, fault: Fault
) -> None:
    either.proxy.fail(fault, method, text, times=2)
    version = await either.store.create(KEY, stream(11 * MEBIBYTE, tail=b"!"))
    found = await either.store.read(KEY, 11 * MEBIBYTE)
    assert (found.data, found.version, found.size) == (b"!", version, 11 * MEBIBYTE + 1)
    assert await either.uploads() == []


async def test_a_stream_that_is_overtaken_is_aborted(strict: Bench) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(11 * MEBIBYTE)
        await strict.store.create(KEY, b"first")

    with pytest.raises(ObjectExists):
        await strict.store.create(KEY, body())
    assert (await strict.store.read(KEY)).data == b"first"
    assert await strict.uploads() == []


async def test_a_stream_that_fails_is_aborted(strict: Bench) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(11 * MEBIBYTE)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await strict.store.create(KEY, body())
    assert (await strict.uploads(), await strict.listed()) == ([], [])


async def test_a_part_that_cannot_be_sent_aborts_the_stream(bench: Bench) -> None:
    bench.proxy.fail(Fault(status=403, code="AccessDenied"), "PUT", "partNumber=2")
    with pytest.raises(StoreUnavailable) as caught:
        await bench.store.create(KEY, stream(40 * MEBIBYTE))
    assert caught.value.reason == "access_denied"
    assert (await bench.uploads(), await bench.listed()) == ([], [])


async def test_a_cancelled_stream_is_aborted(bench: Bench) -> None:
    waiting = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(11 * MEBIBYTE)
        waiting.set()
        await asyncio.Event().wait()

    work = asyncio.ensure_future(bench.store.create(KEY, body()))
    await waiting.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await bench.uploads(), await bench.listed()) == ([], [])


# -- encryption --------------------------------------------------------------------------------------------------------


async def test_each_clinic_has_its_key(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, moto)
    key = "arn:aws:kms:ap-northeast-1:123456789012:key/"
    keys = {"tokyo-1": f"{key}aaaa", "osaka": "bbbb", "_system": None}
    async with bench_on(moto, kms=keys.__getitem__) as bench:
        version = await bench.store.create("tokyo-1/s/n", b"x")
        await bench.store.replace("tokyo-1/s/n", b"y", version)
        await bench.store.create("osaka/s/n", b"x")
        await bench.store.create("_audit/n", b"x")
        sent = [asked.headers for asked in bench.proxy.seen("PUT")]
        asked = [headers.get("x-amz-server-side-encryption-aws-kms-key-id") for headers in sent]
        assert asked == [f"{key}aaaa", f"{key}aaaa", "bbbb", None]
        assert [headers.get("x-amz-server-side-encryption-bucket-key-enabled") for headers in sent] == [
            "true",
            "true",
            "true",
            None,
        ]
        assert all("x-amz-checksum-sha256" in headers for headers in sent)


@pytest.mark.parametrize(
    "rewrite",
    [
        (b"x-amz-server-side-encryption: aws:kms", b"x-amz-server-side-encryption: AES256"),
        (b"key/0190b6c5", b"key/another0"),
        (b"x-amz-server-side-encryption", b"x-not"),
    ],
)
async def test_what_s3_did_not_encrypt_as_asked_is_not_promised(
    bench: Bench, rewrite: tuple[bytes, bytes]
) -> None:
    first = await bench.store.create(MANIFEST, b"one")
    bench.proxy.rule = lambda _: Fault(rewrite=rewrite)
    for work in (
        bench.store.create(KEY, SECRET),
        bench.store.create(KEY, SECRET),  # It is there now, and no better for it.
        bench.store.replace(MANIFEST, b"two", first),
        bench.store.create(f"{KEY}-2", stream(6 * MEBIBYTE)),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await work
        assert caught.value.reason == "not_encrypted"
    assert await bench.uploads() == []


async def test_a_key_that_is_not_there_is_named_as_the_reason(
    minio: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, minio)
    async with bench_on(minio, kms=lambda _: "another-key") as bench:
        with pytest.raises(StoreUnavailable, match="the key cannot be used") as caught:
            await bench.store.create(KEY, SECRET)
        assert (caught.value.reason, bench.retries) == ("kms", [])


# -- where things lie --------------------------------------------------------------------------------------------------


async def test_the_prefix_is_seen_by_nobody(bench: Bench) -> None:
    await bench.store.create(KEY, b"x")
    async with plain_client(bench.server) as client:
        name = bench.place.name(KEY)
        assert (await client.get_object(Bucket=BUCKET, Key=name))["ContentLength"] == 1
        await client.put_object(Bucket=BUCKET, Key=bench.place.prefix, Body=b"")
        await client.put_object(Bucket=BUCKET, Key=bench.place.name("tokyo-1/"), Body=b"")
    assert await bench.listed() == [KEY]
    assert [row.key async for row in bench.store.list("", delimiter="/")] == ["tokyo-1/"]


async def test_what_another_program_put_there_can_be_read_and_replaced(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with bench_on(moto, kms=lambda _: None) as bench:
        async with plain_client(bench.server) as client:
            await client.put_object(Bucket=BUCKET, Key=bench.place.name(MANIFEST), Body=b"one")
        found = await bench.store.read(MANIFEST)
        assert found.data == b"one"
        assert await bench.store.create(MANIFEST, b"one") == found.version
        await bench.store.replace(MANIFEST, b"two", found.version)


async def test_a_missing_bucket_is_named_as_the_reason(strict: Bench) -> None:
    place = S3Place("no-such-bucket")
    async with S3Store(
        place, region=REGION, endpoint=strict.proxy.url, kms_key_of=lambda _: None, limits=QUICK
    ) as store:
        for work in (
            store.create(KEY, SECRET),
            store.create(KEY, stream(1)),
            store.create(KEY, stream(6 * MEBIBYTE)),
            store.read(KEY),
            store.delete(KEY),
            anext(aiter(store.list(""))),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            assert caught.value.reason == "no_bucket"


async def test_a_wrong_secret_is_named_as_the_reason(strict: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with S3Store(
        strict.place, region=REGION, endpoint=strict.proxy.url, kms_key_of=lambda _: None, limits=QUICK
    ) as store:
        with pytest.raises(StoreUnavailable, match="the secret key is wrong") as caught:
            await store.create(KEY, SECRET)
    assert caught.value.reason == "credentials"


# -- whose credentials -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def scoped_bench(server: S3Server, **options: Any) -> AsyncIterator[tuple[Bench, StsScope]]:
    place = await new_place(server)

    def policy(clinic: str) -> str:
        # MinIO's session policies know S3's actions only.
        return clinic_policy(place, clinic, server.kms_key if isinstance(server, MotoServer) else None)

    async with (
        proxied(server.url) as proxy,
        StsScope(ROLE, policy, region=REGION, endpoint=proxy.url, **options) as scope,
        S3Store(
            place,
            region=REGION,
            endpoint=proxy.url,
            kms_key_of=lambda _: server.kms_key,
            scope=scope,
            limits=QUICK,
        ) as store,
    ):
        yield Bench(store, proxy, place, server, [], []), scope


def signer(request: Request) -> str:
    found = re.search(r"Credential=([^/]+)/", request.headers["authorization"])
    assert found is not None
    return found[1]


async def test_a_clinics_objects_are_touched_with_its_credentials_only(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with scoped_bench(moto) as (bench, _):
        store, proxy = bench.store, bench.proxy
        await asyncio.gather(*(store.create(f"tokyo-1/s/{number}", b"x") for number in range(10)))
        await store.create("osaka/s/n", b"x")
        await store.create("_audit/n", b"x")
        await store.create("_clinics/osaka.json", b"x")
        await bench.listed()
        await bench.listed("tokyo-1/s/")
        asked = [
            parse_qs(request.body.decode()) for request in proxy.requests if b"AssumeRole" in request.body
        ]
        assert [fields["RoleSessionName"] for fields in asked] == [["kikitori-tokyo-1"], ["kikitori-osaka"]]
        assert json.loads(asked[0]["Policy"][0]) == {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": [
                        "s3:GetObject",
                        "s3:PutObject",
                        "s3:DeleteObject",
                        "s3:AbortMultipartUpload",
                        "s3:ListMultipartUploadParts",
                    ],
                    "Resource": f"arn:aws:s3:::{BUCKET}/{bench.place.prefix}tokyo-1/*",
                },
                {
                    "Effect": "Allow",
                    "Action": "s3:ListBucket",
                    "Resource": f"arn:aws:s3:::{BUCKET}",
                    "Condition": {"StringLike": {"s3:prefix": f"{bench.place.prefix}tokyo-1/*"}},
                },
                {
                    "Effect": "Allow",
                    "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
                    "Resource": moto.kms_key,
                },
            ],
        }
        tokyo = {signer(request) for request in proxy.seen("PUT", "tokyo-1")}
        osaka = {signer(request) for request in proxy.seen("PUT", "/osaka/")}
        assert len(tokyo) == len(osaka) == 1
        assert len(tokyo | osaka | {moto.access_key}) == 3
        own = [request for area in ("_audit", "_clinics") for request in proxy.seen("PUT", area)]
        assert {signer(request) for request in own} == {moto.access_key}
        assert not any("x-amz-security-token" in request.headers for request in own)
        everything, one = proxy.seen("GET")
        assert (signer(everything), {signer(one)}) == (moto.access_key, tokyo)


async def test_credentials_that_s3_rejects_are_renewed_at_once(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with scoped_bench(moto) as (bench, _):
        await bench.store.create("tokyo-1/s/1", b"x")
        bench.proxy.fail(Fault(status=400, code="ExpiredToken"), "PUT")
        await bench.store.create("tokyo-1/s/2", b"x")
        first, _, second = [signer(request) for request in bench.proxy.seen("PUT")]
        assert first != second


async def test_credentials_are_renewed_before_they_end(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    later = 0.0
    around = Surroundings(wall=lambda: time.time() + later, random=lambda: 0.5)
    async with scoped_bench(moto, around=around, limits=QUICK) as (bench, scope):

        async def key() -> str:
            many = await asyncio.gather(*(scope.credentials_for("tokyo-1") for _ in range(5)))
            (one,) = {(await found.get_frozen_credentials()).access_key for found in many}
            return str(one)

        first = await key()
        later = 3_600 - 460
        assert await key() == first
        later = 3_600 - 440
        bench.proxy.fail(Fault(status=503), "POST", times=1_000)
        assert await key() == first  # STS is away; they are still good.
        asked = len(bench.proxy.requests)
        assert await key() == first
        assert len(bench.proxy.requests) == asked  # It is left alone for a while.
        later = 3_600 + 1
        with pytest.raises(StoreUnavailable) as caught:
            await key()
        assert (caught.value.reason, caught.value.key) == ("unavailable", "tokyo-1")
        bench.proxy.rule = lambda _: None
        renewed = await scope.credentials_for("tokyo-1")
        assert (await renewed.get_frozen_credentials()).access_key != first


async def test_only_so_many_clinics_credentials_are_kept(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with scoped_bench(moto, clinics_max=2) as (bench, scope):
        for clinic in ("a", "b", "a", "c", "a", "b"):
            await scope.credentials_for(clinic)
        names = [parse_qs(asked.body.decode())["RoleSessionName"][0] for asked in bench.proxy.requests]
        assert names == ["kikitori-a", "kikitori-b", "kikitori-c", "kikitori-b"]


async def test_a_role_that_may_not_be_assumed_is_named_as_the_reason(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, moto)
    async with scoped_bench(moto) as (bench, _):
        bench.proxy.fail(Fault(status=403, code="AccessDenied"), "POST", times=9)
        with pytest.raises(StoreUnavailable, match="the permission sts:AssumeRole is missing") as caught:
            await bench.store.read(KEY)
        assert caught.value.reason == "access_denied"


class Mistaken:
    """A scope with a bug: whichever clinic is asked for, the credentials are osaka's."""

    def __init__(self, scope: StsScope) -> None:
        self._scope = scope

    async def credentials_for(self, clinic: str) -> Signing:
        return await self._scope.credentials_for("osaka")

    def reject(self, clinic: str, credentials: Signing) -> None:
        """Keep them."""


async def test_a_bug_of_ours_cannot_reach_another_clinic(
    minio: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, minio)
    async with scoped_bench(minio) as (bench, scope):
        version = await bench.store.create(KEY, SECRET)
        async with S3Store(
            bench.place,
            region=REGION,
            endpoint=minio.url,
            kms_key_of=lambda _: minio.kms_key,
            scope=Mistaken(scope),
            limits=QUICK,
        ) as mistaken:
            for work in (
                mistaken.read(KEY),
                mistaken.create(KEY, b"x"),
                mistaken.create("tokyo-1/s/new", b"x"),
                mistaken.create("tokyo-1/s/new", stream(6 * MEBIBYTE)),
                mistaken.replace(KEY, b"x", version),
                mistaken.delete(KEY),
                anext(aiter(mistaken.list("tokyo-1/"))),
                anext(aiter(mistaken.list("tokyo-1/0190b6c5/"))),
            ):
                with pytest.raises(StoreUnavailable, match=r"the permission s3:\w+ is missing") as caught:
                    await work
                assert caught.value.reason == "access_denied"
            await mistaken.create("osaka/s/n", b"mine")
            assert (await mistaken.read("osaka/s/n")).data == b"mine"
        assert (await bench.store.read(KEY)).data == SECRET
        assert await bench.listed("tokyo-1/") == [KEY]


async def test_scoped_credentials_serve_for_everything_in_their_clinic(
    minio: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, minio)
    async with scoped_bench(minio) as (bench, _):
        store = bench.store
        version = await store.create(KEY, stream(6 * MEBIBYTE))
        assert await store.replace(KEY, b"x", version) != version
        with pytest.raises(ObjectMissing):
            await store.read(MANIFEST)
        with pytest.raises(ObjectMissing):
            await store.replace(MANIFEST, b"", Version("v"))
        assert await bench.listed("tokyo-1/") == [KEY]
        await store.delete(KEY)
        assert await bench.listed("tokyo-1/") == []


async def test_where_denied_may_mean_missing_a_list_tells(bench: Bench) -> None:
    """S3 answers so to credentials whose right to list is bound to a prefix."""
    denied = Fault(status=403, code="AccessDenied")
    await bench.store.create(KEY, SECRET)
    bench.proxy.rule = lambda asked: denied if "list-type" not in asked.target else None
    for work in (bench.store.read(MANIFEST), bench.store.replace(MANIFEST, b"", Version("v"))):
        with pytest.raises(ObjectMissing):
            await work
    with pytest.raises(StoreUnavailable, match="the permission s3:GetObject is missing"):
        await bench.store.read(KEY)


async def test_minio_refuses_what_moto_waves_through(strict: Bench) -> None:
    """The stand-ins differ, and tests lean on it."""
    async with plain_client(strict.server) as client:
        with pytest.raises(ClientError, match="checksum"):
            await client.put_object(
                Bucket=BUCKET, Key=strict.place.name(KEY), Body=b"x", ChecksumSHA256="A" * 43 + "="
            )


async def test_a_version_is_bound_to_its_write_even_where_etags_are_the_contents(bench: Bench) -> None:
    first = await bench.store.create(MANIFEST, b"one")
    second = await bench.store.replace(MANIFEST, b"two", first)
    third = await bench.store.replace(MANIFEST, b"one", second)
    assert third.partition(".")[0] == first.partition(".")[0]
    with pytest.raises(VersionConflict):
        await bench.store.replace(MANIFEST, b"three", first)
