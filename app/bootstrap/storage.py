"""Where sessions are kept: keys, registry, issuer, archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from app.adapters.dev_issuer import DevIssuer
from app.adapters.disk_store import DiskStore
from app.adapters.file_registry import FileRegistry
from app.adapters.local_keys import LocalKeys, MasterKeyRefused
from app.adapters.s3_credentials import StsScope
from app.adapters.s3_place import S3Place, clinic_policy
from app.adapters.s3_store import S3Store
from app.archive.store import Store, StoreUnavailable
from app.config import Settings
from tenants.clinic import ClinicId


def keys_of(settings: Settings) -> LocalKeys:
    """The keeper of keys: from the setting, else from a file in the data folder, made where there is none.

    Raises:
        MasterKeyRefused: the file is not as it must be.
    """
    master = settings.master_key_bytes
    if master is not None:
        return LocalKeys(master)
    found = LocalKeys.has_file(settings.data_dir)
    if not found and not settings.on_s3 and holds_sessions(settings.archive_path):
        raise MasterKeyRefused(
            f"{settings.archive_path} holds sessions, and the master key that opens them is not in {settings.data_dir}: "
            "put the file back, or set KIKITORI_MASTER_KEY"
        )
    return LocalKeys.in_folder(settings.data_dir)


def holds_sessions(archive: Path) -> bool:
    """Whether there is anything in a folder that may be an archive."""
    return archive.is_dir() and any(not entry.name.startswith(".") for entry in archive.iterdir())


def clinic_registry(settings: Settings) -> FileRegistry:
    """The register of clinics."""
    return FileRegistry(settings.clinics_path)


def development_issuer(settings: Settings) -> DevIssuer:
    """The issuer of the data folder, made where there is none.

    Raises:
        ConfigError: its key cannot be made or read.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return DevIssuer.open(settings.data_dir)


@asynccontextmanager
async def archive(settings: Settings) -> AsyncIterator[Store]:
    """The archive that is there, for commands that read it; makes nothing.

    Raises:
        MasterKeyRefused, StoreUnavailable: see there; also where there is no archive or no key to it.
    """
    if settings.on_s3:
        async with bucket(settings, clinic_registry(settings)) as opened:
            yield opened
        return
    if not settings.archive_path.is_dir():
        raise StoreUnavailable(
            str(settings.archive_path), "there is no archive; KIKITORI_DATA_DIR says where it is"
        )
    if settings.master_key is None and not LocalKeys.has_file(settings.data_dir):
        raise MasterKeyRefused(f"{settings.data_dir} holds no master key; KIKITORI_DATA_DIR says where it is")
    async with DiskStore(settings.archive_path, keys_of(settings)) as store:
        yield store


@asynccontextmanager
async def bucket(settings: Settings, registry: FileRegistry) -> AsyncIterator[Store]:
    """The archive on S3, with credentials for one clinic at a time where the settings name a role."""
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
