"""Where an archive lies in S3, and the policy that holds credentials to one clinic."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import pytest

from app.adapters.s3_place import S3Place, clinic_policy, same_key

ARN = "arn:aws:kms:ap-northeast-1:123456789012:key/0190b6c5-0000"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://archive", S3Place("archive")),
        ("s3://archive/", S3Place("archive")),
        ("s3://archive/prod", S3Place("archive", "prod/")),
        ("s3://archive/prod/tokyo/", S3Place("archive", "prod/tokyo/")),
        ("s3://my.archive-1/a_b.c", S3Place("my.archive-1", "a_b.c/")),
    ],
)
def test_a_url_names_bucket_and_prefix(url: str, place: S3Place) -> None:
    assert S3Place.parse(url) == place
    assert place.key(place.name("tokyo-1/s/n")) == "tokyo-1/s/n"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3:",
        "s3://",
        "s3:///prefix",
        "s3://ab",
        "s3://Archive",
        "s3://-archive",
        "https://archive",
        "s3://archive//prefix",
        "s3://archive/a//b",
        "s3://archive/../b",
        "s3://archive/*",
        "s3://archive/${aws:username}",
        "s3://archive/pre fix",
        "s3://archive/prefix?x=1",
        "s3://archive/\n",
    ],
)
def test_what_is_no_such_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket|the prefix may") as caught:
        S3Place.parse(url)
    assert len(url) < 8 or url not in str(caught.value)


def test_the_policy_reaches_one_clinic_only() -> None:
    objects, listing = json.loads(clinic_policy(S3Place("archive", "prod/"), "tokyo-1", None))["Statement"]

    def allowed(name: str) -> bool:
        return fnmatchcase(f"arn:aws:s3:::archive/{name}", objects["Resource"])

    def listed(prefix: str) -> bool:
        return fnmatchcase(prefix, listing["Condition"]["StringLike"]["s3:prefix"])

    for reach in (allowed, listed):
        assert reach("prod/tokyo-1/s/n")
        assert not any(
            reach(name) for name in ("prod/tokyo-10/s/n", "prod/osaka/s/n", "prod/_audit/n", "tokyo-1/s/n")
        )
    assert listed("prod/tokyo-1/")
    assert not listed("prod/")
    assert listing["Resource"] == "arn:aws:s3:::archive"


@pytest.mark.parametrize(
    ("key", "statement"),
    [
        (ARN, {"Resource": ARN}),
        ("0190b6c5-0000", {"Resource": "arn:aws:kms:*:*:key/0190b6c5-0000"}),
        (
            "alias/tokyo",
            {
                "Resource": "*",
                "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/tokyo"}},
            },
        ),
        (
            "arn:aws:kms:ap-northeast-1:123456789012:alias/tokyo",
            {
                "Resource": "*",
                "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/tokyo"}},
            },
        ),
    ],
)
def test_the_policy_reaches_one_key_only(key: str, statement: dict[str, object]) -> None:
    *_, kms = json.loads(clinic_policy(S3Place("archive"), "tokyo-1", key))["Statement"]
    assert kms == {"Effect": "Allow", "Action": ["kms:GenerateDataKey", "kms:Decrypt"], **statement}


def test_without_a_key_no_key_may_be_used() -> None:
    assert "kms:" not in clinic_policy(S3Place("archive"), "tokyo-1", None)


def test_the_longest_policy_is_within_the_limit_of_sts() -> None:
    place = S3Place("b" * 63, "p" * 400 + "/")
    assert len(clinic_policy(place, "c" * 63, ARN)) <= 2_048


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        (ARN, ARN, True),
        ("0190b6c5-0000", ARN, True),
        ("clinic-key", "arn:aws:kms:clinic-key", True),
        ("alias/tokyo", ARN, True),
        ("0190b6c5-0001", ARN, False),
        (ARN, "", False),
        ("alias/tokyo", "", False),
    ],
)
def test_a_key_is_known_by_any_of_its_names(asked: str, answered: str, same: bool) -> None:
    assert same_key(asked, answered) is same
