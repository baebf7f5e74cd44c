"""The encrypted file format: what goes in comes out, ranges cost frames, and nothing can be changed unnoticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.framed_file import (
    FIRST_FRAME_CONTENT,
    FRAME_BYTES,
    FRAME_CONTENT,
    HEADER_BYTES,
    TAG_BYTES,
    FramedReader,
    FramedWriter,
    plaintext_size,
    version_of,
)
from app.archive.store import ObjectCorrupt

KEY = bytes(range(32))
NAME = "clinic/session/name"
TWO_FRAMES = FIRST_FRAME_CONTENT + FRAME_CONTENT
SIZES = [
    0,
    1,
    FIRST_FRAME_CONTENT - 1,
    FIRST_FRAME_CONTENT,
    FIRST_FRAME_CONTENT + 1,
    TWO_FRAMES - 1,
    TWO_FRAMES,
    TWO_FRAMES + 1,
    TWO_FRAMES + 2 * FRAME_CONTENT,
    300_000,
]


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


@pytest.fixture
def memory() -> Iterator[Callable[[bytes], int]]:
    """``memory(data)`` is a file descriptor of a file in memory that holds ``data``."""
    opened = []

    def make(data: bytes = b"") -> int:
        fd = os.memfd_create("framed")
        opened.append(fd)
        os.write(fd, data)
        return fd

    yield make
    for fd in opened:
        os.close(fd)


def encrypted(fd: int, plaintext: bytes, piece: int = 0, name: str = NAME) -> bytes:
    writer = FramedWriter(fd, KEY, name)
    for start in range(0, len(plaintext), piece or len(plaintext) or 1):
        writer.write(plaintext[start : start + (piece or len(plaintext))])
    writer.finish()
    return os.pread(fd, 10_000_000, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [0, 997, 65_536])
def test_what_goes_in_comes_out(memory: Callable[..., int], size: int, piece: int) -> None:
    fd = memory()
    stored = encrypted(fd, content(size), piece)
    reader = FramedReader(fd, KEY, NAME)
    assert reader.read() == content(size)
    assert reader.size() == size == plaintext_size(len(stored))


def test_a_file_that_tink_wrote_is_read(memory: Callable[..., int]) -> None:
    # Made with tink 1.16.1 for Python: AesGcmHkdfStreamingKey, key value 00..1f, 65 536, 32, SHA-256.
    stored = bytes.fromhex(
        "2829fd97c3a0fa8d2c2485ff6c838414692a2f301b9a470a33ca8416f1cd46fc"
        "48834ce1ad8a286601e03ba060fb97f520a773753b462168a8278678050dfc3d"
    )
    assert FramedReader(memory(stored), KEY, NAME).read() == b"kikitori"


def test_the_same_randomness_writes_what_tink_wrote(memory: Callable[..., int]) -> None:
    drawn = iter(
        [
            bytes.fromhex("29fd97c3a0fa8d2c2485ff6c838414692a2f301b9a470a33ca8416f1cd46fc48"),
            bytes.fromhex("834ce1ad8a2866"),
        ]
    )
    fd = memory()
    writer = FramedWriter(fd, KEY, NAME, lambda _: next(drawn))
    writer.write(b"kikitori")
    writer.finish()
    assert os.pread(fd, 100, 0)[HEADER_BYTES:].hex() == "01e03ba060fb97f520a773753b462168a8278678050dfc3d"


@given(st.data())
def test_any_range_is_what_slicing_gives(data: st.DataObject) -> None:
    plaintext = content(3 * FRAME_CONTENT + 5)
    near = st.sampled_from([0, FIRST_FRAME_CONTENT, TWO_FRAMES, len(plaintext)])
    offset = st.builds(int.__add__, near, st.integers(-3, 3)) | st.integers(0, len(plaintext) + 10)
    start, end = data.draw(offset), data.draw(offset)
    fd = os.memfd_create("framed")
    try:
        encrypted(fd, plaintext)
        assert FramedReader(fd, KEY, NAME).read(start, end) == plaintext[max(0, start) : max(0, end)]
    finally:
        os.close(fd)


def test_a_range_costs_its_frames_and_the_last_one(
    memory: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = memory()
    encrypted(fd, content(20 * FRAME_CONTENT))
    asked: list[tuple[int, int]] = []
    real = os.pread

    def counting(fd: int, size: int, offset: int) -> bytes:
        asked.append((offset, size))
        return real(fd, size, offset)

    monkeypatch.setattr("os.pread", counting)
    start = FIRST_FRAME_CONTENT + 4 * FRAME_CONTENT
    assert (
        FramedReader(fd, KEY, NAME).read(start, start + FRAME_CONTENT)
        == content(20 * FRAME_CONTENT)[start : start + FRAME_CONTENT]
    )
    assert asked == [(0, HEADER_BYTES), (20 * FRAME_BYTES, FRAME_BYTES), (5 * FRAME_BYTES, FRAME_BYTES)]


def spots() -> list[int]:
    header = range(HEADER_BYTES)
    second = range(FRAME_BYTES, FRAME_BYTES + 20)
    return [*header, HEADER_BYTES, FRAME_BYTES - 1, *second, 2 * FRAME_BYTES - 1, -TAG_BYTES, -1]


@pytest.mark.parametrize("spot", spots())
def test_a_changed_bit_is_noticed(memory: Callable[..., int], spot: int) -> None:
    stored = bytearray(encrypted(memory(), content(TWO_FRAMES + 10)))
    stored[spot] ^= 0x40
    fd = memory(bytes(stored))
    with pytest.raises(ObjectCorrupt):
        FramedReader(fd, KEY, NAME).read()


@pytest.mark.parametrize(
    "kept",
    [
        0,
        1,
        HEADER_BYTES,
        HEADER_BYTES + TAG_BYTES,
        100,
        FRAME_BYTES - 1,
        FRAME_BYTES,
        FRAME_BYTES + 5,
        2 * FRAME_BYTES,
    ],
)
def test_a_file_cut_short_is_noticed_even_by_a_reader_of_its_beginning(
    memory: Callable[..., int], kept: int
) -> None:
    stored = encrypted(memory(), content(TWO_FRAMES + 10))
    fd = memory(stored[:kept])
    with pytest.raises(ObjectCorrupt):
        FramedReader(fd, KEY, NAME).read(0, 1)


@pytest.mark.parametrize("added", [1, TAG_BYTES, FRAME_BYTES])
def test_a_file_grown_longer_is_noticed(memory: Callable[..., int], added: int) -> None:
    fd = memory(encrypted(memory(), content(100)) + bytes(added))
    with pytest.raises(ObjectCorrupt):
        FramedReader(fd, KEY, NAME).read(0, 1)


def test_frames_in_another_order_are_noticed(memory: Callable[..., int]) -> None:
    stored = encrypted(memory(), content(TWO_FRAMES + FRAME_CONTENT + 10))
    frames = [stored[start : start + FRAME_BYTES] for start in range(0, len(stored), FRAME_BYTES)]
    fd = memory(frames[0] + frames[2] + frames[1] + frames[3])
    reader = FramedReader(fd, KEY, NAME)
    assert reader.size() == TWO_FRAMES + FRAME_CONTENT + 10
    with pytest.raises(ObjectCorrupt):
        reader.read(FIRST_FRAME_CONTENT, FIRST_FRAME_CONTENT + 1)


@pytest.mark.parametrize(
    ("key", "name"), [(KEY, "clinic/session/other"), (bytes(32), NAME), (KEY, "clinic/session/nam")]
)
def test_another_name_or_key_does_not_open_it(memory: Callable[..., int], key: bytes, name: str) -> None:
    fd = memory(encrypted(memory(), b"said in confidence"))
    with pytest.raises(ObjectCorrupt) as caught:
        FramedReader(fd, key, name).read()
    assert caught.value.key == name
    assert "confidence" not in str(caught.value)


def test_the_same_content_never_looks_the_same_and_has_another_version(memory: Callable[..., int]) -> None:
    first, second = encrypted(memory(), content(100)), encrypted(memory(), content(100))
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]
    assert version_of(first, NAME) != version_of(second, NAME)
    fd = memory(first)
    assert FramedReader(fd, KEY, NAME).version == version_of(first, NAME)


@pytest.mark.parametrize("size", [0, 55, FRAME_BYTES + 1, FRAME_BYTES + TAG_BYTES, 3 * FRAME_BYTES + 16])
def test_a_size_that_no_writer_makes_is_told(size: int) -> None:
    with pytest.raises(ValueError, match="no whole encrypted object"):
        plaintext_size(size)


def test_a_disk_that_takes_little_at_a_time_gets_all(
    memory: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    turns = count(1)
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, data[: next(turns) * 1000]))
    fd = memory()
    encrypted(fd, content(100_000))
    assert FramedReader(fd, KEY, NAME).read() == content(100_000)
