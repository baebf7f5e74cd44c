"""One speaker's session as the client sees it: pure, outliving every connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from app.client.captions import Captions
from app.client.errors import ProtocolError
from app.client.outbox import Outbox
from app.protocol.messages import (
    Ack,
    Completed,
    Draining,
    ErrorMessage,
    FinalMessage,
    Flushed,
    Notice,
    PartialMessage,
    Pong,
    Ready,
    ServerMessage,
)

REWOUND: Final = "finals_rewound"
"""The notice that withdraws the finals after its ``seq``."""


class Speech:
    """What to make of each message of the server. ``on_event`` hears every one, repeated finals excepted, in order."""

    def __init__(self, session_id: str, outbox: Outbox, on_event: Callable[[ServerMessage], None]) -> None:
        self.outbox = outbox
        self.captions = Captions()
        self.resume_ticket: str | None = None
        self.completed: Completed | None = None
        self.progress = 0
        """Grows whenever the session got any further: more received, more durable, another final."""

        self.ready = False
        self.error: ErrorMessage | None = None
        self.reconnect_in_ms: int | None = None
        self._session_id = session_id
        self._on_event = on_event

    def connected(self) -> None:
        """A new connection begins: what the one before it said about itself no longer counts."""
        self.ready = False
        self.error = None
        self.reconnect_in_ms = None

    def hear(self, message: ServerMessage) -> None:
        """Take a message of the present connection.

        Raises:
            ProtocolError: it breaks the contract.
        """
        if isinstance(message, Ready) == self.ready and not isinstance(message, ErrorMessage):
            raise ProtocolError("the server must say ready once, before anything else")
        if self._changes(message):
            self._on_event(message)

    def _changes(self, message: ServerMessage) -> bool:
        match message:
            case Ready():
                self._begin(message)
            case Ack():
                self.outbox.acknowledge(message.received, message.durable, message.window)
                self.progress = max(self.progress, self._so_far())
            case PartialMessage():
                return self.captions.partial(message)
            case FinalMessage():
                return self._final(message)
            case Notice() | Draining() | ErrorMessage() | Completed():
                self._note(message)
            case Flushed() | Pong():
                pass
        return True

    def _begin(self, message: Ready) -> None:
        if message.session_id != self._session_id:
            raise ProtocolError("the server is ready for another session")
        self.outbox.resume(message.position, message.window)
        self.progress = max(self.progress, self._so_far())
        self.resume_ticket = message.resume_ticket
        self.ready = True

    def _final(self, message: FinalMessage) -> bool:
        new = self.captions.final(message)
        self.progress = max(self.progress, self._so_far())
        return new

    def _note(self, message: Notice | Draining | ErrorMessage | Completed) -> None:
        match message:
            case Notice(code=code, seq=int(seq)) if code == REWOUND:
                self.captions.rewind(seq)
            case Draining():
                self.reconnect_in_ms = message.reconnect_in_ms
            case ErrorMessage():
                self.error = message
            case Completed():
                self.completed = message
            case _:
                pass

    def _so_far(self) -> int:
        return self.outbox.received + self.outbox.durable + self.captions.last_seq
