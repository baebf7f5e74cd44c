from __future__ import annotations

import uuid

import pytest

from loadtest.emulator.parameters import parse
from loadtest.emulator.problems import Kind, ServiceError

SOUND = {"media-encoding": "pcm", "sample-rate": "16000"}
JAPANESE = {**SOUND, "language-code": "ja-JP"}
IDENTIFY = {**SOUND, "identify-language": "true", "language-options": "ja-JP,en-US"}
SESSION = "0b0e8b5e-4b1c-4f4e-9d8a-7d3b5a0c9f10"


def test_the_least_that_is_needed() -> None:
    found = parse(JAPANESE, lambda: uuid.UUID(SESSION))
    assert (found.language, found.session_id, found.stability) == ("ja-JP", SESSION, -1)
    assert not found.identify
    assert found.echo == {**JAPANESE, "session-id": SESSION}


def test_all_that_goes_together() -> None:
    found = parse(
        {
            **JAPANESE,
            "session-id": SESSION,
            "vocabulary-name": "knee.1",
            "vocabulary-filter-name": "rude",
            "vocabulary-filter-method": "tag",
            "enable-partial-results-stabilization": "True",
            "partial-results-stability": "low",
            "show-speaker-label": "true",
            "content-identification-type": "PII",
            "pii-entity-types": "NAME,ADDRESS",
        }
    )
    assert (found.stability, found.filter_method, found.speakers, found.pii) == (4, "tag", True, "identify")
    assert found.pii_types == {"NAME", "ADDRESS"}


def test_a_language_is_identified_among_the_options() -> None:
    assert parse(IDENTIFY).options == ("ja-JP", "en-US")
    assert parse({**IDENTIFY, "preferred-language": "en-US"}).language == "en-US"
    several = {**SOUND, "identify-multiple-languages": "true", "language-options": "ja-JP, en-US"}
    assert parse(several).multiple
    assert (
        parse({**IDENTIFY, "vocabulary-names": "a,b", "vocabulary-filter-names": "c"}).filter_method == "mask"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"language-code": "ja-JP"},
        SOUND,
        {**JAPANESE, "sample-rate": "44100"},
        {**JAPANESE, "sample-rate": "7999"},
        {**JAPANESE, "sample-rate": "fast"},
        {**JAPANESE, "media-encoding": "flac"},
        {**JAPANESE, "media-encoding": "mp3"},
        {**JAPANESE, "language-code": "tlh-KX"},
        {**JAPANESE, "unheard-of": "1"},
        {**JAPANESE, "media-sample-rate-hertz": "16000"},
        {**JAPANESE, "session-id": "mine"},
        {**JAPANESE, "session-resume-window": "301"},
        {**JAPANESE, "identify-language": "true"},
        {**JAPANESE, "language-options": "ja-JP,en-US"},
        {**JAPANESE, "preferred-language": "ja-JP"},
        {**JAPANESE, "vocabulary-names": "a"},
        {**JAPANESE, "vocabulary-name": "a b"},
        {**JAPANESE, "vocabulary-filter-method": "mask"},
        {**JAPANESE, "vocabulary-filter-name": "a", "vocabulary-filter-method": "shout"},
        {**JAPANESE, "partial-results-stability": "high"},
        {**JAPANESE, "enable-partial-results-stabilization": "yes"},
        {**JAPANESE, "content-identification-type": "PII", "content-redaction-type": "PII"},
        {**JAPANESE, "content-identification-type": "PHI"},
        {**JAPANESE, "pii-entity-types": "NAME"},
        {**JAPANESE, "content-redaction-type": "PII", "pii-entity-types": "NAME,SHOE_SIZE"},
        {**JAPANESE, "enable-channel-identification": "true", "number-of-channels": "2"},
        {**JAPANESE, "enable-channel-identification": "true", "show-speaker-label": "true"},
        {**IDENTIFY, "language-options": "ja-JP"},
        {**IDENTIFY, "language-options": "en-US,en-GB"},
        {**IDENTIFY, "language-options": "ja-JP,xx-XX"},
        {**IDENTIFY, "preferred-language": "fr-FR"},
        {**IDENTIFY, "vocabulary-name": "a"},
        {**IDENTIFY, "content-redaction-type": "PII"},
        {**SOUND, "identify-language": "true"},
    ],
)
def test_what_contradicts_itself_or_is_unknown_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ServiceError) as caught:
        parse(wrong)
    assert caught.value.kind is Kind.BAD_REQUEST
