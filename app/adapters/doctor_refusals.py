"""From what services refuse with to a plain sentence and what to do about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.adapters.doctor_finding import Finding, fail, warn
from app.adapters.s3_refusals import MISSING, Refusal
from app.archive.store import StoreUnavailable
from audio.engine import EngineError, Throttled

_OPERATIONS: Final = {
    "head_bucket": "s3:ListBucket",
    "get_bucket_versioning": "s3:GetBucketVersioning",
    "get_bucket_encryption": "s3:GetEncryptionConfiguration",
    "get_public_access_block": "s3:GetBucketPublicAccessBlock",
    "get_bucket_lifecycle_configuration": "s3:GetLifecycleConfiguration",
}
"""Operations of the doctor alone, and the permission each needs."""

_PERMISSION: Final = re.compile(r"the permission (\S+) is missing")

_CREDENTIALS: Final = (
    "give the task a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN with temporary ones) "
    "as they were issued"
)
_CLOCK: Final = "set this machine's clock by NTP: signatures are refused from 5 minutes of difference"
_NETWORK: Final = (
    "see whether the endpoint can be reached from here: routes, security groups, VPC endpoints, name service; "
    "KIKITORI_S3_ENDPOINT and KIKITORI_STS_ENDPOINT are for emulators only"
)
_LATER: Final = "run this again in a minute"

_S3_ADVICE: Final[Mapping[str, str]] = {
    "no_bucket": "create the bucket, or correct its name in KIKITORI_ARCHIVE_URL",
    "wrong_region": "let KIKITORI_AWS_REGIONS begin with the bucket's region",
    "clock": _CLOCK,
    "credentials": _CREDENTIALS,
    "kms": "enable the key, or correct KIKITORI_KMS_KEY or the clinic's kmsKey; it must be in the bucket's region",
    "timeout": _NETWORK,
    "unavailable": _NETWORK,
    "throttled": _LATER,
    "conflict": _LATER,
    "no_space": "make room in the store",
    "closed": _LATER,
}

_BLOCKING: Final = frozenset({"no_bucket", "wrong_region", "clock", "credentials", "timeout", "unavailable"})

_RESOURCES: Final[Mapping[str, str]] = {
    "s3:ListBucket": "the bucket",
    "s3:PutObject": "the objects of the bucket (bucket/prefix*)",
    "s3:GetObject": "the objects of the bucket (bucket/prefix*)",
    "s3:DeleteObject": "the objects of the bucket (bucket/prefix*)",
    "sts:AssumeRole": "the role in KIKITORI_S3_ROLE_ARN, whose trust policy must name the task's role",
}


def missing_permission(operation: str, refusal: Refusal) -> str:
    """The IAM action that was missing; empty where that was not the reason."""
    if refusal.reason != "access_denied":
        return ""
    if operation in _OPERATIONS:
        return _OPERATIONS[operation]
    found = _PERMISSION.search(refusal.words)
    return found[1] if found else operation


def of_s3(name: str, operation: str, refusal: Refusal) -> Finding:
    """What S3 refused ``operation`` with."""
    permission = missing_permission(operation, refusal)
    if permission:
        return fail(
            name,
            f"access denied: the permission {permission} is missing",
            _allow(permission),
        )
    advice = _S3_ADVICE.get(refusal.reason, "look up the code of the answer in S3's list of error responses")
    return fail(name, refusal.words, advice)


def of_bucket(name: str, operation: str, refusal: Refusal) -> Finding:
    """The same of the bucket itself, where "missing" means the bucket. It blocks where nothing else could succeed either."""
    if refusal.reason == MISSING:
        refusal = Refusal("no_bucket", "the bucket does not exist", False)
    return replace(of_s3(name, operation, refusal), blocks=refusal.reason in _BLOCKING)


def of_key(name: str, operation: str, refusal: Refusal) -> Finding:
    """What a put or get under a KMS key was refused with.

    S3 names the key's action in its answer. Where a server does not, the action that belongs to the operation is told.
    """
    permission = missing_permission(operation, refusal)
    if not permission or not permission.startswith("s3:"):
        return of_s3(name, operation, refusal)
    action = "kms:GenerateDataKey" if operation == "put_object" else "kms:Decrypt"
    return fail(name, f"access denied: {action} on the key is missing, or {permission}", _allow(action))


def of_settings_unseen(name: str, operation: str, refusal: Refusal) -> Finding:
    """One of the bucket's settings cannot be read. The server works without: it is the doctor who wants to see it."""
    permission = missing_permission(operation, refusal)
    if not permission:
        return warn(name, f"cannot be seen: {refusal.words}", "look it up in the console")
    advice = f"allow {permission} on the bucket to whoever runs the doctor (the server does not need it)"
    return warn(name, f"cannot be seen: the permission {permission} is missing", advice)


