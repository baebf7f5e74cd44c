"""All the settings: those of one machine, and those of Amazon Transcribe, S3 and KMS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import SecretStr, field_validator

from app.config.core import PREFIX, CoreSettings, setting
from app.config.values import key_bytes, path_of, s3_place, wss_endpoint

__all__ = ["PREFIX", "Settings"]

_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")


class Settings(CoreSettings):
    """What the operator chose. Built by ``app.config.load``; never reads the environment by itself.

    Credentials of AWS are not among these: they come from where every AWS tool looks for them.
    """

    aws_regions: tuple[str, ...] = setting(
        ("ap-northeast-1",),
        "comma list, in order of preference; the first is also the archive's",
        "regions such as ap-northeast-1, separated by commas",
    )
    transcribe_endpoint: str | None = setting(
        None, "instead of Amazon Transcribe's, for an emulator", "wss://host:port"
    )
    transcribe_streams: int = setting(
        25,
        "streams at once that each region allows, shared by all tasks",
        "a number from 1 to 100000",
        ge=1,
        le=100_000,
    )
    transcribe_starts: int = setting(
        25, "starts a second that each region allows", "a number from 1 to 10000", ge=1, le=10_000
    )
    transcribe_language_options: tuple[str, ...] = setting(
        (),
        "comma list of two or more languages that are told apart within a stream, such as `ja-JP,en-US`",
        "language tags, separated by commas",
    )
    transcribe_stability: Literal["low", "medium", "high"] | None = setting(
        None, "stabilise partial results: `low`, `medium` or `high`", "low, medium or high"
    )
    transcribe_vocabulary_filter: str | None = setting(
        None, "name of a vocabulary filter; what it finds is masked", "a filter's name"
    )
    transcribe_identify_pii: bool = setting(False, "have personal data labelled, in English", "true or false")
    s3_endpoint: str | None = setting(None, "instead of S3's, for an emulator", "http://host:port")
    kms_endpoint: str | None = setting(None, "instead of KMS's, for an emulator", "http://host:port")
    sts_endpoint: str | None = setting(None, "instead of STS's, for an emulator", "http://host:port")
    kms_key: str | None = setting(
        None,
        "KMS key of clinics that have none of their own in the register; else the bucket's default encryption",
        "a key's ARN, id or alias",
    )
    s3_role_arn: str | None = setting(
        None,
        "role that is assumed for each clinic, held by a session policy to that clinic's prefix and key",
        "arn:aws:iam::123456789012:role/name",
    )

    @field_validator("aws_regions", "transcribe_language_options", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("aws_regions")
    @classmethod
    def _regions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value) or not all(map(_REGION.fullmatch, value)):
            raise ValueError("has an entry that is no region, or one twice")
        return value

    @field_validator("transcribe_endpoint")
    @classmethod
    def _wss(cls, value: str | None) -> str | None:
        return None if value is None else wss_endpoint(value)

    @field_validator("s3_role_arn")
    @classmethod
    def _role(cls, value: str | None) -> str | None:
        if value is not None and not _ROLE.fullmatch(value):
            raise ValueError("is no ARN of a role")
        return value

    @field_validator("archive_url")
    @classmethod
    def _bucket(cls, value: str) -> str:
        if value.startswith("s3:"):
            s3_place(value)
        return value

    @property
    def archive_path(self) -> Path:
        """The folder of an archive on disk."""
        return path_of(self.archive_url)

    @property
    def on_s3(self) -> bool:
        """Whether the archive is a bucket."""
        return self.archive_url.startswith("s3:")

    @property
    def clinics_path(self) -> Path:
        """The file of the clinic registry."""
        return path_of(self.clinics_url)

    @property
    def master_key_bytes(self) -> bytes | None:
        """The 32 bytes of the master key, or None where it is to be a file in the data folder."""
        return None if self.master_key is None else key_bytes(self.master_key.get_secret_value())

    def with_port(self, port: int) -> Settings:
        """The same choices once the socket is bound to ``port``: what follows from the port is worked out again."""
        chosen = {name: getattr(self, name) for name in self.model_fields_set}
        return Settings.model_validate({**chosen, "port": port})

    def display(self, name: str) -> str:
        """The value of a field for people; what is secret in it is ``***``."""
        value = getattr(self, name)
        if isinstance(value, SecretStr):
            return "***"
        if isinstance(value, tuple):
            return ",".join(map(str, value)) or "none"
        if isinstance(value, float):
            return f"{value:g}"
        return "none" if value is None else re.sub(r"//.*@", "//***@", str(value))
