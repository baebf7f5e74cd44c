"""Which partials come too late to be shown."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from app.events.wire import Item, PartialItem

SESSIONS_MAX: Final = 1_000
RESULTS_MAX: Final = 64


class Settled:
    """Knows the newest epoch and the last results of the sessions that spoke last."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, tuple[int, OrderedDict[str, None]]] = OrderedDict()

    def note(self, item: Item) -> None:
        """An event of the log."""
        event = item.event
        results = self._at_epoch(event.session_id, event.epoch)
        if item.result_id is not None:
            results[item.result_id] = None
            if len(results) > RESULTS_MAX:
                results.popitem(last=False)

    def admits(self, partial: PartialItem) -> bool:
        """False for one of an epoch that is over, or of a result that is final."""
        results = self._at_epoch(partial.session_id, partial.epoch)
        return partial.epoch >= self._sessions[partial.session_id][0] and partial.result_id not in results

    def _at_epoch(self, session_id: str, epoch: int) -> OrderedDict[str, None]:
        known, results = self._sessions.pop(session_id, (0, OrderedDict()))
        if epoch > known:
            # A new owner goes on after the last final that stands: ids of those that were withdrawn come again.
            results = OrderedDict()
        self._sessions[session_id] = (max(known, epoch), results)
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return results
