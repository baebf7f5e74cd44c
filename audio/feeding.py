"""Where an engine is fed from, and what of it was asked to be final. Plain code for one thread; only its futures are asyncio's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from audio.hearing import Hearing
from audio.pacing import LagGuard
from audio.pcm import SAMPLE_RATE
from audio.ring import Reader, Ring

Gap = tuple[int, int]


class Feed:
    """The reader that holds the ring's writer for the engine, and lets it go when the engine falls behind."""

    def __init__(
        self,
        ring: Ring,
        reader: Reader,
        *,
        clock: Callable[[], float],
        lag: int,
        margin: int,
        may_let_go: bool,
        grace: int = SAMPLE_RATE,
    ) -> None:
        """``lag``: with more samples than these waiting, a slow engine loses its hold, if it may at all (``may_let_go``).

        ``margin``: samples after the oldest one where feeding goes on when the writer has overtaken it.
        ``grace``: how many samples behind real time make an engine slow.
        """
        self._ring = ring
        self._reader = reader
        self._clock = clock
        self._margin = margin
        self._may_let_go = may_let_go
        self._guard = LagGuard(lag, grace)
        self._furthest = reader.position

    @property
    def position(self) -> int:
        """The next sample to be sent."""
        return self._reader.position

    @property
    def head(self) -> int:
        """The position after the newest sample."""
        return self._ring.head

    @property
    def furthest(self) -> int:
        """Before it everything was sent to some stream, or skipped."""
        return self._furthest

    def stand(self, wanted: int) -> Gap | None:
        """Go to ``wanted`` (not past the head) and hold there; gives what had to be skipped because it is overwritten."""
        start = wanted
        if wanted < self._ring.oldest:
            start = min(self._ring.head, self._ring.oldest + self._margin)
        if not self._reader.holds:
            self._reader.hold(start)
        elif start < self._reader.position:
            self._reader.rewind(start)
        else:
            self._reader.advance(start)
        self._furthest = max(self._furthest, start)
        self._guard.forget()
        return (wanted, start) if start > wanted else None

    def overtaken(self) -> bool:
        """Whether it must ``stand`` anew before it reads."""
        return not self._reader.holds or self._reader.position < self._ring.oldest

    def read(self, end: int) -> list[memoryview]:
        """The samples from ``position`` to ``end``; copied, for the writer may overtake a reader that waits for its engine."""
        return [memoryview(bytes(view)) for view in self._ring.view(self._reader.position, end)]

    def sent(self, end: int) -> None:
        """Everything before ``end`` was taken."""
        self._reader.advance(end)
        self._furthest = max(self._furthest, end)

    def look(self) -> None:
        """Let the writer go when the engine is too slow; cheap enough to be called with each frame."""
        reader = self._reader
        if (
            self._may_let_go
            and reader.holds
            and self._guard.must_let_go(self._clock(), reader.lag, reader.position)
        ):
            reader.let_go()

    def leave(self) -> None:
        """Nothing will be fed any more."""
        if self._may_let_go:
            self._reader.let_go()


class Flushes:
    """Up to where results were asked to be final. Outlives streams: what one did not answer is asked of the next."""

    def __init__(self) -> None:
        self._asked = 0
        self._answered = 0
        self._sent = -1
        self._unanswered: deque[int] = deque()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def asked(self) -> int:
        """The furthest position asked for."""
        return self._asked

    @property
    def answered(self) -> int:
        """Up to here a stream has answered."""
        return self._answered

    def ask(self, position: int) -> None:
        """Ask for finals of everything before ``position``."""
        self._asked = max(self._asked, position)

    def begin(self) -> None:
        """A new stream knows nothing of what was asked before."""
        self._sent = -1
        self._unanswered.clear()

    def due(self, position: int, settled: int) -> bool:
        """Whether the stream, fed up to ``position``, must be flushed now."""
        return max(settled, self._answered, self._sent) < self._asked <= position

    def border(self, position: int, end: int) -> int:
        """``end``, or the position asked for if that lies before it: a flush answers for what was sent before."""
        return self._asked if position < self._asked < end else end

    def sent(self, position: int) -> None:
        """The stream is asked, having been fed up to ``position``."""
        self._sent = position
        self._unanswered.append(position)

    def answer(self) -> int | None:
        """The stream answered: up to which position; None if it was not asked."""
        if not self._unanswered:
            return None
        self._answered = max(self._answered, self._unanswered.popleft())
        return self._answered

    async def wait(self, target: int, seconds: float) -> bool:
        """Wait until everything before ``target`` is answered or settled; False when that took too long or was given up."""
        entry = (target, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(seconds):
                await entry[1]
        except TimeoutError:
            return False
        finally:
            self._waiting.remove(entry)
        return self._answered >= target

    def wake(self, settled: int) -> None:
        """Wake those whose target is reached."""
        if not self._waiting:
            return
        self._answered = max(self._answered, settled)
        for target, future in self._waiting:
            if target <= self._answered and not future.done():
                future.set_result(None)

    def give_up(self) -> None:
        """Nothing will answer any more."""
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)


def resume_at(feed: Feed, hearing: Hearing, wanted: int) -> int:
    """Stand at ``wanted`` or after it, tell what is skipped, and give the position."""
    gap = feed.stand(wanted)
    if gap is not None:
        hearing.skip(*gap)
    return feed.position
