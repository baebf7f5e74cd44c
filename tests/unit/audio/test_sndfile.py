from __future__ import annotations

import io

import pytest

from audio.sndfile import Sink, Source

OWN = bytearray(b"HEAD____....")
PROMISED = b"1234"
GIVEN = b"HEAD____1234"


def sink() -> Sink:
    return Sink(8, PROMISED, slice(4, 8))


def go_back(target: Sink, offset: int, data: bytes) -> None:
    target.seek(offset)
    target.write(data)


def test_the_promised_bytes_go_out_with_the_header() -> None:
    target = sink()
    target.write(b"HEAD")
    assert target.take() == b""
    target.write(b"____....body")
    assert target.take() == GIVEN + b"body"
    assert target.take() == b""
    target.write(b"more")
    assert target.take() == b"more"


@pytest.mark.parametrize("step", [1, 3, 12])
def test_a_header_that_ends_as_promised_is_confirmed(step: int) -> None:
    target = sink()
    for at in range(0, len(OWN), step):
        target.write(bytes(OWN[at : at + step]))
    target.write(b"body")
    go_back(target, 8, b"1234")
    go_back(target, 4, b"size")
    assert target.take() == GIVEN + b"body"
    assert target.confirmed
    assert target.tell() == 8
    assert target.seek(0, io.SEEK_END) == 16
    assert target.seek(-6, io.SEEK_CUR) == 10


def test_nothing_is_confirmed_before_it_was_given_out() -> None:
    assert not sink().confirmed


@pytest.mark.parametrize(("offset", "data"), [(8, b"1235"), (0, b"TAIL"), (12, b"edit"), (11, b"4bod")])
def test_a_broken_promise_or_a_late_change_is_not_confirmed(offset: int, data: bytes) -> None:
    target = sink()
    target.write(bytes(OWN) + b"body")
    target.take()
    go_back(target, 8, b"1234")
    go_back(target, offset, data)
    assert not target.confirmed
    assert target.take() == b""


class Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 4:
            raise OSError("the disk is gone")
        return super().read(size)


def test_what_a_file_raises_is_kept_until_asked_for() -> None:
    source = Source(Broken(b"12345678"))
    assert source.read(4) == b"1234"
    source.reraise()
    assert source.read(4) == b""
    with pytest.raises(OSError, match="the disk is gone"):
        source.reraise()
    source.reraise()


def test_a_source_moves_as_its_file_does() -> None:
    source = Source(io.BytesIO(b"12345678"))
    assert source.seek(-2, io.SEEK_END) == 6
    assert source.tell() == 6
    assert source.read(9) == b"78"
