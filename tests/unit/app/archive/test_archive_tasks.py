from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.archive.records import decode_record
from app.archive.store import StoreUnavailable
from app.archive.tasks import OwnRecord, TaskRecord, name_of, parse_name, read_tasks, task_key
from tests.support.archives import REF, WatchedStore, disk

KEY = task_key("host:1.a", "0f")
RECORD = TaskRecord("host:1.a", 1, [name_of(REF)], [])


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[WatchedStore]:
    async with disk(tmp_path) as inner:
        yield WatchedStore(inner)


async def stored(store: WatchedStore) -> TaskRecord:
    return decode_record(KEY, (await store.read(KEY)).data, TaskRecord)


def test_sessions_are_named_so_that_they_can_be_found_again() -> None:
    assert parse_name(name_of(REF)) == REF
    for name in ("", "north", "north/", f"_x/{REF.session_id}", "north/../x", f"{name_of(REF)}/x"):
        assert parse_name(name) is None


async def test_a_record_is_written_over_and_over_and_read_by_the_others(store: WatchedStore) -> None:
    own = OwnRecord(store, KEY)
    assert await read_tasks(store, but="") == {}
    for beat in range(1, 4):
        await own.put(TaskRecord("host:1.a", beat, [name_of(REF)], []))
    assert await read_tasks(store, but=KEY) == {}
    assert await read_tasks(store, but=task_key("host:1.a", "10")) == {
        KEY: TaskRecord("host:1.a", 3, [name_of(REF)], [])
    }
    await own.delete()
    await own.delete()
    assert await read_tasks(store, but="") == {}
    await own.put(RECORD)
    assert await stored(store) == RECORD


async def test_a_put_whose_answer_was_lost_is_no_obstacle_to_the_next(store: WatchedStore) -> None:
    own = OwnRecord(store, KEY)
    for beat in range(1, 4):

        async def lose(verb: str, key: str) -> None:
            store.after = WatchedStore(store.inner).after
            raise StoreUnavailable(key, verb)

        store.after = lose
        with pytest.raises(StoreUnavailable):
            await own.put(TaskRecord("host:1.a", 2 * beat))
        await own.put(TaskRecord("host:1.a", 2 * beat + 1))
        assert (await stored(store)).beat == 2 * beat + 1


async def test_one_that_was_taken_for_dead_comes_back(store: WatchedStore) -> None:
    own = OwnRecord(store, KEY)
    await own.put(RECORD)
    await store.delete(KEY)
    await own.put(RECORD)
    assert await stored(store) == RECORD


async def test_a_record_that_others_write_too_is_given_up_for_now(store: WatchedStore) -> None:
    own = OwnRecord(store, KEY)
    await own.put(RECORD)

    async def interfere(verb: str, key: str) -> None:
        if verb == "replace":
            found = await store.inner.read(key)
            await store.inner.replace(key, found.data + b" ", found.version)

    store.before = interfere
    with pytest.raises(StoreUnavailable):
        await own.put(TaskRecord("host:1.a", 2))


async def test_what_is_no_record_or_goes_meanwhile_is_left_out(store: WatchedStore) -> None:
    await OwnRecord(store, KEY).put(RECORD)
    await store.create(task_key("other", "aa"), b"nonsense")
    await store.create(task_key("gone", "bb"), b"{}")

    async def go(verb: str, key: str) -> None:
        if verb == "read" and "gone" in key:
            await store.inner.delete(key)

    store.before = go
    assert await read_tasks(store, but="") == {KEY: RECORD}
