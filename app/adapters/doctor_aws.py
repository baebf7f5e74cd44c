"""The doctor's checks of AWS: where credentials come from, and what may be done with objects of the bucket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from app.adapters import doctor_bucket
from app.adapters.doctor_finding import Check, Finding, fail, not_checked, ok
from app.adapters.doctor_refusals import of_bucket, of_s3, of_settings_unseen
from app.adapters.s3_calls import SIGN_WITH, Answer, Signing
from app.adapters.s3_place import S3Place
from app.adapters.s3_refusals import CALL_FAILURES, MISSING, PRECONDITION, Refusal, refusal_of

PROBE_FOLDER: Final = "_doctor/"
_BODY: Final = b"put here by the doctor; may be deleted"

_SOURCES: Final = {
    "env": "the environment",
    "shared-credentials-file": "the credentials file",
    "config-file": "the configuration file",
    "custom-process": "the profile's process",
    "assume-role": "a role that the profile assumes",
    "assume-role-with-web-identity": "a web identity token",
    "sso": "the profile's single sign-on",
    "container-role": "the task's role",
    "iam-role": "the instance's role",
}


class CallRefused(Exception):
    """A call was refused."""

    def __init__(self, operation: str, refusal: Refusal) -> None:
        super().__init__(f"{operation}: {refusal.words}")
        self.operation, self.refusal = operation, refusal


class Bucket:
    """Single calls on the archive's bucket, none of them repeated."""

    def __init__(self, client: Any, place: S3Place, region: str) -> None:
        self._client, self.place, self.region = client, place, region

    async def ask(self, operation: str, sign_with: Signing | None = None, **params: Any) -> Answer:
        """The answer; ``Body`` is read already, to bytes.

        Raises:
            CallRefused: see there.
        """
        signer = SIGN_WITH.set(sign_with)
        try:
            answer: Answer = await getattr(self._client, operation)(Bucket=self.place.bucket, **params)
            if "Body" in answer:
                answer["Body"] = await answer["Body"].raw_stream.read()
            return answer
        except CALL_FAILURES as error:
            raise CallRefused(operation, refusal_of(operation, error)) from None
        finally:
            SIGN_WITH.reset(signer)

    async def store(self, name: str, kms_key: str | None, sign_with: Signing | None = None) -> Answer:
        """Put a probe object under ``name``, encrypted as the archive does it, where none is.

        Raises:
            CallRefused: see there.
        """
        params: dict[str, Any] = {"Key": name, "Body": _BODY, "IfNoneMatch": "*"}
        if kms_key is not None:
            params |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key, "BucketKeyEnabled": True}
        return await self.ask("put_object", sign_with, **params)


def credentials_check() -> Check:
    """Whether there are AWS credentials, and where they come from; they are not shown."""
    return Check("aws credentials", _credentials)


async def _credentials() -> Finding:
    name = "aws credentials"
    advice = "give the task a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    try:
        found = await get_session().get_credentials()
        if found is None:
            return fail(name, "none were found", advice, blocks=True)
        await found.get_frozen_credentials()
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        # The text of the error may quote what a credential process printed.
        return fail(name, f"they cannot be had ({type(error).__name__})", advice, blocks=True)
    return ok(name, f"found in {_SOURCES.get(found.method, 'a place of its own')}")


def reach_check(bucket: Bucket) -> Check:
    """Whether the bucket is there, in the right region, and answers."""
    name = "s3 bucket"

    async def run() -> Finding:
        try:
            # Not a head of the bucket: its refusals have no body, and so no reason.
            await bucket.ask("list_objects_v2", Prefix=bucket.place.name(PROBE_FOLDER), MaxKeys=1)
            actual = await _region_of(bucket)
        except CallRefused as refused:
            return of_bucket(name, refused.operation, refused.refusal)
        if actual != bucket.region:
            return fail(
                name,
                f"the bucket is in {actual}, and {bucket.region} is the first of the regions",
                f"let KIKITORI_AWS_REGIONS begin with {actual}",
            )
        return ok(name, f"{bucket.place.bucket} answers in {bucket.region}")

    return Check(name, run)


