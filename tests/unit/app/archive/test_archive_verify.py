from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.archive.finisher import Finish, finish
from app.archive.reader import read_manifest
from app.archive.records import (
    ManifestObject,
    audio_name,
    encode_record,
    folder,
    manifest_key,
    segment_key,
    transcript_name,
)
from app.archive.store import Store, StoreUnavailable
from app.archive.verify import Verdict, verify
from audio.coverage import Ranges
from audio.transcript import CommittedFinal
from tests.support.archives import REF, Scribe, WatchedStore, a_final, disk, finals

SAMPLES = 30_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with disk(tmp_path) as inner:
        yield inner


async def spoken(store: Store) -> Scribe:
    scribe = Scribe(store)
    await scribe.session()
    await scribe.epoch(1, (0, 0), serial=5)
    for n in range(3):
        first = n * 10_000
        end = first + 10_000
        await scribe.segment(1, first, end, carried=finals(n + 1, n + 1), live=[(0, first + 10_000)])
    return scribe


async def finished(store: Store, said: list[CommittedFinal] | None = None) -> Scribe:
    scribe = await spoken(store)
    live = Ranges([(0, SAMPLES)])
    await finish(store, Finish(REF, 1, "stopped", finals(1, 3) if said is None else said, live, "now"))
    return scribe


async def verdict(store: Store) -> Verdict:
    found = await verify(store, REF)
    assert found is not None
    return found


async def tamper(store: Store, name: str, data: bytes) -> None:
    await store.delete(folder(REF) + name)
    await store.create(folder(REF) + name, data)


async def change_manifest(store: Store, **fields: Any) -> None:
    found = await read_manifest(store, REF)
    assert found is not None
    manifest = msgspec.structs.replace(found[0], **fields)
    await store.replace(manifest_key(REF), encode_record(manifest), found[1])


async def test_there_is_nothing_to_verify_of_no_session(store: Store) -> None:
    assert await verify(store, REF) is None


async def test_a_finished_session_is_without_fault(store: Store) -> None:
    await finished(store)
    found = await verdict(store)
    assert (found.finished, found.samples, found.finals, found.archived) == (True, SAMPLES, 3, 1.0)
    assert found.faults == []
    assert found.coverage["archived"] == [(0, SAMPLES)]


async def test_an_unfinished_session_is_without_fault(store: Store) -> None:
    await spoken(store)
    found = await verdict(store)
    assert (found.finished, found.samples, found.finals, found.archived) == (False, SAMPLES, 3, 1.0)
    assert found.faults == []


async def test_a_session_in_which_nobody_spoke_is_without_fault(store: Store) -> None:
    await Scribe(store).session()
    assert (await verdict(store)).faults == []


@pytest.mark.parametrize("name", [audio_name(1), transcript_name(1)])
async def test_a_missing_object_is_found(store: Store, name: str) -> None:
    await finished(store)
    await store.delete(folder(REF) + name)
    assert (await verdict(store)).faults == [f"{folder(REF)}{name}: there is no such object"]


@pytest.mark.parametrize("name", [audio_name(1), transcript_name(1)])
@pytest.mark.parametrize("how", ["other", "cut", "changed"])
async def test_an_object_with_other_content_is_found(store: Store, name: str, how: str) -> None:
    await finished(store)
    data = (await store.read(folder(REF) + name)).data
    changed = {"other": b"nonsense", "cut": data[:-7], "changed": data[:-9] + b"?" + data[-8:]}[how]
    await tamper(store, name, changed)
    faults = (await verdict(store)).faults
    assert f"{name} is not what the manifest says" in faults


@pytest.mark.parametrize("name", [audio_name(1), transcript_name(1)])
async def test_a_damaged_byte_on_the_disk_is_found(store: Store, tmp_path: Path, name: str) -> None:
    await finished(store)
    path = tmp_path / (folder(REF) + name)
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    (fault,) = (await verdict(store)).faults
    assert fault.startswith(folder(REF) + name)


async def test_a_replaced_flac_that_the_manifest_was_changed_for_is_found_by_its_sound(store: Store) -> None:
    await finished(store)
    await change_manifest(store, audio_sha256="0" * 64)
    assert (await verdict(store)).faults == ["the audio is not the one that was recorded"]


async def test_a_wrong_count_of_samples_is_found(store: Store) -> None:
    await finished(store)
    await change_manifest(store, samples=SAMPLES + 1)
    faults = (await verdict(store)).faults
    assert f"the audio has {SAMPLES} samples, the manifest says {SAMPLES + 1}" in faults
    assert any(fault.startswith("coverage: ") for fault in faults)


@pytest.mark.parametrize(
    "coverage",
    [
        {"archived": [(0, SAMPLES - 1)], "missing": []},
        {"archived": [(0, SAMPLES)], "missing": [(0, 5)]},
        {"archived": [(0, SAMPLES)], "missing": [], "untranscribed": [(0, 5)]},
        {"archived": [(0, SAMPLES)], "missing": [], "live": [(0, SAMPLES + 1)]},
        {"archived": [(5, 2)], "missing": []},
    ],
)
async def test_a_coverage_that_does_not_add_up_is_found(store: Store, coverage: dict[str, object]) -> None:
    await finished(store)
    whole: dict[str, object] = {"live": [(0, SAMPLES)], "filled": [], "untranscribed": []}
    await change_manifest(store, coverage=whole | coverage)
    (fault,) = (await verdict(store)).faults
    assert fault.startswith("coverage: ")