def of_store(name: str, operation: str, error: StoreUnavailable) -> Finding:
    """What the archive's own code gave up with."""
    words = re.sub(r" \(attempts: \d+\)$", "", str(error).partition(": ")[2])
    return of_s3(name, operation, Refusal(error.reason, words, False))


def _allow(permission: str) -> str:
    on = _RESOURCES.get(permission) or ("the key" if permission.startswith("kms:") else "the bucket")
    also = "; the key's own policy must let the account's IAM policies decide" if on == "the key" else ""
    return f"allow {permission} on {on} in the policy of the task's role{also}"


_ENGINE_ADVICE: Final[Mapping[str, str]] = {
    "access_denied": "allow transcribe:StartStreamTranscriptionWebSocket on * in the policy of the task's role",
    "forbidden": "allow transcribe:StartStreamTranscriptionWebSocket on * in the policy of the task's role; see that no "
    "service control policy denies it, and that the credentials are right",
    "signature": "correct AWS_SECRET_ACCESS_KEY, and set this machine's clock by NTP",
    "clock_skew": _CLOCK,
    "credentials_unknown": f"{_CREDENTIALS}; see that the region is enabled in the account",
    "credentials_missing": _CREDENTIALS,
    "credentials_partial": _CREDENTIALS,
    "credentials_expired": _CREDENTIALS,
    "credentials_unavailable": "see that the metadata or container endpoint, or the profile's process, gives credentials here",
    "credentials_timeout": "see that the metadata or container endpoint, or the profile's process, gives credentials here",
    "endpoint": "correct KIKITORI_TRANSCRIBE_ENDPOINT; without an emulator unset it",
    "unknown_host": "correct KIKITORI_AWS_REGIONS: not every region has Transcribe Streaming; else see to the name service",
    "untrusted": "let SSL_CERT_FILE name the authority of the endpoint's certificate",
    "bad_request": "correct the KIKITORI_TRANSCRIBE_ settings: a vocabulary filter must exist in each region",
    "unreachable": "see that port 8443 is open outwards, or that KIKITORI_TRANSCRIBE_ENDPOINT is up",
    "open_timeout": "see that port 8443 is open outwards, or that KIKITORI_TRANSCRIBE_ENDPOINT is up",
}


def of_engine(name: str, error: EngineError) -> Finding:
    """What a speech engine refused with."""
    if isinstance(error, Throttled):
        return warn(name, f"{error}: it was not tried", "run this again when fewer sessions go on")
    return fail(
        name, str(error), _ENGINE_ADVICE.get(error.code, "run this again; see the service's health page")
    )


_Redis = tuple[tuple[type[Exception], ...], str, str, bool]

_REDIS: Final[tuple[_Redis, ...]] = (
    (
        (AuthenticationError,),
        "it does not accept the user or the password",
        "correct them in KIKITORI_REDIS_URL (rediss://user:password@host:port)",
        True,
    ),
    ((NoPermissionError,), "its access rules forbid {0}", "allow the user {0} (ACL SETUSER)", False),
    ((BusyLoadingError,), "it is loading its data", _LATER, True),
    ((OutOfMemoryError,), "it is full", "give it more memory", False),
    (
        (ReadOnlyError,),
        "it is a replica, which takes no writes",
        "name the primary in KIKITORI_REDIS_URL",
        False,
    ),
    (
        (RedisConnectionError, RedisTimeoutError, OSError),
        "it cannot be reached",
        "see that it runs, that KIKITORI_REDIS_URL names it (rediss:// where it wants TLS) and that this machine may connect",
        True,
    ),
    ((Exception,), "it refuses {0}", "see that it is Redis 6.2 or newer", False),
)
"""Kinds of failure, the first that fits counts: sentence, advice, whether it blocks; ``{0}`` is the command."""


def of_redis(name: str, command: str, error: RedisError | OSError) -> Finding:
    """What Redis refused ``command`` with. Its own text is not repeated: it may name users and keys."""
    sentence, advice, blocks = next(row[1:] for row in _REDIS if isinstance(error, row[0]))
    return fail(name, sentence.format(command), advice.format(command), blocks=blocks)
