"""All checks of the doctor, in order: folders, Redis, the archive, the engine, the clock."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from app.adapters.doctor_aws import Bucket, ObjectChecks, credentials_check, reach_check, setting_checks
from app.adapters.doctor_clinics import key_findings, scope_findings
from app.adapters.doctor_clock import clock_check
from app.adapters.doctor_disk import folder_check, free_space_check, master_key_check
from app.adapters.doctor_engine import engine_findings
from app.adapters.doctor_finding import CHECK_SECONDS, Finding, carried_out, fail, not_checked, ok
from app.adapters.doctor_redis import redis_findings
from app.adapters.doctor_refusals import of_store
from app.adapters.file_registry import FileRegistry
from app.adapters.s3_calls import S3Limits
from app.adapters.s3_client import aws_client
from app.adapters.s3_credentials import StsScope
from app.adapters.s3_place import S3Place, clinic_policy
from app.archive.store import StoreUnavailable
from app.config import Settings
from audio.engine import Engine
from tenants.clinic import Clinic
from tenants.registry import RegistryUnavailable

_LIMITS: Final = S3Limits(
    connections=4, connect_seconds=3.0, read_seconds=4.0, attempt_seconds=5.0, budget_seconds=2.0
)
"""Short, so that a check ends by its own words before its time is up."""

_LANGUAGE: Final = "ja-JP"


def _new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class Doctor:
    """What is looked at.

    Attributes:
        engines: to hear a second of silence, by the name of the check; closed at the end.
        holds_sessions: whether there is an archive that only the right master key opens; may block.
    """

    settings: Settings
    registry: FileRegistry
    engines: Mapping[str, Engine]
    holds_sessions: Callable[[], bool]

    async def findings(self) -> AsyncIterator[Finding]:
        """Check everything, once. Nothing is left behind but, where deleting fails or is cut off, a probe under ``_doctor/``."""
        settings = self.settings
        sections = [self._folders(), redis_findings(settings.redis_url, _new_id)]
        aws = settings.on_s3 or settings.engine == "aws"
        if aws:
            sections.append(carried_out([credentials_check()]))
        if settings.on_s3:
            sections.append(self._bucket())
        sections.append(self._engines())
        if aws:
            sections.append(carried_out([clock_check(_clock_url(settings), ssl.create_default_context())]))
        for section in sections:
            async for finding in section:
                yield finding

    async def _folders(self) -> AsyncIterator[Finding]:
        settings = self.settings
        shared = settings.on_s3 and settings.redis_url != "embedded"
        checks = [
            folder_check("data folder", settings.data_dir, "KIKITORI_DATA_DIR"),
            master_key_check(
                settings.data_dir,
                given=settings.master_key is not None,
                shared=shared,
                holds_sessions=self.holds_sessions,
            ),
        ]
        if not settings.on_s3:
            path = settings.archive_path
            checks.append(folder_check("archive", path, "KIKITORI_ARCHIVE_URL"))
            checks.append(free_space_check("archive space", path))
        async for finding in carried_out(checks):
            yield finding

    async def _bucket(self) -> AsyncIterator[Finding]:
        async with AsyncExitStack() as stack:
            bucket = await self._opened(stack)
            if isinstance(bucket, Finding):
                yield bucket
                return
            key = self.settings.kms_key
            checks = [reach_check(bucket), *ObjectChecks(bucket, key, _new_id()).checks()]
            reached = True
            async for finding in carried_out([*checks, *setting_checks(bucket, key)]):
                reached = reached and not finding.blocks
                yield finding
            async for finding in self._clinics(bucket, reached):
                yield finding

    async def _opened(self, stack: AsyncExitStack) -> Bucket | Finding:
        settings, region = self.settings, self.settings.aws_regions[0]
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                client = await stack.enter_async_context(
                    aws_client("s3", region=region, endpoint=settings.s3_endpoint, limits=_LIMITS)
                )
        except TimeoutError:
            return not_checked("s3 bucket", "aws credentials")
        except StoreUnavailable as error:
            return of_store("s3 bucket", "list_objects_v2", error)
        return Bucket(client, S3Place.parse(settings.archive_url), region)

    async def _clinics(self, bucket: Bucket, reached: bool) -> AsyncIterator[Finding]:
        try:
            clinics = await self.registry.all()
        except RegistryUnavailable as error:
            yield fail("clinics", str(error), "repair the file that KIKITORI_CLINICS_URL names")
            clinics = []
        else:
            yield ok("clinics", f"{len(clinics)} registered")
        if not reached:
            yield not_checked("kms and roles", "s3 bucket")
            return
        async for finding in key_findings(bucket, self.settings.kms_key, self._task_keyed(clinics), _new_id):
            yield finding
        if self.settings.s3_role_arn is not None:
            async for finding in self._scoped(bucket, clinics, self.settings.s3_role_arn):
                yield finding

    def _task_keyed(self, clinics: list[Clinic]) -> list[Clinic]:
        """Whose keys the task itself uses: nobody's where there is a role for that."""
        return clinics if self.settings.s3_role_arn is None else []

    async def _scoped(self, bucket: Bucket, clinics: list[Clinic], role: str) -> AsyncIterator[Finding]:
        keys: dict[str, str | None] = {
            clinic.clinic_id: clinic.kms_key or self.settings.kms_key for clinic in clinics
        }
        scope = StsScope(
            role,
            lambda clinic: clinic_policy(bucket.place, clinic, keys[clinic]),
            region=bucket.region,
            endpoint=self.settings.sts_endpoint,
            limits=_LIMITS,
        )
        try:
            await scope.start()
            async for finding in scope_findings(bucket, scope, clinics, keys, _new_id):
                yield finding
        except StoreUnavailable as error:
            yield of_store("roles", "assume_role", error)
        finally:
            await scope.close()

    async def _engines(self) -> AsyncIterator[Finding]:
        languages = self.settings.transcribe_language_options
        language = "en-US" if self.settings.engine == "pocketsphinx" else next(iter(languages), _LANGUAGE)
        try:
            async for finding in engine_findings(self.engines, language, _new_id):
                yield finding
        finally:
            for engine in self.engines.values():
                await engine.close()


def _clock_url(settings: Settings) -> str:
    """Something of AWS that answers anybody, if only by a refusal."""
    region = settings.aws_regions[0]
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if settings.on_s3:
        return settings.s3_endpoint or f"https://s3.{region}.{domain}/"
    if settings.transcribe_endpoint is not None:
        return settings.transcribe_endpoint.replace("wss:", "https:", 1)
    return f"https://transcribestreaming.{region}.{domain}/"
