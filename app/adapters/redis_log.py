"""The event log on Redis: a bounded stream for replay, a channel for now, and the finals that wait for the archive.

Redis sees session ids, kinds of events, ``seq`` and ``epoch``; everything else is sealed before it gets there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from app.adapters import redis_scripts as scripts
from app.adapters.redis_batch import Command, RedisBatch, script_call
from app.adapters.redis_client import RedisScript, Word
from app.events.log import Announced, CommitOutcome, LogUnavailable
from audio.transcript import CommittedFinal, Partial
from tenants.clinic import ClinicId
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

PROBE_SECONDS: Final = 1.0
"""How long a listener may wait for partials on a channel on which nobody listened."""

_ANNOUNCE: Final = RedisScript(scripts.ANNOUNCE)
_COMMIT: Final = RedisScript(scripts.COMMIT)
_PENDING: Final = RedisScript(scripts.PENDING)
_ARCHIVED: Final = RedisScript(scripts.ARCHIVED)
_APPEND: Final = RedisScript(scripts.APPEND)


class LogMessage(msgspec.Struct, frozen=True):
    """An event as it is published: ``cursor`` is its id in the clinic's log, ``prev`` that of the event before it.

    ``prev`` is ``0-0`` for the first event of a log; a ``partial``, which is in none, has ``-`` for both. ``seq`` and ``epoch``
    are 0 where they say nothing; the ``seq`` of a ``rewound`` is the last final that still holds, and its ``body`` is empty.
    Other bodies are sealed for PURPOSE: a CommittedFinal or a Partial as JSON, or an object of the event's fields.
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
    """EventLog, Publisher and OwnerBoard on Redis, while the batch runs. One per process.

    A call that fails, in whatever way, may have been carried out; a cancelled one too. Partials are sent for clinics on whose
    channel somebody listens, and for others once in PROBE_SECONDS, to learn of listeners.
    """

    def __init__(
        self,
        batch: RedisBatch,
        sealer: Sealer,
        *,
        commit_seconds: float = COMMIT_SECONDS,
        call_seconds: float = CALL_SECONDS,
        log_length: int = LOG_LENGTH,
        pending_length: int = PENDING_LENGTH,
        keep_seconds: int = KEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batch = batch
        self._sealer = sealer
        self._commit_seconds = commit_seconds
        self._call_seconds = call_seconds
        self._log_length = log_length
        self._pending_length = pending_length
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._unheard: dict[ClinicId, float] = {}

    async def announce(
        self, ref: SessionRef, epoch: int, seq: int, task: str, stands: int | None = None
    ) -> Announced | None:
        args: list[Word] = [epoch, seq, ref.session_id, task, self._keep_seconds, *self._outlet(ref)]
        args.append("" if stands is None else stands)
        answer: list[bytes] | None = await self._run(_ANNOUNCE, _owner_keys(ref), args)
        if answer is None:
            return None
        owner, told, *bodies = answer
        held = [self._final_of(ref, body) for body in bodies]
        return Announced(held, int(told) if told else None, int(owner) if owner else None)

    async def commit(self, ref: SessionRef, epoch: int, finals: Sequence[CommittedFinal]) -> CommitOutcome:
        """As the port says; a repeat of which Redis has the beginning is completed.

        Raises:
            LogUnavailable: as in the port.
            ValueError: ``finals`` is empty, its ``seq`` are not consecutive, or one is of a newer epoch.
        """
        limits = [self._pending_length, self._keep_seconds, *self._outlet(ref)]
        args: list[Word] = [epoch, _first_seq(epoch, finals), ref.session_id, *limits]
        for final in finals:
            args += [final.epoch, self._seal(ref, msgspec.json.encode(final))]
        command = script_call(_COMMIT, _owner_keys(ref), args)
        outcome: bytes = await self._batch.call(command, self._commit_seconds)
        return CommitOutcome(outcome.decode())

    async def pending(self, ref: SessionRef) -> list[CommittedFinal]:
        bodies: list[bytes] = await self._run(_PENDING, [scripts.pending_key(ref.clinic_id, ref.session_id)])
        return [self._final_of(ref, body) for body in bodies]

    async def archived(self, ref: SessionRef, epoch: int, seq: int) -> None:
        await self._run(_ARCHIVED, _owner_keys(ref)[:2], [epoch, seq, self._keep_seconds])

    async def append(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        await self._batch.call(self._appended(ref, kind, fields), self._call_seconds)

    def event(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        self._batch.post(object(), scripts.log_key(ref.clinic_id), lambda: self._appended(ref, kind, fields))

    async def epochs(self, refs: Sequence[SessionRef]) -> list[int | None]:
        keys = [scripts.session_key(ref.clinic_id, ref.session_id) for ref in refs]
        commands = [Command(key, ("HGET", key, "epoch")) for key in keys]
        answers = await self._batch.calls(commands, self._call_seconds)
        return [None if answer is None else int(answer) for answer in answers]

    def partial(self, ref: SessionRef, epoch: int, partial: Partial) -> None:
        if self._clock() < self._unheard.get(ref.clinic_id, 0.0):
            return
        channel = scripts.events_channel(ref.clinic_id)

        def made() -> Command:
            body = self._seal(ref, msgspec.json.encode(partial))
            head = f"- - {ref.session_id} partial 0 {epoch}\n".encode()
            return Command(channel, (self._batch.publish, channel, head + body))

        self._batch.post(
            (ref, partial.id), channel, made, lambda listeners: self._heard(ref.clinic_id, listeners)
        )

    def _appended(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> Command:
        body = self._seal(ref, msgspec.json.encode(fields))
        args = [*self._outlet(ref), ref.session_id, kind, body]
        return script_call(_APPEND, [scripts.log_key(ref.clinic_id)], args)

    def _heard(self, clinic_id: ClinicId, listeners: int) -> None:
        if listeners:
            self._unheard.pop(clinic_id, None)
        else:
            self._unheard[clinic_id] = self._clock() + PROBE_SECONDS

    async def _run(self, script: RedisScript, keys: Sequence[str], args: Sequence[Word] = ()) -> Any:
        return await self._batch.call(script_call(script, keys, args), self._call_seconds)

    def _outlet(self, ref: SessionRef) -> list[Word]:
        """Where the scripts publish, and how long the log may become."""
        return [self._batch.publish, scripts.events_channel(ref.clinic_id), self._log_length]

    def _seal(self, ref: SessionRef, plaintext: bytes) -> bytes:
        return self._sealer.seal(ref.clinic_id, ref.session_id, PURPOSE, plaintext)

    def _final_of(self, ref: SessionRef, body: bytes) -> CommittedFinal:
        try:
            plaintext = self._sealer.unseal(ref.clinic_id, ref.session_id, PURPOSE, body)
            return msgspec.json.decode(plaintext, type=CommittedFinal)
        except (Unsealable, msgspec.DecodeError) as failure:
            raise LogUnavailable(type(failure).__name__) from None


def _owner_keys(ref: SessionRef) -> list[str]:
    return [
        scripts.session_key(ref.clinic_id, ref.session_id),
        scripts.pending_key(ref.clinic_id, ref.session_id),
        scripts.log_key(ref.clinic_id),
    ]


def _first_seq(epoch: int, finals: Sequence[CommittedFinal]) -> int:
    if not finals:
        raise ValueError("there is nothing to commit")
    first = finals[0].seq
    if any(final.seq != first + place or final.epoch > epoch for place, final in enumerate(finals)):
        raise ValueError("finals are committed with consecutive seq, in no newer epoch")
    return first
