"""A clinic and what it may use."""

from __future__ import annotations

import re
from typing import Final, NewType

import msgspec

ClinicId = NewType("ClinicId", str)

_CLINIC_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def parse_clinic_id(text: str) -> ClinicId | None:
    """``text`` as a clinic id, or None where it is none (``[a-z0-9][a-z0-9-]{0,62}``)."""
    return ClinicId(text) if _CLINIC_ID.fullmatch(text) else None


class Clinic(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One registered clinic.

    Attributes:
        languages: BCP 47 tags it may use; empty means every one the engine has.
        regions: regions in which its speech may be transcribed; empty means any that the server uses.
        kms_key: the KMS key (ARN, id or alias) that its archive on S3 is encrypted under; empty means the server's.
    """

    clinic_id: ClinicId
    name: str = ""
    languages: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    kms_key: str = ""
