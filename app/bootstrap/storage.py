"""Where sessions are kept: a folder, or a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from app.adapters.disk_store import DiskStore
from app.adapters.file_registry import FileRegistry
from app.adapters.local_keys import LocalKeys, MasterKeyRefused
from app.archive.store import Store, StoreUnavailable
from app.bootstrap.folder import clinic_registry, keys_of
from app.config import Settings


def in_bucket(settings: Settings, registry: FileRegistry) -> AbstractAsyncContextManager[Store]:
    """The archive in S3; entering it raises StoreUnavailable where it cannot be had."""
    # Imported here: the AWS SDK takes 0.2 s, which a folder need not spend.
    from app.bootstrap.bucket import bucket

    return bucket(settings, registry)


@asynccontextmanager
async def archive(settings: Settings) -> AsyncIterator[Store]:
    """The archive that is there, for commands that read it; makes nothing.

    Raises:
        MasterKeyRefused, StoreUnavailable: see there; also where there is no archive or no key to it.
    """
    if settings.on_s3:
        async with in_bucket(settings, clinic_registry(settings)) as opened:
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
