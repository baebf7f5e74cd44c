"""TicketEntries on Redis: a key for each ticket that was used, until the ticket would have expired anyway."""

from __future__ import annotations

from typing import Final

from app.adapters import redis_scripts as scripts
from app.adapters.redis_client import Client, time_limit
from app.auth.entries import EntriesUnavailable
from app.auth.tickets import TICKET_SECONDS, Ticket

ENTER_SECONDS: Final = 1.0
KEEP_SECONDS: Final = 2 * TICKET_SECONDS
"""Longer than a ticket lives, should clocks differ."""


class RedisTicketEntries:
    """One per process; the client is closed by whoever made it."""

    def __init__(self, client: Client, *, enter_seconds: float = ENTER_SECONDS) -> None:
        self._client, self._enter_seconds = client, enter_seconds

    async def enter(self, ticket: Ticket) -> bool:
        key = scripts.ticket_key(ticket.clinic_id, ticket.ticket_id)
        async with time_limit(self._enter_seconds, EntriesUnavailable):
            return bool(await self._client.set(key, b"", nx=True, ex=KEEP_SECONDS))
