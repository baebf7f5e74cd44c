"""What waits to be sent to one speaker connection. Pure: bounded state in, text frames out.

Nothing here grows with a slow client: acks and partials replace one another, finals are read from the session's book
at the client's own pace, notices and pongs keep the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final as Constant

from app.protocol.close import RETRYABLE, CloseCode
from app.protocol.messages import (
    Ack,
    Completed,
    Draining,
    ErrorMessage,
    Flushed,
    Notice,
    Pong,
    ServerMessage,
    encode,
    final_message,
    partial_message,
)
from audio.transcript import CommittedFinal, Partial

WAITING_MAX: Constant = 64
"""Notices, pongs and flush answers kept for a client that does not read; the oldest goes first."""

ACK_SECONDS: Constant = 0.7
"""With a tick of a quarter of a second between, the contract's once a second."""


class Closing(Exception):
    """The connection is to be closed with ``code`` after an error message. Not retryable codes end the client's attempts."""

    def __init__(self, code: CloseCode, word: str, message: str) -> None:
        super().__init__(message)
        self.code, self.word = code, word


class Link:
    """One speaker connection's outbox.

    Args:
        missed: finals to send first; ``cursor`` is the last of them, or what the client has already.
        wake: called when there is something to send; idempotent and cheap.

    ``listens_only``: it joined a session that ends; its window is 0 and stays so.
    """

    def __init__(
        self,
        *,
        serial: int,
        missed: Sequence[CommittedFinal],
        cursor: int,
        now: float,
        wake: Callable[[], None],
    ) -> None:
        self.serial = serial
        self.cursor = cursor
        self.last_heard = now
        self.last_ack = now
        self.close_code: CloseCode | None = None
        self.listens_only = False
        self._missed = deque(missed)
        self._partials: dict[str, Partial] = {}
        self._notices: deque[Notice] = deque(maxlen=WAITING_MAX)
        self._answers: deque[Flushed] = deque(maxlen=WAITING_MAX)
        self._pongs: deque[Pong] = deque(maxlen=WAITING_MAX)
        self._last: ErrorMessage | Completed | None = None
        self._draining: Draining | None = None
        self._ack_due = False
        self._wake = wake

    @property
    def closing(self) -> bool:
        """Whether the connection is on its way out; nothing more is taken from it."""
        return self.close_code is not None

    @property
    def waiting(self) -> bool:
        """Whether a last word was added since ``take``."""
        return self._last is not None

    def partial(self, partial: Partial) -> None:
        """A newer hypothesis; replaces the one of the same id that still waits."""
        self._partials[partial.id] = partial
        self._wake()

    def finals_committed(self, ids: Sequence[str]) -> None:
        """Finals can be read from the book; partials of the same ids must not follow them."""
        for result_id in ids:
            self._partials.pop(result_id, None)
        self._wake()

    def notice(self, notice: Notice) -> None:
        """Tell the speaker something."""
        self._notices.append(notice)
        self._wake()

    def flushed(self, answer: Flushed) -> None:
        """Answer a flush, after the finals it speaks of."""
        self._answers.append(answer)
        self._wake()

    def pong(self, pong: Pong) -> None:
        """Answer a ping."""
        self._pongs.append(pong)
        self._wake()

    def draining(self, message: Draining) -> None:
        """This task goes away; the close follows when all is durable."""
        self._draining = message
        self._wake()

    def ack(self) -> None:
        """An ack is due; it carries what holds when it is sent."""
        self._ack_due = True
        self._wake()

    def complete(self, completed: Completed) -> None:
        """The session is finished: say so last, then close 1000."""
        self._last, self.close_code = completed, CloseCode.DONE
        self._wake()

    def close(self, closing: Closing) -> None:
        """Say why, then close; the first reason stands."""
        if self.close_code is not None:
            return
        if (
            closing.code >= 4000
        ):  # RFC 6455: private codes; the contract asks for an error message before each of ours
            self._last = ErrorMessage(closing.word, str(closing), closing.code in RETRYABLE)
        self.close_code = closing.code
        self._wake()

    def take(self, finals: Sequence[CommittedFinal], ack: Ack, now: float) -> list[str]:
        """Everything that waits, as text frames in the order to send; ``finals`` follow ``cursor`` without a gap."""
        out: list[ServerMessage] = [*self._notices]
        out += [final_message(f) for f in (*self._missed, *finals)]
        if finals:
            self.cursor = finals[-1].seq
        out += [partial_message(p) for p in self._partials.values()]
        if self._ack_due:
            out.append(ack)
            self.last_ack = now
        out += [*self._answers, *self._pongs]
        out += [m for m in (self._draining, self._last) if m is not None]
        for waiting in (self._notices, self._missed, self._partials, self._answers, self._pongs):
            waiting.clear()
        self._ack_due, self._draining, self._last = False, None, None
        return [encode(m) for m in out]
