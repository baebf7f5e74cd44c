"""The disk store against a real disk: what lies there, what survives, what is noticed, and several processes at once."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.adapters.disk_store import DiskStore
from app.adapters.local_keys import LocalKeys
from app.adapters.object_keys import parse_key
from app.archive.store import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
    Version,
    VersionConflict,
)
from tenants.keys import DataKey, KeyUnavailable
from tests.support.tiny_disk import MEBIBYTE, tiny_disk

REPOSITORY = Path(__file__).parents[2]
MASTER = bytes(range(32))
SESSION = "clinic/session"
SECRET = b"said in confidence"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "archive"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[DiskStore]:
    async with DiskStore(root, LocalKeys(MASTER)) as disk:
        yield disk


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def staged(root: Path) -> list[str]:
    return files(root / ".staging")


async def listed(store: DiskStore, prefix: str = "", delimiter: str = "") -> list[str]:
    return [row.key async for row in store.list(prefix, delimiter=delimiter)]


# -- what lies there ---------------------------------------------------------------------------------------------------


async def test_what_lies_on_disk_is_private_and_unreadable(store: DiskStore, root: Path) -> None:
    version = await store.create(f"{SESSION}/segments/1", SECRET * 10_000)
    await store.create(f"{SESSION}/manifest.json", SECRET)
    await store.replace(f"{SESSION}/segments/1", SECRET, version)
    check_private(root)
    assert files(root / "clinic") == ["session/.key", "session/manifest.json", "session/segments/1"]
    assert await listed(store) == [f"{SESSION}/manifest.json", f"{SESSION}/segments/1"]
    assert staged(root) == []


def check_private(root: Path) -> None:
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            assert b"confidence" not in path.read_bytes()


async def test_a_sessions_last_object_takes_the_key_with_it(store: DiskStore, root: Path) -> None:
    for name in ("a", "segments/1", "segments/2"):
        await store.create(f"{SESSION}/{name}", SECRET)
    (root / SESSION / "left" / "empty").mkdir(parents=True)
    await store.delete(f"{SESSION}/segments/1")
    await store.delete(f"{SESSION}/a")
    assert files(root / "clinic") == ["session/.key", "session/segments/2"]
    await store.delete(f"{SESSION}/segments/2")
    assert not (root / SESSION).exists()
    assert (root / "clinic").exists()


async def test_each_session_has_a_key_of_its_own(store: DiskStore, root: Path) -> None:
    for session in ("clinic/a", "clinic/b", "clonic/a", "_audit"):
        await store.create(f"{session}/n", SECRET)
    found = {
        (root / session / ".key").read_bytes() for session in ("clinic/a", "clinic/b", "clonic/a", "_audit")
    }
    assert len(found) == 4
    shutil.copy(root / "clinic/a/n", root / "clinic/b/n")
    shutil.copy(root / "clinic/a/n", root / "clonic/a/n")
    shutil.copy(root / "clinic/a/.key", root / "clonic/a/.key")
    for key in ("clinic/b/n", "clonic/a/n"):
        with pytest.raises(ObjectCorrupt):
            await store.read(key)


async def test_objects_and_folders_do_not_mix(store: DiskStore) -> None:
    await store.create(f"{SESSION}/a", b"1")
    await store.create(f"{SESSION}/b/c", b"1")

    async def body() -> AsyncIterator[bytes]:
        yield b"2"

    for key in (f"{SESSION}/a/x", f"{SESSION}/a/x/y", f"{SESSION}/b"):
        for content in (b"2", body()):
            with pytest.raises(ObjectExists):
                await store.create(key, content)
    assert await listed(store) == [f"{SESSION}/a", f"{SESSION}/b/c"]


async def test_listing_with_a_delimiter_reads_no_tree(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session in range(3):
        for folder in range(5):
            await store.create(f"clinic/s{session}/f{folder}/n", b"x")
    read: list[str] = []
    real = os.scandir

    def counting(path: Any) -> Any:
        read.append(str(Path(path).relative_to(root)))
        return real(path)

    monkeypatch.setattr("os.scandir", counting)
    assert await listed(store, "clinic/", "/") == ["clinic/s0/", "clinic/s1/", "clinic/s2/"]
    assert len(read) == 1 + 3 * 2
    read.clear()
    rows = store.list("clinic/s1/f2/")
    assert (await anext(rows)).key == "clinic/s1/f2/n"
    assert read == ["clinic/s1/f2"]


# -- what is noticed ---------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, 65_536)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def rename(path: Path) -> None:
    shutil.copy(path.with_name("other"), path)


def lose_key(path: Path) -> None:
    path.with_name(".key").unlink()


def damage_key(path: Path) -> None:
    flip(path.with_name(".key"))


@pytest.mark.parametrize("harm", [flip, cut, empty, rename, lose_key, damage_key])
async def test_a_harmed_object_is_corrupt_and_says_nothing_of_its_content(
    root: Path, harm: Callable[[Path], None]
) -> None:
    key = f"{SESSION}/n"
    async with DiskStore(root, LocalKeys(MASTER)) as store:
        await store.create(key, SECRET * 10_000)
        await store.create(f"{SESSION}/other", SECRET * 10_000)
    harm(root / key)
    async with DiskStore(root, LocalKeys(MASTER)) as store:
        with pytest.raises(ObjectCorrupt) as caught:
            await store.read(key, 100_000, 100_001)
        assert caught.value.key == key
        assert "confidence" not in str(caught.value)
        assert await listed(store) == [key, f"{SESSION}/other"]
        await store.delete(key)
        with pytest.raises(ObjectMissing):
            await store.read(key)


@pytest.mark.parametrize("harm", [flip, cut, empty])
async def test_a_harmed_object_is_not_written_over(
    store: DiskStore, root: Path, harm: Callable[[Path], None]
) -> None:
    key = f"{SESSION}/n"
    version = await store.create(key, SECRET * 10_000)
    harm(root / key)
    harmed = (root / key).read_bytes()
    with pytest.raises(ObjectExists):
        await store.create(key, SECRET * 10_000)
    if harm is empty:
        with pytest.raises(VersionConflict):
            await store.replace(key, SECRET, version)
    assert (root / key).read_bytes() == harmed


async def test_another_master_key_opens_nothing_and_overwrites_nothing(root: Path) -> None:
    async with DiskStore(root, LocalKeys(MASTER)) as store:
        version = await store.create(f"{SESSION}/n", SECRET)
    async with DiskStore(root, LocalKeys(bytes(32))) as other:
        with pytest.raises(ObjectCorrupt):
            await other.read(f"{SESSION}/n")
        for work in (other.create(f"{SESSION}/m", SECRET), other.replace(f"{SESSION}/n", SECRET, version)):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            assert caught.value.reason == "keys"
    async with DiskStore(root, LocalKeys(MASTER)) as store:
        assert (await store.read(f"{SESSION}/n")).data == SECRET


class AwayKeys(LocalKeys):
    """A keeper of keys that can be away."""

    away = True

    async def new_data_key(self, clinic: str, context: Mapping[str, str]) -> DataKey:
        if self.away:
            raise KeyUnavailable("throttled")
        assert context == {"clinicId": clinic, "sessionId": "session" if clinic == "clinic" else "_audit"}
        return await super().new_data_key(clinic, context)


async def test_while_the_keeper_of_keys_is_away_the_store_is_unavailable(root: Path) -> None:
    keys = AwayKeys(MASTER)
    async with DiskStore(root, keys) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.create(f"{SESSION}/n", SECRET)
        assert caught.value.reason == "keys"
        keys.away = False
        await store.create(f"{SESSION}/n", SECRET)
        await store.create("_audit/n", SECRET)


# -- what survives -----------------------------------------------------------------------------------------------------


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[list[tuple[str, str]]]:
    """What is made durable (``sync``) and what appears (``link``, ``rename``), in order, by its path below ``root``."""
    calls: list[tuple[str, str]] = []
    fsync, link, replace = os.fsync, os.link, Path.replace

    def below(path: object) -> str:
        parts = Path(str(path)).relative_to(root).parts
        return ".staging" if ".staging" in parts else "/".join(parts)

    def recording_fsync(fd: int) -> None:
        calls.append(("sync", below(Path(f"/proc/self/fd/{fd}").readlink())))
        fsync(fd)

    def recording_link(source: Path, target: Path) -> None:
        calls.append(("link", below(target)))
        link(source, target)

    def recording_replace(source: Path, target: Path) -> Path:
        calls.append(("rename", below(target)))
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", recording_fsync)
        patch.setattr("os.link", recording_link)
        patch.setattr("pathlib.Path.replace", recording_replace)
        yield calls


async def test_what_is_promised_is_durable_first(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = f"{SESSION}/segments/1"
    with recorded(monkeypatch, root) as calls:
        version = await store.create(segment, SECRET)
    key, linked = ("link", f"{SESSION}/.key"), ("link", segment)
    folders = [("sync", name) for name in (f"{SESSION}/segments", SESSION, "clinic", "")]
    assert calls == [("sync", ".staging"), key, ("sync", ".staging"), linked, *folders]

    with recorded(monkeypatch, root) as calls:
        await store.create(f"{SESSION}/segments/2", SECRET)
    assert calls == [("sync", ".staging"), ("link", f"{SESSION}/segments/2"), ("sync", f"{SESSION}/segments")]

    with recorded(monkeypatch, root) as calls:
        await store.replace(segment, SECRET, version)
    assert calls == [("sync", ".staging"), ("rename", segment), ("sync", f"{SESSION}/segments")]

    with recorded(monkeypatch, root) as calls:
        await store.delete(segment)
    assert calls == [("sync", f"{SESSION}/segments")]

    with recorded(monkeypatch, root) as calls:
        await store.create(f"{SESSION}/segments/2", SECRET)
    assert calls == [("sync", f"{SESSION}/segments")], (
        "an identical object is made durable before it is promised"
    )


async def test_a_full_disk_is_told_and_harms_nothing() -> None:
    with tiny_disk(MEBIBYTE) as disk:
        root = disk / "archive"
        async with DiskStore(root, LocalKeys(MASTER)) as store:
            stored = 0
            reason = ""
            while not reason:
                try:
                    await store.create(f"{SESSION}/segments/{stored:03d}", os.urandom(160_000))
                    stored += 1
                except StoreUnavailable as error:
                    reason = error.reason
            assert reason == "no_space"
            assert 3 <= stored <= 6
            assert staged(root) == []
            await check_full(store, stored)
            await store.delete(f"{SESSION}/segments/000")
            await store.create(f"{SESSION}/again", os.urandom(160_000))
            assert len(await listed(store)) == stored


async def check_full(store: DiskStore, stored: int) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield os.urandom(100_000)

    version = (await store.read(f"{SESSION}/segments/000")).version
    big = os.urandom(500_000)
    for work in (
        store.create(f"{SESSION}/streamed", body()),
        store.create(f"{SESSION}/whole", big),
        store.replace(f"{SESSION}/segments/000", big, version),
        store.create("other/session/n", big),
    ):
        with pytest.raises(StoreUnavailable, match="No space left") as caught:
            await work
        assert caught.value.reason == "no_space"
    for number in range(stored):
        assert (await store.read(f"{SESSION}/segments/{number:03d}")).size == 160_000
    assert len(await listed(store)) == stored


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EDQUOT, "no_space"),
        (errno.EROFS, "read_only"),
        (errno.EIO, "io_error"),
        (errno.EACCES, "forbidden"),
        (errno.EMFILE, "io_error"),
    ],
)
async def test_whatever_the_disk_refuses_has_a_reason(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    version = await store.create(f"{SESSION}/a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        for work in (
            store.create(f"{SESSION}/n", SECRET),
            store.replace(f"{SESSION}/a", b"2", version),
            store.create("fresh/session/n", SECRET),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            assert caught.value.reason == reason
    assert staged(root) == []
    assert (await store.read(f"{SESSION}/a")).data == b"1"
    assert await listed(store) == [f"{SESSION}/a"]


@pytest.mark.parametrize("instead", [False, True])
async def test_a_root_that_vanishes_is_not_made_up_for(
    store: DiskStore, root: Path, *, instead: bool
) -> None:
    version = await store.create(f"{SESSION}/a", b"1")
    with vanished(root, instead=instead):
        await check_vanished(store, version)
    assert (await store.read(f"{SESSION}/a")).data == b"1"


@contextmanager
def vanished(root: Path, *, instead: bool) -> Iterator[None]:
    """Somebody unmounts it; ``instead``, the empty folder that it was mounted on shows."""
    kept = root.rename(root.with_name("unmounted"))
    if instead:
        root.mkdir()
    yield
    assert root.exists() == instead
    if instead:
        root.rmdir()
    kept.rename(root)


async def check_vanished(store: DiskStore, version: Version) -> None:
    for key in (f"{SESSION}/a", f"{SESSION}/b", "other/session/n"):
        for work in (
            store.create(key, b"1"),
            store.read(key),
            store.replace(key, b"2", version),
            store.delete(key),
            listed(store, key),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            assert caught.value.reason == "root_missing"


async def test_a_root_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreUnavailable):
            await DiskStore(root, LocalKeys(MASTER)).start()


async def test_after_closing_it_is_unavailable_and_closing_again_is_nothing(root: Path) -> None:
    store = DiskStore(root, LocalKeys(MASTER))
    await store.start()
    await store.create(f"{SESSION}/a", b"1")
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable) as caught:
        await store.read(f"{SESSION}/a")
    assert caught.value.reason == "closed"


async def test_closing_waits_for_what_is_under_way(root: Path) -> None:
    store = DiskStore(root, LocalKeys(MASTER), threads=2)
    await store.start()
    works = [
        asyncio.ensure_future(store.create(f"{SESSION}/{number}", SECRET * 10_000)) for number in range(10)
    ]
    await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    await store.close()
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    promised = [f"{SESSION}/{number}" for number, found in enumerate(outcomes) if isinstance(found, str)]
    assert promised
    assert all(isinstance(found, str | StoreUnavailable) for found in outcomes)
    async with DiskStore(root, LocalKeys(MASTER)) as again:
        for key in promised:
            assert (await again.read(key)).data == SECRET * 10_000


# -- several at once ---------------------------------------------------------------------------------------------------


async def test_a_stream_survives_the_end_of_the_session_it_began_in(store: DiskStore, root: Path) -> None:
    content = os.urandom(700_000)
    await store.create(f"{SESSION}/old", b"1")
    old_key = (root / SESSION / ".key").read_bytes()

    async def body() -> AsyncIterator[bytes]:
        yield content[:500_000]
        await store.delete(f"{SESSION}/old")
        assert not (root / SESSION).exists()
        await store.create(f"{SESSION}/new", b"1")
        yield content[500_000:]

    version = await store.create(f"{SESSION}/streamed", body())
    found = await store.read(f"{SESSION}/streamed")
    assert (found.data, found.version) == (content, version)
    assert (root / SESSION / ".key").read_bytes() != old_key
    assert staged(root) == []


async def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = parse_key(f"{SESSION}/n")
    version = await store.create(key.key, b"1")
    monkeypatch.setattr("app.adapters.disk_calls._LOCK_SECONDS", 0.02)
    with store._files.lock(key.scope, exclusive=False):
        assert (await store.read(key.key)).data == b"1"
        await store.create(f"{SESSION}/m", b"1")
        for work in (store.replace(key.key, b"2", version), store.delete(key.key)):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            assert caught.value.reason == "busy"
    await store.replace(key.key, b"2", version)


async def test_a_lock_that_comes_free_is_taken(store: DiskStore) -> None:
    key = parse_key(f"{SESSION}/n")
    version = await store.create(key.key, b"1")
    with store._files.lock(key.scope, exclusive=False):
        work = asyncio.ensure_future(store.replace(key.key, b"2", version))
        await asyncio.wait((work,), timeout=0.05)
        assert not work.done()
    await work


async def test_a_sweep_between_making_and_locking_a_file_is_noticed(
    store: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    sweeps: list[int] = []

    def swept_first(fd: int, kind: int) -> None:
        if not sweeps and Path(f"/proc/self/fd/{fd}").readlink().parent.name == ".staging":
            sweeps.append(fd)
            shutil.rmtree(root / ".staging")
            (root / ".staging").mkdir()
        real(fd, kind)

    monkeypatch.setattr("fcntl.flock", swept_first)
    await store.create(f"{SESSION}/n", SECRET)
    assert sweeps
    assert (await store.read(f"{SESSION}/n")).data == SECRET


async def test_one_that_remembers_an_old_key_learns_the_new_one(root: Path) -> None:
    async with DiskStore(root, LocalKeys(MASTER)) as one, DiskStore(root, LocalKeys(MASTER)) as two:
        version = Version("none")
        for turn in range(3):
            await one.create(f"{SESSION}/a", b"%d" % turn)
            assert (await two.read(f"{SESSION}/a")).data == b"%d" % turn
            await two.delete(f"{SESSION}/a")
            await two.create(f"{SESSION}/a", b"other")
            assert (await one.read(f"{SESSION}/a")).data == b"other"
            version = await two.replace(f"{SESSION}/a", b"more", (await two.read(f"{SESSION}/a")).version)
            await one.replace(f"{SESSION}/a", b"most", version)
            await one.delete(f"{SESSION}/a")


WORKER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from app.adapters.disk_store import DiskStore
    from app.adapters.local_keys import LocalKeys
    from app.archive.store import ObjectExists, VersionConflict
    root, name = Path(sys.argv[1]), sys.argv[2]

    async def race(store):
        won = 0
        for number in range(30):
            session = f"clinic/s{number}"
            try:
                await store.create(f"{session}/epoch", name.encode())
                won += 1
            except ObjectExists:
                pass
            await store.create(f"{session}/own-{name}", name.encode())
            await store.create(f"clinic/gone{number % 3}/{name}", name.encode())
            assert (await store.read(f"clinic/gone{number % 3}/{name}")).data == name.encode()
            await store.delete(f"clinic/gone{number % 3}/{name}")
            while True:
                found = await store.read("clinic/counter/n")
                try:
                    await store.replace("clinic/counter/n", b"%d" % (int(found.data) + 1), found.version)
                    break
                except VersionConflict:
                    pass
        print(won)

    async def main():
        async with DiskStore(root, LocalKeys(bytes(range(32)))) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            await race(store)

    asyncio.run(main())
    """
)


