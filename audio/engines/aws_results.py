"""From Transcribe's results to the port's events, and when a flush is answered. Pure; no clock of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from audio.engine import EngineEvent, Settled, StreamResult, StreamWord
from audio.engines.aws_events import Alternative, Item, Result
from audio.pcm import SAMPLE_RATE, position_of
from audio.timeline import OPEN_RESULTS_MAX, Timeline

ONSET_SAMPLES: Final = SAMPLE_RATE // 2
"""The start of a segment may still move to and fro by less than this while it is partial."""

COVERED_SAMPLES: Final = SAMPLE_RATE // 10
"""Audio shorter than this after a final holds no word."""

LAG_SECONDS_MAX: Final = 3.0

MEMORY_SAMPLES: Final = 300 * SAMPLE_RATE
"""No result is about audio older than this; where silence was inserted before is forgotten."""

UNKNOWN_CONFIDENCE: Final = 1.0
"""Partial results have no confidences: of their words no doubt is known."""


class Results:
    """One stream's results, in the order in which the service sends them.

    The service counts all that it was sent; the port counts audio. The silence between, which the engine inserts, has no
    time in the port: what lies in it is reported at its border.

    What is settled follows from results alone, for the service says nothing of silence: everything before the end of a final;
    and when a new segment opens while none is open, everything up to half a second before it, because segments come in the order
    of their speech. During a long silence nothing is settled until somebody speaks.
    """

    def __init__(self) -> None:
        self._timeline = Timeline(0)
        self._tail = 0
        self._silence = 0
        self._open: dict[str, None] = {}
        self._settled = 0
        self._final_end = 0
        self._lag = 0

    @property
    def sent(self) -> int:
        """What the service was sent so far, in its samples."""
        return self._timeline.sent

    @property
    def speaking(self) -> bool:
        """Whether a segment has partial results and no final yet."""
        return bool(self._open)

    @property
    def final_end(self) -> int:
        """The end of the last final, in the service's samples."""
        return self._final_end

    @property
    def lag(self) -> float:
        """Seconds of audio that were on their way when the last partial result came; at most ``LAG_SECONDS_MAX``."""
        return min(self._lag / SAMPLE_RATE, LAG_SECONDS_MAX)

    def audio(self, samples: int) -> None:
        """Audio is sent."""
        self._timeline.audio(self._timeline.sent - self._silence, samples)

    def silence(self, samples: int) -> None:
        """Silence is inserted."""
        self._timeline.silence(samples)
        self._silence += samples
        self._tail = self._timeline.sent
        self._timeline.forget(self._tail - MEMORY_SAMPLES)

    def take(self, results: Sequence[Result]) -> list[EngineEvent]:
        """What these results mean to the port."""
        events: list[EngineEvent] = []
        for result in results:
            if result.is_partial:
                self._take_partial(result, events)
            else:
                self._take_final(result, events)
        return events

    def _take_partial(self, result: Result, events: list[EngineEvent]) -> None:
        heard = _best(result)
        if not heard.transcript:
            return
        self._lag = max(0, self.sent - position_of(result.end_time))
        if not self._open:
            self._settle(self._port(position_of(result.start_time)) - ONSET_SAMPLES, events)
        if result.result_id not in self._open:
            if len(self._open) >= OPEN_RESULTS_MAX:
                del self._open[next(iter(self._open))]
            self._open[result.result_id] = None
        events.append(self._placed(result, heard))

    def _take_final(self, result: Result, events: list[EngineEvent]) -> None:
        heard = _best(result)
        was_open = result.result_id in self._open
        self._open.pop(result.result_id, None)
        # A segment that turned out to hold nothing is reported to those who saw a partial of it.
        if heard.transcript or was_open:
            events.append(self._placed(result, heard))
        end = position_of(result.end_time)
        self._final_end = max(self._final_end, end)
        self._settle(self._port(end, end=True), events)
        self._timeline.forget(end)

    def _settle(self, position: int, events: list[EngineEvent]) -> None:
        if position > self._settled:
            self._settled = position
            events.append(Settled(position))

    def _placed(self, result: Result, heard: Alternative) -> StreamResult:
        # A later result never reaches back into what is settled: finals do not overlap.
        start = max(self._port(position_of(result.start_time)), self._settled)
        end = max(start, self._port(position_of(result.end_time), end=True))
        words = self._words(heard.items, start, end)
        return StreamResult(
            result.result_id, start, end, heard.transcript, not result.is_partial, words, result.language_code
        )

    def _words(self, items: Sequence[Item], start: int, end: int) -> tuple[StreamWord, ...]:
        words: list[StreamWord] = []
        floor = start
        for item in items:
            if item.type == "punctuation":
                if words:
                    words[-1] = _with_mark(words[-1], item.content)
                continue
            begins = min(max(floor, self._port(position_of(item.start_time))), end)
            floor = min(max(begins, self._port(position_of(item.end_time), end=True)), end)
            sure = UNKNOWN_CONFIDENCE if item.confidence is None else item.confidence
            words.append(StreamWord(item.content, begins, floor, sure, item.speaker))
        return tuple(words)

    def _port(self, sample: int, *, end: bool = False) -> int:
        if sample >= self._tail:
            return min(sample, self._timeline.sent) - self._silence
        return self._timeline.position_of(sample, end=end)


_NOTHING: Final = Alternative()


def _best(result: Result) -> Alternative:
    return result.alternatives[0] if result.alternatives else _NOTHING


def _with_mark(word: StreamWord, mark: str) -> StreamWord:
    """Punctuation stands right after its word, as in the service's transcript."""
    return StreamWord(word.text + mark, word.start, word.end, word.confidence, word.speaker)


class Flushing:
    """The flushes that wait for their answer.

    Transcribe has no flush: silence makes it close the segment, and nothing says that all was heard. A flush is answered when no segment
    is open and a final reaches the end of what was sent before it, or a segment opens after that, or no result has come for
    ``quiet`` seconds and as many again as results lag behind audio. While a segment is open it waits: an answer would settle
    what is not final. After ``limit`` seconds it is overdue, and the stream had better be replaced.
    """

    def __init__(self, quiet: float, limit: float) -> None:
        self._quiet = quiet
        self._limit = limit
        self._targets: deque[tuple[int, float]] = deque()
        self._last = 0.0
        self._done = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._targets)

    def ask(self, target: int, now: float) -> None:
        """A flush of everything before ``target``, in the service's samples; the silence after it has been sent."""
        self._targets.append((target, now))
        self._last = now

    def heard(self, now: float) -> None:
        """A result came."""
        self._last = now

    def answered(self, results: Results, now: float) -> int:
        """How many are answered now, the oldest first; they no longer wait."""
        if not self._targets or results.speaking:
            return 0
        if now - self._last >= self._quiet + results.lag:
            return self._answer(results.sent)
        return self._answer(max(self._done, results.final_end + COVERED_SAMPLES))

    def passed(self, results: Results, start: int) -> int:
        """How many are answered by a segment that is about to open at ``start``, in the service's samples: segments come in order."""
        return 0 if results.speaking else self._answer(start)

    def overdue(self, now: float) -> bool:
        """Whether the oldest has waited for too long."""
        return bool(self._targets) and now - self._targets[0][1] > self._limit

    def _answer(self, known: int) -> int:
        count = 0
        while self._targets and self._targets[0][0] <= known:
            self._done = max(self._done, self._targets.popleft()[0])
            count += 1
        return count

    def end(self) -> int:
        """The stream has ended and everything is final: how many that answers."""
        count = len(self._targets)
        self._targets.clear()
        return count
