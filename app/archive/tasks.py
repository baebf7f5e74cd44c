"""What a running task tells the others in the archive: which sessions are its, and, by a counter, that it lives.

``_tasks/<task>.<boot>`` is replaced over and over by its task and by no other; ``<boot>`` tells apart the lives of tasks
with one name. One that no longer changes belongs to a task that is gone, or cannot write: its sessions are found by it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from app.archive.parallel import bounded_map
from app.archive.records import RecordCorrupt, decode_record, encode_record
from app.archive.store import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    Store,
    StoreUnavailable,
    Version,
    VersionConflict,
)
from app.telemetry.logs import logger
from tenants.clinic import parse_clinic_id
from tenants.terms import SessionRef, is_session_id

TASKS: Final = "_tasks/"
PARALLEL_READS: Final = 8
PUT_ATTEMPTS: Final = 3

_log = logger(__name__)


class TaskRecord(msgspec.Struct, frozen=True, rename="camel"):
    """``_tasks/<task>.<boot>``. Sessions are written ``<clinicId>/<sessionId>``, in order.

    Attributes:
        beat: grows by one each time; nothing else is read from it.
        sessions: those that the task owns.
        watched: those that nobody owns, as far as it knows, and that it means to finish when their time comes.
    """

    task: str
    beat: int
    sessions: list[str] = []
    watched: list[str] = []


def task_key(task: str, boot: str) -> str:
    """``_tasks/<task>.<boot>``."""
    return f"{TASKS}{task}.{boot}"


def name_of(ref: SessionRef) -> str:
    """A session as a task's record names it."""
    return f"{ref.clinic_id}/{ref.session_id}"


def parse_name(name: str) -> SessionRef | None:
    """The session of that name, or None where it is no session's."""
    clinic, _, session_id = name.partition("/")
    clinic_id = parse_clinic_id(clinic)
    return SessionRef(clinic_id, session_id) if clinic_id is not None and is_session_id(session_id) else None


async def read_tasks(store: Store, *, but: str) -> dict[str, TaskRecord]:
    """The records of all tasks by their keys, without that under the key ``but``. One that does not parse is left out.

    Raises:
        StoreUnavailable: see there.
    """
    keys = [row.key async for row in store.list(TASKS) if row.key != but]

    async def read(key: str) -> TaskRecord | None:
        try:
            return decode_record(key, (await store.read(key)).data, TaskRecord)
        except ObjectMissing:
            return None
        except (RecordCorrupt, ObjectCorrupt):
            _log.error("task_record_damaged", key=key)
            return None

    found = await bounded_map(read, keys, limit=PARALLEL_READS)
    return {key: record for key, record in zip(keys, found, strict=True) if record is not None}


class OwnRecord:
    """This task's own record under ``key``. For one caller at a time."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._version: Version | None = None

    async def put(self, record: TaskRecord) -> None:
        """Write ``record`` in place of what is there. After a failure it may be there all the same.

        Raises:
            StoreUnavailable: see there; also when the object moves under the hands of its only writer.
        """
        data = encode_record(record)
        for _ in range(PUT_ATTEMPTS):
            try:
                if self._version is None:
                    self._version = await self._store.create(self._key, data)
                else:
                    self._version = await self._store.replace(self._key, data, self._version)
            except (ObjectExists, VersionConflict):
                # A put of ours whose answer was lost.
                self._version = (await self._store.read(self._key)).version
            except ObjectMissing:
                # Somebody took this task for dead.
                self._version = None
            else:
                return
        raise StoreUnavailable(self._key, "moves under the hands of its only writer")

    async def delete(self) -> None:
        """Take it away.

        Raises:
            StoreUnavailable: see there.
        """
        await self._store.delete(self._key)
        self._version = None