async def _region_of(bucket: Bucket) -> str:
    """Where it is; the client follows S3's hint to another region, so that a wrong one would only show as slowness."""
    answer = await bucket.ask("head_bucket")
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or bucket.region)


class ObjectChecks:
    """What the archive does with objects, done with a probe object; ``probe_id`` is nobody else's."""

    def __init__(self, bucket: Bucket, kms_key: str | None, probe_id: str) -> None:
        self._bucket, self._kms_key = bucket, kms_key
        self._key = bucket.place.name(PROBE_FOLDER + probe_id)
        self._stored = False

    def checks(self) -> list[Check]:
        """In order; the last one removes the probe."""
        return [
            self._check("s3 put", self._put, needs_probe=False),
            self._check("s3 conditional put", self._put_again),
            self._check("s3 get", self._get),
            self._check("s3 list", self._list),
            self._check("s3 delete", self._delete),
        ]

    def _check(
        self, name: str, work: Callable[[str], Awaitable[Finding]], *, needs_probe: bool = True
    ) -> Check:
        async def run() -> Finding:
            if needs_probe and not self._stored:
                return not_checked(name, "s3 put")
            try:
                return await work(name)
            except CallRefused as refused:
                return of_s3(name, refused.operation, refused.refusal)

        return Check(name, run)

    async def _put(self, name: str) -> Finding:
        await self._bucket.store(self._key, self._kms_key)
        self._stored = True
        return ok(name, f"a probe was put under {PROBE_FOLDER}")

    async def _put_again(self, name: str) -> Finding:
        try:
            await self._bucket.store(self._key, self._kms_key)
        except CallRefused as refused:
            if refused.refusal.reason != PRECONDITION:
                raise
            return ok(name, "a second put with If-None-Match is refused, as it must be")
        return fail(
            name,
            "a second put with If-None-Match was taken: who owns a session could not be settled",
            "use Amazon S3, or a store that honours If-None-Match; see that nothing in between removes the header",
        )

    async def _get(self, name: str) -> Finding:
        answer = await self._bucket.ask("get_object", Key=self._key)
        if answer["Body"] != _BODY:
            return fail(name, "what came back is not what was put", "see what stands between here and S3")
        return ok(name, "the probe came back as it was put")

    async def _list(self, name: str) -> Finding:
        answer = await self._bucket.ask("list_objects_v2", Prefix=self._key)
        if not any(row["Key"] == self._key for row in answer.get("Contents", ())):
            return fail(
                name, "the probe is not in the list", "use a store whose lists are up to date, as S3's are"
            )
        return ok(name, "the probe is in the list")

    async def _delete(self, name: str) -> Finding:
        await self._bucket.ask("delete_object", Key=self._key)
        try:
            await self._bucket.ask("get_object", Key=self._key)
        except CallRefused as refused:
            # Who may not list is told "denied" of what is not there.
            if refused.refusal.reason in (MISSING, "access_denied"):
                return ok(name, "the probe was deleted")
            raise
        return fail(name, "the probe is still there", f"delete {self._key} by hand; see to the store")


def setting_checks(bucket: Bucket, kms_key: str | None) -> list[Check]:
    """The bucket's settings; the server needs none of these permissions."""
    prefix = bucket.place.prefix

    def judged_encryption(answer: Answer | None) -> Finding:
        return doctor_bucket.encryption(answer, kms_key)

    def judged_lifecycle(answer: Answer | None) -> Finding:
        return doctor_bucket.lifecycle(answer, prefix)

    return [
        _setting(bucket, "s3 versioning", "get_bucket_versioning", doctor_bucket.versioning),
        _setting(bucket, "s3 encryption", "get_bucket_encryption", judged_encryption),
        _setting(bucket, "s3 public access", "get_public_access_block", doctor_bucket.public_access),
        _setting(bucket, "s3 lifecycle", "get_bucket_lifecycle_configuration", judged_lifecycle),
    ]


def _setting(bucket: Bucket, name: str, operation: str, judge: Callable[[Answer | None], Finding]) -> Check:
    async def run() -> Finding:
        try:
            return judge(await bucket.ask(operation))
        except CallRefused as refused:
            if refused.refusal.reason == MISSING:
                return judge(None)
            return of_settings_unseen(name, operation, refused.refusal)

    return Check(name, run)
