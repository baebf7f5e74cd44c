"""The list of a clinic's sessions on Redis: a sorted set of ids for the order, a hash of sealed rows beside it.

A title may name a person, so Redis sees of a row nothing but the session's id. Filters are therefore applied here,
in batches; only the bounds in time, which a UUIDv7 carries, are Redis's work.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

import msgspec

from app.adapters import redis_scripts as scripts
from app.adapters.redis_client import Client, RedisScript, time_limit
from app.protocol.rest import SessionItem, SessionPage
from app.sessions.index import IndexUnavailable, Reservation, SessionQuery
from tenants.clinic import ClinicId
from tenants.keys import Sealer, Unsealable

PURPOSE: Final = "index"
"""What a row is sealed for."""

CALL_SECONDS: Final = 1.0
BATCH_ROWS: Final = 250
SCAN_ROWS: Final = 1_000
"""Rows looked at for one page; when they hold too few matches the page is short and has a cursor all the same."""

IN_FLIGHT_SECONDS: Final = 60
RESERVED_SECONDS: Final = 24 * 3600

CLOCK_SLACK_MS: Final = 60_000
"""How far a session's id and its ``createdAt``, which are made one after the other, may lie apart."""

_ROWS: Final = RedisScript(scripts.ROWS)
_PUT_ROW: Final = RedisScript(scripts.PUT_ROW)
_RESERVE: Final = RedisScript(scripts.RESERVE)


class RedisSessionIndex:
    """SessionIndex on Redis. One per process; the client is closed by whoever made it."""

    def __init__(
        self,
        client: Client,
        sealer: Sealer,
        *,
        call_seconds: float = CALL_SECONDS,
        batch_rows: int = BATCH_ROWS,
        scan_rows: int = SCAN_ROWS,
    ) -> None:
        self._client = client
        self._sealer = sealer
        self._call_seconds = call_seconds
        self._batch_rows = batch_rows
        self._scan_rows = scan_rows

    async def put(self, item: SessionItem, *, replace: bool = True) -> None:
        clinic_id = ClinicId(item.clinic_id)
        row = self._sealer.seal(clinic_id, item.session_id, PURPOSE, msgspec.json.encode(item))
        keys = [scripts.sessions_key(clinic_id), scripts.rows_key(clinic_id)]
        async with time_limit(self._call_seconds, IndexUnavailable):
            await _PUT_ROW(self._client, keys, [item.session_id, row, int(replace)])

    async def page(self, clinic_id: ClinicId, query: SessionQuery) -> SessionPage:
        """As the port says. ``created_from`` is inclusive, ``created_to`` exclusive.

        A page with a cursor may be short, even empty, when many rows in a row do not match.

        Raises:
            IndexUnavailable: as in the port.
            ValueError: ``created_from`` or ``created_to`` is no RFC 3339 time.
        """
        wanted = _Filter(query)
        matches: list[SessionItem] = []
        newest, scanned, size = wanted.newest, 0, query.limit + 1
        async with time_limit(self._call_seconds, IndexUnavailable):
            while len(matches) <= query.limit and scanned < self._scan_rows:
                ids, items = await self._batch(clinic_id, newest, wanted.oldest, size)
                matches += filter(wanted.matches, items)
                if len(ids) < size:
                    return _page(matches, query.limit, None)
                newest, scanned, size = f"({ids[-1]}", scanned + len(ids), self._batch_rows
        return _page(matches, query.limit, newest[1:])

    async def completed_by(self) -> str | None:
        async with time_limit(self._call_seconds, IndexUnavailable):
            name = await self._client.get(scripts.INDEX_COMPLETE_KEY)
        return name.decode() if isinstance(name, bytes) else name

    async def mark_complete(self, name: str) -> None:
        async with time_limit(self._call_seconds, IndexUnavailable):
            await self._client.set(scripts.INDEX_COMPLETE_KEY, name)

    async def reserve(
        self, clinic_id: ClinicId, key: str, reservation: Reservation | None
    ) -> Reservation | None:
        name = scripts.reservation_key(clinic_id, hashlib.sha256(key.encode()).hexdigest())
        async with time_limit(self._call_seconds, IndexUnavailable):
            if reservation is None:
                known = await self._client.getdel(name)
            else:
                always = reservation.session_id is not None
                seconds = RESERVED_SECONDS if always else IN_FLIGHT_SECONDS
                known = await _RESERVE(
                    self._client, [name], [msgspec.json.encode(reservation), seconds, int(always)]
                )
        return msgspec.json.decode(known, type=Reservation) if known else None

    async def _batch(
        self, clinic_id: ClinicId, newest: str, oldest: str, size: int
    ) -> tuple[list[str], list[SessionItem]]:
        """Up to ``size`` ids between two bounds of ZREVRANGEBYLEX, newest first, and the rows that they have."""
        keys = [scripts.sessions_key(clinic_id), scripts.rows_key(clinic_id)]
        names, rows = await _ROWS(self._client, keys, [newest, oldest, size])
        ids = [name.decode() for name in names]
        return ids, [self._item_of(clinic_id, name, row) for name, row in zip(ids, rows, strict=True) if row]

    def _item_of(self, clinic_id: ClinicId, session_id: str, row: bytes) -> SessionItem:
        try:
            plaintext = self._sealer.unseal(clinic_id, session_id, PURPOSE, row)
            return msgspec.json.decode(plaintext, type=SessionItem)
        except (Unsealable, msgspec.DecodeError) as failure:
            raise IndexUnavailable(type(failure).__name__) from None


def _page(matches: list[SessionItem], limit: int, scanned_to: str | None) -> SessionPage:
    if len(matches) > limit:
        return SessionPage(matches[:limit], matches[limit - 1].session_id)
    return SessionPage(matches, scanned_to)


class _Filter:
    """A query, ready to be asked of row after row. ``newest`` and ``oldest`` bound the ids that can match."""

    def __init__(self, query: SessionQuery) -> None:
        self._query = query
        self._from = _time(query.created_from)
        self._to = _time(query.created_to)
        self._title = (query.title_contains or "").casefold()
        self.oldest = f"[{_id_at(self._from, -CLOCK_SLACK_MS)}" if self._from else "-"
        latest = _id_at(self._to, CLOCK_SLACK_MS) if self._to else None
        bounds = [bound for bound in (query.cursor, latest) if bound]
        self.newest = f"({min(bounds)}" if bounds else "+"

    def matches(self, item: SessionItem) -> bool:
        query = self._query
        return (
            query.state in {None, item.state}
            and query.external_id in {None, item.external_id}
            and self._title in (item.title or "").casefold()
            and self._in_time(item.created_at)
        )

    def _in_time(self, created_at: str) -> bool:
        if self._from is None and self._to is None:
            return True
        at = datetime.fromisoformat(created_at)
        return (self._from is None or self._from <= at) and (self._to is None or at < self._to)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time needs its offset from UTC")
    return at


def _id_at(at: datetime, shift_ms: int) -> str:
    """What the UUIDv7 of that moment begins with: 48 bits of milliseconds since 1970 (RFC 9562, 5.7)."""
    digits = f"{max(0, int(at.timestamp() * 1000) + shift_ms):012x}"
    return f"{digits[:8]}-{digits[8:]}"
