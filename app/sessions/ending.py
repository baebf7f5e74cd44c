"""What a session ends for, and the finishing of one whose owner lives to see it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Final

from app.archive.finisher import Finish, finish
from app.archive.reader import load_history, read_finals
from app.archive.records import Manifest
from app.archive.store import StoreUnavailable
from app.sessions.deps import SessionDeps, unix_time
from app.sessions.errors import SessionNotFound
from app.sessions.speaker import RESUMES_MAX, RESUMES_SECONDS
from app.telemetry.logs import logger
from audio.coverage import Ranges
from tenants.terms import SessionRef

FINISH_RETRY_SECONDS: Final = 2.0

_log = logger(__name__)


class Ending(StrEnum):
    """Why a session ends. Its value is the manifest's ``reason``, but for ``RELEASED``, which finishes nothing."""

    STOPPED = "stopped"
    ABANDONED = "abandoned"
    """Its speaker stayed away, and may reopen it."""

    UNSPOKEN = "unspoken"
    """Nobody ever spoke in it: only a session without an owner ends so."""

    RELEASED = "released"
    """Everything is made durable and the session left for another owner."""


async def is_outranked(deps: SessionDeps, ref: SessionRef, serial: int) -> bool:
    """Whether a newer ticket than that of ``serial`` was used for a session that was lost.

    With the same ticket it may be its speaker itself that came back, or a call of its own that came very late; or, where it
    was claimed with it over and over, a second client, which would take it from the first for ever.
    """
    try:
        history = await load_history(deps.store, ref)
    except StoreUnavailable:
        return False
    if history is None:
        return False
    claimed = [unix_time(epoch.claimed_at) for epoch in history.epochs if epoch.serial == serial]
    contested = len(claimed) > RESUMES_MAX and claimed[-1] - claimed[-1 - RESUMES_MAX] < RESUMES_SECONDS
    return contested or any(epoch.serial > serial for epoch in history.epochs)


async def finish_owned(
    deps: SessionDeps, ref: SessionRef, *, epoch: int, ending: Ending, live: Ranges, samples: int
) -> Manifest:
    """Finish a session under its owner's own ``epoch``, for as long as it takes. Everything in it is durable.

    ``live`` and ``samples``: see ``Finish``.

    Raises:
        FinishLost, SessionNotFound, StoreError, CodecError: see ``finish``.
    """
    while True:
        try:
            history = await load_history(deps.store, ref)
            if history is None:
                raise SessionNotFound
            finals = await read_finals(deps.store, ref, history)
            order = Finish(ref, epoch, ending.value, finals, live, deps.now(), samples)
            return await finish(deps.store, order)
        except StoreUnavailable as refusal:
            _log.warning("finish_delayed", reason=refusal.reason)
            await asyncio.sleep(FINISH_RETRY_SECONDS)
