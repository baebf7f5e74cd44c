"""A session of a clinic, and the terms it is held on."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from tenants.clinic import ClinicId

Priority = Literal["normal", "high"]
Recording = Literal["audio+transcript", "transcript"]


_SESSION_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class SessionRef(msgspec.Struct, frozen=True):
    """A session of a clinic: what keys, channels and object names are made of."""

    clinic_id: ClinicId
    session_id: str


def is_session_id(text: str) -> bool:
    """Whether ``text`` is a UUIDv7 as RFC 9562 writes it; anything else names no session, whatever a store would say."""
    return _SESSION_ID.fullmatch(text) is not None
