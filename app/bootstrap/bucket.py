"""The archive in S3. Slow to import, for the AWS SDK is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.adapters.file_registry import FileRegistry
from app.adapters.s3_credentials import StsScope
from app.adapters.s3_place import S3Place, clinic_policy
from app.adapters.s3_store import S3Store
from app.archive.store import Store
from app.config import Settings
from tenants.clinic import ClinicId


@asynccontextmanager
async def bucket(settings: Settings, registry: FileRegistry) -> AsyncIterator[Store]:
    """The archive, with credentials for one clinic at a time where the settings name a role.

    Raises:
        StoreUnavailable: the credentials to ask for others with are not to be had.
    """
    place, region = S3Place.parse(settings.archive_url), settings.aws_regions[0]

    def kms_key_of(clinic: str) -> str | None:
        known = registry.known(ClinicId(clinic))
        return known.kms_key if known is not None and known.kms_key else settings.kms_key

    async with AsyncExitStack() as stack:
        scope = None
        if settings.s3_role_arn is not None:
            scope = StsScope(
                settings.s3_role_arn,
                lambda clinic: clinic_policy(place, clinic, kms_key_of(clinic)),
                region=region,
                endpoint=settings.sts_endpoint,
            )
            await scope.start()
            stack.push_async_callback(scope.close)
        store = S3Store(
            place, region=region, kms_key_of=kms_key_of, endpoint=settings.s3_endpoint, scope=scope
        )
        yield await stack.enter_async_context(store)
