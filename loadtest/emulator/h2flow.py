"""HTTP/2 frames as they come, and the flow of DATA frames to the client (RFC 9113, sections 4 to 6)."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

DATA: Final = 0
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
END_STREAM: Final = 1
PADDED: Final = 8
PREFACE_BYTES: Final = 24
HEADER_BYTES: Final = 9
MAX_FRAME: Final = 16_384
FULL_BYTES: Final = 128 * 1024
"""More than that waits for a client's window only until it has taken some: nothing is read from it meanwhile."""
_HEADER: Final = struct.Struct(">BHBBI")


class Framer:
    """Cuts what is received into the preface and frames. It holds one frame at most."""

    def __init__(self) -> None:
        self._held = b""
        self._greeted = False
        self.broken = False
        """A frame is longer than it may be: nothing more is taken."""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, stream and all bytes of each complete frame; the preface is of type -1."""
        held = self._held + data if self._held else bytes(data)
        at = 0
        self._held = b""
        if not self._greeted and len(held) >= PREFACE_BYTES:
            self._greeted, at = True, PREFACE_BYTES
            yield -1, 0, 0, held[:PREFACE_BYTES]
        while self._greeted and len(held) - at >= HEADER_BYTES:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(held, at)
            end = at + HEADER_BYTES + (high << 16 | low)
            if end - at > HEADER_BYTES + MAX_FRAME:
                self.broken = True
                return
            if end > len(held):
                break
            yield kind, flags, stream_id & 0x7FFFFFFF, held[at:end]
            at = end
        self._held = held[at:]


def unpadded(raw: bytes, flags: int) -> bytes:
    """The content of a DATA frame."""
    if not flags & PADDED:
        return raw[HEADER_BYTES:]
    return raw[HEADER_BYTES + 1 : len(raw) - raw[HEADER_BYTES]] if len(raw) > HEADER_BYTES else b""


def credit(stream_id: int, count: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return _HEADER.pack(0, 4, WINDOW_UPDATE, 0, stream_id) + count.to_bytes(4, "big")


class _Full(Protocol):
    def __call__(self, *, full: bool) -> None: ...


class Outflow:
    """DATA frames to the client, within its windows.

    Args:
        write: to the connection.
        full: called when more than ``FULL_BYTES`` wait, and when no longer.
    """

    def __init__(self, write: Callable[[bytes], None], full: _Full) -> None:
        self._write = write
        self._full = full
        self._connection = self._initial = self._window = 65_535
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_full = False
        self._ended: Callable[[], None] | None = None

    def send(self, stream_id: int, data: bytes) -> None:
        """Send now, or when the client's windows allow."""
        if self._waiting or len(data) > min(self._connection, self._window):
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._go_on(stream_id)
        else:
            self._frames(stream_id, data)

    def end(self, stream_id: int, ended: Callable[[], None]) -> None:
        """End the stream after all that was sent; ``ended`` is called when that is out."""
        self._ended = ended
        self._go_on(stream_id)

    def credit(self, of: int, frame: bytes, stream_id: int) -> None:
        """The client has sent WINDOW_UPDATE for stream ``of``; 0 is the connection."""
        increment = int.from_bytes(frame[HEADER_BYTES : HEADER_BYTES + 4], "big") & 0x7FFFFFFF
        if of == 0:
            self._connection += increment
        elif of == stream_id:
            self._window += increment
        self._go_on(stream_id)

    def initial(self, size: int, stream_id: int) -> None:
        """The client has set the window that a stream begins with; it holds for the stream that has begun, too."""
        self._window += size - self._initial
        self._initial = size
        self._go_on(stream_id)

    def _frames(self, stream_id: int, data: bytes) -> None:
        self._connection -= len(data)
        self._window -= len(data)
        for at in range(0, len(data), MAX_FRAME):
            piece = data[at : at + MAX_FRAME]
            self._write(_HEADER.pack(0, len(piece), DATA, 0, stream_id) + piece)

    def _go_on(self, stream_id: int) -> None:
        while self._waiting and (room := min(self._connection, self._window)) > 0:
            data = self._waiting.popleft()
            if len(data) > room:
                self._waiting.appendleft(data[room:])
            self._waiting_bytes -= min(room, len(data))
            self._frames(stream_id, data[:room])
        full = self._waiting_bytes > FULL_BYTES
        if full != self._is_full:
            self._is_full = full
            self._full(full=full)
        if self._ended is not None and not self._waiting:
            ended, self._ended = self._ended, None
            self._write(_HEADER.pack(0, 0, DATA, END_STREAM, stream_id))
            ended()
