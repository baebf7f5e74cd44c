"""From an engine stream's time to positions of the session, and from its result ids to the session's."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from audio.engine import StreamResult
from audio.transcript import Final as FinalResult
from audio.transcript import Partial, Word

OPEN_RESULTS_MAX: Final = 64
"""Unfinished results kept in mind at once; engines have one or two per voice."""


class Timeline:
    """One engine stream: what was sent into it, piece by piece.

    Audio has positions; silence that was inserted (to keep a stream alive, to make an engine finish) has none.
    ``position_of`` never decreases with stream time, and with ``end=True`` is never after that with ``end=False``.
    """

    __slots__ = ("_before", "_lengths", "_positions", "_sent", "_starts")

    def __init__(self, start: int) -> None:
        """``start`` is the position that stands for everything before the first audio."""
        self._before = start
        self._starts: list[int] = []
        self._positions: list[int] = []
        self._lengths: list[int] = []
        self._sent = 0

    @property
    def sent(self) -> int:
        """Samples sent into the stream so far, silence included."""
        return self._sent

    @property
    def pieces(self) -> int:
        """How many pieces are kept; what memory goes by."""
        return len(self._starts)

    def audio(self, position: int, samples: int) -> None:
        """Note that ``samples`` samples from ``position`` on were sent; jumps forward are allowed.

        Raises:
            ValueError: ``position`` is before the end of what was sent, or ``samples`` is negative.
        """
        last = self._last()
        if samples < 0 or position < last:
            raise ValueError(f"{samples} samples at {position} do not follow {last}")
        if samples == 0:
            return
        if self._starts and position == last and self._sent == self._starts[-1] + self._lengths[-1]:
            self._lengths[-1] += samples
        else:
            self._starts.append(self._sent)
            self._positions.append(position)
            self._lengths.append(samples)
        self._sent += samples

    def silence(self, samples: int) -> None:
        """Note that ``samples`` samples of silence were inserted.

        Raises:
            ValueError: ``samples`` is negative.
        """
        if samples < 0:
            raise ValueError(f"{samples} samples of silence")
        self._sent += samples

    def position_of(self, stream_sample: int, *, end: bool = False) -> int:
        """The position of a stream sample; beyond what was sent, the last position sent.

        On a border or within inserted silence, that is where the next audio starts; as the ``end`` of something,
        where the audio before it ended (the two differ only where positions jump).
        """
        if end:
            at = bisect_left(self._starts, stream_sample) - 1
            if at < 0:
                return self._before
            return self._positions[at] + min(stream_sample - self._starts[at], self._lengths[at])
        at = bisect_right(self._starts, stream_sample) - 1
        if at >= 0 and stream_sample < self._starts[at] + self._lengths[at]:
            return self._positions[at] + stream_sample - self._starts[at]
        return self._positions[at + 1] if at + 1 < len(self._starts) else self._last()

    def forget(self, before_stream_sample: int) -> None:
        """Let go of what only questions about earlier stream samples need; later ones are answered as before."""
        done = 0
        while done < len(self._starts) and self._starts[done] + self._lengths[done] <= before_stream_sample:
            done += 1
        if done:
            self._before = self._positions[done - 1] + self._lengths[done - 1]
            del self._starts[:done], self._positions[:done], self._lengths[:done]

    def _last(self) -> int:
        return self._positions[-1] + self._lengths[-1] if self._positions else self._before


class ResultIds:
    """Session-wide result ids ``u<n>`` that outlive engine streams.

    Numbers are given at first sight, ascending. A stream's unfinished numbers go, in order, to the first results of
    the next one, so that what is heard again replaces what a client already shows. A settled number never comes back.
    At most ``OPEN_RESULTS_MAX`` unfinished results are kept in mind: past that the oldest one's number is given up.
    """

    __slots__ = ("_next", "_open", "_reusable")

    def __init__(self, next_ordinal: int = 1) -> None:
        self._next = next_ordinal
        self._open: dict[str, int] = {}
        self._reusable: list[int] = []

    @property
    def next_ordinal(self) -> int:
        """The first number that was never given."""
        return self._next

    @property
    def unfinished(self) -> bool:
        """Whether the present stream has a result that may still change."""
        return bool(self._open)

    def id_for(self, engine_id: str) -> str:
        """The id of a result that may still change."""
        ordinal = self._open.get(engine_id)
        if ordinal is None:
            ordinal = self._take()
            if len(self._open) >= OPEN_RESULTS_MAX:
                del self._open[next(iter(self._open))]
            self._open[engine_id] = ordinal
        return f"u{ordinal}"

    def settle(self, engine_id: str) -> str:
        """The id of a final; if the engine uses ``engine_id`` again, that is another result."""
        ordinal = self._open.pop(engine_id, None)
        return f"u{self._take() if ordinal is None else ordinal}"

    def restart(self) -> None:
        """The stream is dead and will be replayed into another: its unfinished numbers are free again."""
        self._reusable = sorted([*self._reusable, *self._open.values()])[:OPEN_RESULTS_MAX]
        self._open.clear()

    def _take(self) -> int:
        if self._reusable:
            return self._reusable.pop(0)
        self._next += 1
        return self._next - 1


def ordinal_of(result_id: str) -> int:
    """The number in an id that ``ResultIds`` made: a new owner goes on one past the highest that is final.

    Raises:
        ValueError: it is no such id.
    """
    number = result_id[1:]
    if not result_id.startswith("u") or not (number.isascii() and number.isdecimal()):
        raise ValueError("a result id is u<n>")
    return int(number)


def placed(result: StreamResult, timeline: Timeline, ids: ResultIds, language: str) -> Partial | FinalResult:
    """Put an engine's result on the session's positions, under the session's id; settles it when final.

    ``start <= end``; words lie within the result, none starting before the one before it has ended; confidences in
    0..1. A final whose engine names no language is in ``language``.
    """
    start = timeline.position_of(result.start)
    end = max(start, timeline.position_of(result.end, end=True))
    words = _words(result, timeline, start, end)
    if not result.final:
        return Partial(ids.id_for(result.id), start, end, result.text, words, result.language)
    return FinalResult(ids.settle(result.id), start, end, result.text, words, result.language or language)


def _words(result: StreamResult, timeline: Timeline, start: int, end: int) -> tuple[Word, ...]:
    words = []
    floor = start
    for word in result.words:
        begins = min(max(floor, timeline.position_of(word.start)), end)
        ends = min(max(begins, timeline.position_of(word.end, end=True)), end)
        words.append(Word(word.text, begins, ends, min(max(word.confidence, 0.0), 1.0), word.speaker))
        floor = ends
    return tuple(words)
