"""How loud a piece of sound is, in three steps. Pure.

Where the borders lie: speech into a microphone on the desk or worn on the body has its root mean square between -40 and -15 dBFS,
and a room in which nobody speaks has it below -50.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import numpy as np

LOUD_DBFS: Final = -40.0
QUIET_DBFS: Final = -50.0

_FULL_SCALE: Final = 32_768.0
_LOUD: Final = _FULL_SCALE**2 * 10 ** (LOUD_DBFS / 10)
_QUIET: Final = _FULL_SCALE**2 * 10 ** (QUIET_DBFS / 10)
_STEP: Final = 2
"""Every second sample says enough: what is quiet at 8 kHz holds no word."""


class Loudness(Enum):
    """``LOUD``: somebody speaks, or something makes a noise. ``QUIET``: nobody speaks. ``FAINT``: either may be."""

    QUIET = 0
    FAINT = 1
    LOUD = 2


def loudness(pcm: Sequence[memoryview]) -> Loudness:
    """Of 16-bit samples, taken together; nothing at all is quiet."""
    energy, count = 0.0, 0
    for view in pcm:
        samples = np.frombuffer(view, np.int16)[::_STEP].astype(np.float32)
        energy += float(samples.dot(samples))
        count += samples.size
    if energy > _LOUD * count:
        return Loudness.LOUD
    return Loudness.FAINT if energy > _QUIET * count else Loudness.QUIET
