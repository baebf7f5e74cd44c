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

from typing import Final, NamedTuple, Protocol
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


class Tell(Protocol):
    """Told of an utterance that has grown, or that is complete. It is as it is now only during the call."""

    def __call__(self, utterance: Utterance, *, final: bool) -> object: ...


_INT16: Final = np.dtype("<i2")


def _energy(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, _INT16)[::STEP].astype(np.float64)
    return float(samples.dot(samples))


def _sums(pcm: bytes) -> NDArray[np.float64] | None:
    """Sums of squares from the first sample on, or None when nothing in it is loud."""
    whole = np.frombuffer(pcm, _INT16)
    if int(whole.max()) < LOUD and int(whole.min()) > -LOUD:
        return None
    samples = whole.astype(np.float64)
    return np.concatenate((np.zeros(1), np.cumsum(samples * samples)))


def _beginning(pcm: bytes) -> int:
    """The first sample with which an utterance begins, or -1."""
    sums = _sums(pcm)
    if sums is None or float(sums[-1]) < _THRESHOLD:
        return -1
    loud = sums[BLOCK:] - sums[:-BLOCK] >= _THRESHOLD
    at = int(loud.argmax())
    return at if loud[at] else -1


class Hearing:
    """Hears one stream. What it holds is bounded by the last chunk fed and 700 ms.

    Args:
        tell: told of what is heard, while it is fed.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._held = b""
        """The last of what was fed, in which nothing has been decided yet."""
        self._fed = 0
        self._speaking: _Speaking | None = None

    def feed(self, pcm: bytes) -> None:
        """Hear the next samples, 16-bit little-endian."""
        self._fed += len(pcm) // SAMPLE_BYTES
        held, at = self._held + pcm, 0
        while len(held) - at >= BLOCK_BYTES:
            speaking = self._speaking
            if speaking is None:
                at = self._search(held)
                continue
            begin, at = at, at + BLOCK_BYTES
            if speaking.hear(held[begin:at]):
                # What lies behind the end is searched for the next beginning, as in a stream that begins there.
                held, at = speaking.trail + held[at:], 0
                self._speaking = None
                self._tell(speaking.utterance, final=True)
            elif speaking.grown():
                self._tell(speaking.utterance, final=False)
        self._held = held[at:]

    def finish(self) -> None:
        """The stream has ended: tell of the utterance that it cut off."""
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            speaking.hear_rest(self._held)
            self._tell(speaking.utterance, final=True)
        self._held = b""

    def _search(self, held: bytes) -> int:
        """How many bytes there are before the beginning of an utterance, or of what may yet turn out to be one."""
        at = _beginning(held) * SAMPLE_BYTES
        if at < 0:
            return len(held) - BLOCK_BYTES + SAMPLE_BYTES
        self._speaking = _Speaking(self._fed - (len(held) - at) // SAMPLE_BYTES)
        return at


class _Speaking:
    """An utterance while it is spoken."""

    __slots__ = ("_blocks", "_energy", "_next_word", "_told", "trail", "utterance")

    def __init__(self, start: int) -> None:
        self.utterance = Utterance(start)
        self.trail = b""
        """What has been heard since the utterance's end."""
        self._blocks = 0
        self._energy = 0.0
        self._next_word = 0
        self._told = 0

    def hear(self, block: bytes) -> bool:
        """Hear one block; say whether that was the end."""
        energy = _energy(block)
        number = self._blocks
        self._blocks = number + 1
        # The first was found loud by all of its samples.
        loud = energy >= _BLOCK_THRESHOLD or number == 0
        if number >= CUT_FROM and (number >= CUT_AT or (loud and energy * 4 * number < self._energy)):
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
        self.trail = b""
