"""The audio that a speaker still has to send or may have to send again: pure bookkeeping of positions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from app.client.errors import BadAudio, ProtocolError
from audio.pcm import FRAME_BYTES_MAX, FRAME_BYTES_MIN, SAMPLE_BYTES, bytes_of, samples_of

KEEP_SAMPLES_MAX: Final = 262_144
"""Samples that a server may hold without their being durable (512 KiB): as far back as a resume may reach."""


def chunks(pcm: bytes, size: int = FRAME_BYTES_MAX) -> Iterator[bytes]:
    """``pcm`` in pieces of ``size`` bytes."""
    return (pcm[start : start + size] for start in range(0, len(pcm), size))


class Outbox:
    """Pulls PCM from a source no further than the window allows, and keeps what is not yet durable.

    All numbers are positions in samples: ``durable <= received <= position``; ``position`` is that of the next sample
    to send. What is kept never exceeds the window that the server granted, plus one piece of the source.
    """

    def __init__(self, source: Iterable[bytes], frame_bytes: int) -> None:
        """Send what ``source`` yields (16 kHz PCM in pieces of any size) in frames of ``frame_bytes``.

        Raises:
            ValueError: frames of that size are not allowed.
        """
        if not FRAME_BYTES_MIN <= frame_bytes <= FRAME_BYTES_MAX:
            raise ValueError(f"a frame has {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} bytes, not {frame_bytes}")
        self.frame_samples: Final = samples_of(frame_bytes)
        self.position = 0
        self.received = 0
        self.durable = 0
        self._source = iter(source)
        self._exhausted = False
        self._kept = bytearray()
        self._kept_from = 0
        self._limit = 0
        self._highest = 0
        self._hash = hashlib.sha256()

    @property
    def samples_kept(self) -> int:
        """How much is held."""
        return len(self._kept) // SAMPLE_BYTES

    @property
    def sent_once(self) -> int:
        """How far sending ever got: what lies before ``position`` on a first pass, more while repeating."""
        return self._highest

    @property
    def finished(self) -> bool:
        """Whether everything has been sent and the source holds no more (which only ``take`` finds out)."""
        return self._exhausted and self.position == self._kept_to

    def sha256(self) -> str:
        """SHA-256 of all PCM sent so far, each sample once."""
        return self._hash.hexdigest()

    def resume(self, position: int, window: int) -> None:
        """Continue from ``position``, as ``ready`` says; the source is skipped forward where it lies ahead.

        Raises:
            ProtocolError: that audio is gone because it was called durable, or was never there.
            BadAudio: see ``take``.
        """
        if position < self._kept_from:
            raise ProtocolError(
                f"the server goes back to {position}, before {self._kept_from}, which was durable"
            )
        while position > self._kept_to and not self._exhausted:
            self._pull(min(position, self._kept_to + KEEP_SAMPLES_MAX))
            self._sent_to(min(position, self._kept_to))
            self._forget(min(self._highest, position - KEEP_SAMPLES_MAX))
        if position > self._kept_to:
            raise ProtocolError(
                f"the server goes on at {position}, but there is audio to {self._kept_to} only"
            )
        self.position = self.received = position
        self._limit = position + window
        self._sent_to(position)

    def acknowledge(self, received: int, durable: int, window: int) -> None:
        """Take an ``ack``: forget what is durable, go as far as it allows.

        Raises:
            ProtocolError: it acknowledges what was not sent, or goes back.
        """
        if not self.received <= received <= self.position or not self.durable <= durable <= received:
            raise ProtocolError(f"an ack of {received} (durable {durable}) where {self.position} were sent")
        self.received, self.durable = received, durable
        self._limit = max(self._limit, received + window)
        self._forget(durable)

    def take(self, until: int | None = None) -> bytes | None:
        """The next frame, or None while the window or ``until`` (a position) holds it back, or when there is no more.

        A frame is short at the end of the source; and where the window has no room for a whole one although
        everything before it has been received, lest a window smaller than a frame stop everything.

        Raises:
            BadAudio: the source ended in the middle of a sample.
        """
        wanted = min(self.frame_samples, self._limit - self.position)
        self._pull(self.position + max(wanted, 0))
        there = min(self._kept_to - self.position, wanted)
        if there <= 0 or (until is not None and self.position + there > until):
            return None
        whole = there == self.frame_samples or (self._exhausted and self.position + there == self._kept_to)
        if not whole and self.position > self.received:
            return None
        start = bytes_of(self.position - self._kept_from)
        frame = bytes(self._kept[start : start + bytes_of(there)])
        self.position += there
        self._sent_to(self.position)
        return frame

    def cut(self) -> None:
        """There is no more to come: the audio ends with what was ever sent."""
        self._exhausted = True
        del self._kept[bytes_of(self._highest - self._kept_from) :]

    @property
    def _kept_to(self) -> int:
        return self._kept_from + self.samples_kept

    def _pull(self, to: int) -> None:
        # One sample beyond, so that the last frame is known to be the last.
        while not self._exhausted and len(self._kept) <= bytes_of(to - self._kept_from):
            piece = next(self._source, None)
            if piece is not None:
                self._kept += piece
                continue
            self._exhausted = True
            if len(self._kept) % SAMPLE_BYTES:
                raise BadAudio("the audio ends in the middle of a sample")

    def _sent_to(self, position: int) -> None:
        if position > self._highest:
            start, end = (bytes_of(place - self._kept_from) for place in (self._highest, position))
            self._hash.update(self._kept[start:end])
            self._highest = position

    def _forget(self, before: int) -> None:
        if before > self._kept_from:
            del self._kept[: bytes_of(before - self._kept_from)]
            self._kept_from = before
