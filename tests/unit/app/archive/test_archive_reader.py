from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.archive import reader
from app.archive.history import History, Piece
from app.archive.reader import (
    list_names,
    load_history,
    read_finals,
    read_header,
    read_piece,
    read_pieces,
    read_samples,
    read_session,
)
from app.archive.records import (
    RecordCorrupt,
    encode_record,
    epoch_key,
    folder,
    manifest_key,
    segment_key,
    session_key,
)
from app.archive.store import ObjectMissing
from tests.support.archives import REF, Scribe, WatchedStore, disk, finals, sound


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[WatchedStore]:
    async with disk(tmp_path) as inner:
        yield WatchedStore(inner)


@pytest.fixture
def scribe(store: WatchedStore) -> Scribe:
    return Scribe(store)


async def told(store: WatchedStore) -> History:
    history = await load_history(store, REF)
    assert history is not None
    return history


async def pcm_of(store: WatchedStore, history: History, start: int, end: int) -> list[tuple[int, bytes]]:
    return [(at, bytes(pcm)) for at, pcm in await read_samples(store, REF, history, start, end)]


async def test_a_session_that_is_not_there_has_no_history(store: WatchedStore) -> None:
    assert await load_history(store, REF) is None
    assert await read_session(store, REF) is None


async def test_a_new_session_has_no_end_and_no_owner(store: WatchedStore, scribe: Scribe) -> None:
    record = await scribe.session()
    history = await told(store)
    assert (history.session, history.end, history.seq, history.newest_epoch) == (record, 0, 0, 0)
    assert not history.finished
    assert await read_finals(store, REF, history) == []
    assert await read_pieces(store, REF, history) == []


async def test_the_end_is_told_by_the_newest_owners_last_segment(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0), serial=5)
    await scribe.segment(1, 0, 80, carried=finals(1, 2), live=[(0, 70)], settled=70)
    await scribe.segment(1, 80, 120, seq=2, live=[(0, 100)], settled=100)
    history = await told(store)
    assert (history.end, history.seq, history.live, history.settled) == (120, 2, [(0, 100)], 100)


async def test_a_base_tells_the_end_until_its_owner_has_written(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    await scribe.segment(1, 0, 80, carried=finals(1, 2))
    await scribe.epoch(2, (80, 3), adopted=finals(3, 3), live=[(0, 60)], settled=60)
    await scribe.segment(1, 80, 400, carried=finals(3, 9), settled=400)
    history = await told(store)
    assert (history.end, history.seq, history.live, history.settled) == (80, 3, [(0, 60)], 60)
    assert [f.seq for f in await read_finals(store, REF, history)] == [1, 2, 3]


async def test_a_claim_without_a_base_changes_nothing(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0), serial=5)
    await scribe.segment(1, 0, 80)
    before = await told(store)
    await scribe.epoch(2, None, serial=9)
    after = await told(store)
    assert (after.end, after.seq, after.speaker_serial) == (before.end, before.seq, 5)
    assert after.newest_epoch == 2


async def test_finals_that_travel_alone_are_newer_than_the_last_segment(
    store: WatchedStore, scribe: Scribe
) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    await scribe.segment(1, 0, 80, carried=finals(1, 2), settled=50)
    await scribe.note(1, finals(3, 4), live=[(0, 80)], settled=80)
    history = await told(store)
    assert (history.end, history.seq, history.live, history.settled) == (80, 4, [(0, 80)], 80)
    assert await read_finals(store, REF, history) == finals(1, 4)


async def test_a_transcript_only_session_is_durable_up_to_its_last_final(
    store: WatchedStore, scribe: Scribe
) -> None:
    await scribe.session("transcript")
    await scribe.epoch(1, (0, 0))
    await scribe.note(1, finals(1, 3))
    assert (await told(store)).end == finals(3, 3)[0].final.end


async def test_a_long_session_costs_a_handful_of_reads(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    for first in range(0, 400, 10):
        await scribe.segment(1, first, first + 10)
    store.calls.clear()
    await load_history(store, REF)
    assert len(store.calls) == 4


async def test_history_is_read_again_when_its_objects_go_while_it_is_read(
    store: WatchedStore, scribe: Scribe
) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    await scribe.segment(1, 0, 80)
    await scribe.segment(1, 80, 160)

    async def delete_the_last(verb: str, key: str) -> None:
        if verb == "read" and key == segment_key(REF, 80, 1):
            await store.inner.delete(key)

    store.before = delete_the_last
    assert (await told(store)).end == 80


async def test_history_that_never_holds_still_is_an_error(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))

    async def missing(verb: str, key: str) -> None:
        if verb == "read" and "epochs/" in key:
            raise ObjectMissing(key, "gone")

    store.before = missing
    with pytest.raises(ObjectMissing):
        await load_history(store, REF)
    assert sum(key.endswith("epochs/1.json") for _, key in store.calls) == reader.ATTEMPTS + 1


