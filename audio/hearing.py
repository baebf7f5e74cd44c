"""What has been heard of a session: an engine's events in, partials and finals on positions out. Pure, no clock.

It sees to it that finals neither overlap nor repeat, however often a stream is replaced and its audio replayed.
"""

from __future__ import annotations

from typing import Final as Constant
from typing import Protocol, TypeVar

import msgspec

from audio.coverage import Ranges
from audio.engine import Settled, StreamResult
from audio.timeline import ResultIds, Timeline, placed
from audio.transcript import Final, Partial

UNSPACED: Constant = frozenset({"ja", "zh", "yue", "th", "lo", "km", "my"})
"""Languages written without spaces between words."""

_ResultT = TypeVar("_ResultT", Partial, Final)


class TranscriberSink(Protocol):
    """Where results go. Called in order, never concurrently; must not block and must not raise."""

    def on_partial(self, partial: Partial) -> None:
        """A result that may still change."""

    def on_final(self, final: Final) -> None:
        """A result that will not change; each starts at or after the end of the one before."""

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        """Something people should know; ``start`` and ``end`` are positions. Holds nothing that was said."""


class Hearing:
    """One session's results over all its engine streams.

    Everything before ``settled`` is in a final, known to be without speech, or given up. ``live`` is what engines heard:
    of each stream what was sent into it and is settled. Both stay where they began for an engine that does not transcribe.
    ``reported``: the present stream has said something about the audio before it, not necessarily its last word.
    """

    def __init__(
        self, sink: TranscriberSink, *, language: str, next_ordinal: int, settled: int, transcribes: bool
    ) -> None:
        self._sink = sink
        self._language = language
        self._transcribes = transcribes
        self._ids = ResultIds(next_ordinal)
        self._timeline = Timeline(settled)
        self._fed = Ranges()
        self._counted = settled
        self._gaps = Ranges()
        self.settled = settled
        self.reported = settled
        self.live = Ranges()

    def begin(self, position: int) -> None:
        """A new stream will be fed from ``position`` on; unfinished results will come again in it."""
        self._ids.restart()
        self._timeline = Timeline(position)
        self._fed = Ranges()
        self._counted = position
        self.reported = position

    @property
    def speaking(self) -> bool:
        """Whether the present stream has a result that may still change."""
        return self._ids.unfinished

    def fed(self, position: int, samples: int) -> None:
        """Note audio just before it is sent: a result may come before sending returns.

        Raises:
            ValueError: see ``Timeline.audio``.
        """
        self._timeline.audio(position, samples)
        self._fed.add(position, position + samples)

    def take(self, event: StreamResult | Settled) -> None:
        """Pass on what an engine reports; what was said before ``settled`` is final already and is dropped."""
        if isinstance(event, Settled):
            position = self._timeline.position_of(event.position, end=True)
            self.reported = max(self.reported, position)
            self.settle(position)
            self._timeline.forget(event.position)
            return
        end = self._timeline.position_of(event.end, end=True)
        self.reported = max(self.reported, end)
        if end <= self.settled:
            return
        result = placed(event, self._timeline, self._ids, self._language)
        if isinstance(result, Partial):
            self._sink.on_partial(self._later_part(result))
            return
        final = self._later_part(result)
        if final.text:
            self._sink.on_final(final)
        self.settle(end)
        self._timeline.forget(event.end)

    def settle(self, position: int) -> None:
        """Everything before ``position`` is final or without speech."""
        if not self._transcribes:
            return
        self.settled = max(self.settled, position)
        for start, end in self._fed.within(self._counted, max(self._counted, position)):
            self.live.add(start, end)
        self._counted = max(self._counted, position)

    def skip(self, start: int, end: int) -> None:
        """``[start, end)`` will not be heard; says so once for each sample of it, except to those who heard nothing anyway."""
        if not self._transcribes:
            return
        lost = Ranges([(start, end)]).subtract(self._gaps).subtract(self.live)
        for first, last in lost:
            self._gaps.add(first, last)
            self._sink.on_notice(
                "transcript_gap", "this part was recorded but not transcribed live", first, last
            )

    def _later_part(self, result: _ResultT) -> _ResultT:
        """The part of a result that starts at or after ``settled``; its text is empty when no word does."""
        if result.start >= self.settled:
            return result
        words = tuple(word for word in result.words if word.start >= self.settled)
        text = result.text
        if len(words) < len(result.words):
            space = "" if self._language.partition("-")[0] in UNSPACED else " "
            text = space.join(word.text for word in words)
        start = words[0].start if words else self.settled
        return msgspec.structs.replace(result, start=start, text=text, words=words)