async def test_a_manifest_that_names_less_than_it_should_is_found(store: Store) -> None:
    await finished(store)
    await change_manifest(store, audio=None, transcript=None)
    assert (await verdict(store)).faults == [
        "the manifest names no audio",
        "the manifest names no transcript",
    ]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ([*finals(1, 1), *finals(3, 3)], "the finals are not numbered 1 to 2"),
        ([*finals(1, 2), *finals(2, 2)], "the finals are not numbered 1 to 3"),
        (finals(1, 2)[::-1], "the finals are not numbered 1 to 2"),
        (
            [CommittedFinal(1, 1, a_final(1, 0, 10)), CommittedFinal(2, 1, a_final(1, 20, 30))],
            "two finals have one id",
        ),
        (
            [CommittedFinal(1, 1, a_final(1, 0, 100)), CommittedFinal(2, 1, a_final(2, 99, 130))],
            "finals overlap or are out of order",
        ),
    ],
)
async def test_a_transcript_that_cannot_be_is_found(
    store: Store, said: list[CommittedFinal], fault: str
) -> None:
    await finished(store, said)
    assert fault in (await verdict(store)).faults


async def test_a_transcript_that_is_shorter_than_the_manifest_says_is_found(store: Store) -> None:
    await finished(store)
    await change_manifest(store, finals=4)
    assert (await verdict(store)).faults == ["the finals are not numbered 1 to 4"]


async def test_a_segment_that_is_gone_is_found(store: Store) -> None:
    await spoken(store)
    await store.delete(segment_key(REF, 10_000, 1))
    found = await verdict(store)
    assert "no segment holds the samples 10000 to 20000" in found.faults
    assert "the finals are not numbered 1 to 3" in found.faults
    assert found.coverage["missing"] == [(10_000, 20_000)]
    assert found.archived == pytest.approx(2 / 3)


async def test_a_segment_with_another_sound_is_found_and_the_others_are_still_read(store: Store) -> None:
    await spoken(store)
    key = segment_key(REF, 10_000, 1)
    data = (await store.read(key)).data
    await tamper(store, key.removeprefix(folder(REF)), data[:-2] + b"zz")
    found = await verdict(store)
    assert found.faults[0] == f"{key}: its audio is not what its header says"
    assert found.coverage["missing"] == [(10_000, 20_000)]


async def test_a_segment_that_is_none_is_found(store: Store) -> None:
    await spoken(store)
    await tamper(store, "segments/000000010000-1", b"nonsense")
    assert any("is no segment" in fault for fault in (await verdict(store)).faults)


async def test_finals_that_do_not_parse_are_found(store: Store) -> None:
    scribe = await spoken(store)
    await scribe.note(1, finals(4, 4))
    await tamper(store, "finals/000000000003-1.json", b"nonsense")
    assert any("is no FinalsRecord" in fault for fault in (await verdict(store)).faults)


async def test_what_is_known_to_be_missing_is_no_fault_when_a_session_is_reopened(store: Store) -> None:
    scribe = await spoken(store)
    await store.delete(segment_key(REF, 10_000, 1))
    live = Ranges([(0, SAMPLES)])
    await finish(store, Finish(REF, 1, "abandoned", [*finals(1, 1)], live, "now"))
    await scribe.epoch(2, (SAMPLES, 1), serial=6)
    await scribe.segment(2, SAMPLES, SAMPLES + 10_000, seq=1)
    found = await verdict(store)
    assert (found.finished, found.samples, found.faults) == (False, SAMPLES + 10_000, [])
    assert found.coverage["missing"] == [(10_000, 20_000)]
    assert found.archived == pytest.approx(0.75)


async def test_of_finished_audio_only_what_counts_is_asked_for(store: Store) -> None:
    scribe = await finished(store)
    await scribe.epoch(2, (20_000, 3), serial=6)
    await scribe.segment(2, 20_000, 25_000, seq=3)
    found = await verdict(store)
    assert (found.samples, found.faults, found.coverage["archived"]) == (25_000, [], [(0, 25_000)])


async def test_a_store_that_is_away_is_no_fault_of_the_archive(store: Store) -> None:
    await finished(store)
    watched = WatchedStore(store)

    async def away(verb: str, key: str) -> None:
        if key.endswith(".flac"):
            raise StoreUnavailable(key, verb)

    watched.before = away
    with pytest.raises(StoreUnavailable):
        await verify(watched, REF)


async def test_faults_hold_nothing_that_was_said(store: Store) -> None:
    said = [
        CommittedFinal(2, 1, a_final(1, 0, 10, "secret")),
        CommittedFinal(2, 1, a_final(1, 0, 10, "secret")),
    ]
    await finished(store, said)
    await change_manifest(store, audio=ManifestObject("audio-9.flac", 1, ""))
    found = await verdict(store)
    assert found.faults
    assert "secret" not in str(found)
