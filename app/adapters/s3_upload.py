"""Streamed bodies: cut into parts, a few of them on their way at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

from app.adapters.object_keys import ObjectKey
from app.adapters.s3_calls import Answer, Refused, S3Limits, settled
from app.adapters.s3_objects import WRITE_ID, S3Objects, encryption_in, sha256_of, version_of
from app.adapters.s3_refusals import CONFLICT, NO_UPLOAD, PRECONDITION
from app.archive.store import ObjectExists, StoreUnavailable, Version

_PARTS_MAX: Final = 10_000
"""S3's rule: with parts of 8 MiB an object has at most 78 GiB."""

_ABORT_SECONDS: Final = 10.0


async def cut(body: AsyncIterator[bytes], size: int) -> AsyncGenerator[tuple[bytes, bool], None]:
    """``body`` in parts of exactly ``size`` bytes and a last one of at most that (of none, if the body is empty).

    With each part whether it is the last. Holds one part and one piece.
    """
    held = bytearray()
    async for piece in body:
        held += piece
        while len(held) > size:
            yield bytes(memoryview(held)[:size]), False
            del held[:size]
    yield bytes(held), True


class Uploader:
    """Creates objects out of streams."""

    def __init__(self, objects: S3Objects, limits: S3Limits, new_id: Callable[[], str]) -> None:
        self._objects, self._limits, self._new_id = objects, limits, new_id

    async def create(self, name: ObjectKey, body: AsyncIterator[bytes]) -> Version:
        """Write an object where none is. At most ``parts_at_once`` + 2 parts and a piece are held.

        When it fails or is cancelled, its upload is aborted. What a dead process leaves of uploads is seen by nobody
        and removed by the bucket's lifecycle rule (``AbortIncompleteMultipartUpload``), which the bucket must have.

        Raises:
            ObjectExists, StoreUnavailable: see there.
        """
        async with aclosing(cut(body, self._limits.part_bytes)) as parts:
            first, last = await anext(parts)
            if last:
                return await self._put(name, first)
            return await self._upload(name, first, parts)

    async def _put(self, name: ObjectKey, data: bytes) -> Version:
        write_id = self._new_id()
        try:
            return await self._objects.put(name, data, write_id, {"IfNoneMatch": "*"})
        except Refused:
            return await self._own_or_refused(name, write_id)

    async def _own_or_refused(self, name: ObjectKey, write_id: str) -> Version:
        found = await self._objects.head(name)
        if found is None:
            raise StoreUnavailable(name.key, "another write to the same object is under way", CONFLICT)
        if found.write_id != write_id:
            raise ObjectExists(name.key, "there is an object already")
        self._objects.check_encryption(name, found.encryption)
        return found.version

    async def _upload(
        self, name: ObjectKey, first: bytes, rest: AsyncIterator[tuple[bytes, bool]]
    ) -> Version:
        write_id = self._new_id()
        params = {"ChecksumAlgorithm": "SHA256", "Metadata": {WRITE_ID: write_id}}
        begun = await self._objects.on(
            name, "create_multipart_upload", {**params, **self._objects.encryption(name)}
        )
        upload = {"UploadId": begun["UploadId"]}
        try:
            sent = await self._send(name, upload, first, rest)
            return await self._complete(name, upload, sent, write_id)
        except BaseException:
            await settled(self._abort(name, upload), _ABORT_SECONDS)
            raise

    async def _send(
        self,
        name: ObjectKey,
        upload: dict[str, Any],
        first: bytes,
        rest: AsyncIterator[tuple[bytes, bool]],
    ) -> list[Answer]:
        slots = asyncio.Semaphore(self._limits.parts_at_once)
        sent: dict[int, Answer] = {}

        async def send(number: int, data: bytes) -> None:
            try:
                sent[number] = await self._send_part(name, {**upload, "PartNumber": number}, data)
            finally:
                slots.release()

        async def begin(number: int, data: bytes) -> None:
            if number > _PARTS_MAX:
                raise StoreUnavailable(name.key, "the object is too long for S3", "too_long")
            await slots.acquire()
            group.create_task(send(number, data))

        try:
            async with asyncio.TaskGroup() as group:
                await begin(1, first)
                number = 1
                async for data, _ in rest:
                    number += 1
                    await begin(number, data)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [sent[number] for number in sorted(sent)]

    async def _send_part(self, name: ObjectKey, part: dict[str, Any], data: bytes) -> Answer:
        sha256 = await sha256_of(data)
        params = {**part, "Body": data, "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": sha256}
        answer = await self._objects.on(name, "upload_part", params)
        self._objects.check_encryption(name, encryption_in(answer))
        if answer.get("ChecksumSHA256", sha256) != sha256:
            raise StoreUnavailable(name.key, "the content was damaged on its way", "checksum")
        return {"ETag": answer["ETag"], "PartNumber": part["PartNumber"], "ChecksumSHA256": sha256}

    async def _complete(
        self, name: ObjectKey, upload: dict[str, Any], sent: list[Answer], write_id: str
    ) -> Version:
        params = {**upload, "MultipartUpload": {"Parts": sent}, "IfNoneMatch": "*"}
        expect = (PRECONDITION, NO_UPLOAD, CONFLICT)
        try:
            answer = await self._objects.on(
                name, "complete_multipart_upload", params, expect=expect, settle=True
            )
        except Refused:
            # Another object came first, or the answer to an earlier attempt was lost.
            return await self._own_or_refused(name, write_id)
        return version_of(answer["ETag"].strip('"'), write_id)

    async def _abort(self, name: ObjectKey, upload: dict[str, Any]) -> None:
        with suppress(StoreUnavailable, Refused):
            await self._objects.on(name, "abort_multipart_upload", upload, expect=(NO_UPLOAD,))
