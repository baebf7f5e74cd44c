from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import parse_qs, urlencode, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from audio.engines.aws_signing import PATH, Credentials, endpoint_of, presigned_url

NOW = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)
KEYS = Credentials("AKIDEXAMPLE", "SECRETEXAMPLE")
TEMPORARY = Credentials("ASIDEXAMPLE", "SECRETEXAMPLE", "to/ken+with=odd characters")
PARAMETERS = {
    "language-code": "en-US",
    "media-encoding": "pcm",
    "sample-rate": "16000",
    "vocabulary-name": "a b~c",
}


def by_botocore(
    endpoint: str, region: str, parameters: dict[str, str], keys: Credentials, expires: int
) -> str:
    """The signature that AWS's own library makes."""
    request = botocore.awsrequest.AWSRequest(method="GET", url=f"{endpoint}{PATH}?{urlencode(parameters)}")
    frozen = botocore.credentials.Credentials(keys.access_key, keys.secret_key, keys.token)
    with patch("botocore.auth.get_current_datetime", return_value=NOW):
        botocore.auth.SigV4QueryAuth(frozen, "transcribe", region, expires=expires).add_auth(request)
    query: dict[str, list[str]] = parse_qs(urlsplit(request.url).query)
    return query["X-Amz-Signature"][0]


@pytest.mark.parametrize("keys", [KEYS, TEMPORARY])
@pytest.mark.parametrize("endpoint", [endpoint_of("eu-west-1"), "wss://localhost:9444"])
def test_the_signature_is_the_one_aws_makes(keys: Credentials, endpoint: str) -> None:
    url = presigned_url(endpoint, "eu-west-1", PARAMETERS, keys, now=NOW, expires=120)
    assert parse_qs(urlsplit(url).query)["X-Amz-Signature"] == [
        by_botocore(endpoint, "eu-west-1", PARAMETERS, keys, 120)
    ]


def test_the_address_says_all_that_the_service_wants() -> None:
    url = presigned_url(endpoint_of("us-east-1"), "us-east-1", PARAMETERS, TEMPORARY, now=NOW)
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == (
        "wss",
        "transcribestreaming.us-east-1.amazonaws.com:8443",
        "/stream-transcription-websocket",
    )
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert query.items() >= PARAMETERS.items()
    assert query["X-Amz-Credential"] == "ASIDEXAMPLE/20261120/us-east-1/transcribe/aws4_request"
    assert query["X-Amz-Date"] == "20261120T123456Z"
    assert query["X-Amz-Expires"] == "300"
    assert query["X-Amz-Security-Token"] == TEMPORARY.token
    assert query["X-Amz-SignedHeaders"] == "host"


def test_without_a_token_none_is_sent() -> None:
    assert "Security-Token" not in presigned_url(endpoint_of("us-east-1"), "us-east-1", {}, KEYS, now=NOW)


def test_china_has_its_own_domain() -> None:
    assert endpoint_of("cn-north-1") == "wss://transcribestreaming.cn-north-1.amazonaws.com.cn:8443"


@pytest.mark.parametrize("expires", [0, 301])
def test_an_address_is_never_valid_for_longer_than_the_service_allows(expires: int) -> None:
    with pytest.raises(ValueError, match="300"):
        presigned_url(endpoint_of("us-east-1"), "us-east-1", {}, KEYS, now=NOW, expires=expires)


@pytest.mark.parametrize("endpoint", ["https://host", "host:8443", "wss://host/path", "wss://host?x=1"])
def test_an_endpoint_is_a_scheme_and_a_host(endpoint: str) -> None:
    with pytest.raises(ValueError, match="wss"):
        presigned_url(endpoint, "us-east-1", {}, KEYS, now=NOW)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        presigned_url(endpoint_of("us-east-1"), "us-east-1", {}, KEYS, now=NOW.replace(tzinfo=None))


def test_secrets_are_not_shown() -> None:
    assert "SECRETEXAMPLE" not in repr(TEMPORARY)
    assert "to/ken" not in str(TEMPORARY)
