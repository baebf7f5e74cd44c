"""The archive in S3: conditional puts, SSE-KMS under the clinic's key, credentials that reach one clinic only."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from app.adapters import s3_list
from app.adapters.object_keys import ObjectKey, parse_key
from app.adapters.s3_calls import Refused, S3Calls, S3Limits, Surroundings
from app.adapters.s3_client import aws_client
from app.adapters.s3_credentials import CredentialScope, TaskScope
from app.adapters.s3_objects import Found, KmsKeyOf, S3Objects, found_in, sha256_of
from app.adapters.s3_place import S3Place
from app.adapters.s3_refusals import MISSING
from app.adapters.s3_upload import Uploader
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

_ATTEMPTS: Final = 8

_ASK_FIRST_BYTES: Final = 262_144
"""A server may refuse a conditional put before it has read it all, and cut the connection: its answer is then lost each time."""


def _new_write_id() -> str:
    return uuid.uuid4().hex


class S3Store:
    """``Store`` in a bucket, under a prefix. Any number of tasks may share it.

    ``StoreUnavailable.reason`` is ``throttled``, ``unavailable``, ``timeout``, ``conflict`` (others keep writing the same
    object), ``access_denied`` (the text names the missing permission), ``kms``, ``not_encrypted``, ``no_bucket``,
    ``wrong_region``, ``credentials``, ``clock``, ``checksum``, ``no_space``, ``too_long``, ``busy``, ``refused`` or ``closed``.
    Keys that ``object_keys.parse_key`` refuses are ValueErrors.

    Each call tries again within a budget (``S3Limits``). A write whose answer was lost is known again by the id that each
    write leaves in the object's metadata. A version is the ETag with that id.

    Needs of the bucket: a lifecycle rule that aborts incomplete multipart uploads after a day (parts of dead tasks are
    invisible, but cost). Versioning is no concern of this class: in a versioned bucket ``delete`` leaves a delete
    marker, and the bucket's other versions are there for who may list versions.

    Cancelling: a write that is cancelled waits for the answer under way, at most ``settle_seconds``; the object is then
    there whole, or is not there and will not come. After that time, as after a time limit, S3 may still carry it out.

    Args:
        kms_key_of: a clinic's key (ARN, id or alias), asked at each write; ``_system`` is asked for the system's own
            objects. None leaves encryption to the bucket's default.
        endpoint: instead of AWS's, addressed by path.
        scope: whose credentials touch a clinic's objects; the task's own by default. Started and closed by its owner.
        new_id: an id for each write; no two alike.
    """

    def __init__(
        self,
        place: S3Place,
        *,
        region: str,
        kms_key_of: KmsKeyOf,
        endpoint: str | None = None,
        scope: CredentialScope | None = None,
        limits: S3Limits | None = None,
        around: Surroundings | None = None,
        new_id: Callable[[], str] = _new_write_id,
    ) -> None:
        """Nothing happens before ``start``."""
        self._place, self._region, self._endpoint = place, region, endpoint
        self._kms_key_of, self._scope = kms_key_of, scope or TaskScope()
        self._limits, self._around, self._new_id = limits or S3Limits(), around or Surroundings(), new_id
        self._stack = AsyncExitStack()
        self._open: S3Objects | None = None

    async def start(self) -> None:
        """Make the client. The bucket is not asked, so that its absence does not keep a server from starting.

        Raises:
            StoreUnavailable: the task's credentials cannot be had.
        """
        client = await self._stack.enter_async_context(
            aws_client("s3", region=self._region, endpoint=self._endpoint, limits=self._limits)
        )
        calls = S3Calls(client, self._limits, self._around)
        self._open = S3Objects(calls, self._place, self._kms_key_of, self._scope)

    async def close(self) -> None:
        """Give the connections back. Calls after it fail with ``StoreUnavailable``. May be called again."""
        self._open = None
        await self._stack.aclose()

    async def __aenter__(self) -> S3Store:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def create(self, key: str, body: Body) -> Version:
        """See ``Store``. Identical content that is there already costs asking for its checksum, else reading it."""
        name, objects = parse_key(key), self._objects(key)
        if not isinstance(body, bytes):
            if await objects.head(name) is not None:
                raise ObjectExists(key, "there is an object already")
            return await Uploader(objects, self._limits, self._new_id).create(name, body)
        return await self._create_whole(objects, name, body)

    async def _create_whole(self, objects: S3Objects, name: ObjectKey, body: bytes) -> Version:
        write_id = self._new_id()
        found = await objects.head(name) if len(body) > _ASK_FIRST_BYTES else None
        for _ in range(_ATTEMPTS):
            if found is None:
                try:
                    return await objects.put(name, body, write_id, {"IfNoneMatch": "*"})
                except Refused:
                    found = await objects.head(name)
                    continue
            if found.write_id != write_id and not await _same(objects, name, found, body):
                raise ObjectExists(name.key, "other content is there")
            objects.check_encryption(name, found.encryption)
            return found.version
        raise StoreUnavailable(name.key, "it keeps appearing and going away", "busy")

    async def replace(self, key: str, data: bytes, expected: Version) -> Version:
        """See ``Store``. Asks for the version before the put: where ETags come with the content, they come back with it."""
        name, objects = parse_key(key), self._objects(key)
        found = await objects.head(name)
        if found is None:
            raise ObjectMissing(key, "there is no object")
        if found.version != expected:
            raise VersionConflict(key, "it has another version")
        write_id = self._new_id()
        try:
            return await objects.put(name, data, write_id, {"IfMatch": f'"{found.etag}"'})
        except Refused as refused:
            if refused.reason == MISSING:
                raise ObjectMissing(key, "there is no object") from None
        now = await objects.head(name)
        if now is None or now.write_id != write_id:
            raise VersionConflict(key, "it has another version")
        objects.check_encryption(name, now.encryption)
        return now.version

    async def read(self, key: str, start: int = 0, end: int | None = None) -> StoredObject:
        """See ``Store``. A whole object is checked against its checksum; a part of one only S3 and TLS vouch for."""
        name, objects = parse_key(key), self._objects(key)
        if end is not None and end <= start:
            found = await _existing(objects, name)
            return StoredObject(b"", found.version, found.size)
        for _ in range(_ATTEMPTS):
            try:
                return await _get(objects, name, start, end)
            except Refused:
                found = await _existing(objects, name)
            if found.size <= start:
                return StoredObject(b"", found.version, found.size)
        raise StoreUnavailable(key, "it keeps changing", "busy")

    async def list(self, prefix: str, *, delimiter: str = "", after: str = "") -> AsyncIterator[ListedObject]:
        """See ``Store`` and ``s3_list.rows``."""
        async for row in s3_list.rows(self._objects(prefix), prefix, delimiter, after):
            yield row

    async def delete(self, key: str) -> None:
        """See ``Store``."""
        name, objects = parse_key(key), self._objects(key)
        try:
            await objects.on(name, "delete_object", {}, expect=(MISSING,), settle=True)
        except Refused:
            return

    def _objects(self, key: str) -> S3Objects:
        if self._open is None:
            raise StoreUnavailable(key, "the store is closed", "closed")
        return self._open


async def _existing(objects: S3Objects, name: ObjectKey) -> Found:
    found = await objects.head(name)
    if found is None:
        raise ObjectMissing(name.key, "there is no object")
    return found


async def _get(objects: S3Objects, name: ObjectKey, start: int, end: int | None) -> StoredObject:
    whole = start == 0 and end is None
    params: dict[str, Any] = {"ChecksumMode": "ENABLED"} if whole else {}
    if not whole:
        params = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
    answer = await objects.get(name, params)
    found, data = found_in(answer), answer["Body"]
    if whole and found.sha256 is not None and await sha256_of(data) != found.sha256:
        raise ObjectCorrupt(name.key, "its content is not what its checksum says")
    return StoredObject(data, found.version, found.size)


async def _same(objects: S3Objects, name: ObjectKey, found: Found, body: bytes) -> bool:
    if found.size != len(body):
        return False
    if found.sha256 is not None:
        return found.sha256 == await sha256_of(body)
    try:
        return bytes((await _get(objects, name, 0, None)).data) == body
    except ObjectMissing:
        return False
