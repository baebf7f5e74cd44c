"""The one sample format of this house: 16 kHz, signed 16-bit little-endian, mono.

A *position* is a number of samples since a session began. It is the only clock by
which audio is addressed; seconds are for people.
"""

from __future__ import annotations

from typing import Final

SAMPLE_RATE: Final = 16_000
"""Samples per second."""

SAMPLE_BYTES: Final = 2
"""Bytes per sample."""

FRAME_BYTES_MIN: Final = SAMPLE_BYTES
FRAME_BYTES_MAX: Final = 65_536
"""Bounds of one binary WebSocket frame, in bytes."""


def samples_of(byte_count: int) -> int:
    """Samples in ``byte_count`` bytes.

    Raises:
        ValueError: ``byte_count`` is negative or odd: half a sample is no audio.
    """
    if byte_count < 0 or byte_count % SAMPLE_BYTES:
        raise ValueError(f"{byte_count} bytes are no whole number of 16-bit samples")
    return byte_count // SAMPLE_BYTES


def bytes_of(samples: int) -> int:
    """Bytes that ``samples`` samples take."""
    return samples * SAMPLE_BYTES


def seconds_of(samples: int) -> float:
    """Seconds that ``samples`` samples last."""
    return samples / SAMPLE_RATE


def position_of(seconds: float) -> int:
    """The sample nearest to ``seconds``, never negative."""
    return max(0, round(seconds * SAMPLE_RATE))
