from __future__ import annotations

from typing import Any

import pytest

from audio.engine import Rejected, StreamRequest
from audio.engines.aws_options import AwsOptions, query_of

SESSION = "0193f0a0-0000-7000-8000-000000000001"
ALWAYS = {"media-encoding": "pcm", "sample-rate": "16000", "session-id": SESSION}
BILINGUAL = ("ja-JP", "en-US")


def asked(options: AwsOptions | None = None, language: str = "en-US", **request: Any) -> dict[str, str]:
    wanted = StreamRequest(language=language, session="s", **request)
    query = query_of(wanted, options or AwsOptions(), SESSION)
    assert query.items() >= ALWAYS.items()
    return {name: value for name, value in query.items() if name not in ALWAYS}


def test_a_plain_stream_names_its_language() -> None:
    assert asked() == {"language-code": "en-US"}


def test_one_language_is_identified_with_the_requests_preferred() -> None:
    assert asked(AwsOptions(language_options=BILINGUAL), "ja-JP") == {
        "identify-language": "true",
        "language-options": "ja-JP,en-US",
        "preferred-language": "ja-JP",
    }


def test_speakers_may_switch_languages_and_then_none_is_preferred() -> None:
    assert asked(AwsOptions(language_options=BILINGUAL, code_switching=True), "ja-JP") == {
        "identify-multiple-languages": "true",
        "language-options": "ja-JP,en-US",
    }


def test_a_language_that_is_no_option_is_named_as_usual() -> None:
    assert asked(AwsOptions(language_options=BILINGUAL), "de-DE") == {"language-code": "de-DE"}


def test_vocabulary_and_filter() -> None:
    options = AwsOptions(vocabulary_filter="rude", vocabulary_filter_method="mask")
    assert asked(options, vocabulary="cardiology") == {
        "language-code": "en-US",
        "vocabulary-name": "cardiology",
        "vocabulary-filter-name": "rude",
        "vocabulary-filter-method": "mask",
    }


def test_with_identification_vocabulary_and_filter_are_lists() -> None:
    options = AwsOptions(language_options=BILINGUAL, vocabulary_filter="rude")
    query = asked(options, vocabulary="cardiology")
    assert query["vocabulary-names"] == "cardiology"
    assert query["vocabulary-filter-names"] == "rude"
    assert "vocabulary-name" not in query
    assert "vocabulary-filter-name" not in query


def test_stability_speakers_and_personal_data() -> None:
    options = AwsOptions(stability="high", identify_pii=True, pii_types=("NAME", "PHONE"))
    assert asked(options, speaker_labels=True) == {
        "language-code": "en-US",
        "enable-partial-results-stabilization": "true",
        "partial-results-stability": "high",
        "show-speaker-label": "true",
        "content-identification-type": "PII",
        "pii-entity-types": "NAME,PHONE",
    }


def test_personal_data_of_all_types_needs_no_list() -> None:
    assert asked(AwsOptions(identify_pii=True))["content-identification-type"] == "PII"
    assert "pii-entity-types" not in asked(AwsOptions(identify_pii=True))


@pytest.mark.parametrize("options", [(), BILINGUAL])
def test_personal_data_is_not_asked_for_where_the_service_cannot_find_it(options: tuple[str, ...]) -> None:
    query = asked(AwsOptions(identify_pii=True, language_options=options), "ja-JP")
    assert "content-identification-type" not in query


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ({"language_options": ("ja-JP",)}, "two languages"),
        ({"language_options": ("ja-JP", "xx-XX")}, "xx-XX"),
        ({"language_options": ("en-US", "en-GB")}, "dialect"),
        ({"code_switching": True}, "language options"),
        ({"vocabulary_filter_method": "mask"}, "needs a vocabulary filter"),
        ({"vocabulary_filter": "two words"}, "name"),
        ({"vocabulary_filter": "rude", "vocabulary_filter_method": "shout"}, "mask, remove or tag"),
        ({"stability": "total"}, "low, medium or high"),
        ({"pii_types": ("NAME",)}, "not to be identified"),
        ({"identify_pii": True, "pii_types": ("SHOESIZE",)}, "SHOESIZE"),
        ({"identify_pii": True, "pii_types": ("ALL", "NAME")}, "contradict"),
    ],
)
def test_contradictions_are_refused_when_they_are_set(options: dict[str, Any], about: str) -> None:
    with pytest.raises(ValueError, match=about):
        AwsOptions(**options)


def test_a_language_the_service_does_not_have_is_rejected() -> None:
    with pytest.raises(Rejected) as caught:
        asked(language="xx-XX")
    assert caught.value.code == "language"


def test_a_vocabulary_that_can_be_none_is_rejected_without_being_quoted() -> None:
    with pytest.raises(Rejected) as caught:
        asked(vocabulary="a&b")
    assert caught.value.code == "vocabulary"
    assert "a&b" not in str(caught.value)
