"""The slots that sessions hold, and for how long one is kept for a session whose stream died."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from audio.slots import Slot


class Place:
    """A session's slot in a region, shared by the streams it has there."""

    def __init__(self, session: str, slot: Slot) -> None:
        self.session: Final = session
        self.slot: Final = slot
        self.streams = 1
        self.proven = False
        self.until: float | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def region(self) -> str:
        """Where."""
        return self.slot.region

    async def restart(self) -> None:
        """See ``Slot.restart``."""
        await self.slot.restart()


class Places:
    """All of an engine's. At most one per session and region; as many as there are slots. Times are the running loop's."""

    def __init__(self, grace: float) -> None:
        """``grace``: seconds for which a place without a stream is kept, from when its last stream was closed."""
        self._grace: Final = grace
        self._places: dict[str, dict[str, Place]] = {}
        self._closed = False

    def join(self, session: str, regions: Sequence[str]) -> Place | None:
        """The session's place in the first of ``regions`` where it has one, with one stream more; to be left by it."""
        places = self._places.get(session, {})
        for region in regions:
            place = places.get(region)
            if place is not None and place.slot.held:
                place.streams += 1
                if place.timer is not None:
                    place.timer.cancel()
                    place.timer = None
                return place
        return None

    def enter(self, session: str, slot: Slot) -> Place:
        """A place with one stream, to be left by it, in a slot just acquired."""
        place = self.join(session, [slot.region])
        if place is not None:
            slot.release()
            return place
        place = Place(session, slot)
        self._places.setdefault(session, {})[slot.region] = place
        return place

    def settle(self, place: Place) -> None:
        """The session has a stream in this place: it is worth keeping, and those without a stream elsewhere are not."""
        place.proven = True
        place.until = None
        for other in tuple(self._places.get(place.session, {}).values()):
            if not other.streams:
                self._release(other)

    def leave(self, place: Place, *, finished: bool) -> None:
        """A stream is gone, or could not be opened. The last one's place is released if it is ``finished`` or never had one."""
        place.streams -= 1
        if place.streams:
            return
        loop = asyncio.get_running_loop()
        if place.until is None:
            place.until = loop.time() + self._grace
        if finished or not place.proven or self._closed or place.until <= loop.time():
            self._release(place)
        else:
            place.timer = loop.call_at(place.until, self._release, place)

    def clear(self) -> None:
        """Release everything; what is left later is released at once."""
        self._closed = True
        for place in [place for places in self._places.values() for place in places.values()]:
            self._release(place)

    def _release(self, place: Place) -> None:
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        places = self._places.get(place.session, {})
        if places.get(place.region) is place:
            del places[place.region]
            if not places:
                del self._places[place.session]
        place.slot.release()
