"""The states of a session and the one table of what may follow what."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class SessionState(StrEnum):
    """See the contract: ``created`` -> ``live`` <-> ``detached`` -> ``finishing`` -> ``completed`` | ``failed``."""

    CREATED = "created"
    LIVE = "live"
    DETACHED = "detached"
    FINISHING = "finishing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class IllegalTransition(Exception):
    """A bug: a session was told to go where its state does not lead."""

    def __init__(self, old: SessionState, new: SessionState) -> None:
        super().__init__(f"a session cannot go from {old} to {new}")
        self.old, self.new = old, new


_S = SessionState
TRANSITIONS: Final = MappingProxyType(
    {
        _S.CREATED: frozenset({_S.LIVE, _S.FINISHING, _S.CANCELLED}),
        _S.LIVE: frozenset({_S.DETACHED, _S.FINISHING}),
        _S.DETACHED: frozenset({_S.LIVE, _S.FINISHING}),
        _S.FINISHING: frozenset({_S.COMPLETED, _S.FAILED, _S.DETACHED}),
        _S.COMPLETED: frozenset({_S.LIVE}),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
"""``finishing`` -> ``detached``: the finisher lost against a speaker who came back. ``completed`` -> ``live``: reopened."""

ENDED: Final = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})


def advance(old: SessionState, new: SessionState) -> SessionState:
    """``new``, provided it may follow ``old``.

    Raises:
        IllegalTransition: it may not.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(old, new)
    return new
