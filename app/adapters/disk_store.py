"""The archive in a folder: every object encrypted under its session's own data key, and durable before it is promised."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from app.adapters.disk_files import Clash, DiskFiles, KeyChanged, Occupied, Staged
from app.adapters.disk_keys import SessionKeys
from app.adapters.disk_list import walk
from app.adapters.disk_worker import DiskWorker, Gate
from app.adapters.framed_file import HEADER_BYTES, FramedReader, FramedWriter, version_of
from app.adapters.object_keys import ObjectKey, parse_key
from app.archive.store import (
    Body,
    ListedObject,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoredObject,
    StoreUnavailable,
    Version,
    VersionConflict,
)
from tenants.keys import DataKey, KeyWrapper

T = TypeVar("T")

_ATTEMPTS: Final = 8
_LIST_BATCH: Final = 256
_BATCH_BYTES: Final = 262_144
"""How much of a streamed body is gathered before a thread is asked to write it."""


class DiskStore:
    """``Store`` in a folder. Several processes may share it: their locks are the kernel's, so on one machine.

    Blocking work runs in ``threads`` threads of its own; further callers wait their turn. ``StoreUnavailable.reason`` is
    ``no_space``, ``read_only``, ``forbidden``, ``io_error``, ``root_missing``, ``busy``, ``keys`` (the keeper of keys
    is away, or the session's key does not open) or ``closed``. Keys that ``object_keys.parse_key`` refuses are ValueErrors.

    Data keys are wrapped with the context ``{clinicId, sessionId}``; for a system's object, ``_area/…``, these are
    ``_system`` and ``_area``. An object cannot lie below another one (``a`` and ``a/b``): creating it is ``ObjectExists``.

    Cancelling: an operation that is cancelled returns only when its thread has let go. A ``create`` or ``replace``
    cancelled before the moment its object appears leaves nothing; one cancelled after it leaves the whole object, durable.
    """

    def __init__(
        self, root: Path, keys: KeyWrapper, *, threads: int = 8, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Nothing happens before ``start``."""
        self._root = root
        self._random = random
        self._files = DiskFiles(root, random)
        self._worker = DiskWorker(threads)
        self._keys = SessionKeys(self._files, self._worker, keys)

    async def start(self) -> None:
        """Make the folder where it is missing, and sweep away what writers that died were writing.

        Raises:
            StoreUnavailable: the folder cannot be made or read.
        """
        self._worker.start()
        try:
            await self._worker.run(str(self._root), lambda _: self._files.start())
        except BaseException:
            await self._worker.close()
            raise

    async def close(self) -> None:
        """Wait for what is under way, then give the threads back. Calls after it fail with ``StoreUnavailable``."""
        await self._worker.close()

    async def __aenter__(self) -> DiskStore:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def create(self, key: str, body: Body) -> Version:
        """See ``Store``. Identical content that is there already costs reading it, and its version is returned."""
        name = parse_key(key)
        if not isinstance(body, bytes):
            return await self._create_streamed(name, body)
        for _ in range(_ATTEMPTS):
            try:
                return await self._with_key(
                    name, lambda data_key, gate: self._write_new(name, body, data_key, gate)
                )
            except Clash as error:
                raise ObjectExists(key, "other objects lie below it, or it would lie below one") from error
            except Occupied:
                version = await self._version_if_same(name, body)
            if version is not None:
                return version
        raise StoreUnavailable(key, "it keeps appearing and going away", "busy")

    async def replace(self, key: str, data: bytes, expected: Version) -> Version:
        """See ``Store``."""
        name = parse_key(key)

        def swap(data_key: DataKey, gate: Gate) -> Version:
            def still() -> None:
                gate.pass_through()
                self._expect_version(name, expected)

            still()
            with self._files.stage() as staged:
                version = self._encrypt(staged, name, data_key, data)
                self._files.swap(staged, name, data_key.wrapped, still)
            return version

        try:
            return await self._with_key(name, swap, existing=True)
        except ObjectCorrupt as error:
            raise StoreUnavailable(key, "its session's key is missing or does not open", "keys") from error

    async def read(self, key: str, start: int = 0, end: int | None = None) -> StoredObject:
        """See ``Store``. Reads and decrypts the frames of the range and, to vouch for ``size``, the last one."""
        name = parse_key(key)

        def fetch(data_key: DataKey, _: Gate) -> StoredObject:
            with self._opened(name, data_key) as reader:
                return StoredObject(reader.read(start, end), reader.version, reader.size())

        return await self._with_key(name, fetch, existing=True)

    async def list(self, prefix: str, *, delimiter: str = "", after: str = "") -> AsyncIterator[ListedObject]:
        """See ``Store``, and ``disk_list.walk`` for what ``after`` means with a delimiter."""
        rows = walk(self._root, prefix, delimiter, after)

        def batch(_: Gate) -> builtins.list[ListedObject]:
            self._files.check_root()
            return builtins.list(islice(rows, _LIST_BATCH))

        while found := await self._worker.run(prefix, batch):
            for row in found:
                yield row

    async def delete(self, key: str) -> None:
        """See ``Store``. With a session's last object its data key goes too: nothing of it can be read ever again."""
        name = parse_key(key)
        await self._worker.run(key, lambda _: self._files.remove(name))

    async def _with_key(
        self, name: ObjectKey, job: Callable[[DataKey, Gate], T], *, existing: bool = False
    ) -> T:
        for _ in range(_ATTEMPTS):
            data_key = await self._keys.get(name, existing=existing)
            try:
                return await self._worker.run(name.key, partial(job, data_key))
            except KeyChanged:
                self._keys.forget(name.scope)
        raise StoreUnavailable(name.key, "its session keeps being deleted and made again", "busy")

    async def _create_streamed(self, name: ObjectKey, body: AsyncIterator[bytes]) -> Version:
        if await self._worker.run(name.key, lambda _: self._files.exists(name)):
            raise ObjectExists(name.key, "there is an object already")
        data_key = await self._keys.get(name, existing=False)
        # A stack, so that a file whose making was cancelled is not lost sight of. What was published is closed by then.
        with ExitStack() as held:
            staged = await self._worker.run(name.key, lambda _: held.enter_context(self._files.stage()))
            version = await self._receive(staged, name, data_key, body)
            try:
                return await self._publish_received(staged, name, data_key, version)
            except Occupied:
                raise ObjectExists(name.key, "there is an object already") from None

    async def _publish_received(
        self, staged: Staged, name: ObjectKey, key: DataKey, version: Version
    ) -> Version:
        def publish(gate: Gate) -> Version:
            self._files.publish(staged, name, key.wrapped, gate.pass_through)
            return version

        try:
            return await self._worker.run(name.key, publish)
        except KeyChanged:
            self._keys.forget(name.scope)
        return await self._with_key(
            name, lambda fresh, gate: self._write_again(staged, name, key, fresh, gate)
        )

    async def _receive(
        self, staged: Staged, name: ObjectKey, key: DataKey, body: AsyncIterator[bytes]
    ) -> Version:
        writer = FramedWriter(staged.fd, key.plaintext, name.key, self._random)
        gathered = bytearray()

        def flush(_: Gate) -> None:
            writer.write(gathered)
            gathered.clear()

        def finish(gate: Gate) -> Version:
            flush(gate)
            return writer.finish()

        async for piece in body:
            gathered.extend(piece)
            if len(gathered) >= _BATCH_BYTES:
                await self._worker.run(name.key, flush)
        return await self._worker.run(name.key, finish)

    def _write_new(self, name: ObjectKey, body: bytes, key: DataKey, gate: Gate) -> Version:
        if self._files.exists(name):
            raise Occupied
        with self._files.stage() as staged:
            version = self._encrypt(staged, name, key, body)
            self._files.publish(staged, name, key.wrapped, gate.pass_through)
        return version

    def _write_again(
        self, old: Staged, name: ObjectKey, old_key: DataKey, key: DataKey, gate: Gate
    ) -> Version:
        # The session was deleted, key and all, while the body came in; the pieces are gone, the staged file is not.
        reader = FramedReader(old.fd, old_key.plaintext, name.key)
        with self._files.stage() as staged:
            writer = FramedWriter(staged.fd, key.plaintext, name.key, self._random)
            for start in range(0, reader.size(), _BATCH_BYTES):
                writer.write(reader.read(start, start + _BATCH_BYTES))
            version = writer.finish()
            self._files.publish(staged, name, key.wrapped, gate.pass_through)
        return version

    def _encrypt(self, staged: Staged, name: ObjectKey, key: DataKey, content: bytes) -> Version:
        writer = FramedWriter(staged.fd, key.plaintext, name.key, self._random)
        writer.write(content)
        return writer.finish()

    def _expect_version(self, name: ObjectKey, expected: Version) -> None:
        try:
            with self._files.path(name).open("rb", buffering=0) as file:
                found = version_of(file.read(HEADER_BYTES), name.key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._files.check_root()
            raise ObjectMissing(name.key, "there is no such object") from None
        except ObjectCorrupt as error:
            raise VersionConflict(name.key, "it is damaged") from error
        if found != expected:
            raise VersionConflict(name.key, "it was replaced meanwhile")

    async def _version_if_same(self, name: ObjectKey, body: bytes) -> Version | None:
        """The version of the object that is there if its content is ``body``; None if it is gone again."""

        def compare(data_key: DataKey, _: Gate) -> Version | None:
            with self._opened(name, data_key) as reader:
                if reader.size() != len(body) or reader.read() != body:
                    return None
                # Its writer may not have come to this yet, and we are about to promise it.
                self._files.settle(self._files.path(name).parent, data_key.wrapped)
                return reader.version

        try:
            version = await self._with_key(name, compare, existing=True)
        except ObjectMissing:
            return None
        except ObjectCorrupt as error:
            raise ObjectExists(name.key, "a damaged object is there") from error
        if version is None:
            raise ObjectExists(name.key, "other content is there")
        return version

    @contextmanager
    def _opened(self, name: ObjectKey, key: DataKey) -> Iterator[FramedReader]:
        try:
            fd = self._files.open_object(name, key.wrapped)
        except FileNotFoundError:
            raise ObjectMissing(name.key, "there is no such object") from None
        try:
            yield FramedReader(fd, key.plaintext, name.key)
        finally:
            os.close(fd)
