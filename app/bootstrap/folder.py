"""What the data folder holds beside sessions: keys, the register of clinics, the development issuer. Quick to import."""

from __future__ import annotations

from pathlib import Path

from app.adapters.dev_issuer import DevIssuer
from app.adapters.file_registry import FileRegistry
from app.adapters.local_keys import LocalKeys, MasterKeyRefused
from app.config import Settings


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
