"""Who is calling, and what that person may do."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from tenants.clinic import ClinicId


class Scope(StrEnum):
    """The scopes of the wire contract."""

    WRITE = "sessions:write"
    READ = "sessions:read"
    DELETE = "sessions:delete"
    TAKEOVER = "sessions:takeover"
    ADMIN = "clinic:admin"
    OPS = "ops"


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. The clinic is always the token's."""

    subject: str
    clinic_id: ClinicId
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the caller holds ``scope``."""
        return scope in self.scopes


class AuthError(Exception):
    """The caller could not be authenticated; ``code`` is the stable word of the problem body."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Forbidden(Exception):
    """The caller is known and may not do that; ``code`` as above."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TokenVerifier(Protocol):
    """Turns a bearer token into a principal."""

    async def verify(self, token: str) -> Principal:
        """Raises AuthError for anything but a valid, unexpired token of a registered clinic's audience."""
