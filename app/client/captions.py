"""The captions of a session as its speaker has them: finals exactly once and in order, partials that replace one another."""

from __future__ import annotations

from collections import deque
from typing import Final

from app.client.errors import ProtocolError
from app.protocol.messages import FinalMessage, PartialMessage

_REMEMBERED_IDS: Final = 256


class Captions:
    """Pure. ``last_seq`` is what a reconnecting client names as ``after``."""

    def __init__(self) -> None:
        self.last_seq = 0
        self._partials: dict[str, PartialMessage] = {}
        self._final_ids: deque[str] = deque(maxlen=_REMEMBERED_IDS)

    @property
    def partials(self) -> list[PartialMessage]:
        """What may still change, in order of ``start``."""
        return sorted(self._partials.values(), key=lambda partial: (partial.start, partial.end))

    def partial(self, message: PartialMessage) -> bool:
        """Take a partial; False where it is already final."""
        if message.id in self._final_ids:
            return False
        self._partials[message.id] = message
        return True

    def final(self, message: FinalMessage) -> bool:
        """Take a final, and forget the partials that it settles; False where it was taken before.

        Raises:
            ProtocolError: one before it is missing.
        """
        if message.seq <= self.last_seq:
            return False
        if message.seq != self.last_seq + 1:
            raise ProtocolError(f"final {message.seq} came after final {self.last_seq}")
        self.last_seq = message.seq
        self._final_ids.append(message.id)
        self._partials = {
            name: partial
            for name, partial in self._partials.items()
            if name != message.id and partial.end > message.end
        }
        return True

    def rewind(self, seq: int) -> None:
        """Finals after ``seq`` are withdrawn and will come anew."""
        if seq < self.last_seq:
            self.last_seq = seq
            self._final_ids.clear()
