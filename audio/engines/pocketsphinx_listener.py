"""A stream of samples in, what was said out: a recogniser behind PocketSphinx's endpointer. Runs in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pocketsphinx

from audio.engines.pocketsphinx_decoder import Recogniser, Spoken
from audio.engines.pocketsphinx_wire import Answered, Ended, Heard, Message, Quiet, Result
from audio.pcm import SAMPLE_BYTES, SAMPLE_RATE, bytes_of, samples_of

PRIMING_SAMPLES: Final = SAMPLE_RATE
"""Speech from which an utterance's cepstral mean is estimated before it is decoded. The model's initial mean fits neither
a quiet nor a noisy microphone; against it, one second gave 0.4 points more words on clean speech, 2 at a tenth of the
level, 6 at 3 % of it with noise."""

PARTIAL_SAMPLES: Final = SAMPLE_RATE // 4
"""At most one partial in so much speech."""

UTTERANCE_SAMPLES_MAX: Final = 153_600
"""9.6 s: speech without a pause is made final this late, so that it can be heard again from a 16 s ring."""

QUIET_SAMPLES: Final = SAMPLE_RATE // 2
"""Silence is reported this often."""

PAUSE_SAMPLES: Final = SAMPLE_RATE * 8 // 100
HELD_WORDS: Final = 2
HELD_WORDS_MAX: Final = 4
"""Where endless speech is cut: in a pause before one of the last four words, else before the last two."""


def cut_of(words: Sequence[Spoken], length: int) -> int:
    """Where to cut an utterance of ``length`` samples that does not end: what is after it is heard again.

    Never within a word, and always past the middle, so that hearing again comes to an end.
    """
    if not words:
        return length - QUIET_SAMPLES
    held = max(0, len(words) - HELD_WORDS)
    for at in range(len(words) - 1, max(0, len(words) - 1 - HELD_WORDS_MAX), -1):
        if words[at].start - words[at - 1].end >= PAUSE_SAMPLES:
            held = at
            break
    for at in range(held, len(words)):
        before = words[at - 1].end if at else words[at].start
        cut = (before + words[at].start) // 2
        if cut > length // 2:
            return cut
    return min(words[-1].end, length)


class Utterance:
    """Speech that goes on: where it starts in the stream, all its audio, and what was last shown of it."""

    def __init__(self, name: str, start: int, recogniser: Recogniser) -> None:
        self.name = name
        self.start = start
        self.audio = bytearray()
        self._recogniser = recogniser
        self._started = False
        self._next_partial = PARTIAL_SAMPLES
        self._shown = ""

    @property
    def length(self) -> int:
        """Samples so far."""
        return samples_of(len(self.audio))

    def hear(self, pcm: bytes) -> Result | None:
        """Take more speech; gives a partial when one is due and says something new."""
        self.audio += pcm
        if self._started:
            self._recogniser.hear(pcm)
        elif self.length >= PRIMING_SAMPLES:
            self._start()
        if not self._started or self.length < self._next_partial:
            return None
        self._next_partial = self.length + PARTIAL_SAMPLES
        text = self._recogniser.hypothesis()
        if not text or text == self._shown:
            return None
        self._shown = text
        return Result(self.name, self.start, self.start + self.length, False, text)

    def finish(self) -> list[Spoken]:
        """All its words. Nothing more can be heard."""
        if not self._started:
            self._start()
        length = self.length
        # The decoder's last frame may reach past the audio.
        return [
            word._replace(end=min(word.end, length))
            for word in self._recogniser.finish()
            if word.start < length
        ]

    def abandon(self) -> None:
        """Leave the recogniser free for another; what was said is lost."""
        if self._started:
            self._recogniser.finish()

    def final(self, words: Sequence[Spoken]) -> Result | None:
        """A final of these words of it; None when there are none."""
        if not words:
            return None
        start = self.start
        timed = tuple((word.text, start + word.start, start + word.end, word.confidence) for word in words)
        return Result(
            self.name, timed[0][1], timed[-1][2], True, " ".join(word.text for word in words), timed
        )

    def _start(self) -> None:
        self._recogniser.start(bytes(self.audio))
        self._started = True


class Listener:
    """One stream after another through one recogniser; ``emit`` is called with each message, in order."""

    def __init__(self, recogniser: Recogniser, emit: Callable[[Message], None]) -> None:
        self._recogniser = recogniser
        self._emit = emit
        self._utterance: Utterance | None = None
        self._reset(0)
        self._named = 0

    def begin(self) -> None:
        """Forget everything: stream sample 0 is next."""
        if self._utterance is not None:
            self._utterance.abandon()
        self._reset(0)
        self._named = 0

    def hear(self, pcm: bytes) -> None:
        """Take audio; ends with ``Heard``."""
        self._heard += samples_of(len(pcm))
        self._rest += pcm
        size: int = self._endpointer.frame_bytes
        taken = 0
        while len(self._rest) - taken >= size:
            self._hear_frame(bytes(self._rest[taken : taken + size]))
            taken += size
        del self._rest[:taken]
        self._emit(Heard(self._heard))

    def flush(self) -> None:
        """Make final what was heard; ends with ``Answered``. The stream goes on."""
        self._make_final()
        self._emit(Answered())

    def end(self) -> None:
        """Make final what was heard; ends with ``Ended``."""
        self._make_final()
        self._emit(Ended())

    def _reset(self, heard: int) -> None:
        self._endpointer: Any = pocketsphinx.Endpointer()
        self._window = round(pocketsphinx.Endpointer.DEFAULT_WINDOW * SAMPLE_RATE)
        self._utterance = None
        self._rest = bytearray()
        self._heard = heard
        self._settled = heard
        self._origin = heard
        self._framed = heard

    def _hear_frame(self, frame: bytes) -> None:
        was_speech = self._endpointer.in_speech
        speech = self._endpointer.process(frame)
        self._framed += samples_of(len(frame))
        if speech is None:
            # What is in its window may yet turn out to be the beginning of speech.
            if self._framed - self._window - self._settled >= QUIET_SAMPLES:
                self._settle(self._framed - self._window)
            return
        if not was_speech:
            self._open(self._origin + round(self._endpointer.speech_start * SAMPLE_RATE))
        self._take(speech)
        if not self._endpointer.in_speech:
            self._close()

    def _open(self, start: int) -> Utterance:
        self._named += 1
        self._utterance = Utterance(f"s{self._named}", start, self._recogniser)
        return self._utterance

    def _take(self, speech: bytes) -> None:
        utterance = self._utterance
        assert utterance is not None
        partial = utterance.hear(speech)
        if partial is not None:
            self._emit(partial)
        if utterance.length >= UTTERANCE_SAMPLES_MAX:
            self._split(utterance)

    def _split(self, utterance: Utterance) -> None:
        words = utterance.finish()
        cut = cut_of(words, utterance.length)
        self._emit_final(utterance, [word for word in words if word.end <= cut], utterance.start + cut)
        rest = bytes(utterance.audio[bytes_of(cut) :])
        following = self._open(utterance.start + cut)
        if rest and (partial := following.hear(rest)):
            self._emit(partial)

    def _close(self) -> None:
        utterance = self._utterance
        assert utterance is not None
        self._utterance = None
        self._emit_final(
            utterance, utterance.finish() if utterance.length else [], utterance.start + utterance.length
        )

    def _emit_final(self, utterance: Utterance, words: Sequence[Spoken], end: int) -> None:
        final = utterance.final(words)
        if final is not None:
            self._emit(final)
        self._settle(end)

    def _make_final(self) -> None:
        if self._utterance is not None:
            # The endpointer refuses an empty last frame.
            speech = self._endpointer.end_stream(bytes(self._rest) or bytes(SAMPLE_BYTES))
            if speech:
                self._take(speech)
            self._close()
        heard = self._heard
        self._reset(heard)
        self._emit(Quiet(heard))

    def _settle(self, position: int) -> None:
        if position > self._settled:
            self._settled = position
            self._emit(Quiet(position))
