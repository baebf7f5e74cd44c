"""What every archive store promises. An adapter joins by a branch in ``store``."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.adapters.disk_store import DiskStore
from app.adapters.local_keys import LocalKeys
from app.adapters.s3_store import S3Store
from app.archive.store import (
    ListedObject,
    ObjectExists,
    ObjectMissing,
    Store,
    StoreError,
    Version,
    VersionConflict,
)
from tests.support import minio_server, moto_server
from tests.support.s3_archive import REGION, S3Server, new_place, sign_in

SESSION = "tokyo-1/0190b6c5"
KEY = f"{SESSION}/session.json"
SIZES = [0, 1, 65_479, 65_480, 65_481, 131_000, 131_001, 160_000]


@pytest.fixture(scope="module")
def moto() -> Iterator[moto_server.MotoServer]:
    with moto_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def minio() -> Iterator[minio_server.MinioServer]:
    with minio_server.running() as server:
        yield server


@pytest.fixture(params=["disk", "moto", "minio"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    if request.param == "disk":
        async with DiskStore(tmp_path / "archive", LocalKeys(bytes(32))) as disk:
            yield disk
        return
    server: S3Server = request.getfixturevalue(request.param)
    sign_in(monkeypatch, server)
    place, kms_key = await new_place(server), server.kms_key
    async with S3Store(place, region=REGION, endpoint=server.url, kms_key_of=lambda _: kms_key) as s3:
        yield s3


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        await asyncio.sleep(0)
        yield piece


def noise(size: int) -> bytes:
    return hashlib.shake_128(b"noise").digest(size)


async def keys(rows: AsyncIterator[ListedObject]) -> list[str]:
    return [row.key async for row in rows]


async def outcome(work: asyncio.Future[Version] | object) -> Version | StoreError:
    try:
        return await work  # type: ignore[misc,no-any-return]
    except StoreError as error:
        return error


# -- create and read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_created_is_read(store: Store, size: int) -> None:
    content = noise(size)
    version = await store.create(KEY, content)
    found = await store.read(KEY)
    assert (found.data, found.version, found.size) == (content, version, size)


@pytest.mark.parametrize("size", [*SIZES, 1_000_000])
@pytest.mark.parametrize("piece", [997, 65_536, 2_000_000])
async def test_what_came_in_pieces_is_read_whole(store: Store, size: int, piece: int) -> None:
    content = noise(size)
    version = await store.create(KEY, pieces(*(content[at : at + piece] for at in range(0, size, piece))))
    found = await store.read(KEY)
    assert (found.data, found.version, found.size) == (content, version, size)


async def test_creating_the_same_again_is_a_success(store: Store) -> None:
    version = await store.create(KEY, b"same")
    assert await store.create(KEY, b"same") == version


@pytest.mark.parametrize("other", [b"", b"othe", b"other", b"some", b"some more"])
async def test_other_content_is_not_overwritten(store: Store, other: bytes) -> None:
    version = await store.create(KEY, b"same")
    with pytest.raises(ObjectExists) as caught:
        await store.create(KEY, other)
    assert caught.value.key == KEY
    found = await store.read(KEY)
    assert (found.data, found.version) == (b"same", version)


async def test_where_anything_is_a_stream_is_refused_before_it_is_read(store: Store) -> None:
    await store.create(KEY, b"same")
    taken = []

    async def body() -> AsyncIterator[bytes]:
        taken.append(1)
        yield b"same"

    with pytest.raises(ObjectExists):
        await store.create(KEY, body())
    assert not taken


async def test_a_stream_that_finds_its_place_taken_at_the_end_is_refused(store: Store) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"late"
        await store.create(KEY, b"first")

    with pytest.raises(ObjectExists):
        await store.create(KEY, body())
    assert (await store.read(KEY)).data == b"first"


async def test_a_stream_that_fails_leaves_nothing(store: Store) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(1_000_000)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await store.create(KEY, body())
    with pytest.raises(ObjectMissing):
        await store.read(KEY)
    assert await keys(store.list("")) == []


async def test_cancelling_a_stream_leaves_nothing(store: Store) -> None:
    waiting = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(1_000_000)
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(store.create(KEY, body()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ObjectMissing):
        await store.read(KEY)
    assert await keys(store.list("")) == []


async def test_cancelling_at_any_moment_leaves_all_or_nothing_and_it_stays_so(store: Store) -> None:
    content = noise(200_000)
    for number in range(40):
        key = f"{SESSION}/segments/{number:03d}"
        task = asyncio.ensure_future(store.create(key, content))
        done, _ = await asyncio.wait((task,), timeout=number * 0.0002)
        task.cancel()
        cancelled = isinstance(
            (await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError
        )
        before = await keys(store.list(key))
        if before or not cancelled:
            assert (await store.read(key)).data == content
        assert await keys(store.list(key)) == before
        assert not (done and not before)


async def test_of_many_that_create_one_wins(store: Store) -> None:
    contents = [f"content {number}".encode() for number in range(12)]
    outcomes = await asyncio.gather(*(outcome(store.create(KEY, content)) for content in contents))
    winners = [content for content, found in zip(contents, outcomes, strict=True) if isinstance(found, str)]
    assert len(winners) == 1
    assert sum(isinstance(found, ObjectExists) for found in outcomes) == 11
    assert (await store.read(KEY)).data == winners[0]


async def test_many_that_create_the_same_all_succeed(store: Store) -> None:
    versions = await asyncio.gather(*(store.create(KEY, b"same" * 50_000) for _ in range(12)))
    assert set(versions) == {(await store.read(KEY)).version}


# -- read --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 200_000])
async def test_a_range_is_clamped_to_the_object(store: Store, size: int) -> None:
    content = noise(size)
    version = await store.create(KEY, content)
    edges = [0, 1, 5, 10, 65_479, 65_480, 65_481, 131_000, 199_999, 200_000, 200_001, 10_000_000]
    for start, end in [*pairwise(edges), (5, 5), (10, 5), (0, 10_000_000), (70_000, 190_000)]:
        found = await store.read(KEY, start, end)
        assert (found.data, found.size, found.version) == (content[start:end], size, version)
    assert (await store.read(KEY, 3)).data == content[3:]


@pytest.mark.parametrize(
    "key", [KEY, f"{SESSION}/segments", f"{SESSION}/segments/a/b", "osaka/s/n", "_audit/x"]
)
async def test_what_is_not_there_is_missing(store: Store, key: str) -> None:
    await store.create(f"{SESSION}/segments/a", b"x")
    for work in (store.read(key), store.replace(key, b"", Version("v"))):
        with pytest.raises(ObjectMissing) as caught:
            await work
        assert caught.value.key == key


# -- replace -----------------------------------------------------------------------------------------------------------


async def test_replacing_needs_the_version_that_is_there(store: Store) -> None:
    first = await store.create(KEY, b"one")
    second = await store.replace(KEY, b"two", first)
    assert second != first
    with pytest.raises(VersionConflict) as caught:
        await store.replace(KEY, b"three", first)
    assert caught.value.key == KEY
    found = await store.read(KEY)
    assert (found.data, found.version) == (b"two", second)
    third = await store.replace(KEY, b"x" * 200_000, second)
    assert (await store.read(KEY)).data == b"x" * 200_000
    assert third == (await store.read(KEY)).version


async def test_a_version_does_not_come_back_with_its_content(store: Store) -> None:
    first = await store.create(KEY, b"one")
    second = await store.replace(KEY, b"two", first)
    third = await store.replace(KEY, b"one", second)
    assert len({first, second, third}) == 3
    await store.delete(KEY)
    await store.create(KEY, b"one but newer")
    with pytest.raises(VersionConflict):
        await store.replace(KEY, b"two", third)


async def test_of_many_that_replace_one_wins(store: Store) -> None:
    version = await store.create(KEY, b"start")
    contents = [f"content {number}".encode() for number in range(12)]
    outcomes = await asyncio.gather(*(outcome(store.replace(KEY, content, version)) for content in contents))
    winners = [content for content, found in zip(contents, outcomes, strict=True) if isinstance(found, str)]
    assert len(winners) == 1
    assert sum(isinstance(found, VersionConflict) for found in outcomes) == 11
    assert (await store.read(KEY)).data == winners[0]


async def test_a_counter_that_many_raise_by_comparing_loses_nothing(store: Store) -> None:
    await store.create(KEY, b"0")

    async def raise_it() -> None:
        for _ in range(10):
            while True:
                found = await store.read(KEY)
                try:
                    await store.replace(KEY, str(int(found.data) + 1).encode(), found.version)
                except VersionConflict:
                    continue
                break

    await asyncio.gather(*(raise_it() for _ in range(5)))
    assert (await store.read(KEY)).data == b"50"


# -- list --------------------------------------------------------------------------------------------------------------

# In the order of their UTF-8: "-" and "." come before "/", "0" after it.
NAMES = [
    "_audit/2026/11/a.jsonl",
    "_clinics/osaka.json",
    "osaka/s/session.json",
    "tokyo-1/a-b/n",
    "tokyo-1/a/epochs/1.json",
    "tokyo-1/a/epochs/10.json",
    "tokyo-1/a/epochs/2.json",
    "tokyo-1/a/seg-x",
    "tokyo-1/a/seg.y",
    "tokyo-1/a/seg/1",
    "tokyo-1/a/seg/2",
    "tokyo-1/a/seg0",
    "tokyo-1/a/~",
    "tokyo-1/a/é",
    "tokyo-1/a/録音",
    "tokyo-1/a/🎤",
    "tokyo-1/a0/n",
    "tokyo/a/n",
]


@pytest.fixture
async def filled(store: Store) -> Store:
    for name in NAMES[::2] + NAMES[::-2]:
        await store.create(name, name.encode())
    return store


def expected(prefix: str, delimiter: str, after: str) -> list[str]:
    """The contract, said naively."""
    rows = []
    for name in NAMES:
        if not name.startswith(prefix) or name <= after:
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        row = name if cut < 0 else name[: cut + len(delimiter)]
        if row not in rows and row != after:
            rows.append(row)
    return rows


def test_the_names_are_in_order() -> None:
    assert sorted(NAMES, key=str.encode) == NAMES


@pytest.mark.parametrize("delimiter", ["", "/", "-", "/s", "e"])
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "tokyo",
        "tokyo-1/",
        "tokyo-1/a",
        "tokyo-1/a/",
        "tokyo-1/a/seg",
        "tokyo-1/a/seg/",
        "_",
        "x",
        "tokyo-1/a/é",
    ],
)
async def test_it_lists_in_order_from_anywhere(
    filled: Store, prefix: str, delimiter: str, request: pytest.FixtureRequest
) -> None:
    places = [
        "",
        *NAMES,
        *expected(prefix, delimiter, ""),
        "tokyo-1/a/seg",
        "tokyo-1/a/seg/",
        "tokyo-1/zzz",
        "\U0010ffff",
    ]
    # moto takes a tenth of a second for a list: it is asked about every fifth place, the others about each.
    for after in places[:: 5 if "moto" in request.node.name else 1]:
        found = await keys(filled.list(prefix, delimiter=delimiter, after=after))
        assert found == expected(prefix, delimiter, after), after


async def test_rows_have_their_sizes_and_common_prefixes_none(filled: Store) -> None:
    rows = [row async for row in filled.list("tokyo-1/a/", delimiter="/")]
    assert [row.size for row in rows] == [
        0 if row.key.endswith("/") else len(row.key.encode()) for row in rows
    ]


@pytest.mark.parametrize(
    "prefix", ["../", "/", "tokyo-1//", "tokyo-1/./", "tokyo-1/a/n/o/n/e/", "\ud800/", "a\x00/"]
)
async def test_a_prefix_that_no_key_can_have_lists_nothing(filled: Store, prefix: str) -> None:
    assert await keys(filled.list(prefix)) == []


async def test_a_listing_outlives_what_is_deleted_under_it(filled: Store) -> None:
    found = []
    async for row in filled.list("tokyo-1/", delimiter=""):
        found.append(row.key)
        await filled.delete(row.key)
    assert found == [name for name in NAMES if name.startswith("tokyo-1/")]


async def test_many_objects_are_all_listed(store: Store) -> None:
    names = [f"{SESSION}/segments/{number:012d}-1" for number in range(600)]
    for start in range(0, 600, 50):
        await asyncio.gather(*(store.create(name, b"x") for name in names[start : start + 50]))
    assert await keys(store.list(f"{SESSION}/")) == names


# -- delete ------------------------------------------------------------------------------------------------------------


async def test_deleting_is_done_once_and_can_be_repeated(store: Store) -> None:
    await store.create(KEY, b"one")
    await store.create(f"{SESSION}/segments/1", b"two")
    await store.delete(KEY)
    await store.delete(KEY)
    with pytest.raises(ObjectMissing):
        await store.read(KEY)
    assert await keys(store.list("")) == [f"{SESSION}/segments/1"]
    assert (await store.read(f"{SESSION}/segments/1")).data == b"two"


@pytest.mark.parametrize("key", [KEY, "osaka/s/a/b/c", "_audit/none", f"{SESSION}/a", f"{SESSION}/a/b/c"])
async def test_deleting_what_is_not_there_is_a_success(store: Store, key: str) -> None:
    await store.create(f"{SESSION}/a/b", b"x")
    await store.delete(key)
    assert await keys(store.list("")) == [f"{SESSION}/a/b"]


async def test_after_the_last_object_the_session_can_begin_again(store: Store) -> None:
    for turn in (b"first", b"second"):
        await store.create(KEY, turn)
        await store.create(f"{SESSION}/segments/1", turn)
        assert (await store.read(KEY)).data == turn
        await store.delete(KEY)
        await store.delete(f"{SESSION}/segments/1")
        assert await keys(store.list("", delimiter="/")) == []


async def test_creating_and_deleting_side_by_side_loses_nothing(store: Store) -> None:
    async def come_and_go(name: str) -> None:
        for number in range(30):
            content = f"{name} {number}".encode()
            await store.create(f"{SESSION}/{name}", content)
            assert (await store.read(f"{SESSION}/{name}")).data == content
            await store.delete(f"{SESSION}/{name}")

    await asyncio.gather(*(come_and_go(name) for name in ("a", "b", "deep/c", "deep/d")))
    assert await keys(store.list("")) == []


# -- keys --------------------------------------------------------------------------------------------------------------

UNSOUND = [
    "",
    "/",
    "/c/s/n",
    "c/s/n/",
    "c//n",
    "c/s",
    "c",
    "_audit",
    "_audit/",
    "c/../n",
    "c/s/..",
    "c/s/.",
    "c/s/.key",
    "c/s/a/.hidden",
    ".staging/x/y",
    "c/s/a\\b",
    "c/s/a\x00b",
    "c/s/a\nb",
    "c/s/\ud800",
    "C/s/n",
    "c!/s/n",
    "c/s/" + "n" * 256,
    "c/s/" + "n/" * 300 + "n",
]


@pytest.mark.parametrize("key", UNSOUND)
async def test_an_unsound_key_is_refused_by_every_verb(store: Store, key: str) -> None:
    for work in (
        store.create(key, b""),
        store.create(key, pieces(b"")),
        store.read(key),
        store.replace(key, b"", Version("v")),
        store.delete(key),
    ):
        with pytest.raises(ValueError, match="an object's key"):
            await work


@pytest.mark.parametrize(
    "key",
    [
        "_audit/2026/11/20.jsonl",
        "_clinics/tokyo-1.json",
        "c/s/n",
        "c/s/" + "n" * 255,
        "c/_s/" + "n/" * 250 + "n",
    ],
)
async def test_sound_keys_serve(store: Store, key: str) -> None:
    version = await store.create(key, b"one")
    await store.replace(key, b"two", version)
    assert (await store.read(key)).data == b"two"
    assert await keys(store.list(key)) == [key]
    await store.delete(key)
    assert await keys(store.list("")) == []
