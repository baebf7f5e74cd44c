from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.archive.records import (
    Base,
    EpochRecord,
    Manifest,
    RecordCorrupt,
    SegmentHeader,
    audio_name,
    decode_record,
    decode_segment,
    decode_segment_header,
    encode_record,
    encode_segment,
    epoch_key,
    finals_key,
    folder,
    manifest_key,
    parse_epoch_name,
    parse_finals_name,
    parse_segment_name,
    segment_header_size,
    segment_key,
    session_key,
    transcript_name,
)
from tests.support.archives import REF, finals, sound


def segment(samples: int = 100) -> tuple[SegmentHeader, bytes]:
    from hashlib import sha256

    pcm = sound(0, samples)
    header = SegmentHeader(2, 3, finals(2, 3, 2), [(0, 50)], 50, 0, samples, sha256(pcm).hexdigest())
    return header, encode_segment(header, [memoryview(pcm)[:20], memoryview(pcm)[20:]])


def test_names_are_those_of_the_contract() -> None:
    base = f"north/{REF.session_id}/"
    assert folder(REF) == base
    assert session_key(REF) == base + "session.json"
    assert manifest_key(REF) == base + "manifest.json"
    assert epoch_key(REF, 12) == base + "epochs/12.json"
    assert segment_key(REF, 80_000, 3) == base + "segments/000000080000-3"
    assert finals_key(REF, 7, 3) == base + "finals/000000000007-3.json"
    assert (audio_name(4), transcript_name(4)) == ("audio-4.flac", "transcript-4.json")


@given(st.integers(0, 10**14), st.integers(0, 10**6))
def test_names_are_read_back(first: int, epoch: int) -> None:
    skip = len(folder(REF))
    assert parse_segment_name(segment_key(REF, first, epoch)[skip:]) == (first, epoch)
    assert parse_finals_name(finals_key(REF, first, epoch)[skip:]) == (first, epoch)
    assert parse_epoch_name(epoch_key(REF, epoch)[skip:]) == epoch


@pytest.mark.parametrize(
    "name",
    ["", "segments/1-1", "segments/000000000001-1.tmp", "segments/000000000001", "xsegments/000000000001-1"],
)
def test_other_names_are_no_segments(name: str) -> None:
    assert parse_segment_name(name) is None
    assert parse_finals_name(name) is None
    assert parse_epoch_name(name) is None


def test_names_sort_as_positions_do() -> None:
    firsts = [0, 9, 10, 80_000, 999_999_999_999]
    keys = [segment_key(REF, first, 1) for first in firsts]
    assert keys == sorted(keys)


def test_records_are_read_back() -> None:
    record = EpochRecord(3, "t", "speaker", "now", 5, "id", "dr.a", Base(1, 2), finals(1, 2), [(0, 3)], 4)
    assert decode_record("k", encode_record(record), EpochRecord) == record


def test_a_manifest_has_the_names_of_the_contract() -> None:
    manifest = Manifest("s", "c", 1, "completed", "stopped", "now", 5, 0, {}, audio_sha256="ab")
    assert b'"audioSha256":"ab"' in encode_record(manifest)
    assert b'"finishedAt":"now"' in encode_record(manifest)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"epoch":"x"}', b"\xff"])
def test_a_record_that_does_not_parse_says_which_and_not_what(data: bytes) -> None:
    with pytest.raises(RecordCorrupt) as caught:
        decode_record("north/x/epochs/1.json", data, EpochRecord)
    assert caught.value.key == "north/x/epochs/1.json"
    assert str(caught.value) == "north/x/epochs/1.json: is no EpochRecord"


def test_a_segment_is_read_back() -> None:
    header, data = segment()
    assert decode_segment("k", data) == (header, memoryview(sound(0, 100)))
    assert decode_segment_header("k", data[: segment_header_size("k", data)]) == header


@pytest.mark.parametrize("cut", [0, 7, 8, 40, -1, -2])
def test_a_segment_that_is_cut_short_is_corrupt(cut: int) -> None:
    _, data = segment()
    with pytest.raises(RecordCorrupt):
        decode_segment("k", data[:cut])


@pytest.mark.parametrize("at", [0, 8, -1])
def test_a_segment_with_a_changed_byte_is_corrupt(at: int) -> None:
    _, data = segment()
    changed = bytearray(data)
    changed[at] ^= 1
    with pytest.raises(RecordCorrupt):
        decode_segment("k", bytes(changed))
