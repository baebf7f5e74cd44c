"""What errors of S3, STS and the network mean."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)

from app.adapters.s3_refusals import Refusal, refusal_of

URL = "http://127.0.0.1:1"


def answer(status: int, code: str, message: str = "", retry_after: str = "") -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": retry_after}},
    }
    return ClientError(response, "PutObject")


@pytest.mark.parametrize(
    ("status", "code", "reason", "again"),
    [
        (503, "SlowDown", "throttled", True),
        (503, "503", "unavailable", True),
        (500, "InternalError", "unavailable", True),
        (400, "RequestTimeout", "timeout", True),
        (429, "429", "throttled", True),
        (400, "Throttling", "throttled", True),
        (409, "ConditionalRequestConflict", "conflict", True),
        (409, "OperationAborted", "conflict", True),
        (400, "BadDigest", "checksum", True),
        (400, "KMS.ThrottlingException", "throttled", True),
        (503, "KMS.KMSInternalException", "unavailable", True),
        (400, "KMS.DisabledException", "kms", False),
        (400, "KMS.KMSInvalidStateException", "kms", False),
        (404, "kms:KeyNotFound", "kms", False),
        (404, "NoSuchKey", "missing", False),
        (404, "404", "missing", False),
        (404, "NoSuchBucket", "no_bucket", False),
        (404, "NoSuchUpload", "no_upload", False),
        (412, "412", "precondition", False),
        (416, "InvalidRange", "range", False),
        (403, "AccessDenied", "access_denied", False),
        (403, "403", "access_denied", False),
        (403, "SignatureDoesNotMatch", "credentials", False),
        (403, "InvalidAccessKeyId", "credentials", False),
        (400, "ExpiredToken", "credentials", False),
        (403, "RequestTimeTooSkewed", "clock", False),
        (301, "PermanentRedirect", "wrong_region", False),
        (400, "InvalidArgument", "refused", False),
    ],
)
def test_what_an_answer_means(status: int, code: str, reason: str, again: bool) -> None:
    refusal = refusal_of("put_object", answer(status, code))
    assert (refusal.reason, refusal.again) == (reason, again)


@pytest.mark.parametrize(
    ("error", "reason", "again"),
    [
        (ConnectTimeoutError(endpoint_url=URL), "timeout", True),
        (ReadTimeoutError(endpoint_url=URL), "timeout", True),
        (TimeoutError(), "timeout", True),
        (EndpointConnectionError(endpoint_url=URL), "unavailable", True),
        (aiohttp.ClientPayloadError("said in confidence"), "unavailable", True),
        (ConnectionResetError(), "unavailable", True),
        (NoCredentialsError(), "credentials", False),
        (CredentialRetrievalError(provider="container", error_msg="none"), "credentials", True),
    ],
)
def test_what_a_failure_of_the_network_means(error: Exception, reason: str, again: bool) -> None:
    refusal = refusal_of("get_object", error)
    assert (refusal.reason, refusal.again) == (reason, again)
    assert "confidence" not in refusal.words


@pytest.mark.parametrize(
    ("operation", "message", "permission"),
    [
        ("put_object", "Access Denied", "s3:PutObject"),
        ("head_object", "", "s3:GetObject"),
        ("list_objects_v2", "Access Denied", "s3:ListBucket"),
        (
            "assume_role",
            "User: arn:aws:iam::1:role/task is not authorized to perform: sts:AssumeRole on",
            "sts:AssumeRole",
        ),
        (
            "put_object",
            "User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: kms:GenerateDataKey on resource: k",
            "kms:GenerateDataKey",
        ),
    ],
)
def test_a_denial_names_the_missing_permission(operation: str, message: str, permission: str) -> None:
    refusal = refusal_of(operation, answer(403, "AccessDenied", message))
    assert refusal == Refusal(
        "access_denied", f"access denied: the permission {permission} is missing", False
    )


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("²", 0.0)]
)
def test_it_knows_how_long_it_was_asked_to_wait(header: str, seconds: float) -> None:
    assert refusal_of("put_object", answer(503, "SlowDown", retry_after=header)).after == seconds


def test_a_services_text_is_not_repeated() -> None:
    refusal = refusal_of("put_object", answer(400, "Invalid\nArgument", "said in confidence"))
    assert refusal.words == "S3 answers 400 InvalidArgument"


def test_a_mistake_of_ours_is_no_refusal() -> None:
    with pytest.raises(ParamValidationError):
        refusal_of("put_object", ParamValidationError(report="no such parameter"))
