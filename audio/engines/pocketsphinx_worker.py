"""The process that decodes for one stream at a time: orders on standard input, reports on standard output.

It ends when its standard input does, so it never outlives the server, however that died.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

from audio.engines.pocketsphinx_decoder import PocketSphinx, Recogniser
from audio.engines.pocketsphinx_listener import Listener
from audio.engines.pocketsphinx_wire import (
    AUDIO,
    BEGIN,
    END,
    FLUSH,
    FRAME_MAX,
    LENGTH,
    NUMBER,
    Begun,
    Message,
    PipeOutOfStep,
    Report,
    encode_report,
)

NICENESS: Final = 5
"""Decoding gives way to the server, which has deadlines in milliseconds."""


def orders_of(source: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind and payload of each order until the source ends, in an order or between two.

    Raises (from iteration):
        PipeOutOfStep: see there.
    """
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        (size,) = LENGTH.unpack(head)
        if not 1 <= size <= FRAME_MAX:
            raise PipeOutOfStep("an order has no possible length")
        body = source.read(size)
        if len(body) < size:
            return
        yield body[:1], body[1:]


def serve(source: BinaryIO, sink: BinaryIO, recogniser: Recogniser) -> None:
    """Obey orders until ``source`` ends. What an order brings about is written in one piece.

    Raises:
        PipeOutOfStep: an order of unknown kind or length.
        OSError: the reader of ``sink`` is gone.
    """
    messages: list[Message] = []
    listener = Listener(recogniser, messages.append)
    stream = 0
    for kind, payload in orders_of(source):
        if kind == AUDIO:
            listener.hear(payload)
        elif kind == FLUSH:
            listener.flush()
        elif kind == END:
            listener.end()
        elif kind == BEGIN:
            (stream,) = NUMBER.unpack(payload)
            listener.begin()
            messages.append(Begun())
        else:
            raise PipeOutOfStep("an order of unknown kind")
        sink.write(b"".join(encode_report(Report(stream, message)) for message in messages))
        sink.flush()
        messages.clear()


def main() -> int:
    """Run as a process; the exit status is 0 when the server ended it or went away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        # Whatever a library prints must not get between the reports.
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        try:
            serve(sys.stdin.buffer, sink, PocketSphinx())
        except (BrokenPipeError, ConnectionResetError):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
