"""The bounded ring of a session: one writer, named readers, absolute positions.

The writer may go no further than the slowest *holding* reader allows; that distance is the ``window`` a client is
told. Plain code for one thread: nothing here waits, so between two awaits of a caller nothing moves.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Final

from audio.pcm import SAMPLE_BYTES, samples_of

RING_SAMPLES: Final = 262_144
"""16.384 s, 512 KiB: all the audio that a session ever keeps in memory."""

Pcm = bytes | bytearray | memoryview
"""16-bit samples; a memoryview must be one of plain bytes (``itemsize`` 1)."""

Slices = tuple[memoryview, ...]


class RingError(Exception):
    """Root of what the ring refuses; raised itself when the ring was released."""


class WindowExceeded(RingError):
    """A write that would pass the limit. ``position`` is the head, ``limit`` a position, ``offered`` samples."""

    def __init__(self, position: int, limit: int, offered: int) -> None:
        super().__init__(f"{offered} samples at {position} would pass the limit {limit}")
        self.position = position
        self.limit = limit
        self.offered = offered


class Overwritten(RingError):
    """Samples that are gone. ``asked`` is the position asked for, ``oldest`` the first one still there."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"position {asked} was overwritten, the oldest sample is at {oldest}")
        self.asked = asked
        self.oldest = oldest


class Reader:
    """A named place in the ring, made by ``Ring.add_reader``; it holds the writer back until ``let_go()``.

    Every position must lie within ``[ring.oldest, ring.head]``: before it ``Overwritten`` is raised, after it
    ``ValueError``, and the reader stays as it was. ``advance`` alone may start from overwritten ground.
    """

    __slots__ = ("_holds", "_moved", "_name", "_position", "_ring")

    def __init__(self, ring: Ring, name: str, position: int, moved: Callable[[], None]) -> None:
        self._ring = ring
        self._name = name
        self._position = position
        self._moved = moved
        self._holds = True

    @property
    def name(self) -> str:
        """Unique in its ring."""
        return self._name

    @property
    def position(self) -> int:
        """The first sample this reader has not done with."""
        return self._position

    @property
    def holds(self) -> bool:
        """Whether the writer waits for this reader."""
        return self._holds

    @property
    def lag(self) -> int:
        """Samples between this reader and the head; more than a capacity is possible once it let go."""
        return self._ring.head - self._position

    def advance(self, position: int) -> None:
        """Be done with everything before ``position``.

        Raises:
            ValueError: ``position`` is behind this reader's or past the head.
        """
        if not self._position <= position <= self._ring.head:
            raise ValueError(f"{self._name} cannot advance from {self._position} to {position}")
        self._position = position
        if self._holds:
            self._moved()

    def rewind(self, position: int) -> None:
        """Go back to replay. The limit stays: a reader that rewinds can be overtaken by the writer.

        Raises:
            Overwritten: ``position`` is before the ring's oldest sample.
            ValueError: ``position`` is ahead of this reader's.
        """
        if position > self._position:
            raise ValueError(f"{self._name} cannot rewind from {self._position} to {position}")
        self._ring.require(position)
        self._position = position

    def let_go(self) -> None:
        """Stop holding the writer back; samples ahead of this reader may now be overwritten. Idempotent."""
        self._holds = False
        self._moved()

    def hold(self, position: int) -> None:
        """Hold the writer back again, from ``position``, which may be ahead of or behind this reader's.

        What the limit promised meanwhile stays promised, so until the window has closed up the writer can still
        overtake a reader that holds again far back.

        Raises:
            Overwritten: ``position`` is before the ring's oldest sample.
            ValueError: ``position`` is past the head.
        """
        self._ring.require(position)
        self._position = position
        self._holds = True
        self._moved()


