"""Whether a bucket's settings are as an archive wants them. Pure; each takes S3's answer, or None where nothing is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.adapters.doctor_finding import Finding, ok, warn

_Answer = Mapping[str, Any] | None

_BLOCKS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def versioning(answer: _Answer) -> Finding:
    """On, so that nothing is gone at once."""
    name = "s3 versioning"
    if (answer or {}).get("Status") == "Enabled":
        return ok(name, "versioning is on")
    return warn(
        name,
        "versioning is off: what is deleted or overwritten by mistake is gone",
        "turn the bucket's versioning on, with a lifecycle rule that ends noncurrent versions",
    )


def encryption(answer: _Answer, kms_key: str | None) -> Finding:
    """The bucket's default; it counts for clinics without a key where no ``kms_key`` is set."""
    name = "s3 encryption"
    rules = (answer or {}).get("ServerSideEncryptionConfiguration", {}).get("Rules", ())
    schemes = [
        str(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "")) for rule in rules
    ]
    scheme = next(filter(None, schemes), "")
    if not scheme:
        return warn(name, "the bucket has no default encryption", "turn it on, with SSE-KMS and a bucket key")
    if kms_key is None and not scheme.startswith("aws:kms"):
        return warn(
            name,
            f"the default encryption is {scheme}, and no KMS key is set for clinics without one of their own",
            "set KIKITORI_KMS_KEY, or let the bucket's default be SSE-KMS",
        )
    return ok(name, f"the default encryption is {scheme}")


def public_access(answer: _Answer) -> Finding:
    """All four blocks."""
    name = "s3 public access"
    found = (answer or {}).get("PublicAccessBlockConfiguration", {})
    open_ = [block for block in _BLOCKS if found.get(block) is not True]
    if not open_:
        return ok(name, "public access is blocked")
    return warn(
        name,
        f"public access is not blocked on the bucket ({', '.join(open_)} off)",
        "turn on Block all public access; an account-wide block, which is not looked at here, does as well",
    )


def lifecycle(answer: _Answer, prefix: str) -> Finding:
    """A rule in force for all below ``prefix`` that aborts uploads nobody completes."""
    name = "s3 lifecycle"
    for rule in (answer or {}).get("Rules", ()):
        days = rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation")
        if rule.get("Status") == "Enabled" and days and _covers(rule, prefix):
            return ok(
                name, f"incomplete multipart uploads are aborted after {days} day{'' if days == 1 else 's'}"
            )
    return warn(
        name,
        "no rule aborts incomplete multipart uploads: parts that dead tasks left are invisible and cost",
        "add a lifecycle rule with AbortIncompleteMultipartUpload after 1 day for the archive's prefix",
    )


def _covers(rule: Mapping[str, Any], prefix: str) -> bool:
    chosen = rule.get("Filter", {})
    if set(chosen) - {"Prefix"}:
        return False  # By tag or size, which parts have not.
    return prefix.startswith(str(chosen.get("Prefix", rule.get("Prefix", ""))))
