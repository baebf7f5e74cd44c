from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from audio.engine import EngineError, Rejected, Throttled, Unavailable
from audio.engines.aws_errors import PERMISSION, closed_by, error_of, refusal_of
from audio.engines.aws_events import ServiceError

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
SECRET = "X-Amz-Security-Token=SECRET the patient said"


def refused(
    status: int, name: str = "", body: bytes = b"", skew: float = 0.0, retry_after: str = ""
) -> EngineError:
    date = format_datetime(NOW - timedelta(seconds=skew), usegmt=True)
    headers = {"x-amzn-errortype": name, "date": date, "retry-after": retry_after}
    return refusal_of(status, headers, body, NOW)


@pytest.mark.parametrize(
    ("name", "message", "kind", "code"),
    [
        ("LimitExceededException", "", Throttled, "limit_exceeded"),
        ("ThrottlingException", "", Throttled, "throttled"),
        ("ConflictException", "", Unavailable, "conflict"),
        ("InternalFailureException", "", Unavailable, "internal_failure"),
        ("ServiceUnavailableException", "", Unavailable, "service_unavailable"),
        ("ExpiredTokenException", "", Unavailable, "credentials_expired"),
        ("AccessDeniedException", "", Rejected, "access_denied"),
        ("UnrecognizedClientException", "", Rejected, "credentials_unknown"),
        ("InvalidSignatureException", "", Rejected, "signature"),
        ("SomethingNewException", "", Unavailable, "unknown_exception"),
        ("BadRequestException", "A parameter is wrong.", Rejected, "bad_request"),
        (
            "BadRequestException",
            "Your request timed out because no new audio was received for 15 seconds.",
            Unavailable,
            "audio_timeout",
        ),
        ("BadRequestException", "Your session timed out.", Unavailable, "session_timeout"),
        ("BadRequestException", "The maximum stream duration was reached.", Unavailable, "session_timeout"),
        ("BadRequestException", "An internal error occurred.", Unavailable, "internal_failure"),
        (
            "BadRequestException",
            "Could not decode the audio stream that you provided. Check that the audio stream is valid.",
            Unavailable,
            "undecodable",
        ),
    ],
)
def test_exceptions_in_a_stream(name: str, message: str, kind: type[EngineError], code: str) -> None:
    error = error_of(ServiceError(name, message))
    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize(
    "name", ["BadRequestException", "InternalFailureException", "AccessDeniedException", "X"]
)
def test_the_services_words_are_never_repeated(name: str) -> None:
    assert SECRET not in str(error_of(ServiceError(name, SECRET)))
    assert SECRET not in str(refused(400, name, SECRET.encode()))
    assert SECRET not in str(refused(403, name, SECRET.encode()))


def test_a_bad_request_says_what_it_is_about_in_own_words() -> None:
    error = error_of(ServiceError("BadRequestException", "The vocabulary secret-name doesn't exist."))
    assert "vocabulary" in str(error)
    assert "secret-name" not in str(error)


def test_a_missing_permission_is_named() -> None:
    error = refused(403, "AccessDeniedException:http://internal.amazon.com/coral/")
    assert (type(error), error.code) == (Rejected, "access_denied")
    assert PERMISSION in str(error)


@pytest.mark.parametrize(("skew", "way"), [(400.0, "ahead of"), (-400.0, "behind")])
@pytest.mark.parametrize("name", ["", "InvalidSignatureException"])
def test_a_wrong_clock_is_named_when_a_signature_is_refused(skew: float, way: str, name: str) -> None:
    error = refused(403, name, skew=skew)
    assert (type(error), error.code) == (Rejected, "clock_skew")
    assert f"400 s {way}" in str(error)


def test_a_wrong_clock_does_not_hide_a_missing_permission() -> None:
    assert refused(403, "AccessDeniedException", skew=400.0).code == "access_denied"


def test_a_403_without_a_name_tells_both_reasons() -> None:
    error = refused(403)
    assert (type(error), error.code) == (Rejected, "forbidden")
    assert PERMISSION in str(error)
    assert refusal_of(403, {"date": "yesterday"}, b"", NOW).code == "forbidden"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Rejected),
        (404, Rejected),
        (408, Unavailable),
        (409, Unavailable),
        (418, Unavailable),
        (429, Throttled),
        (500, Unavailable),
        (502, Unavailable),
        (503, Throttled),
    ],
)
def test_statuses_at_the_upgrade(status: int, kind: type[EngineError]) -> None:
    assert type(refused(status)) is kind


def test_a_quota_is_told_by_its_name_whatever_the_status() -> None:
    assert isinstance(refused(400, "LimitExceededException"), Throttled)


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("100000", 60.0), ("soon", 1.0), ("", 1.0)])
def test_how_long_to_wait_is_taken_over_within_reason(value: str, seconds: float) -> None:
    error = refused(429, retry_after=value)
    assert isinstance(error, Throttled)
    assert error.retry_after == seconds


def test_how_a_connection_ends() -> None:
    assert closed_by(1000) is None
    assert closed_by(0) is None
    broken, gone = closed_by(None), closed_by(1011)
    assert broken is not None
    assert broken.code == "connection_lost"
    assert gone is not None
    assert gone.code == "closed_abnormally"
