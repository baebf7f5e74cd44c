"""What S3, STS and the network may refuse with, as one value each: what it means, whether to try again, and in plain words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)

CALL_FAILURES: Final = (ClientError, BotoCoreError, aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a call may raise for reasons that lie outside this program."""

_PERMISSIONS: Final = {
    "put_object": "s3:PutObject",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "delete_object": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "assume_role": "sts:AssumeRole",
}
_ACTION: Final = re.compile(r"\b(?:s3|kms|sts):[A-Za-z]+\b")

_KEY_TROUBLE: Final = re.compile(r"kms[.:]", re.IGNORECASE)

# What S3 answers that is no failure of the store: a verb decides what it means.
MISSING: Final = "missing"
NO_UPLOAD: Final = "no_upload"
PRECONDITION: Final = "precondition"
CONFLICT: Final = "conflict"
RANGE: Final = "range"

_THROTTLED: Final = "S3 asks for fewer requests"
_AGAIN: Final = {
    "SlowDown": ("throttled", _THROTTLED),
    "SlowDownRead": ("throttled", _THROTTLED),
    "SlowDownWrite": ("throttled", _THROTTLED),
    "Throttling": ("throttled", _THROTTLED),
    "ThrottlingException": ("throttled", _THROTTLED),
    "RequestLimitExceeded": ("throttled", _THROTTLED),
    "TooManyRequests": ("throttled", _THROTTLED),
    "KMS.ThrottlingException": ("throttled", "KMS asks for fewer requests"),
    "RequestTimeout": ("timeout", "the request arrived too slowly"),
    "ConditionalRequestConflict": (CONFLICT, "another write to the same object is under way"),
    "OperationAborted": (CONFLICT, "another write to the same object is under way"),
    "BadDigest": ("checksum", "the content was damaged on its way"),
    "XAmzContentChecksumMismatch": ("checksum", "the content was damaged on its way"),
    "XAmzContentSHA256Mismatch": ("checksum", "the content was damaged on its way"),
    "InternalError": ("unavailable", "S3 had an error of its own"),
    "ServiceUnavailable": ("unavailable", "S3 does not serve now"),
}
_FINAL: Final = {
    "NoSuchKey": (MISSING, "there is no such object"),
    "NoSuchUpload": (NO_UPLOAD, "there is no such upload"),
    "PreconditionFailed": (PRECONDITION, "the object is not as expected"),
    "InvalidRange": (RANGE, "the object ends before the range"),
    "NoSuchBucket": ("no_bucket", "the bucket does not exist"),
    "InvalidBucketName": ("no_bucket", "the bucket does not exist"),
    "PermanentRedirect": ("wrong_region", "the bucket is in another region"),
    "AuthorizationHeaderMalformed": ("wrong_region", "the bucket is in another region"),
    "RequestTimeTooSkewed": ("clock", "this machine's clock is wrong"),
    "InvalidAccessKeyId": ("credentials", "the access key is not known"),
    "SignatureDoesNotMatch": ("credentials", "the secret key is wrong"),
    "ExpiredToken": ("credentials", "the credentials have expired"),
    "ExpiredTokenException": ("credentials", "the credentials have expired"),
    "TokenRefreshRequired": ("credentials", "the credentials have expired"),
    "InvalidToken": ("credentials", "the session token is not valid"),
    "InvalidClientTokenId": ("credentials", "the access key is not known"),
    "XMinioStorageFull": ("no_space", "the store is full"),
}
_BY_STATUS: Final = {
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
}


@dataclass(frozen=True)
class Refusal:
    """What a call ended with.

    Attributes:
        reason: one word: one of those above, or a ``StoreUnavailable.reason``.
        words: for people; holds no content, no key and nothing of the service's own text.
        again: whether trying again may help.
        after: seconds that the service asked to wait; 0 where it did not.
    """

    reason: str
    words: str
    again: bool
    after: float = 0.0


def refusal_of(operation: str, error: BaseException) -> Refusal:
    """What ``error``, one of ``CALL_FAILURES``, of the client's method ``operation`` means.

    Raises:
        ParamValidationError: the call was made wrongly; a mistake in this program.
    """
    if isinstance(error, ParamValidationError):
        raise error
    if isinstance(error, ClientError):
        return _of_answer(operation, error.response)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return Refusal("credentials", "there are no credentials", False)
    if isinstance(error, CredentialRetrievalError):
        return Refusal("credentials", "credentials cannot be had now", True)
    if isinstance(error, ConnectTimeoutError):
        return Refusal("timeout", "no connection within the time limit", True)
    if isinstance(error, (ReadTimeoutError, TimeoutError, asyncio.TimeoutError)):
        return Refusal("timeout", "no answer within the time limit", True)
    return Refusal("unavailable", f"the connection failed ({type(error).__name__})", True)


def _of_answer(operation: str, answer: Mapping[str, Any]) -> Refusal:
    # Strings from outside: an answer without a body has its status as its code.
    error, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    if _KEY_TROUBLE.match(code) and code not in _AGAIN and status < 500:
        return Refusal("kms", f"the key cannot be used ({_word(code)}): disabled, deleted or unknown", False)
    known = code if code in _AGAIN or code in _FINAL else _BY_STATUS.get(status, code)
    if known in _AGAIN:
        return Refusal(*_AGAIN[known], again=True, after=_seconds(meta))
    if known in _FINAL:
        return Refusal(*_FINAL[known], again=False)
    if status >= 500:
        return Refusal("unavailable", f"S3 answers {status}", True, _seconds(meta))
    if status == 403:
        return Refusal("access_denied", _denied(operation, str(error.get("Message", ""))), False)
    return Refusal("refused", f"S3 answers {status} {_word(code)}", False)


def _denied(operation: str, message: str) -> str:
    # AWS names the missing action in its text, and a key's is not the operation's.
    found = _ACTION.search(message)
    permission = found[0] if found else _PERMISSIONS.get(operation, operation)
    return f"access denied: the permission {permission} is missing"


def _seconds(meta: Mapping[str, Any]) -> float:
    text = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _word(code: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]", "", code)[:64]
