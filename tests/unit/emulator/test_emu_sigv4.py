"""The vectors are AWS's: the Signature Version 4 test suite, IAM's example of the signing process, S3's example of a presigned URL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from loadtest.emulator.problems import Kind, ServiceError
from loadtest.emulator.sigv4 import (
    EMPTY_HASH,
    Credentials,
    Request,
    Scope,
    Verifier,
    canonical_query,
    canonical_request,
    sign,
    signing_key,
)

SUITE_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SUITE_TIME = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = "example.amazonaws.com"
STAMP = "20150830T123600Z"
SCOPE = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
SECRET = "SECRETEXAMPLE"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def suite_request(method: str, query: str, extra: dict[str, str], signature: str) -> Request:
    headers = {"host": HOST, "x-amz-date": STAMP, **extra}
    names = ";".join(sorted(headers))
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders={names}, Signature={signature}"
    )
    return Request(method, "/", query, headers)


VECTORS = [
    ("GET", "", {}, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    (
        "GET",
        "Param2=value2&Param1=value1",
        {},
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    ("POST", "", {}, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "GET",
        "",
        {"my-header1": " value1", "my-header2": ' "a   b   c"'},
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
]


@pytest.mark.parametrize(("method", "query", "extra", "signature"), VECTORS)
def test_the_suites_requests_are_let_in(
    method: str, query: str, extra: dict[str, str], signature: str
) -> None:
    verifier = Verifier({"AKIDEXAMPLE": Credentials(SUITE_SECRET)}, "service")
    caller = verifier.header_signed(suite_request(method, query, extra, signature), SUITE_TIME.timestamp())
    assert (caller.region, caller.seed.hex()) == ("us-east-1", signature)


def test_iams_example() -> None:
    request = Request("GET", "/", "Action=ListUsers&Version=2010-05-08", {})
    signed = [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("host", "iam.amazonaws.com"),
        ("x-amz-date", STAMP),
    ]
    canonical = canonical_request(request, signed, EMPTY_HASH)
    assert signing_key(SUITE_SECRET, "20150830", "us-east-1", "iam").hex() == (
        "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    )
    found = sign(SUITE_SECRET, Scope("AKIDEXAMPLE", "20150830", "us-east-1", "iam"), STAMP, canonical)
    assert found == "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"


def test_s3s_example_of_a_presigned_url() -> None:
    query = (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    )
    request = Request("GET", "/test.txt", query, {})
    canonical = canonical_request(request, [("host", "examplebucket.s3.amazonaws.com")], "UNSIGNED-PAYLOAD")
    scope = Scope("AKIAIOSFODNN7EXAMPLE", "20130524", "us-east-1", "s3")
    found = sign("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", scope, "20130524T000000Z", canonical)
    assert found == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


def test_a_query_is_encoded_as_aws_wants_it() -> None:
    assert canonical_query("b=%7e+x&a=1%2C2&a=1&X=&c=%E3%81%82") == "X=&a=1&a=1%2C2&b=~%2Bx&c=%E3%81%82"


VERIFIER = Verifier({"AKIDEXAMPLE": Credentials("SECRETEXAMPLE"), "AKIDTOKEN": Credentials("S", "T+/=")})


def presigned(
    *,
    key: str = "AKIDEXAMPLE",
    secret: str = SECRET,
    at: datetime = NOW,
    service: str = "transcribe",
    host: str = "localhost:9444",
    **fields: str,
) -> Request:
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    scope = Scope(key, stamp[:8], "eu-central-1", service)
    values = {
        "language-code": "ja-JP",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key}/{scope.path}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "300",
        "X-Amz-SignedHeaders": "host",
        **{f"X-Amz-{name.replace('_', '-')}": value for name, value in fields.items()},
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items())
    request = Request("GET", "/stream-transcription-websocket", query, {"host": host})
    signature = sign(secret, scope, stamp, canonical_request(request, [("host", host)], EMPTY_HASH))
    return Request(
        request.method, request.path, f"{query}&X-Amz-Signature={signature}", {"host": "localhost:9444"}
    )


def kind_of(request: Request, now: datetime = NOW) -> Kind:
    with pytest.raises(ServiceError) as caught:
        VERIFIER.presigned(request, now.timestamp())
    return caught.value.kind


def test_a_presigned_query_is_let_in_for_as_long_as_it_says() -> None:
    caller = VERIFIER.presigned(presigned(), NOW.timestamp())
    assert (caller.access_key, caller.region, caller.service) == ("AKIDEXAMPLE", "eu-central-1", "transcribe")
    VERIFIER.presigned(presigned(), (NOW + timedelta(seconds=300)).timestamp())
    assert kind_of(presigned(), NOW + timedelta(seconds=301)) is Kind.INVALID_SIGNATURE
    VERIFIER.presigned(presigned(Expires="10"), (NOW + timedelta(seconds=10)).timestamp())
    assert kind_of(presigned(Expires="10"), NOW + timedelta(seconds=11)) is Kind.INVALID_SIGNATURE


def test_the_host_may_be_signed_without_its_port() -> None:
    VERIFIER.presigned(presigned(host="localhost"), NOW.timestamp())
    assert kind_of(presigned(host="elsewhere:9444")) is Kind.INVALID_SIGNATURE


def test_a_clock_that_is_ahead_more_than_5_minutes_is_refused() -> None:
    VERIFIER.presigned(presigned(at=NOW + timedelta(minutes=5)), NOW.timestamp())
    request = presigned(at=NOW + timedelta(minutes=5, seconds=1))
    with pytest.raises(
        ServiceError, match="not yet current: 20260102T030906Z is still later than 20260102T030905Z"
    ):
        VERIFIER.presigned(request, NOW.timestamp())


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (presigned(secret="WRONG"), Kind.INVALID_SIGNATURE),
        (presigned(key="AKIDNOBODY"), Kind.UNRECOGNIZED_CLIENT),
        (presigned(service="s3"), Kind.INVALID_SIGNATURE),
        (presigned(Expires="301"), Kind.BAD_REQUEST),
        (presigned(Expires="0"), Kind.BAD_REQUEST),
        (presigned(Expires="many"), Kind.BAD_REQUEST),
        (presigned(Algorithm="AWS4-ECDSA-P256-SHA256"), Kind.INCOMPLETE_SIGNATURE),
        (presigned(Date="yesterday"), Kind.INCOMPLETE_SIGNATURE),
        (presigned(Date="20261302T030405Z"), Kind.INCOMPLETE_SIGNATURE),
        (presigned(Credential="AKIDEXAMPLE/20260102/transcribe/aws4_request"), Kind.INCOMPLETE_SIGNATURE),
        (presigned(SignedHeaders="x-amz-date"), Kind.INVALID_SIGNATURE),
        (presigned(SignedHeaders="host;content-type"), Kind.INVALID_SIGNATURE),
        (presigned(Security_Token="T"), Kind.UNRECOGNIZED_CLIENT),
        (presigned(key="AKIDTOKEN", secret="S"), Kind.UNRECOGNIZED_CLIENT),
        (Request("GET", "/", "language-code=ja-JP", {"host": "localhost"}), Kind.UNSIGNED),
        (Request("GET", "/", "X-Amz-Signature=00", {"host": "localhost"}), Kind.INCOMPLETE_SIGNATURE),
    ],
)
def test_what_is_wrong_with_a_presigned_query_is_said(request_: Request, kind: Kind) -> None:
    assert kind_of(request_) is kind


def test_a_token_is_asked_for_and_compared() -> None:
    VERIFIER.presigned(presigned(key="AKIDTOKEN", secret="S", Security_Token="T+/="), NOW.timestamp())


def test_a_parameter_that_was_changed_later_is_noticed() -> None:
    good = presigned()
    for old, new in (("ja-JP", "en-US"), ("Expires=300", "Expires=299"), ("eu-central-1", "us-west-2")):
        changed = Request(good.method, good.path, good.query.replace(old, new), good.headers)
        assert kind_of(changed) is Kind.INVALID_SIGNATURE
    added = Request(good.method, good.path, good.query + "&show-speaker-label=true", good.headers)
    assert kind_of(added) is Kind.INVALID_SIGNATURE


@pytest.mark.parametrize(
    ("authorization", "kind"),
    [
        ("", Kind.UNSIGNED),
        ("Bearer abc", Kind.INCOMPLETE_SIGNATURE),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host", Kind.INCOMPLETE_SIGNATURE),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host, Signature=00", Kind.INVALID_SIGNATURE),
    ],
)
def test_what_is_wrong_with_a_header_is_said(authorization: str, kind: Kind) -> None:
    verifier = Verifier({"AKIDEXAMPLE": Credentials(SUITE_SECRET)}, "service")
    request = Request("GET", "/", "", {"host": HOST, "x-amz-date": STAMP, "authorization": authorization})
    with pytest.raises(ServiceError) as caught:
        verifier.header_signed(request, SUITE_TIME.timestamp())
    assert caught.value.kind is kind


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_header_is_good_for_5_minutes_either_way(minutes: int) -> None:
    verifier = Verifier({"AKIDEXAMPLE": Credentials(SUITE_SECRET)}, "service")
    request = suite_request(*VECTORS[0])
    with pytest.raises(ServiceError, match=r"Signature (expired|not yet current)"):
        verifier.header_signed(request, (SUITE_TIME + timedelta(minutes=minutes)).timestamp())
