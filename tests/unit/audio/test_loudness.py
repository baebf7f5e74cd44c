from __future__ import annotations

import numpy as np
import pytest

from audio.loudness import Loudness, loudness


def noise(dbfs: float, seconds: float = 0.2) -> memoryview:
    """A hum whose root mean square is this."""
    count = int(seconds * 16_000)
    wave = np.sin(np.arange(count) * 0.31) * np.sqrt(2) * 32_768 * 10 ** (dbfs / 20)
    return memoryview(wave.round().astype(np.int16).tobytes())


@pytest.mark.parametrize(
    ("dbfs", "expected"),
    [
        (-15, Loudness.LOUD),
        (-39, Loudness.LOUD),
        (-41, Loudness.FAINT),
        (-49, Loudness.FAINT),
        (-51.5, Loudness.QUIET),
        (-90, Loudness.QUIET),
    ],
)
def test_steps(dbfs: float, expected: Loudness) -> None:
    assert loudness([noise(dbfs)]) is expected


def test_full_scale_does_not_overflow() -> None:
    assert loudness([memoryview(np.full(3200, -32_768, np.int16).tobytes())]) is Loudness.LOUD


def test_nothing_and_zeros_are_quiet() -> None:
    assert loudness([]) is Loudness.QUIET
    assert loudness([memoryview(bytes(6400))]) is Loudness.QUIET


def test_several_views_are_one_piece() -> None:
    assert loudness([noise(-80, 0.1), noise(-30, 0.1)]) is Loudness.LOUD
    assert loudness([noise(-80, 0.19), noise(-37, 0.01)]) is Loudness.FAINT
