"""The port to the archive: objects under names, made once or changed by compare-and-set.

Keys are ``<clinicId>/<sessionId>/<name>`` (``<name>`` may have slashes) or begin with ``_`` for the system's own.
The archive is the truth: whatever is in it happened, and ownership is settled in it.
Every adapter passes ``tests/contract/test_store.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NewType, Protocol

import msgspec

Version = NewType("Version", str)
"""An opaque token that changes whenever an object's content is replaced (S3: the ETag)."""

Body = bytes | AsyncIterator[bytes]
"""An object's content: whole, or in pieces of any size that arrive in order."""


class StoredObject(msgspec.Struct, frozen=True):
    """What ``read`` gives: ``data`` is the asked range, ``size`` the whole object's plaintext bytes."""

    data: bytes
    version: Version
    size: int


class ListedObject(msgspec.Struct, frozen=True):
    """One row of ``list``: a key, or a common prefix that ends with the delimiter."""

    key: str
    size: int


class StoreError(Exception):
    """Root of what a store may fail with. ``key`` names the object; the text holds no content."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class ObjectExists(StoreError):
    """``create`` found other content under the key. (Identical content is a success: a put whose answer was lost.)"""


class ObjectMissing(StoreError):
    """There is no object under the key."""


class VersionConflict(StoreError):
    """``replace`` found another version than the expected one."""


class ObjectCorrupt(StoreError):
    """The object cannot be decrypted or is cut short."""


class StoreUnavailable(StoreError):
    """The store cannot serve now (full disk, 503, no network); nothing was promised, try again. ``reason`` is one word."""

    def __init__(self, key: str, message: str, reason: str = "unavailable") -> None:
        super().__init__(key, message)
        self.reason = reason


class Store(Protocol):
    """Five verbs. When one that writes returns, the object is durable (disk: fsync of file and folder)."""

    async def create(self, key: str, body: Body) -> Version:
        """Write an object where none is, whole or not at all; cancelling leaves nothing visible.

        Raises:
            ObjectExists: other content is there (for a streamed body: any content is there).
            StoreUnavailable: see there.
        """

    async def replace(self, key: str, data: bytes, expected: Version) -> Version:
        """Replace an object's content if it still has version ``expected``.

        Raises:
            VersionConflict, ObjectMissing, StoreUnavailable: see there.
        """

    async def read(self, key: str, start: int = 0, end: int | None = None) -> StoredObject:
        """Read plaintext bytes ``[start, end)``, clamped to the object's size; costs what the range costs.

        Raises:
            ObjectMissing, ObjectCorrupt, StoreUnavailable: see there.
        """

    def list(self, prefix: str, *, delimiter: str = "", after: str = "") -> AsyncIterator[ListedObject]:
        """Objects whose keys begin with ``prefix`` and are greater than ``after``, in the order of their keys (UTF-8).

        With a delimiter, keys that share what follows up to it come as one row (S3's CommonPrefixes), with size 0.

        Raises (from iteration):
            StoreUnavailable: see there.
        """

    async def delete(self, key: str) -> None:
        """Delete an object; deleting what is not there is a success.

        Raises:
            StoreUnavailable: see there.
        """
