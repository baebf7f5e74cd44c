"""The port to the register of clinics."""

from __future__ import annotations

from typing import Protocol

from tenants.clinic import Clinic, ClinicId


class RegistryUnavailable(Exception):
    """The register cannot be read now."""


class ClinicRegistry(Protocol):
    """Who is a clinic here."""

    async def find(self, clinic_id: ClinicId) -> Clinic | None:
        """The clinic, or None where it is not registered.

        Raises:
            RegistryUnavailable: see there.
        """

    async def add(self, clinic: Clinic) -> None:
        """Register a clinic; one that is there already stays as it is.

        Raises:
            RegistryUnavailable: see there.
        """
