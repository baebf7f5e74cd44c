"""The data keys of the disk store's sessions: made, wrapped, kept beside the objects, remembered for a while."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from app.adapters.disk_files import DiskFiles
from app.adapters.disk_worker import DiskWorker
from app.adapters.object_keys import ObjectKey, Scope
from app.archive.store import ObjectCorrupt, ObjectMissing, StoreUnavailable
from tenants.keys import DataKey, KeyRejected, KeyUnavailable, KeyWrapper

_REMEMBERED: Final = 2048


class SessionKeys:
    """One data key per scope. What is remembered may be out of date: the files say ``KeyChanged`` then, see ``forget``.

    At most 2 048 keys are remembered, the least recently used forgotten first.
    """

    def __init__(self, files: DiskFiles, worker: DiskWorker, wrapper: KeyWrapper) -> None:
        self._files = files
        self._worker = worker
        self._wrapper = wrapper
        self._remembered: OrderedDict[Scope, DataKey] = OrderedDict()

    async def get(self, name: ObjectKey, *, existing: bool) -> DataKey:
        """The key of the object's scope; made where there is none, unless the object is meant to be an ``existing`` one.

        Raises:
            ObjectMissing: existing, and there is neither object nor key.
            ObjectCorrupt: existing, and the object's key is missing or does not open.
            StoreUnavailable: the keeper of keys is away; or, not existing, the scope has a key that does not open.
        """
        scope = name.scope
        key = self._remembered.get(scope)
        if key is None:
            key = await self._load(name, existing=existing)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.popitem(last=False)
            self._remembered[scope] = key
        self._remembered.move_to_end(scope)
        return key

    def forget(self, scope: Scope) -> None:
        """Ask the files the next time."""
        self._remembered.pop(scope, None)

    async def _load(self, name: ObjectKey, *, existing: bool) -> DataKey:
        try:
            wrapped = await self._worker.run(name.key, lambda _: self._files.read_key(name.scope))
            if wrapped is not None:
                return await self._open(name.scope, wrapped)
            if not existing:
                return await self._make(name)
        except KeyUnavailable as error:
            raise StoreUnavailable(name.key, "the keeper of keys is away", "keys") from error
        except KeyRejected as error:
            if not existing:
                raise StoreUnavailable(name.key, "its session's key does not open", "keys") from error
            if await self._worker.run(name.key, lambda _: self._files.exists(name)):
                raise ObjectCorrupt(name.key, "its session's key does not open") from error
        if await self._worker.run(name.key, lambda _: self._files.lost_its_key(name)):
            raise ObjectCorrupt(name.key, "its session's key is missing")
        raise ObjectMissing(name.key, "there is no such object")

    async def _make(self, name: ObjectKey) -> DataKey:
        key = await self._wrapper.new_data_key(name.scope.clinic, _context(name.scope))
        kept = await self._worker.run(name.key, lambda _: self._files.put_key(name.scope, key.wrapped))
        return key if kept == key.wrapped else await self._open(name.scope, kept)

    async def _open(self, scope: Scope, wrapped: bytes) -> DataKey:
        return DataKey(await self._wrapper.unwrap(scope.clinic, wrapped, _context(scope)), wrapped)


def _context(scope: Scope) -> dict[str, str]:
    return {"clinicId": scope.clinic, "sessionId": scope.session}