async def test_processes_that_share_the_folder_agree(root: Path, store: DiskStore) -> None:
    await store.create("clinic/counter/n", b"0")
    workers = [await python(WORKER, str(root), f"w{number}") for number in range(3)]
    for worker in workers:
        assert await worker.stdout.readline() == b"ready\n"  # type: ignore[union-attr]
    outputs = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sum(int(out) for out, _ in outputs) == 30
    assert (await store.read("clinic/counter/n")).data == b"90"
    for number in range(30):
        for name in ("w0", "w1", "w2"):
            assert (await store.read(f"clinic/s{number}/own-{name}")).data == name.encode()
    assert not [key for key in await listed(store) if "gone" in key]
    assert staged(root) == []


ENDLESS = textwrap.dedent(
    """
    import asyncio, os, sys
    from pathlib import Path
    from app.adapters.disk_store import DiskStore
    from app.adapters.local_keys import LocalKeys

    async def write(store, name):
        number = 0
        while True:
            content = os.urandom(8) * 20_000
            await store.create(f"clinic/{name}/segments/{number}", content)
            print(f"clinic/{name}/segments/{number}", content[:8].hex(), flush=True)
            number += 1

    async def stuck(store):
        async def body():
            yield bytes(300_000)
            print("stuck", flush=True)
            await asyncio.Event().wait()
        await store.create("clinic/stuck/n", body())

    async def main():
        async with DiskStore(Path(sys.argv[1]), LocalKeys(bytes(range(32)))) as store, asyncio.TaskGroup() as group:
            group.create_task(stuck(store))
            for name in sys.argv[2:]:
                group.create_task(write(store, name))

    asyncio.run(main())
    """
)


