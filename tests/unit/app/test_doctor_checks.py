"""What the doctor concludes from what it sees, and how one check leaves the others alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.adapters import doctor_bucket
from app.adapters.doctor_clock import clock_finding, least_offset
from app.adapters.doctor_disk import folder_check, master_key_check
from app.adapters.doctor_finding import Check, Finding, carried_out, fail, ok
from app.adapters.doctor_redis import policy_finding, version_finding


async def _all(*checks: Check, seconds: float = 5.0) -> list[Finding]:
    return [finding async for finding in carried_out(checks, seconds)]


def _of(finding: Finding) -> Check:
    async def run() -> Finding:
        return finding

    return Check(finding.name, run)


async def _never() -> Finding:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_failure_stops_no_other_check() -> None:
    found = await _all(_of(fail("a", "no", "do")), Check("b", _never), _of(ok("c", "yes")), seconds=0.01)
    assert [(finding.name, finding.level) for finding in found] == [("a", "FAIL"), ("b", "FAIL"), ("c", "ok")]
    assert "within 0.01 s" in found[1].sentence


async def test_what_can_tell_nothing_is_not_checked() -> None:
    first, second = await _all(_of(fail("a", "no", "do", blocks=True)), Check("b", _never))
    assert first.level == "FAIL"
    assert (second.level, second.sentence) == ("WARN", "not checked")
    assert "put a right first" in second.advice


# The clock -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "date", "offset"),
    [
        (100.2, 100.4, 100, 0.0),
        (100.9, 101.4, 100, 0.0),
        (100.9, 101.4, 101, 0.0),
        (105.0, 105.5, 100, 4.0),
        (95.0, 95.5, 100, -4.5),
        (90.0, 110.0, 100, 0.0),
    ],
)
def test_an_offset_is_what_no_rounding_and_no_delay_explains(
    before: float, after: float, date: float, offset: float
) -> None:
    assert least_offset(before, after, date) == pytest.approx(offset)


@pytest.mark.parametrize(
    ("offset", "level"),
    [(0.0, "ok"), (1.0, "ok"), (-1.5, "WARN"), (239.0, "WARN"), (241.0, "FAIL"), (-4000.0, "FAIL")],
)
def test_offsets(offset: float, level: str) -> None:
    assert clock_finding(offset).level == level


# Redis ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("6.2.0", "ok"),
        ("7.0.15", "ok"),
        ("10.1.0", "ok"),
        ("6.0.20", "FAIL"),
        ("5.0.7", "FAIL"),
        ("", "FAIL"),
    ],
)
def test_versions(version: str, level: str) -> None:
    assert version_finding("redis", version).level == level


@pytest.mark.parametrize(("policy", "level"), [("noeviction", "ok"), ("volatile-lru", "FAIL"), ("", "FAIL")])
def test_policies(policy: str, level: str) -> None:
    assert policy_finding("redis", policy).level == level


# The bucket ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "level"), [({"Status": "Enabled"}, "ok"), ({"Status": "Suspended"}, "WARN"), ({}, "WARN")]
)
def test_versioning(answer: dict[str, Any], level: str) -> None:
    assert doctor_bucket.versioning(answer).level == level


@pytest.mark.parametrize(
    ("scheme", "key", "level"),
    [("aws:kms", None, "ok"), ("AES256", "alias/k", "ok"), ("AES256", None, "WARN"), ("", "alias/k", "WARN")],
)
def test_default_encryption(scheme: str, key: str | None, level: str) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": scheme}}
    answer = {"ServerSideEncryptionConfiguration": {"Rules": [rule]}} if scheme else None
    assert doctor_bucket.encryption(answer, key).level == level


def test_public_access_needs_all_four_blocks() -> None:
    blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    all_on = dict.fromkeys(blocks, True)
    assert doctor_bucket.public_access({"PublicAccessBlockConfiguration": all_on}).level == "ok"
    one_off = doctor_bucket.public_access(
        {"PublicAccessBlockConfiguration": {**all_on, "BlockPublicPolicy": False}}
    )
    assert one_off.level == "WARN"
    assert "(BlockPublicPolicy off)" in one_off.sentence
    assert doctor_bucket.public_access(None).level == "WARN"


@pytest.mark.parametrize(
    ("changed", "level"),
    [
        ({}, "ok"),
        ({"Filter": {"Prefix": "archive/"}}, "ok"),
        ({"Filter": {}}, "ok"),
        ({"Filter": {"Prefix": "other/"}}, "WARN"),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}}, "WARN"),
        ({"Status": "Disabled"}, "WARN"),
        ({"AbortIncompleteMultipartUpload": {}}, "WARN"),
    ],
)
def test_a_rule_that_aborts_uploads(changed: dict[str, Any], level: str) -> None:
    rule = {
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    assert doctor_bucket.lifecycle({"Rules": [rule | changed]}, "archive/north/").level == level
    assert doctor_bucket.lifecycle(None, "").level == "WARN"


# Folders and the key -------------------------------------------------------------------------------------------------


async def test_a_folder_that_is_a_file_and_one_that_everybody_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    file, below, wide, missing = await _all(
        folder_check("a", tmp_path / "file", "V"),
        folder_check("b", tmp_path / "file" / "below", "V"),
        folder_check("c", shared, "V"),
        folder_check("d", tmp_path / "x" / "y", "V"),
    )
    assert (file.level, below.level, wide.level, missing.level) == ("FAIL", "FAIL", "WARN", "ok")
    assert "chmod 700" in wide.advice
    assert not (tmp_path / "x").exists()


async def test_a_key_in_a_file_is_not_enough_for_several_machines(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_bytes(bytes(32))
    (tmp_path / "master.key").chmod(0o600)
    alone, shared, given = await _all(
        *(
            master_key_check(tmp_path, given=given, shared=shared, holds_sessions=lambda: True)
            for given, shared in ((False, False), (False, True), (True, True))
        )
    )
    assert (alone.level, shared.level, given.level) == ("ok", "WARN", "ok")
    assert "KIKITORI_MASTER_KEY" in shared.advice
