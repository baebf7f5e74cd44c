from __future__ import annotations

import struct

import pytest

from audio.ring import RING_SAMPLES, Overwritten, Pcm, Ring, RingError, WindowExceeded


def pcm(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


def counted(start: int, end: int) -> bytes:
    return pcm(*range(start, end))


def seen(ring: Ring, start: int, end: int) -> bytes:
    return b"".join(ring.view(start, end))


def test_the_default_ring_is_512_kib_of_audio() -> None:
    assert RING_SAMPLES * 2 == 524_288
    assert Ring().window == RING_SAMPLES


def test_memory_is_taken_by_the_first_sample_and_given_back_by_release() -> None:
    ring = Ring(capacity=8)
    allocated = []
    for step in (lambda: ring.write(b""), lambda: ring.write(pcm(1)), ring.release, ring.release):
        step()
        allocated.append(ring.allocated)
    assert allocated == [False, True, False, False]


def test_a_released_ring_takes_and_shows_nothing() -> None:
    ring = Ring(capacity=8)
    ring.write(pcm(1))
    ring.release()
    with pytest.raises(RingError, match="released"):
        ring.write(pcm(1))
    with pytest.raises(RingError, match="released"):
        ring.view(0, 1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_written_is_seen_across_the_seam(kind: type[Pcm]) -> None:
    ring = Ring(capacity=8)
    assert ring.write(kind(counted(0, 6))) == 6
    assert ring.write(kind(counted(6, 12))) == 12
    slices = ring.view(4, 12)
    assert [len(piece) for piece in slices] == [8, 8]
    assert b"".join(slices) == counted(4, 12)


def test_a_view_that_ends_at_the_seam_is_one_slice() -> None:
    ring = Ring(capacity=8)
    ring.write(counted(0, 8))
    assert len(ring.view(3, 8)) == 1
    assert len(ring.view(0, 8)) == 1
    assert ring.view(5, 5) == ()


def test_views_copy_nothing_and_cannot_be_written_through() -> None:
    ring = Ring(capacity=4)
    ring.write(counted(0, 4))
    (piece,) = ring.view(0, 1)
    ring.write(pcm(9))
    assert bytes(piece) == pcm(9)
    with pytest.raises(TypeError):
        piece[0] = 1


def test_a_kept_view_stays_readable_after_release() -> None:
    ring = Ring(capacity=4)
    ring.write(counted(0, 4))
    (piece,) = ring.view(0, 4)
    ring.release()
    assert bytes(piece) == counted(0, 4)


def test_positions_start_at_the_origin() -> None:
    ring = Ring(origin=1_000_003, capacity=8)
    assert (ring.head, ring.oldest, ring.limit) == (1_000_003, 1_000_003, 1_000_011)
    ring.write(counted(0, 8))
    assert seen(ring, 1_000_003, 1_000_011) == counted(0, 8)
    with pytest.raises(Overwritten) as gone:
        ring.view(1_000_002, 1_000_005)
    assert (gone.value.asked, gone.value.oldest) == (1_000_002, 1_000_003)


@pytest.mark.parametrize(("origin", "capacity"), [(-1, 8), (0, 0)])
def test_a_ring_needs_room_and_a_position(origin: int, capacity: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        Ring(origin, capacity)


def test_the_slowest_holding_reader_closes_the_window() -> None:
    ring = Ring(capacity=8)
    fast, slow = ring.add_reader("fast", 0), ring.add_reader("slow", 0)
    ring.write(counted(0, 6))
    fast.advance(6)
    slow.advance(1)
    assert (ring.limit, ring.window) == (9, 3)
    assert (fast.lag, slow.lag) == (0, 5)
    slow.advance(6)
    assert ring.window == 8


def test_a_write_beyond_the_window_changes_nothing() -> None:
    ring = Ring(capacity=4)
    ring.add_reader("r", 0)
    ring.write(counted(0, 3))
    with pytest.raises(WindowExceeded) as refused:
        ring.write(counted(3, 5))
    assert (refused.value.position, refused.value.limit, refused.value.offered) == (3, 4, 2)
    assert ring.head == 3
    assert seen(ring, 0, 3) == counted(0, 3)
    assert ring.write(pcm(3)) == 4


def test_a_write_larger_than_the_ring_is_refused_even_without_readers() -> None:
    ring = Ring(capacity=4)
    with pytest.raises(WindowExceeded):
        ring.write(counted(0, 5))
    assert not ring.allocated


def test_half_a_sample_is_refused() -> None:
    ring = Ring(capacity=4)
    with pytest.raises(ValueError, match="3 bytes"):
        ring.write(b"abc")
    assert ring.head == 0


def test_a_view_of_anything_but_bytes_is_refused_and_nothing_changes() -> None:
    ring = Ring(capacity=4)
    with pytest.raises(ValueError, match="memoryview"):
        ring.write(memoryview(counted(0, 4)).cast("h"))
    assert ring.head == 0


def test_without_holding_readers_the_ring_keeps_the_newest() -> None:
    ring = Ring(capacity=4)
    reader = ring.add_reader("r", 0)
    ring.write(counted(0, 4))
    assert ring.window == 0
    reader.let_go()
    assert ring.window == 4
    ring.write(counted(4, 7))
    assert (ring.oldest, ring.window, reader.lag) == (3, 4, 7)
    assert seen(ring, 3, 7) == counted(3, 7)
    with pytest.raises(Overwritten):
        ring.view(2, 4)


def test_a_reader_that_holds_again_further_back_takes_no_promise_back() -> None:
    ring = Ring(capacity=8)
    reader = ring.add_reader("r", 0)
    ring.write(counted(0, 6))
    reader.let_go()
    assert ring.limit == 14
    reader.hold(2)
    assert (ring.limit, reader.holds, reader.position) == (14, True, 2)
    ring.write(counted(6, 14))
    with pytest.raises(WindowExceeded):
        ring.write(pcm(0))
    assert ring.oldest == 6
    reader.advance(7)
    assert ring.limit == 15


def test_a_reader_rewinds_to_what_is_still_there_without_lowering_the_limit() -> None:
    ring = Ring(capacity=8)
    reader = ring.add_reader("r", 0)
    ring.write(counted(0, 8))
    reader.advance(6)
    ring.write(counted(8, 10))
    reader.rewind(2)
    assert (reader.position, ring.limit) == (2, 14)
    assert seen(ring, reader.position, ring.head) == counted(2, 10)
    with pytest.raises(Overwritten) as gone:
        reader.rewind(1)
    assert (gone.value.asked, gone.value.oldest) == (1, 2)
    assert reader.position == 2


def test_readers_go_forward_within_what_was_written() -> None:
    ring = Ring(capacity=8)
    reader = ring.add_reader("r", 0)
    ring.write(counted(0, 4))
    reader.advance(3)
    for wrong in (2, 5):
        with pytest.raises(ValueError, match="advance"):
            reader.advance(wrong)
    with pytest.raises(ValueError, match="rewind"):
        reader.rewind(4)
    with pytest.raises(ValueError, match="past the head"):
        reader.hold(5)
    assert reader.position == 3


def test_a_reader_joins_where_there_is_something_to_read() -> None:
    ring = Ring(capacity=4)
    ring.write(counted(0, 4))
    ring.write(counted(4, 6))
    with pytest.raises(Overwritten):
        ring.add_reader("late", 1)
    with pytest.raises(ValueError, match="past the head"):
        ring.add_reader("early", 7)
    assert ring.add_reader("late", 2).name == "late"
    with pytest.raises(ValueError, match="'late' already"):
        ring.add_reader("late", 2)


def test_views_stay_within_what_was_written() -> None:
    ring = Ring(capacity=4)
    assert ring.view(0, 0) == ()
    ring.write(counted(0, 2))
    with pytest.raises(ValueError, match="not within"):
        ring.view(0, 3)
    with pytest.raises(ValueError, match="not within"):
        ring.view(2, 1)
