"""Where an archive lies in S3, and what one clinic's credentials may do there."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

_URL: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9!_.'()-]+/)*")
"""Characters that S3 calls safe, less ``*``: a prefix also stands in IAM policies, where ``*``, ``?`` and ``$`` mean something."""


@dataclass(frozen=True)
class S3Place:
    """A bucket, and what every name in it begins with: empty, or a path that ends with a slash."""

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> S3Place:
        """``s3://bucket[/prefix]``; a slash at the end makes no difference.

        Raises:
            ValueError: it is none; the text says what is wrong and does not repeat it.
        """
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError("not s3://bucket or s3://bucket/prefix")
        path = (found[2] or "").rstrip("/")
        prefix = f"{path}/" if path else ""
        if not _PREFIX.fullmatch(prefix) or any(part in (".", "..") for part in path.split("/")):
            raise ValueError("the prefix may have letters, digits and !_.'()- between single slashes")
        return cls(found[1], prefix)

    def name(self, key: str) -> str:
        """The object's name in the bucket."""
        return self.prefix + key

    def key(self, name: str) -> str:
        """The key of an object whose name in the bucket begins with the prefix."""
        return name[len(self.prefix) :]


def clinic_policy(place: S3Place, clinic: str, kms_key: str | None, *, partition: str = "aws") -> str:
    """The session policy that holds credentials to one clinic: its part of the archive, and its key.

    Without a ``kms_key`` no key may be used at all: then the bucket's default encryption must be S3's own (SSE-S3), or
    the caller names the bucket's default key here. ``kms_key`` is an ARN, a key's id or an alias.

    Source: IAM's "Policies and permissions", session policies; at most 2 048 characters, this has about 700.
    """
    bucket = f"arn:{partition}:s3:::{place.bucket}"
    below = f"{place.prefix}{clinic}/*"
    statements: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": [
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
            "Resource": f"{bucket}/{below}",
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {"StringLike": {"s3:prefix": below}},
        },
    ]
    if kms_key is not None:
        actions = ["kms:GenerateDataKey", "kms:Decrypt"]
        statements.append({"Effect": "Allow", "Action": actions, **_key_resource(kms_key, partition)})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def same_key(asked: str, answered: str) -> bool:
    """Whether S3 used the key that was asked for: it answers with an ARN, whatever the key was called.

    What an alias stands for only KMS knows: for an alias any key will do.
    """
    if _alias(asked) is not None:
        return bool(answered)
    return re.split("[:/]", asked)[-1] == re.split("[:/]", answered)[-1]


def _key_resource(kms_key: str, partition: str) -> dict[str, Any]:
    alias = _alias(kms_key)
    if alias is not None:  # Policies cannot name an alias as a resource.
        condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
        return {"Resource": "*", "Condition": condition}
    return {"Resource": kms_key if kms_key.startswith("arn:") else f"arn:{partition}:kms:*:*:key/{kms_key}"}


def _alias(kms_key: str) -> str | None:
    found = re.fullmatch(r"(?:arn:.*:)?(alias/.+)", kms_key)
    return found[1] if found else None