@pytest.mark.parametrize(
    "name", ["session.json", "epochs/1.json", "manifest.json", "segments/000000000000-1"]
)
async def test_damage_is_named(store: WatchedStore, scribe: Scribe, name: str) -> None:
    if name != "session.json":
        await scribe.session()
    if name != "epochs/1.json":
        await scribe.epoch(1, (0, 0))
    await store.create(folder(REF) + name, b"nonsense")
    with pytest.raises(RecordCorrupt) as caught:
        await load_history(store, REF)
    assert caught.value.key == folder(REF) + name


async def test_a_header_longer_than_the_guess_takes_a_second_read(
    store: WatchedStore, scribe: Scribe
) -> None:
    await scribe.segment(1, 0, 50, carried=finals(1, 200))
    store.calls.clear()
    header = await read_header(store, REF, 0, 1)
    assert header.finals == finals(1, 200)
    assert len(store.calls) == 2


# Finals ---------------------------------------------------------------------------------------------------------------


async def test_the_last_finals_of_a_long_session_cost_few_reads(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    for n in range(40):
        await scribe.segment(1, n * 10, n * 10 + 10, carried=finals(n + 1, n + 1))
    history = await told(store)
    store.calls.clear()
    assert await read_finals(store, REF, history, after=38) == finals(39, 40)
    assert len(store.calls) == reader.PARALLEL_READS
    assert await read_finals(store, REF, history) == finals(1, 40)
    assert await read_finals(store, REF, history, after=40) == []


async def test_finals_before_a_segment_without_any_are_found(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    await scribe.segment(1, 0, 10, carried=finals(1, 3))
    for first in range(10, 200, 10):
        await scribe.segment(1, first, first + 10, seq=3)
    assert await read_finals(store, REF, await told(store), after=1) == finals(2, 3)


# Audio ----------------------------------------------------------------------------------------------------------------


async def test_samples_come_from_whoever_owned_them(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    await scribe.segment(1, 0, 80, voice=1)
    await scribe.epoch(2, (80, 0))
    await scribe.segment(1, 80, 160, voice=1)
    await scribe.segment(2, 80, 120, voice=2)
    history = await told(store)
    assert await pcm_of(store, history, 0, 1000) == [(0, sound(0, 80, 1)), (80, sound(80, 120, 2))]
    assert await pcm_of(store, history, 70, 90) == [(70, sound(70, 80, 1)), (80, sound(80, 90, 2))]
    assert await pcm_of(store, history, 120, 130) == []


async def test_only_the_segments_that_are_needed_are_read(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    for first in range(0, 400, 10):
        await scribe.segment(1, first, first + 10)
    history = await told(store)
    store.calls.clear()
    assert [p.start for p in await read_pieces(store, REF, history, 385)] == [380, 390]
    assert len(store.calls) == 2


async def test_a_hole_is_passed_over(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    for first in (0, 20):
        await scribe.segment(1, first, first + 10)
    history = await told(store)
    assert await pcm_of(store, history, 0, 30) == [(0, sound(0, 10)), (20, sound(20, 30))]


async def test_a_piece_is_checked_against_its_header(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.segment(1, 0, 80)
    stored = (await store.read(segment_key(REF, 0, 1))).data
    await store.create(segment_key(REF, 0, 2), stored[:-2] + b"zz")
    assert bytes(await read_piece(store, REF, Piece(0, 1, 10, 30))) == sound(10, 30)
    with pytest.raises(RecordCorrupt):
        await read_piece(store, REF, Piece(0, 2, 10, 30))
    with pytest.raises(ObjectMissing):
        await read_piece(store, REF, Piece(0, 3, 10, 30))


async def test_names_are_those_of_this_session_alone(store: WatchedStore, scribe: Scribe) -> None:
    record = await scribe.session()
    await scribe.epoch(2, None)
    await scribe.epoch(11, None)
    await store.create(f"north/{REF.session_id}x/session.json", encode_record(record))
    assert await list_names(store, REF) == ["epochs/11.json", "epochs/2.json", "session.json"]
    assert await list_names(store, REF, "epochs/") == ["epochs/11.json", "epochs/2.json"]
    assert session_key(REF).endswith("session.json")
    assert manifest_key(REF) not in await list_names(store, REF)
    assert epoch_key(REF, 2).endswith("epochs/2.json")
