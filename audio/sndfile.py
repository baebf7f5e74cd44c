"""The files that libsndfile works on when there is no file: callbacks that must not raise across its C code."""

from __future__ import annotations

import io
from typing import Protocol


class SeekableBytes(Protocol):
    """A binary file opened for reading."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes from where it stands, none at the end; may raise ``OSError``."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move as ``io.IOBase.seek`` does; raises nothing."""

    def tell(self) -> int:
        """Where it stands; raises nothing."""


class Sink:
    """A file that is given out while it is written, though its writer goes back to its header at the end.

    The bytes from ``at`` on that the writer will put in last are ``promised`` beforehand and go out with the header,
    which ends with them. What the writer puts there itself changes nothing that was given out; it is only compared.
    """

    def __init__(self, at: int, promised: bytes, undecided: slice) -> None:
        """``undecided`` is the part of the header that may end up otherwise than it was given out."""
        self._promise = slice(at, at + len(promised))
        self._promised = promised
        self._undecided = undecided
        self._given = b""
        self._own = bytearray()
        self._ready = bytearray()
        self._size = 0
        self._position = 0
        self._stray = False

    @property
    def confirmed(self) -> bool:
        """Whether the header that was given out is the one the writer left, but for what was undecided."""
        own = self._own[: len(self._given)]
        own[self._undecided] = self._given[self._undecided]
        return bool(self._given) and own == self._given and not self._stray

    def take(self) -> bytes:
        """What has come since the last call; nothing before the whole header is there."""
        if self._size < self._promise.stop:
            return b""
        if not self._given:
            self._ready[self._promise] = self._promised
            self._given = bytes(self._ready[: self._promise.stop])
        ready = bytes(self._ready)
        self._ready.clear()
        return ready

    def write(self, data: bytes) -> int:
        """Take what libsndfile writes; going back is possible within the header."""
        until = self._position + len(data)
        if self._position < self._promise.stop:
            self._own[self._position : until] = data
        if self._position == self._size:
            self._ready += data
            self._size = until
        elif until > self._promise.stop:
            self._stray = True
        self._position = until
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as ``io.IOBase.seek`` does."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Where the next write goes."""
        return self._position


class Source:
    """A file that libsndfile reads from; keeps the ``OSError`` that the file raised until libsndfile has returned."""

    def __init__(self, file: SeekableBytes) -> None:
        self._file = file
        self._error: OSError | None = None

    def reraise(self) -> None:
        """Raise what the file raised since the last call, if it did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def read(self, size: int) -> bytes:
        """Read; an error looks like the end of the file."""
        try:
            return self._file.read(size)
        except OSError as error:
            self._error = error
            return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as ``io.IOBase.seek`` does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where the next read is from."""
        return self._file.tell()