async def python(script: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )


@pytest.mark.parametrize("lines", [1, 20, 60])
async def test_kill_9_loses_nothing_that_was_promised_and_leaves_nothing_half(root: Path, lines: int) -> None:
    writer = await python(ENDLESS, str(root), "a", "b", "c")
    assert writer.stdout is not None
    printed: list[bytes] = []
    while len(printed) < lines or b"stuck\n" not in printed:
        printed.append(await writer.stdout.readline())
        assert printed[-1], "the writer ended"
    assert staged(root), "something was being written"
    writer.send_signal(signal.SIGKILL)
    rest, _ = await writer.communicate()
    promised = [line.split() for line in [*printed, *rest.splitlines(keepends=True)] if line.endswith(b"\n")]
    promised = [line for line in promised if len(line) == 2]
    async with DiskStore(root, LocalKeys(MASTER)) as store:
        assert staged(root) == []
        for key, start in promised:
            assert (await store.read(key.decode())).data == bytes.fromhex(start.decode()) * 20_000
        for found in await listed(store):
            assert (await store.read(found)).size == 160_000
        await store.create("clinic/stuck/n", b"free")


async def test_starting_sweeps_nothing_away_from_those_who_live(root: Path) -> None:
    async with DiskStore(root, LocalKeys(MASTER)) as one:

        async def body() -> AsyncIterator[bytes]:
            yield bytes(300_000)
            (root / ".staging" / "left").write_bytes(b"by one who died")
            async with DiskStore(root, LocalKeys(MASTER)):
                assert len(staged(root)) == 1
            yield bytes(300_000)

        await one.create(f"{SESSION}/n", body())
        assert (await one.read(f"{SESSION}/n")).data == bytes(600_000)


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_what_it_costs(store: DiskStore) -> None:
    loop = asyncio.get_running_loop()
    content = os.urandom(160_000)
    await store.create(f"{SESSION}/first", content)
    start, cpu = loop.time(), sum(os.times()[:2])
    for number in range(40):
        await store.create(f"{SESSION}/segments/{number}", content)
    wall, cpu = (loop.time() - start) / 40, (sum(os.times()[:2]) - cpu) / 40
    start = loop.time()
    for number in range(40):
        await store.read(f"{SESSION}/segments/{number}", 100_000, 101_000)
    read = (loop.time() - start) / 40
    print(
        f"\n160 KB segment: create {wall * 1e3:.2f} ms with its fsyncs, {cpu * 1e3:.2f} ms of CPU; "
        f"1 KB of it read in {read * 1e6:.0f} us"
    )
    assert cpu < 0.05, "encrypting and writing 160 KB takes a few milliseconds of CPU, not dozens"
