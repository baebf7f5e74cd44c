"""What can be made to go wrong, and for which streams.

A fault is armed by a control call, for a session id or for the next streams to start; or it is written into the session id itself:
``fa17KKKK-AAAA-SSSS-xxxx-xxxxxxxxxxxx`` with the number of the kind (see ``KINDS``), tenths of a second of audio after which it strikes,
and tenths of a second that it lasts, each as four hexadecimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from loadtest.emulator.parameters import SAMPLE_RATE
from loadtest.emulator.problems import Kind, ServiceError

MAX_ARMED: Final = 1000
"""More faults than that are refused."""


class FaultKind(StrEnum):
    """What goes wrong."""

    DROP_BEFORE_HEADERS = "drop-before-headers"
    """The connection is cut instead of an answer."""
    HANG = "hang"
    """The request is never answered."""
    REFUSE = "refuse"
    """The request is refused with ``exception``."""
    THROTTLE = "throttle"
    """The request is refused with LimitExceededException."""
    DROP = "drop"
    """The connection is closed without a word."""
    TCP_RST = "tcp-rst"
    """The connection is reset."""
    RST_STREAM = "rst-stream"
    """The HTTP/2 stream is reset with INTERNAL_ERROR; over WebSocket the same as ``tcp-rst``."""
    GOAWAY = "goaway"
    """GOAWAY with INTERNAL_ERROR and the end of the connection; over WebSocket a close frame 1001."""
    EXCEPTION = "exception"
    """The stream ends with ``exception``."""
    SILENCE = "silence"
    """Audio is accepted and nothing answered, for ``seconds``, or to the end when that is 0."""
    STALL = "stall"
    """Nothing is read and nothing sent for ``seconds``; then all that was due is sent."""
    SLOW = "slow"
    """Results take ``factor`` times as long, and audio is read no faster than ``bytes_per_second`` (0: as it comes)."""
    CLOSE = "close"
    """The stream ends cleanly; an utterance that is being spoken then gets no final result."""


KINDS: Final = tuple(FaultKind)
"""The kinds in the order of their numbers in a session id, which begin with 0."""

AT_START: Final = frozenset(
    {FaultKind.DROP_BEFORE_HEADERS, FaultKind.HANG, FaultKind.REFUSE, FaultKind.THROTTLE}
)
"""These strike before the stream begins; it takes no place and is no start."""

_ENCODED: Final = re.compile(r"fa17([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-", re.IGNORECASE)


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault.

    Attributes:
        kind: what happens.
        session_id: of whose streams; none: of any.
        after_seconds: of audio in the stream, after which it strikes.
        seconds: how long it lasts, where it ends.
        exception: name and ``message`` of what is raised; no message: the kind's own.
        factor: of latency. ``bytes_per_second``: of reading.
        times: how many streams it strikes; 0: every one until it is disarmed.
    """

    kind: FaultKind
    session_id: str | None = None
    after_seconds: float = 0.0
    seconds: float = 0.0
    exception: Kind = Kind.INTERNAL_FAILURE
    message: str | None = None
    factor: float = 10.0
    bytes_per_second: int = 0
    times: int = 1

    @property
    def at_start(self) -> bool:
        """Whether it strikes before the stream begins."""
        return self.kind in AT_START

    @property
    def after_samples(self) -> int:
        """``after_seconds`` in samples."""
        return round(self.after_seconds * SAMPLE_RATE)

    @property
    def error(self) -> ServiceError:
        """What is raised."""
        if self.kind is FaultKind.THROTTLE:
            return ServiceError(Kind.LIMIT_EXCEEDED, self.message)
        return ServiceError(self.exception, self.message)


def encoded(session_id: str) -> Fault | None:
    """The fault that is written into a session id."""
    found = _ENCODED.match(session_id)
    if found is None:
        return None
    number, after, lasts = (int(part, 16) for part in found.groups())
    if number >= len(KINDS):
        return None
    return Fault(KINDS[number], session_id, after_seconds=after / 10, seconds=lasts / 10)


class TooManyArmed(Exception):
    """There are ``MAX_ARMED`` faults already."""


class FaultBook:
    """The armed faults, first come, first to strike."""

    def __init__(self) -> None:
        self._armed: list[tuple[Fault, int]] = []

    def arm(self, fault: Fault) -> None:
        """Have ``fault`` strike streams to come.

        Raises:
            TooManyArmed: no more can be held.
        """
        if len(self._armed) >= MAX_ARMED:
            raise TooManyArmed
        self._armed.append((fault, fault.times))

    def disarm(self, session_id: str | None = None) -> None:
        """Forget the faults of a session, or all."""
        self._armed = (
            [] if session_id is None else self._without(lambda fault: fault.session_id == session_id)
        )

    def take(self, session_id: str) -> Fault | None:
        """The fault for a stream that starts; that written into its id before any armed one."""
        written = encoded(session_id)
        if written is not None:
            return written
        for place, (fault, left) in enumerate(self._armed):
            if fault.session_id in {None, session_id}:
                if left == 1:
                    del self._armed[place]
                elif left > 1:
                    self._armed[place] = (fault, left - 1)
                return fault
        return None

    @property
    def armed(self) -> list[Fault]:
        """Those that may still strike."""
        return [fault for fault, _ in self._armed]

    def _without(self, goes: Callable[[Fault], bool]) -> list[tuple[Fault, int]]:
        return [(fault, left) for fault, left in self._armed if not goes(fault)]
