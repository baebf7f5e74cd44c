"""The event log on Redis: a bounded stream for replay, a channel for now, and the finals that wait for the archive.

Redis sees session ids, kinds of events, ``seq`` and ``epoch``; everything else is sealed before it gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from app.adapters import redis_scripts as scripts
from app.adapters.redis_client import time_limit
from app.events.log import CommitOutcome, LogUnavailable
from audio.transcript import CommittedFinal
from tenants.keys import Sealer, Unsealable
from tenants.terms import SessionRef

PURPOSE: Final = "log"
"""What a body in the log is sealed for."""

COMMIT_SECONDS: Final = 0.1
CALL_SECONDS: Final = 1.0
LOG_LENGTH: Final = 10_000
"""Events kept per clinic, about; the oldest leave first."""

PENDING_LENGTH: Final = 1_000
"""Finals kept per session until the archive has them; beyond that the oldest leave (their owner still holds them)."""

KEEP_SECONDS: Final = 48 * 3600
"""A session untouched for so long is forgotten here; the archive has it."""


class LogMessage(msgspec.Struct, frozen=True):
    """An event as it is published: ``cursor`` is its id in the clinic's log, ``prev`` that of the event before it.

    ``prev`` is ``0-0`` for the first event of a log. ``seq`` and ``epoch`` are 0 unless ``kind`` is ``final``.
    ``body`` is sealed for PURPOSE: a CommittedFinal as JSON for a ``final``, else an object of the event's fields.
    """

    cursor: str
    prev: str
    session_id: str
    kind: str
    seq: int
    epoch: int
    body: bytes


def parse_message(data: bytes) -> LogMessage:
    """What was published on a clinic's channel: a line of six words, then the sealed body.

    Raises:
        ValueError: it is none of ours.
    """
    head, _, body = data.partition(b"\n")
    cursor, prev, session_id, kind, seq, epoch = head.decode("ascii").split(" ")
    return LogMessage(cursor, prev, session_id, kind, int(seq), int(epoch), body)


class RedisEventLog:
    """EventLog on Redis. One per process; the client is closed by whoever made it.

    A call that fails, in whatever way, may have been carried out; a cancelled one too.
    """

    def __init__(
        self,
        client: Redis,
        sealer: Sealer,
        *,
        commit_seconds: float = COMMIT_SECONDS,
        call_seconds: float = CALL_SECONDS,
        log_length: int = LOG_LENGTH,
        pending_length: int = PENDING_LENGTH,
        keep_seconds: int = KEEP_SECONDS,
    ) -> None:
        self._client = client
        self._sealer = sealer
        self._commit_seconds = commit_seconds
        self._call_seconds = call_seconds
        self._log_length = log_length
        self._pending_length = pending_length
        self._keep_seconds = keep_seconds
        self._announce = client.register_script(scripts.ANNOUNCE)
        self._commit = client.register_script(scripts.COMMIT)
        self._pending = client.register_script(scripts.PENDING)
        self._archived = client.register_script(scripts.ARCHIVED)
        self._append = client.register_script(scripts.APPEND)

    async def announce(self, ref: SessionRef, epoch: int, seq: int, task: str) -> list[CommittedFinal] | None:
        async with time_limit(self._call_seconds, LogUnavailable):
            bodies: list[bytes] | None = await self._announce(
                _session_keys(ref), [epoch, seq, task, self._keep_seconds]
            )
        return None if bodies is None else [self._final_of(ref, body) for body in bodies]

    async def commit(self, ref: SessionRef, epoch: int, finals: Sequence[CommittedFinal]) -> CommitOutcome:
        """As the port says; a repeat of which Redis has the beginning is completed.

        Raises:
            LogUnavailable: as in the port.
            ValueError: ``finals`` is empty, its ``seq`` are not consecutive, or it is of another epoch.
        """
        first = _first_seq(epoch, finals)
        bodies = [self._seal(ref, msgspec.json.encode(final)) for final in finals]
        channel = scripts.events_channel(ref.clinic_id)
        limits = [self._log_length, self._pending_length, self._keep_seconds]
        async with time_limit(self._commit_seconds, LogUnavailable):
            outcome = await self._commit(
                [*_session_keys(ref), scripts.log_key(ref.clinic_id)],
                [epoch, first, ref.session_id, channel, *limits, *bodies],
            )
        return CommitOutcome(outcome.decode())

    async def pending(self, ref: SessionRef) -> list[CommittedFinal]:
        async with time_limit(self._call_seconds, LogUnavailable):
            bodies: list[bytes] = await self._pending([scripts.pending_key(ref.clinic_id, ref.session_id)])
        return [self._final_of(ref, body) for body in bodies]

    async def archived(self, ref: SessionRef, epoch: int, seq: int) -> None:
        async with time_limit(self._call_seconds, LogUnavailable):
            await self._archived(_session_keys(ref), [epoch, seq, self._keep_seconds])

    async def append(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        body = self._seal(ref, msgspec.json.encode(fields))
        channel = scripts.events_channel(ref.clinic_id)
        async with time_limit(self._call_seconds, LogUnavailable):
            await self._append(
                [scripts.log_key(ref.clinic_id)], [channel, self._log_length, ref.session_id, kind, body]
            )

    def _seal(self, ref: SessionRef, plaintext: bytes) -> bytes:
        return self._sealer.seal(ref.clinic_id, ref.session_id, PURPOSE, plaintext)

    def _final_of(self, ref: SessionRef, body: bytes) -> CommittedFinal:
        try:
            plaintext = self._sealer.unseal(ref.clinic_id, ref.session_id, PURPOSE, body)
        except Unsealable as failure:
            raise LogUnavailable(type(failure).__name__) from failure
        return msgspec.json.decode(plaintext, type=CommittedFinal)


def _session_keys(ref: SessionRef) -> list[str]:
    return [
        scripts.session_key(ref.clinic_id, ref.session_id),
        scripts.pending_key(ref.clinic_id, ref.session_id),
    ]


def _first_seq(epoch: int, finals: Sequence[CommittedFinal]) -> int:
    if not finals:
        raise ValueError("there is nothing to commit")
    first = finals[0].seq
    if any(final.seq != first + place or final.epoch != epoch for place, final in enumerate(finals)):
        raise ValueError("finals are committed with consecutive seq, in their own epoch")
    return first
