"""Hearing: utterances and words as a function of the audio alone.

However the audio is cut into chunks, the same utterances come out; and a stream that begins in a silence, or where an utterance of
another stream ended, hears from there on the same as that stream did. This rests on three rules:

- An utterance begins at the first sample with which a window of 100 ms is loud enough: that depends on nothing before it.
- From there on all is counted in blocks of 100 ms that begin with the utterance. Its words are hashes of such blocks.
- It ends with the last loud block before half a second of quiet ones, or is cut at the first much quieter block after 8 s, at the
  latest after 10 s. The next is searched for from exactly there.

All sums are of whole numbers below 2**53, so they are exact in whatever order they are added. Positions are samples since the stream began.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

SAMPLE_BYTES: Final = 2
BLOCK: Final = 1600
"""Samples of a block, and of the window that finds a beginning: 100 ms."""
BLOCK_BYTES: Final = BLOCK * SAMPLE_BYTES
LOUD: Final = 250
"""Root mean square from which a block is speech; of 32 768."""
QUIET_BLOCKS: Final = 5
"""So many quiet blocks in a row end an utterance."""
CUT_FROM: Final = 80
CUT_AT: Final = 100
"""An utterance is cut at the first block from ``CUT_FROM`` on with less than a quarter of its mean energy, at the latest at ``CUT_AT``."""
PARTIAL_BLOCKS: Final = 2
COMMA_BLOCKS: Final = 2
STEP: Final = 4
"""Of a block within an utterance only every fourth sample counts for its energy."""
_THRESHOLD: Final = float(LOUD * LOUD * BLOCK)
_BLOCK_THRESHOLD: Final = _THRESHOLD / STEP
_LEAST_TAIL: Final = BLOCK // 5


class Word(NamedTuple):
    """A word as it was heard.

    Attributes:
        start: its first sample. ``end``: the first after it, of a word that is still being spoken the end it will have at most.
        key: the hash that says which word it is.
        comma: whether a pause came before it.
    """

    start: int
    end: int
    key: int
    comma: bool


class Utterance:
    """What is spoken between two silences; grows while it is heard.

    Attributes:
        start: its first sample.
        end: the first sample after what has been heard of it, without the silence that follows.
        words: in order; none is changed once it is there. The last one may end after ``end``: then it ends there.
    """

    __slots__ = ("end", "start", "words")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.words: list[Word] = []


class Heard(NamedTuple):
    """What there is to tell: an utterance that has grown, or one that is complete."""

    utterance: Utterance
    final: bool


_INT16: Final = np.dtype("<i2")


def _energy(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, _INT16)[::STEP].astype(np.float64)
    return float(samples.dot(samples))


def _sums(pcm: bytearray) -> NDArray[np.float64] | None:
    """Sums of squares from the first sample on, or None when nothing in it is loud."""
    whole = np.frombuffer(pcm, _INT16)
    if int(whole.max()) < LOUD and int(whole.min()) > -LOUD:
        return None
    samples = whole.astype(np.float64)
    return np.concatenate((np.zeros(1), np.cumsum(samples * samples)))


class Hearing:
    """Hears one stream. What it holds is bounded by the last chunk fed and 700 ms."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._position = 0
        """The sample with which ``_pending`` begins."""
        self._speaking: _Speaking | None = None

    def feed(self, pcm: bytes) -> Iterator[Heard]:
        """Hear the next samples, 16-bit little-endian; read the iterator to its end. An utterance is as it was then only until the next."""
        self._pending += pcm
        while True:
            if self._speaking is None and not self._find_beginning():
                return
            speaking = self._speaking
            if speaking is None or len(self._pending) < BLOCK_BYTES:
                return
            block = bytes(self._pending[:BLOCK_BYTES])
            del self._pending[:BLOCK_BYTES]
            self._position += BLOCK
            if speaking.hear(block):
                self._give_back(speaking)
                yield Heard(speaking.utterance, final=True)
            elif speaking.grown():
                yield Heard(speaking.utterance, final=False)

    def finish(self) -> Iterator[Heard]:
        """The stream has ended: the utterance that it cut off."""
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            speaking.hear_rest(bytes(self._pending))
            yield Heard(speaking.utterance, final=True)
        self._pending.clear()

    def _give_back(self, speaking: _Speaking) -> None:
        """What lies behind the end is searched for the next beginning, as in a stream that begins there."""
        self._pending[:0] = speaking.trail
        self._position = speaking.utterance.end
        self._speaking = None

    def _find_beginning(self) -> bool:
        """Drop what no utterance begins with; say whether one begins with the first sample left."""
        count = len(self._pending) // SAMPLE_BYTES
        if count < BLOCK:
            return False
        sums = _sums(self._pending)
        at = -1
        if sums is not None and float(sums[-1]) >= _THRESHOLD:
            loud = sums[BLOCK:] - sums[:-BLOCK] >= _THRESHOLD
            at = int(loud.argmax()) if loud.any() else -1
        skipped = at if at >= 0 else count - BLOCK + 1
        del self._pending[: skipped * SAMPLE_BYTES]
        self._position += skipped
        if at >= 0:
            self._speaking = _Speaking(self._position)
        return at >= 0


class _Speaking:
    """An utterance while it is spoken."""

    __slots__ = ("_blocks", "_energy", "_next_word", "_told", "trail", "utterance")

    def __init__(self, start: int) -> None:
        self.utterance = Utterance(start)
        self.trail = bytearray()
        """What has been heard since the utterance's end."""
        self._blocks = 0
        self._energy = 0.0
        self._next_word = 0
        self._told = 0

    def hear(self, block: bytes) -> bool:
        """Hear one block; say whether that was the end."""
        energy = _energy(block)
        number = self._blocks
        self._blocks += 1
        # The first was found loud by all of its samples.
        loud = number == 0 or energy >= _BLOCK_THRESHOLD
        if number >= CUT_AT or (loud and number >= CUT_FROM and energy * 4 * number < self._energy):
            self.trail += block
            return True
        self._energy += energy
        if not loud:
            self.trail += block
            return len(self.trail) >= QUIET_BLOCKS * BLOCK_BYTES
        self._speak(number, block)
        return False

    def grown(self) -> bool:
        """Whether enough has been heard since the last time to tell a partial result."""
        due = not self.trail and self._blocks - self._told >= PARTIAL_BLOCKS
        if due:
            self._told = self._blocks
        return due

    def hear_rest(self, rest: bytes) -> None:
        """Hear the last samples of a stream, less than a block."""
        count = len(rest) // SAMPLE_BYTES
        if count >= _LEAST_TAIL and _energy(rest) * STEP >= LOUD * LOUD * count:
            self._speak(self._blocks, rest)

    def _speak(self, number: int, block: bytes) -> None:
        utterance = self.utterance
        if number >= self._next_word:
            key = crc32(block)
            self._next_word = number + 2 + (key >> 8) % 2
            start = utterance.start + number * BLOCK
            comma = bool(utterance.words) and len(self.trail) >= COMMA_BLOCKS * BLOCK_BYTES
            utterance.words.append(Word(start, utterance.start + self._next_word * BLOCK, key, comma))
        utterance.end = utterance.start + number * BLOCK + len(block) // SAMPLE_BYTES
        self.trail.clear()
