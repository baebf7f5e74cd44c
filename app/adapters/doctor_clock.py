"""The doctor's check of this machine's clock, against the ``Date`` of an answer."""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from app.adapters.doctor_finding import Check, Finding, fail, ok, warn

WARN_SECONDS: Final = 1.0
FAIL_SECONDS: Final = 240.0
"""A minute before signatures are refused (Signature Version 4 allows five)."""

_ADVICE: Final = "set this machine's clock by NTP (on EC2 and Fargate: 169.254.169.123)"
_SECONDS: Final = 5.0


def clock_check(url: str, context: ssl.SSLContext) -> Check:
    """Ask ``url``, whatever it answers, without credentials."""
    return Check("clock", lambda: _clock(url, context))


async def _clock(url: str, context: ssl.SSLContext) -> Finding:
    advice = "see that this machine keeps its clock by NTP"
    try:
        async with httpx.AsyncClient(verify=context, timeout=_SECONDS) as client:
            before = time.time()
            answer = await client.get(url)
            after = time.time()
    except (httpx.HTTPError, OSError):
        return warn("clock", "it could not be compared: no answer", advice)
    try:
        date = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return warn("clock", "it could not be compared: the answer has no date", advice)
    return clock_finding(least_offset(before, after, date))


def least_offset(before: float, after: float, date: float) -> float:
    """How far this clock is off at least, in seconds; positive: ahead.

    The answer was made between ``before`` and ``after`` of this clock, and in the second that began at ``date`` of the other.
    """
    if before > date + 1:
        return before - date - 1
    return min(0.0, after - date)


def clock_finding(offset: float) -> Finding:
    """What an offset means."""
    way = "ahead" if offset > 0 else "behind"
    if abs(offset) > FAIL_SECONDS:
        return fail(
            "clock", f"this machine's clock is {abs(offset):.0f} s {way}: signatures are refused", _ADVICE
        )
    if abs(offset) > WARN_SECONDS:
        return warn("clock", f"this machine's clock is {abs(offset):.1f} s {way}", _ADVICE)
    return ok("clock", "this machine's clock is right to a second")
