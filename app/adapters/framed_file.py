"""The format of an encrypted object on disk: frames of 64 KiB, so that a byte range costs a frame and not the file.

It is Tink's AES-GCM-HKDF streaming AEAD (https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming)
with a derived key of 32 bytes, SHA-256, ciphertext segments of 65 536 bytes and the object's name as associated data::

    file   = header || frame 0 || frame 1 || ... || frame n-1
    header = 40 (1 byte, its own length) || salt (32) || nonce prefix (7)
    key    = HKDF-SHA256(data key, salt, info = the object's name in UTF-8)
    frame i = AES-256-GCM(key, nonce = prefix || i (4 bytes, big-endian) || 1 if it is the last, else 0), tag of 16

Header and frame 0 together fill 65 536 bytes of the file, as does every further frame but the last, which is shorter
but never without content, except that an empty object is one empty frame. The last frame's nonce betrays truncation,
the counter reordering, the name in the key a renamed file, the tag any changed bit.
The salt is random for each writing, so it serves as the object's version.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.adapters.disk_calls import write_all
from app.archive.store import ObjectCorrupt, Version

FRAME_BYTES: Final = 65_536
"""Bytes of the file that one full frame takes (the first one with the header)."""

HEADER_BYTES: Final = 40
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32
PREFIX_BYTES: Final = 7

FIRST_FRAME_CONTENT: Final = FRAME_BYTES - HEADER_BYTES - TAG_BYTES
"""Plaintext bytes in a full frame 0."""

FRAME_CONTENT: Final = FRAME_BYTES - TAG_BYTES
"""Plaintext bytes in every further full frame."""


def plaintext_size(file_size: int) -> int:
    """Plaintext bytes in a file of ``file_size`` bytes.

    Raises:
        ValueError: no writer makes a file of that size.
    """
    frames = -(-file_size // FRAME_BYTES)
    last = file_size - (frames - 1) * FRAME_BYTES
    if file_size < HEADER_BYTES + TAG_BYTES or (frames > 1 and last <= TAG_BYTES):
        raise ValueError(f"{file_size} bytes are no whole encrypted object")
    return file_size - HEADER_BYTES - frames * TAG_BYTES


class FramedWriter:
    """Encrypts one object, piece by piece, into an open file. Holds at most one frame of plaintext. Blocks on the disk.

    The file must be empty and stays the caller's to sync and close; without ``finish`` what it holds is unreadable.
    """

    def __init__(self, fd: int, key: bytes, name: str, random: Callable[[int], bytes] = os.urandom) -> None:
        """Write to ``fd`` from its current place, under the session's data ``key``, bound to ``name``."""
        salt, self._prefix = random(SALT_BYTES), random(PREFIX_BYTES)
        self._fd = fd
        self._cipher = _cipher(key, salt, name)
        self._ahead = bytes([HEADER_BYTES]) + salt + self._prefix
        self._pending = bytearray()
        self._room = FIRST_FRAME_CONTENT
        self._index = 0
        self.version = Version(salt.hex())

    def write(self, piece: bytes | bytearray) -> None:
        """Append ``piece`` (any size).

        Raises:
            OSError: the disk refused.
        """
        view = memoryview(piece)
        # A full frame is kept back until more arrives: only then is it known not to be the last.
        while len(self._pending) + len(view) > self._room:
            take = self._room - len(self._pending)
            self._pending += view[:take]
            view = view[take:]
            self._emit(last=False)
        self._pending += view

    def finish(self) -> Version:
        """Write the last frame. To be called once, last.

        Raises:
            OSError: the disk refused.
        """
        self._emit(last=True)
        return self.version

    def _emit(self, *, last: bool) -> None:
        nonce = _nonce(self._prefix, self._index, last=last)
        write_all(self._fd, self._ahead + self._cipher.encrypt(nonce, self._pending, None))
        self._pending.clear()
        self._ahead = b""
        self._room = FRAME_CONTENT
        self._index += 1


class FramedReader:
    """Reads ranges of one object. Only the frames that a range touches are read and decrypted, and the last one."""

    def __init__(self, fd: int, key: bytes, name: str) -> None:
        """Open the object in ``fd``, which stays the caller's to close. Reads the header only.

        Raises:
            ObjectCorrupt: this is no file of this format.
            OSError: the disk refused.
        """
        self._fd = fd
        self._name = name
        self._file_size = os.fstat(fd).st_size
        header = os.pread(fd, HEADER_BYTES, 0)
        self.version = version_of(header, name)
        self._cipher = _cipher(key, header[1 : 1 + SALT_BYTES], name)
        self._prefix = header[1 + SALT_BYTES :]
        try:
            self._size = plaintext_size(self._file_size)
        except ValueError as error:
            raise ObjectCorrupt(name, "it is cut short") from error
        self._last = (self._file_size - 1) // FRAME_BYTES
        self._tail: bytes | None = None

    def size(self) -> int:
        """The object's plaintext bytes, vouched for: the last frame is decrypted (once) to know it is the last.

        Raises:
            ObjectCorrupt: it is not.
            OSError: the disk refused.
        """
        if self._tail is None:
            self._tail = self._open(self._last)
        return self._size

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        """Plaintext ``[start, end)``, clamped to the object.

        Raises:
            ObjectCorrupt: a frame of the range, or the last one, is not what was written under this name.
            OSError: the disk refused.
        """
        size = self.size()
        start, end = max(0, start), size if end is None else min(end, size)
        if start >= end:
            return b""
        first, last = _frame_of(start), _frame_of(end - 1)
        content = b"".join(self._frame(index) for index in range(first, last + 1))
        skipped = _content_offset(first)
        if start == skipped and end - start == len(content):
            return content
        return content[start - skipped : end - skipped]

    def _frame(self, index: int) -> bytes:
        if index == self._last and self._tail is not None:
            return self._tail
        return self._open(index)

    def _open(self, index: int) -> bytes:
        begin = index * FRAME_BYTES or HEADER_BYTES
        frame = os.pread(self._fd, (index + 1) * FRAME_BYTES - begin, begin)
        try:
            return self._cipher.decrypt(_nonce(self._prefix, index, last=index == self._last), frame, None)
        except InvalidTag:
            raise ObjectCorrupt(self._name, f"frame {index} does not decrypt") from None


def version_of(header: bytes, name: str) -> Version:
    """The version in the first ``HEADER_BYTES`` bytes of a file.

    Raises:
        ObjectCorrupt: they are no header of this format.
    """
    if len(header) < HEADER_BYTES or header[0] != HEADER_BYTES:
        raise ObjectCorrupt(name, "it does not begin as an encrypted object")
    return Version(header[1 : 1 + SALT_BYTES].hex())


def _cipher(key: bytes, salt: bytes, name: str) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=name.encode()).derive(key))


def _nonce(prefix: bytes, index: int, *, last: bool) -> bytes:
    return prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def _frame_of(offset: int) -> int:
    return 0 if offset < FIRST_FRAME_CONTENT else 1 + (offset - FIRST_FRAME_CONTENT) // FRAME_CONTENT


def _content_offset(index: int) -> int:
    return 0 if index == 0 else FIRST_FRAME_CONTENT + (index - 1) * FRAME_CONTENT
