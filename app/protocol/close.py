"""Close codes of ``kikitori.v1`` (RFC 6455 section 7.4; 4000-4999 is for private use)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class CloseCode(IntEnum):
    """Why a socket is closed. The session stays resumable after every retryable one."""

    DONE = 1000
    GOING_AWAY = 1001
    ABNORMAL = 1006
    TOO_LARGE = 1009
    SERVER_ERROR = 1011
    RESTARTING = 1012
    MALFORMED = 4400
    ACCESS_ENDED = 4401
    ROLE = 4403
    IDLE = 4408
    SUPERSEDED = 4409
    CURSOR_EXPIRED = 4410
    TOO_SLOW = 4411
    WINDOW = 4413
    QUOTA = 4429
    INTERNAL = 4500
    DEPENDENCY = 4503


RETRYABLE: Final = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.ABNORMAL,
        CloseCode.SERVER_ERROR,
        CloseCode.RESTARTING,
        CloseCode.IDLE,
        CloseCode.WINDOW,
        CloseCode.INTERNAL,
        CloseCode.DEPENDENCY,
    }
)
