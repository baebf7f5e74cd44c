"""How sure an owner may be that a session is still its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from app.sessions.pulse import Pulse

CONFIRMED_SHARE: Final = 1 / 2
"""Of the resume window: an owner that nothing confirms for longer lets go. Nobody else finishes before a whole one is over."""


class Unconfirmed(Exception):
    """Nothing has confirmed for half the resume window that this task owns the session."""


class GivenUp(Exception):
    """There is no more time to make the session durable."""


class Hold:
    """One owner's hold on its session, sure when it is made. Times are of ``clock``, which is monotonic, in seconds.

    ``confirmed_at``: when whoever confirmed it last was asked.
    """

    def __init__(self, pulse: Pulse, clock: Callable[[], float], window: float) -> None:
        self._pulse, self._clock = pulse, clock
        self._seconds = window * CONFIRMED_SHARE
        self.confirmed_at = clock()
        self._lost = asyncio.Event()
        self._loss: Exception | None = None

    def confirm(self, asked_at: float) -> None:
        """Whoever was asked at ``asked_at`` knew of no newer owner."""
        self.confirmed_at = max(self.confirmed_at, asked_at)

    @property
    def lasts(self) -> bool:
        """Whether it was confirmed not too long ago."""
        return self._clock() - self.confirmed_at < self._seconds

    @property
    def is_sure(self) -> bool:
        """Whether anything may be promised: it lasts, and this process has not stood still since it was confirmed."""
        return self.lasts and self._pulse.trusts(self.confirmed_at, self._clock())

    def lose(self, loss: Exception) -> None:
        """The session is to be let go at once, promising nothing more; the first reason stands."""
        if self._loss is None:
            self._loss = loss
            self._lost.set()

    async def until_lost(self) -> None:
        """Wait for ``lose`` and raise what it was given."""
        await self._lost.wait()
        if self._loss is not None:
            raise self._loss
