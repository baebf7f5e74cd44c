"""What the PocketSphinx engine and its worker processes say to each other over a pipe.

Each frame is a little-endian 32-bit length and that many bytes. To the worker: one byte of kind, then the payload
(raw PCM for ``AUDIO``, the stream's number for ``BEGIN``, nothing else). From the worker: one ``Report`` in MessagePack.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from audio.engine import EngineEvent, Flushed, Settled, StreamResult, StreamWord

LENGTH: Final = struct.Struct("<I")
NUMBER: Final = struct.Struct("<Q")

BEGIN: Final = b"B"
AUDIO: Final = b"A"
FLUSH: Final = b"F"
END: Final = b"E"

FRAME_MAX: Final = 1 << 20
"""Bytes; a longer frame means that the pipe is out of step."""


class Begun(msgspec.Struct, frozen=True, tag="b", array_like=True):
    """The decoder stands at the beginning of a new stream."""


class Heard(msgspec.Struct, frozen=True, tag="h", array_like=True):
    """Everything before stream sample ``position`` went through the decoder."""

    position: int


class Result(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """A ``StreamResult``; words as ``(text, start, end, confidence)``."""

    id: str
    start: int
    end: int
    final: bool
    text: str
    words: tuple[tuple[str, int, int, float], ...] = ()

    def as_event(self) -> StreamResult:
        """The engine's own type."""
        words = tuple(StreamWord(text, start, end, sure) for text, start, end, sure in self.words)
        return StreamResult(self.id, self.start, self.end, self.text, self.final, words)


class Quiet(msgspec.Struct, frozen=True, tag="q", array_like=True):
    """A ``Settled``."""

    position: int


class Answered(msgspec.Struct, frozen=True, tag="f", array_like=True):
    """A ``Flushed``."""


class Ended(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """The answer to ``END``: the last report of this stream."""


Message = Begun | Heard | Result | Quiet | Answered | Ended


class Report(msgspec.Struct, frozen=True, array_like=True):
    """A message and the number of the stream it belongs to; a number that is no longer current is stale."""

    stream: int
    message: Message


class PipeOutOfStep(Exception):
    """What came through the pipe is no frame of this protocol; the worker is of no more use."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Report)


def encode_report(report: Report) -> bytes:
    """A whole frame."""
    body = _encoder.encode(report)
    return LENGTH.pack(len(body)) + body


def encode_order(kind: bytes, payload: bytes = b"") -> bytes:
    """A whole frame for the worker."""
    return LENGTH.pack(len(kind) + len(payload)) + kind + payload


class ReportReader:
    """Cuts what arrives into reports; keeps at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Report]:
        """The reports that ``data`` completes, in order.

        Raises (from iteration):
            PipeOutOfStep: see there.
        """
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._buffer)
            if size > FRAME_MAX:
                raise PipeOutOfStep("a frame is too long")
            end = LENGTH.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            try:
                report = _decoder.decode(body)
            except msgspec.DecodeError:
                # The decoder's own message may quote the content.
                raise PipeOutOfStep("a frame is no report") from None
            yield report


def as_event(message: Message) -> EngineEvent | None:
    """What the engine's consumer is told; None for what is between the engine and its worker."""
    match message:
        case Result():
            return message.as_event()
        case Quiet(position=position):
            return Settled(position)
        case Answered():
            return Flushed()
        case _:
            return None
