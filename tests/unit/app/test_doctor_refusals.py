"""What services refuse with, as an operator reads it: which permission is missing, and what to do."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from app.adapters import doctor_refusals as told
from app.adapters.s3_refusals import Refusal, refusal_of
from app.archive.store import StoreUnavailable
from audio.engine import EngineError, Rejected, Throttled, Unavailable

SECRET = "hunter2-swordfish"


def _refused(operation: str, status: int, code: str, message: str = "") -> Refusal:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return refusal_of(operation, ClientError(answer, operation))


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("put_object", "s3:PutObject"),
        ("get_object", "s3:GetObject"),
        ("delete_object", "s3:DeleteObject"),
        ("list_objects_v2", "s3:ListBucket"),
        ("head_bucket", "s3:ListBucket"),
        ("assume_role", "sts:AssumeRole"),
    ],
)
def test_a_denial_names_the_permission_and_where_to_allow_it(operation: str, action: str) -> None:
    finding = told.of_s3("x", operation, _refused(operation, 403, "AccessDenied"))
    assert (finding.level, finding.blocks) == ("FAIL", False)
    assert finding.sentence == f"access denied: the permission {action} is missing"
    assert finding.advice.startswith(f"allow {action} on ")


@pytest.mark.parametrize(
    ("status", "code", "words", "advice"),
    [
        (404, "NoSuchBucket", "does not exist", "KIKITORI_ARCHIVE_URL"),
        (301, "PermanentRedirect", "another region", "KIKITORI_AWS_REGIONS"),
        (403, "RequestTimeTooSkewed", "clock is wrong", "NTP"),
        (403, "SignatureDoesNotMatch", "secret key is wrong", "AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", "access key is not known", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_makes_everything_else_pointless_blocks(status: int, code: str, words: str, advice: str) -> None:
    finding = told.of_bucket("x", "list_objects_v2", _refused("list_objects_v2", status, code))
    assert (finding.level, finding.blocks) == ("FAIL", True)
    assert words in finding.sentence
    assert advice in finding.advice


def test_nothing_at_the_buckets_name_is_no_bucket() -> None:
    finding = told.of_bucket("x", "head_bucket", _refused("head_bucket", 404, "404"))
    assert finding.sentence == "the bucket does not exist"


def test_there_are_no_credentials() -> None:
    finding = told.of_bucket("x", "list_objects_v2", refusal_of("list_objects_v2", NoCredentialsError()))
    assert (finding.sentence, finding.blocks) == ("there are no credentials", True)


@pytest.mark.parametrize(
    ("operation", "message", "action"),
    [
        ("put_object", "User: x is not authorized to perform: kms:GenerateDataKey on resource: y", "kms:GenerateDataKey"),
        ("get_object", "User: x is not authorized to perform: kms:Decrypt on resource: y", "kms:Decrypt"),
        ("put_object", "User: x is not authorized to perform: kms:Decrypt on resource: y", "kms:Decrypt"),
        ("put_object", "Access Denied", "kms:GenerateDataKey"),
        ("get_object", "Access Denied", "kms:Decrypt"),
    ],
)  # fmt: skip
def test_which_right_to_a_key_is_missing(operation: str, message: str, action: str) -> None:
    finding = told.of_key("x", operation, _refused(operation, 403, "AccessDenied", message))
    assert action in finding.sentence
    assert finding.advice.startswith(f"allow {action} on the key")


def test_a_key_that_cannot_be_used() -> None:
    finding = told.of_key("x", "put_object", _refused("put_object", 400, "KMS.DisabledException"))
    assert "KMS.DisabledException" in finding.sentence
    assert "kmsKey" in finding.advice


def test_settings_that_the_doctor_may_not_see_are_no_failure() -> None:
    operation = "get_bucket_versioning"
    finding = told.of_settings_unseen("x", operation, _refused(operation, 403, "AccessDenied"))
    assert finding.level == "WARN"
    assert "s3:GetBucketVersioning is missing" in finding.sentence
    assert "the server does not need it" in finding.advice


def test_a_role_that_may_not_be_assumed() -> None:
    error = StoreUnavailable(
        "demo", "access denied: the permission sts:AssumeRole is missing (attempts: 1)", "access_denied"
    )
    finding = told.of_store("x", "assume_role", error)
    assert finding.sentence == "access denied: the permission sts:AssumeRole is missing"
    assert "trust policy" in finding.advice


@pytest.mark.parametrize(
    ("error", "level", "advice"),
    [
        (Rejected("access_denied", "no"), "FAIL", "transcribe:StartStreamTranscriptionWebSocket"),
        (Rejected("forbidden", "no"), "FAIL", "transcribe:StartStreamTranscriptionWebSocket"),
        (Rejected("clock_skew", "no"), "FAIL", "NTP"),
        (Rejected("signature", "no"), "FAIL", "AWS_SECRET_ACCESS_KEY"),
        (Rejected("credentials_unknown", "no"), "FAIL", "region is enabled"),
        (Unavailable("unknown_host", "no"), "FAIL", "KIKITORI_AWS_REGIONS"),
        (Unavailable("something_new", "no"), "FAIL", "run this again"),
        (Throttled("limit_exceeded", "no"), "WARN", "fewer sessions"),
    ],
)
def test_what_an_engine_refuses_with(error: EngineError, level: str, advice: str) -> None:
    finding = told.of_engine("x", error)
    assert finding.level == level
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("error", "words", "blocks"),
    [
        (AuthenticationError(SECRET), "user or the password", True),
        (NoPermissionError(SECRET), "forbid EVAL", False),
        (ReadOnlyError(SECRET), "replica", False),
        (RedisConnectionError(SECRET), "cannot be reached", True),
        (TimeoutError(SECRET), "cannot be reached", True),
        (ResponseError(SECRET), "refuses EVAL", False),
    ],
)
def test_what_redis_refuses_with_is_told_without_its_text(
    error: RedisError | OSError, words: str, blocks: bool
) -> None:
    finding = told.of_redis("x", "EVAL", error)
    assert (finding.level, finding.blocks) == ("FAIL", blocks)
    assert words in finding.sentence
    assert SECRET not in finding.sentence + finding.advice


def test_a_probe_that_meets_trouble_does_not_keep_its_removal_from_being_tried() -> None:
    refusal = Refusal("timeout", "no answer within the time limit", True)
    assert not told.of_s3("x", "get_object", refusal).blocks
    assert told.of_bucket("x", "list_objects_v2", refusal).blocks
