"""One observer of a clinic: what it missed, read from the log page by page, then what happens."""

from __future__ import annotations

import asyncio

from app.events.feed import RETRY_SECONDS, Feed
from app.events.log import LogUnavailable
from app.events.model import START, Cursor
from app.events.outbox import Ending, Outbox
from app.events.wire import subscribed_text


class Observer:
    """Has a place in a feed while the hub says so. One task calls ``next``.

    Args:
        after: the last event that it has; None begins with what happens from now on.
        held: whether the log still has all that came after it; otherwise the observer is sent away.
    """

    def __init__(self, feed: Feed, session_id: str | None, after: Cursor | None, *, held: bool) -> None:
        self._feed = feed
        self._wake = asyncio.Event()
        self.ended = asyncio.Event()
        """Set once the observer is sent away."""
        start = feed.tail.last if after is None else after
        self.outbox = Outbox(session_id, start, live=after is None, wake=self._woken)
        if held:
            self.outbox.answer(subscribed_text(start))
        else:
            self.outbox.end(Ending.EXPIRED)
        self.heard: float | None = None
        """When the oldest event of what ``next`` gave was heard; None where it gave what was no news."""

    def _woken(self) -> None:
        self._wake.set()
        if self.outbox.ending is not None:
            self.ended.set()

    @property
    def ending(self) -> Ending | None:
        """Why the connection is to be closed, once ``next`` has given what was left."""
        return self.outbox.ending

    async def next(self) -> list[str]:
        """The next text frames, in order; an empty list at the end. Waits for them. A cancelled call loses nothing of the log
        but for this connection, which cannot be used any more.
        """
        while True:
            self._wake.clear()
            self.heard = self.outbox.oldest
            if texts := self.outbox.take():
                return texts
            if self.outbox.ending is not None:
                return []
            if self.outbox.live:
                await self._wake.wait()
            elif texts := await self._replay():
                self.heard = None
                return texts

    async def _replay(self) -> list[str]:
        self.outbox.arm()
        before = self.outbox.last
        try:
            page, full = await self._feed.page(before)
        except LogUnavailable:
            await asyncio.sleep(RETRY_SECONDS)
            return []
        if page and before != START and not START < page[0].prev <= before:
            # Entries between were trimmed; or the log began anew, and what it held nobody knows.
            self.outbox.end(Ending.EXPIRED)
            return []
        items = [item for event in page if (item := self._feed.item(event)) is not None]
        texts = self.outbox.replay(items, full=full)
        if page:
            self.outbox.pass_over(page[-1].cursor)
        return texts
