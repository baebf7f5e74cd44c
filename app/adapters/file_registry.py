"""The register of clinics as a JSON file that several processes share."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tenants.clinic import Clinic, ClinicId, parse_clinic_id
from tenants.registry import RegistryUnavailable

_Stamp = tuple[int, int, int, int]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    clinics: list[Clinic]


class FileRegistry:
    """A ClinicRegistry on one file: replaced whole under a lock, read again whenever it has changed.

    No file is an empty register. Safe to use from many tasks and processes at once; a cancelled ``add`` may
    have happened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[_Stamp | None, dict[ClinicId, Clinic]] = (None, {})

    async def find(self, clinic_id: ClinicId) -> Clinic | None:
        """The clinic as the file has it now."""
        return (await asyncio.to_thread(self._current)).get(clinic_id)

    async def all(self) -> list[Clinic]:
        """Every clinic as the file has it now, by id.

        Raises:
            RegistryUnavailable: see there.
        """
        return sorted((await asyncio.to_thread(self._current)).values(), key=_id_of)

    def known(self, clinic_id: ClinicId) -> Clinic | None:
        """``find`` for callers that cannot wait: costs one stat. While the file cannot be read, as it was last."""
        try:
            return self._current().get(clinic_id)
        except RegistryUnavailable:
            return self._seen[1].get(clinic_id)

    async def add(self, clinic: Clinic) -> None:
        """Add a clinic; the file is durable when this returns."""
        await asyncio.to_thread(self._add, clinic)

    def _current(self) -> dict[ClinicId, Clinic]:
        try:
            stamp = _stamp(self._path.stat())
            if stamp != self._seen[0]:
                self._seen = self._read()
            return self._seen[1]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise RegistryUnavailable(f"{self._path.name}: {error.strerror}") from error

    def _read(self) -> tuple[_Stamp, dict[ClinicId, Clinic]]:
        with self._path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            data = file.read()
        try:
            clinics = msgspec.json.decode(data, type=_File).clinics
        except msgspec.DecodeError as error:
            raise RegistryUnavailable(
                f"{self._path.name} is no register of clinics ({error}); repair it, or remove it to begin anew"
            ) from error
        for clinic in clinics:
            if parse_clinic_id(clinic.clinic_id) is None:
                raise RegistryUnavailable(
                    f"{self._path.name} has a clinicId that is none: {clinic.clinic_id!r}"
                )
        return stamp, {clinic.clinic_id: clinic for clinic in clinics}

    def _add(self, clinic: Clinic) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                clinics = self._current()
                if clinic.clinic_id not in clinics:
                    self._replace({**clinics, clinic.clinic_id: clinic})
        except OSError as error:
            raise RegistryUnavailable(f"{self._path.name}: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock has a file of its own: the register's is replaced under it.
        descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, clinics: dict[ClinicId, Clinic]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(sorted(clinics.values(), key=_id_of))), indent=2)
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _id_of(clinic: Clinic) -> str:
    return clinic.clinic_id
