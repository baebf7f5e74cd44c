"""PocketSphinx's decoder, one utterance at a time. Runs in a worker process."""

from __future__ import annotations

import os
import re
from typing import Any, Final, NamedTuple, Protocol

import pocketsphinx

from audio.pcm import SAMPLE_RATE

FEATURE_SAMPLES: Final = SAMPLE_RATE // 100
"""One frame of the decoder: its times are counted in these."""

_ALTERNATIVE: Final = re.compile(r"\(\d+\)$")
_MEAN_SEARCH: Final = "mean"


class Spoken(NamedTuple):
    """A word in samples of its utterance; ``confidence`` in 0..1."""

    text: str
    start: int
    end: int
    confidence: float


class Recogniser(Protocol):
    """Decodes one utterance at a time."""

    def start(self, pcm: bytes) -> None:
        """Begin an utterance with its first audio, from which its level is learnt."""

    def hear(self, pcm: bytes) -> None:
        """More of it."""

    def hypothesis(self) -> str:
        """What it seems to be so far; may be empty."""

    def finish(self) -> list[Spoken]:
        """End the utterance and give its words, in order, without fillers."""


class PocketSphinx:
    """The en-US model of the ``pocketsphinx`` wheel, with its default search (all three passes).

    Nothing of an utterance stays for the next: cepstral mean and noise level start anew, so equal audio gives equal words.
    """

    def __init__(self) -> None:
        # Its log quotes hypotheses.
        self._decoder: Any = pocketsphinx.Decoder(loglevel="FATAL", logfn=os.devnull)
        self._search: str = self._decoder.current_search()
        # A grammar of one word: a search that costs next to nothing, for a pass that wants the mean alone.
        grammar = self._decoder.create_fsg(_MEAN_SEARCH, 0, 1, [(0, 1, 1.0, "a")])
        self._decoder.add_fsg(_MEAN_SEARCH, grammar)
        self._decoder.activate_search(self._search)

    def start(self, pcm: bytes) -> None:
        decoder = self._decoder
        decoder.reinit_feat()
        decoder.activate_search(_MEAN_SEARCH)
        decoder.start_utt()
        decoder.process_raw(pcm, no_search=True)
        mean = decoder.get_cmn(True)
        decoder.end_utt()
        decoder.activate_search(self._search)
        decoder.set_cmn(mean)
        decoder.start_utt()
        decoder.process_raw(pcm)

    def hear(self, pcm: bytes) -> None:
        self._decoder.process_raw(pcm)

    def hypothesis(self) -> str:
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""

    def finish(self) -> list[Spoken]:
        self._decoder.end_utt()
        if self._decoder.hyp() is None:
            return []
        return [
            Spoken(
                _ALTERNATIVE.sub("", segment.word),
                segment.start_frame * FEATURE_SAMPLES,
                (segment.end_frame + 1) * FEATURE_SAMPLES,
                # The word's posterior in the lattice, linear; rounding may put it a little above one.
                min(1.0, max(0.0, segment.prob)),
            )
            for segment in self._decoder.seg()
            if segment.word[0] not in "<[+"
        ]
