"""Whether this process has run without a break: one that was stopped must not go on as if no time had passed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

JUMP_SECONDS: Final = 2.0
"""Between two ticks so much is a break. A client waits 3 s before it takes its socket for dead and goes elsewhere."""


@dataclass
class Pulse:
    """Times are of the monotonic clock, in seconds.

    Attributes:
        ticked_at: the last tick; None before the first.
        broke_at: the end of the last break.
    """

    ticked_at: float | None = None
    broke_at: float = -math.inf

    def tick(self, now: float) -> bool:
        """Called a few times a second. Returns whether a break has just ended."""
        broke = self._breaks(now)
        if broke:
            self.broke_at = now
        self.ticked_at = now
        return broke

    def trusts(self, confirmed_at: float, now: float) -> bool:
        """Whether what was confirmed at ``confirmed_at`` may still be built on: nothing has stopped this process since."""
        return confirmed_at >= self.broke_at and not self._breaks(now)

    def _breaks(self, now: float) -> bool:
        return self.ticked_at is not None and now - self.ticked_at >= JUMP_SECONDS
