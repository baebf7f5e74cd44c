"""The port to the register of observers' tickets: entering with one works once, on whatever task."""

from __future__ import annotations

from typing import Protocol

from app.auth.tickets import Ticket


class EntriesUnavailable(Exception):
    """The register did not answer in time. The ticket may have been used up all the same."""


class TicketEntries(Protocol):
    """Gives up after the adapter's time limit (1 s) with EntriesUnavailable."""

    async def enter(self, ticket: Ticket) -> bool:
        """Use ``ticket`` up. False: that was done before."""
