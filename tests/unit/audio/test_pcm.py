from __future__ import annotations

import pytest

from audio import pcm


def test_samples_are_two_bytes() -> None:
    assert pcm.samples_of(0) == 0
    assert pcm.samples_of(3_200) == 1_600
    assert pcm.bytes_of(1_600) == 3_200


@pytest.mark.parametrize("size", [-2, -1, 1, 3_201])
def test_half_a_sample_is_no_audio(size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        pcm.samples_of(size)


def test_seconds_are_for_people() -> None:
    assert pcm.seconds_of(24_000) == 1.5
    assert pcm.seconds_of(0) == 0.0


def test_a_position_is_the_nearest_sample_and_never_negative() -> None:
    assert pcm.position_of(1.5) == 24_000
    assert pcm.position_of(1 / 16_000 + 1e-9) == 1
    assert pcm.position_of(-0.25) == 0


def test_every_position_survives_being_told_in_seconds() -> None:
    four_hours = 4 * 3_600 * pcm.SAMPLE_RATE
    for position in (0, 1, 12_345, four_hours - 1, four_hours):
        assert pcm.position_of(pcm.seconds_of(position)) == position


def test_frames_hold_whole_samples() -> None:
    assert pcm.samples_of(pcm.FRAME_BYTES_MIN) == 1
    assert pcm.samples_of(pcm.FRAME_BYTES_MAX) == 32_768