class Ring:
    """``capacity`` samples of audio, addressed by positions from ``origin`` on.

    Memory is taken when the first sample arrives and given back by ``release()``. It is mapped rather than taken
    from the heap: the allocator keeps freed blocks of this size, the kernel does not, and hands out zeroed pages.
    """

    __slots__ = (
        "_buffer",
        "_capacity",
        "_head",
        "_held",
        "_limit",
        "_origin",
        "_readers",
        "_released",
        "_shown",
    )

    def __init__(self, origin: int = 0, capacity: int = RING_SAMPLES) -> None:
        if origin < 0 or capacity < 1:
            raise ValueError(f"no ring of {capacity} samples from {origin}")
        self._origin = origin
        self._capacity = capacity
        self._head = origin
        self._limit = origin + capacity
        self._held = False
        self._readers: dict[str, Reader] = {}
        self._buffer: memoryview | None = None
        self._shown = memoryview(b"")
        self._released = False

    @property
    def head(self) -> int:
        """The position after the newest sample."""
        return self._head

    @property
    def oldest(self) -> int:
        """The position of the oldest sample that can still be read; equals ``head`` while nothing was written."""
        return max(self._origin, self._head - self._capacity)

    @property
    def limit(self) -> int:
        """How far the writer may go; never decreases.

        A capacity past the slowest holding reader, past the head when none holds.
        """
        return self._limit

    @property
    def window(self) -> int:
        """Samples that may be written now, ``0 <= window <= capacity``."""
        return self._limit - self._head

    @property
    def allocated(self) -> bool:
        """Whether the ring takes up memory."""
        return self._buffer is not None

    def add_reader(self, name: str, position: int) -> Reader:
        """Add a reader that holds from ``position`` on.

        Raises:
            Overwritten: ``position`` is before the oldest sample.
            ValueError: the name is taken, or ``position`` is past the head.
        """
        if name in self._readers:
            raise ValueError(f"the ring has a reader {name!r} already")
        self.require(position)
        reader = Reader(self, name, position, self._raise_limit)
        self._readers[name] = reader
        self._raise_limit()
        return reader

    def write(self, data: Pcm) -> int:
        """Append samples and return the new head. Copies; ``data`` may be reused. Whatever is raised, nothing changed.

        Raises:
            WindowExceeded: ``data`` does not fit within the limit as a whole.
            ValueError: an odd number of bytes.
            RingError: the ring was released.
        """
        size = len(data)
        count = samples_of(size)
        head = self._head
        if self._released:
            raise RingError("the ring was released")
        if head + count > self._limit:
            raise WindowExceeded(head, self._limit, count)
        if not count:
            return head
        buffer = self._buffer or self._allocate()
        at = head % self._capacity * SAMPLE_BYTES
        room = len(buffer) - at
        if size <= room:
            buffer[at : at + size] = data
        else:
            source = memoryview(data)
            buffer[at:] = source[:room]
            buffer[: size - room] = source[room:]
        self._head = head + count
        if not self._held:
            self._raise_limit()
        return self._head

    def view(self, start: int, end: int) -> Slices:
        """Show the samples of ``[start, end)`` without copying: no slice, one, or two, read-only and in order.

        A slice shows the memory, not a moment: it is good until the writer has gone a capacity past ``start``,
        which a holding reader at or before ``start`` prevents. Slices that are kept keep the memory after ``release()``.

        Raises:
            Overwritten: ``start`` is before the oldest sample.
            ValueError: ``end`` is past the head or ``start`` past ``end``.
            RingError: the ring was released.
        """
        head = self._head
        capacity = self._capacity
        if self._released:
            raise RingError("the ring was released")
        if start < self._origin or start < head - capacity:
            raise Overwritten(start, self.oldest)
        if not start <= end <= head:
            raise ValueError(f"[{start}, {end}) is not within [{self.oldest}, {head})")
        if start == end:
            return ()
        at = start % capacity * SAMPLE_BYTES
        until = at + (end - start) * SAMPLE_BYTES
        shown = self._shown
        wrapped = until - capacity * SAMPLE_BYTES
        if wrapped <= 0:
            return (shown[at:until],)
        return (shown[at:], shown[:wrapped])

    def require(self, position: int) -> None:
        """Check that a reader may stand at ``position``: within ``[oldest, head]``.

        Raises:
            Overwritten: ``position`` is before the oldest sample.
            ValueError: ``position`` is past the head.
        """
        if position < self.oldest:
            raise Overwritten(position, self.oldest)
        if position > self._head:
            raise ValueError(f"position {position} is past the head {self._head}")

    def release(self) -> None:
        """Give the memory back; from now on ``write`` and ``view`` raise ``RingError``. Idempotent."""
        self._released = True
        self._buffer = None
        self._shown = memoryview(b"")

    def _allocate(self) -> memoryview:
        size = self._capacity * SAMPLE_BYTES
        self._buffer = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._shown = self._buffer.toreadonly()
        return self._buffer

    def _raise_limit(self) -> None:
        slowest = self._head
        held = False
        for reader in self._readers.values():
            if reader.holds:
                held = True
                slowest = min(slowest, reader.position)
        self._held = held
        self._limit = max(self._limit, slowest + self._capacity)
