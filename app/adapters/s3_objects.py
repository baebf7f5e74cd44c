"""Single requests on an archive's objects: signed for the object's clinic, encrypted under its key, checked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from app.adapters.object_keys import SYSTEM, ObjectKey
from app.adapters.s3_calls import Answer, Refused, S3Calls, Signing
from app.adapters.s3_credentials import CredentialScope
from app.adapters.s3_place import S3Place, same_key
from app.adapters.s3_refusals import MISSING
from app.archive.store import ObjectMissing, StoreUnavailable, Version

KmsKeyOf = Callable[[str], str | None]

WRITE_ID: Final = "write-id"
"""Under this name an object's metadata says which call wrote it: a call that lost its answer knows its own work again."""

_HASH_BESIDE_BYTES: Final = 1_048_576
"""Above this a hash is counted in a thread: it would hold up the event loop for milliseconds."""


class Encryption(NamedTuple):
    """How S3 says that an object is encrypted; empty where it does not say."""

    scheme: str
    key: str


@dataclass(frozen=True)
class Found:
    """What S3 tells of an object. ``etag`` is without quotes; ``sha256`` is of the whole content, if S3 has it."""

    etag: str
    write_id: str
    size: int
    sha256: str | None
    encryption: Encryption

    @property
    def version(self) -> Version:
        """Its ETag and who wrote it: without KMS an ETag comes back with its content."""
        return version_of(self.etag, self.write_id)


def version_of(etag: str, write_id: str) -> Version:
    """See ``Found.version``."""
    return Version(f"{etag}.{write_id}" if write_id else etag)


async def sha256_of(data: bytes) -> str:
    """As S3 writes it: base64."""
    digest = hashlib.sha256
    found = await asyncio.to_thread(digest, data) if len(data) > _HASH_BESIDE_BYTES else digest(data)
    return base64.b64encode(found.digest()).decode()


class S3Objects:
    """Requests that ``S3Store`` is made of."""

    def __init__(self, calls: S3Calls, place: S3Place, kms_key_of: KmsKeyOf, scope: CredentialScope) -> None:
        self.place = place
        self._calls, self._kms_key_of, self._scope = calls, kms_key_of, scope

    async def call(
        self,
        clinic: str,
        key: str,
        operation: str,
        params: dict[str, Any],
        *,
        expect: Container[str] = (),
        settle: bool = False,
    ) -> Answer:
        """``S3Calls.call`` in the archive's bucket, signed for ``clinic``; credentials that S3 rejects are renewed once."""
        asked = {"Bucket": self.place.bucket, **params}
        sign_with = await self._sign_with(clinic)
        try:
            return await self._calls.call(
                key, operation, asked, sign_with=sign_with, expect=expect, settle=settle
            )
        except StoreUnavailable as error:
            if error.reason != "credentials" or sign_with is None:
                raise
            self._scope.reject(clinic, sign_with)
        sign_with = await self._sign_with(clinic)
        return await self._calls.call(
            key, operation, asked, sign_with=sign_with, expect=expect, settle=settle
        )

    async def on(
        self,
        name: ObjectKey,
        operation: str,
        params: dict[str, Any],
        *,
        expect: Container[str] = (),
        settle: bool = False,
    ) -> Answer:
        """``call`` on one object."""
        asked = {"Key": self.place.name(name.key), **params}
        return await self.call(name.scope.clinic, name.key, operation, asked, expect=expect, settle=settle)

    def encryption(self, name: ObjectKey) -> dict[str, Any]:
        """How the object is to be encrypted; empty leaves it to the bucket.

        With a bucket key S3 asks KMS once in a while instead of at each object, in the context of the bucket's ARN. A
        context of ours could therefore bind nothing to the object; what binds it to its clinic is the clinic's key.
        """
        kms_key = self._kms_key_of(name.scope.clinic)
        if kms_key is None:
            return {}
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key, "BucketKeyEnabled": True}

    def check_encryption(self, name: ObjectKey, used: Encryption) -> None:
        """Compare what S3 did with what it was to do.

        Raises:
            StoreUnavailable: ``not_encrypted``.
        """
        kms_key = self._kms_key_of(name.scope.clinic)
        if kms_key is None:
            return
        if used.scheme != "aws:kms" or not same_key(kms_key, used.key):
            text = "the object is stored, but not encrypted under the clinic's key"
            raise StoreUnavailable(name.key, text, "not_encrypted")

    async def put(self, name: ObjectKey, data: bytes, write_id: str, condition: dict[str, str]) -> Version:
        """One conditional put.

        Raises:
            Refused: ``missing`` or ``precondition``.
            StoreUnavailable: see there.
        """
        sha256 = await sha256_of(data)
        params = {
            "Body": data,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": sha256,
            "Metadata": {WRITE_ID: write_id},
            **condition,
            **self.encryption(name),
        }
        answer = await self.on(name, "put_object", params, expect=("missing", "precondition"), settle=True)
        self.check_encryption(name, encryption_in(answer))
        if answer.get("ChecksumSHA256", sha256) != sha256:
            raise StoreUnavailable(name.key, "the content was damaged on its way", "checksum")
        return version_of(answer["ETag"].strip('"'), write_id)

    async def head(self, name: ObjectKey) -> Found | None:
        """What is there; None where nothing is.

        Raises:
            StoreUnavailable: see there.
        """
        try:
            answer = await self.on(name, "head_object", {"ChecksumMode": "ENABLED"}, expect=(MISSING,))
        except Refused:
            return None
        except StoreUnavailable as error:
            if error.reason == "access_denied" and await self.is_absent(name):
                return None
            raise
        return found_in(answer)

    async def is_absent(self, name: ObjectKey) -> bool:
        """Whether a denial means that there is no object.

        To credentials whose right to list is bound to a prefix S3 answers "denied" where there is nothing. A list
        of that prefix tells the two apart.

        Raises:
            StoreUnavailable: listing is denied too, or does not answer.
        """
        full = self.place.name(name.key)
        answer = await self.call(
            name.scope.clinic, name.key, "list_objects_v2", {"Prefix": full, "MaxKeys": 1}
        )
        return not any(row["Key"] == full for row in answer.get("Contents", ()))

    async def get(self, name: ObjectKey, params: dict[str, Any]) -> Answer:
        """One get.

        Raises:
            Refused: ``range``.
            ObjectMissing, StoreUnavailable: see there.
        """
        try:
            return await self.on(name, "get_object", params, expect=("missing", "range"))
        except Refused as refused:
            if refused.reason != MISSING:
                raise
        except StoreUnavailable as error:
            if error.reason != "access_denied" or not await self.is_absent(name):
                raise
        raise ObjectMissing(name.key, "there is no object")

    async def _sign_with(self, clinic: str) -> Signing | None:
        return None if clinic == SYSTEM else await self._scope.credentials_for(clinic)


def found_in(answer: Answer) -> Found:
    """What a get or head tells. A checksum of checksums (``…-2``, a multipart upload's) is none of the content."""
    etag, sha256 = answer["ETag"].strip('"'), answer.get("ChecksumSHA256")
    whole = sha256 is not None and "-" not in sha256 and "-" not in etag
    return Found(
        etag=etag,
        write_id=answer.get("Metadata", {}).get(WRITE_ID, ""),
        size=int(answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"]),
        sha256=sha256 if whole else None,
        encryption=encryption_in(answer),
    )


def encryption_in(answer: Answer) -> Encryption:
    """What an answer tells."""
    return Encryption(answer.get("ServerSideEncryption", ""), answer.get("SSEKMSKeyId", ""))
