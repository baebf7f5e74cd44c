"""Byte ranges of one representation: the part of RFC 9110, section 14, that a single range needs."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


class Part(msgspec.Struct, frozen=True):
    """Bytes ``[start, end)`` of ``size``. ``whole`` when no range is served and the answer is 200."""

    start: int
    end: int
    size: int
    whole: bool

    @property
    def content_range(self) -> str:
        """The header of a 206."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class Unsatisfiable(Exception):
    """The range begins after the end: 416, with ``content_range``."""

    def __init__(self, size: int) -> None:
        super().__init__("the range begins after the end")
        self.content_range = f"bytes */{size}"


def select(range_header: str | None, if_range: str | None, etag: str, size: int) -> Part:
    """What to serve of ``size`` bytes whose strong entity tag is ``etag`` (quotes included).

    A malformed range, an unknown unit and more than one range are ignored, as sections 14.2 and 14.4 allow; so is a
    range whose ``If-Range`` names another version (a date never names this one: section 13.1.5).

    Raises:
        Unsatisfiable: see there.
    """
    whole = Part(0, size, size, whole=True)
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        return whole
    match = _RANGE.fullmatch(range_header.strip())
    if match is None or not (match[1] or match[2]):
        return whole
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        end = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return whole
    if start >= size:
        raise Unsatisfiable(size)
    return Part(start, end, size, whole=False)
