"""The doctor's checks of what each clinic has of its own: a KMS key, and credentials that reach its part of the archive only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from app.adapters.doctor_aws import PROBE_FOLDER, Bucket, CallRefused
from app.adapters.doctor_finding import Check, Finding, carried_out, fail, ok
from app.adapters.doctor_refusals import of_key, of_s3, of_store
from app.adapters.s3_calls import Signing
from app.adapters.s3_credentials import StsScope
from app.adapters.s3_objects import encryption_in
from app.adapters.s3_place import same_key
from app.archive.store import StoreUnavailable
from tenants.clinic import Clinic

_STRANGER: Final = "doctor-stranger"
"""Whose part of the archive a clinic's credentials are tried on: one that is nobody's, so that nothing of anyone's is touched."""


async def key_findings(
    bucket: Bucket, default: str | None, clinics: Sequence[Clinic], new_id: Callable[[], str]
) -> AsyncIterator[Finding]:
    """Each key that there is, with the task's own credentials."""
    owners: dict[str, list[str]] = {default: ["default"]} if default else {}
    for clinic in clinics:
        if clinic.kms_key:
            owners.setdefault(clinic.kms_key, []).append(clinic.clinic_id)
    checks = [_key_check(bucket, key, names, new_id) for key, names in owners.items()]
    async for finding in carried_out(checks):
        yield finding


def _key_check(bucket: Bucket, key: str, owners: Sequence[str], new_id: Callable[[], str]) -> Check:
    more = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
    name = f"kms key of {owners[0]}{more}"

    async def run() -> Finding:
        return await _round_trip(bucket, name, bucket.place.name(PROBE_FOLDER + new_id()), key, None)

    return Check(name, run)


async def scope_findings(
    bucket: Bucket,
    scope: StsScope,
    clinics: Sequence[Clinic],
    keys: Mapping[str, str | None],
    new_id: Callable[[], str],
) -> AsyncIterator[Finding]:
    """For each clinic: its credentials can be had, reach its own objects with its key, and nobody else's."""
    for clinic in clinics:
        mine = _Scoped(bucket, scope, clinic.clinic_id, keys[clinic.clinic_id], new_id)
        async for finding in carried_out(mine.checks()):
            yield finding


class _Scoped:
    def __init__(
        self, bucket: Bucket, scope: StsScope, clinic: str, key: str | None, new_id: Callable[[], str]
    ) -> None:
        self._bucket, self._scope, self._clinic, self._key = bucket, scope, clinic, key
        self._new_id = new_id
        self._credentials: Signing | None = None

    def checks(self) -> list[Check]:
        return [
            Check(f"role for {self._clinic}", self._assume),
            Check(f"objects of {self._clinic}", self._own),
            Check(f"walls of {self._clinic}", self._others),
        ]

    async def _assume(self) -> Finding:
        name = f"role for {self._clinic}"
        try:
            self._credentials = await self._scope.credentials_for(self._clinic)
        except StoreUnavailable as error:
            finding = of_store(name, "assume_role", error)
            return fail(name, finding.sentence, finding.advice, blocks=True)
        return ok(name, "the role was assumed")

    async def _own(self) -> Finding:
        key = self._bucket.place.name(f"{self._clinic}/{PROBE_FOLDER}{self._new_id()}")
        return await _round_trip(
            self._bucket, f"objects of {self._clinic}", key, self._key, self._credentials
        )

    async def _others(self) -> Finding:
        name = f"walls of {self._clinic}"
        key = self._bucket.place.name(f"{_STRANGER}/{PROBE_FOLDER}{self._new_id()}")
        tries = (
            ("list_objects_v2", {"Prefix": key}),
            ("get_object", {"Key": key}),
            ("put_object", {"Key": key, "Body": b""}),
        )
        for operation, params in tries:
            try:
                await self._bucket.ask(operation, self._credentials, **params)
            except CallRefused as refused:
                if refused.refusal.reason == "access_denied":
                    continue
                if refused.refusal.reason not in ("missing", "kms"):
                    return of_s3(name, operation, refused.refusal)
            if operation == "put_object":
                await _remove(self._bucket, key, None)
            return fail(
                name,
                f"its credentials reach another clinic's part of the archive ({operation} was not denied)",
                "see that the bucket's policy allows nothing to the role's sessions by itself, and that "
                "KIKITORI_STS_ENDPOINT, if set, heeds session policies",
            )
        return ok(name, "its credentials reach no other clinic's objects")


async def _round_trip(
    bucket: Bucket, name: str, key: str, kms_key: str | None, sign_with: Signing | None
) -> Finding:
    stored = False
    told = of_s3 if kms_key is None else of_key
    try:
        answer = await bucket.store(key, kms_key, sign_with)
        stored = True
        await bucket.ask("get_object", sign_with, Key=key)
    except CallRefused as refused:
        return told(name, refused.operation, refused.refusal)
    finally:
        kept = stored and not await _remove(bucket, key, sign_with)
    used = encryption_in(answer)
    if kms_key is not None and not (used.scheme == "aws:kms" and same_key(kms_key, used.key)):
        return fail(
            name, "S3 did not encrypt under it", "see that the endpoint is S3 and the key's id is right"
        )
    if kept:
        return fail(
            name, "a probe could not be deleted", "allow s3:DeleteObject; delete what is under _doctor/"
        )
    return ok(name, "put and got" if kms_key is None else "put and got, encrypted under its KMS key")


async def _remove(bucket: Bucket, key: str, sign_with: Signing | None) -> bool:
    try:
        await bucket.ask("delete_object", sign_with, Key=key)
    except CallRefused:
        return False
    return True
