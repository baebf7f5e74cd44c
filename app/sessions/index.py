"""The port to the list of a clinic's sessions: quick, shared, and rebuilt from the archive when lost."""

from __future__ import annotations

from typing import Protocol

import msgspec

from app.protocol.rest import SessionItem, SessionPage, SessionStateName
from tenants.clinic import ClinicId


class IndexUnavailable(Exception):
    """The index did not answer in time."""


class SessionQuery(msgspec.Struct, frozen=True):
    """What ``GET /v1/sessions`` asks for; times are RFC 3339 strings in UTC, compared with ``createdAt``."""

    state: SessionStateName | None = None
    created_from: str | None = None
    created_to: str | None = None
    title_contains: str | None = None
    external_id: str | None = None
    cursor: str | None = None
    limit: int = 50


class Reservation(msgspec.Struct, frozen=True):
    """What an idempotency key stands for. ``session_id`` is None while the first call is in flight."""

    fingerprint: str
    session_id: str | None


class SessionIndex(Protocol):
    """Raises IndexUnavailable from every call when it cannot serve."""

    async def put(self, item: SessionItem, *, replace: bool = True) -> None:
        """Add a session's row, or replace it; with ``replace`` False, one that is there stays as it is."""

    async def page(self, clinic_id: ClinicId, query: SessionQuery) -> SessionPage:
        """Matching rows, newest first, after ``cursor`` (a session id of an earlier page)."""

    async def completed_by(self) -> str | None:
        """What names the last rebuilding since the index was empty; None: there was none."""

    async def mark_complete(self, name: str) -> None:
        """The archive has been read through; ``page`` may be trusted. ``name`` is this rebuilding's alone."""

    async def reserve(
        self, clinic_id: ClinicId, key: str, reservation: Reservation | None
    ) -> Reservation | None:
        """Set what ``key`` stands for: with ``session_id`` None only where nothing stands (for 60 s), otherwise always (24 h).

        None forgets it. Returns what stood there, or None where nothing did.
        """
