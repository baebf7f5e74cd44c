"""Whether an engine answers for what it is sent. Pure: the clock's reading and positions are passed in."""

from __future__ import annotations

from typing import Final

from audio.loudness import Loudness
from audio.pcm import SAMPLE_RATE

QUIET_SAMPLES: Final = 3 * SAMPLE_RATE
"""After so much quiet without a result there was nothing to hear in it; engines answer speech within a second or two."""

UNSURE_SAMPLES: Final = 2 * SAMPLE_RATE
"""The last of it may still be the beginning of something."""

TAIL_SAMPLES: Final = SAMPLE_RATE // 5
"""What sounds on after a result's last word belongs to that word."""

MUTE_SECONDS_MAX: Final = 60.0


class Vigil:
    """What one stream was sent and has said nothing of."""

    def __init__(self) -> None:
        self._loud_since: float | None = None
        self._loud = 0
        self._sounded: int | None = None
        self._quiet_from: int | None = None

    def sent(self, start: int, end: int, how: Loudness, now: float) -> None:
        """``[start, end)`` was sent; positions only grow."""
        if how is Loudness.LOUD:
            self._loud += end - start
            if self._loud_since is None:
                self._loud_since = now
        if how is not Loudness.QUIET:
            self._sounded = start
            self._quiet_from = None
        elif self._quiet_from is None:
            self._quiet_from = start

    def heard(self) -> None:
        """The stream reported something."""
        self._loud_since = None
        self._loud = 0

    def mute(self, now: float, seconds: float) -> bool:
        """Whether it was sent speech for so long, half of which is loud (people pause), and has reported nothing since it began."""
        return (
            self._loud_since is not None
            and now - self._loud_since > seconds
            and self._loud * 2 >= seconds * SAMPLE_RATE
        )

    def without_speech(self, sent: int, reported: int) -> int | None:
        """Before which position nothing is left to be reported; None when that cannot be said.

        ``sent``: up to there audio was sent. ``reported``: the end of the last result. Anything but quiet that lies after it
        may yet be reported, however late the engine is.
        """
        if self._quiet_from is None or sent - self._quiet_from < QUIET_SAMPLES:
            return None
        if self._sounded is not None and self._sounded > reported + TAIL_SAMPLES:
            return None
        return sent - UNSURE_SAMPLES


class Patience:
    """For how long streams may be mute. Outlives them.

    Noise in a room where nobody speaks looks like a mute stream. When the stream that replaces one is mute, too, it is noise more
    likely, and patience doubles, up to ``MUTE_SECONDS_MAX``; with the next result it is what it was.
    """

    def __init__(self, seconds: float | None) -> None:
        """``seconds`` of speech; None: for ever."""
        self._first: Final = seconds
        self._alarms = 0

    @property
    def seconds(self) -> float | None:
        """For how long the present stream may be mute."""
        if self._first is None:
            return None
        doubled = self._first * 2.0 ** min(max(0, self._alarms - 1), 16)
        return max(self._first, min(doubled, MUTE_SECONDS_MAX))

    def ran_out(self) -> None:
        """A stream was mute for so long."""
        self._alarms += 1

    def rewarded(self) -> None:
        """A result came."""
        self._alarms = 0
