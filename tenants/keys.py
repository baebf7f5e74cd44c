"""The ports to keys: wrapping a session's data key for the archive, sealing what is put into Redis.

Nothing here holds a key for longer than a call; no text of an error holds a key, a context or a plaintext.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class KeysError(Exception):
    """Root of what keys may fail with."""


class KeyUnavailable(KeysError):
    """The keeper of keys does not answer now (no network, throttled); try again."""


class KeyRejected(KeysError):
    """A wrapped key does not open: another master key, another clinic, another context, or it was damaged."""


class Unsealable(KeysError):
    """What was sealed does not open: another clinic, session or purpose, or it was damaged."""


@dataclass(frozen=True)
class DataKey:
    """A key for one session's objects: 32 bytes to use now, and the same wrapped, to be stored beside the objects."""

    plaintext: bytes = field(repr=False)
    wrapped: bytes


class KeyWrapper(Protocol):
    """Makes data keys and opens them again. A wrapped key is bound to its clinic and its context."""

    async def new_data_key(self, clinic: str, context: Mapping[str, str]) -> DataKey:
        """A fresh random data key, wrapped under the clinic's key.

        Raises:
            KeyUnavailable: see there.
        """

    async def unwrap(self, clinic: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """The 32 bytes that ``wrapped`` holds.

        Raises:
            KeyRejected, KeyUnavailable: see there.
        """


class Sealer(Protocol):
    """Encrypts short texts that leave the process for a place that is not trusted with them. Never waits."""

    def seal(self, clinic: str, session: str, purpose: str, plaintext: bytes) -> bytes:
        """``plaintext``, readable only with the same clinic, session and purpose; never the same twice."""

    def unseal(self, clinic: str, session: str, purpose: str, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            Unsealable: see there.
        """
