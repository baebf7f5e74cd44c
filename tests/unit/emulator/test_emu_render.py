from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from loadtest.emulator.eventstream import decode
from loadtest.emulator.lexicon import lexicon
from loadtest.emulator.parameters import parse
from loadtest.emulator.render import Renderer
from loadtest.emulator.speech import BLOCK, Utterance, Word

SOUND = {"media-encoding": "pcm", "sample-rate": "16000"}
ENGLISH = lexicon("en-US").words
JAPANESE = lexicon("ja-JP").words


def key(language: str, text: str) -> int:
    words = lexicon(language).words
    place = next(n for n, entry in enumerate(words) if entry.text == text)
    # A multiple of the number of words keeps the word; bit 6 stays unset, so that the word never wavers.
    return next(k for k in range(place, place + 200 * len(words), len(words)) if not k & 64)


def say(*texts: str, language: str = "en-US", comma_before: int = -1) -> Utterance:
    utterance = Utterance(1600)
    for number, text in enumerate(texts):
        start = 1600 + number * 2 * BLOCK
        utterance.words.append(Word(start, start + 2 * BLOCK, key(language, text), number == comma_before))
        utterance.end = start + BLOCK
    return utterance


def render(
    utterance: Utterance, parameters: dict[str, str] | None = None, *, final: bool = True, partials: int = 0
) -> dict[str, Any]:
    wanted = {**SOUND, **{name.replace("_", "-"): value for name, value in (parameters or {}).items()}}
    if "identify-multiple-languages" not in wanted and "identify-language" not in wanted:
        wanted.setdefault("language-code", "en-US")
    renderer = Renderer(parse(wanted), lambda: uuid.UUID(int=1))
    for _ in range(partials):
        renderer.partial(utterance)
    message = decode((renderer.final if final else renderer.partial)(utterance))
    assert message.headers == {
        ":event-type": "TranscriptEvent",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    (result,) = json.loads(message.payload)["Transcript"]["Results"]
    found: dict[str, Any] = result
    return found


def contents(result: dict[str, Any]) -> list[str]:
    return [item["Content"] for item in result["Alternatives"][0]["Items"]]


def test_a_final_has_all_that_the_service_tells() -> None:
    result = render(say("right", "knee", "pain", comma_before=2))
    assert result["Alternatives"][0]["Transcript"] == "Right knee, pain."
    assert contents(result) == ["Right", "knee", ",", "pain", "."]
    assert (result["StartTime"], result["EndTime"], result["IsPartial"]) == (0.1, 0.6, False)
    assert (result["ChannelId"], result["ResultId"]) == ("ch_0", str(uuid.UUID(int=1)))
    first, _, comma, last, stop = result["Alternatives"][0]["Items"]
    assert (first["StartTime"], first["EndTime"], first["Type"]) == (0.1, 0.3, "pronunciation")
    assert 0.8 <= first["Confidence"] <= 1
    assert (comma["StartTime"], comma["EndTime"], comma["Type"]) == (0.5, 0.5, "punctuation")
    assert last["EndTime"] == stop["StartTime"] == stop["EndTime"] == 0.6
    assert not any(
        item["Stable"] or item["Speaker"] or item["VocabularyFilterMatch"] for item in (first, last)
    )
    assert "LanguageCode" not in result


def test_japanese_is_written_without_spaces() -> None:
    result = render(say("今日", "膝", "痛み", language="ja-JP", comma_before=1), {"language_code": "ja-JP"})
    assert result["Alternatives"][0]["Transcript"] == "今日、膝痛み。"


@pytest.mark.parametrize("partials", [0, 1, 3])
def test_a_final_is_the_same_whatever_partials_went_before(partials: int) -> None:
    utterance = say("right", "knee", "Alice", "uh", "pain", comma_before=3)
    for more in (
        {},
        {"content_redaction_type": "PII"},
        {"content_identification_type": "PII", "vocabulary_filter_name": "f"},
        {"enable_partial_results_stabilization": "true"},
    ):
        assert render(utterance, more, partials=partials) == render(utterance, more)


def test_a_partial_has_no_stop_and_the_same_id() -> None:
    result = render(say("right", "knee"), final=False)
    assert result["IsPartial"]
    assert contents(result) == ["Right", "knee"]
    assert result["ResultId"] == str(uuid.UUID(int=1))


def test_without_stabilisation_the_newest_word_may_change() -> None:
    utterance = say("right")
    wavering = next(k for k in range(0, 10**6, len(ENGLISH)) if k & 64)
    utterance.words.append(Word(4800, 8000, wavering, False))
    utterance.end = 6400
    partial, final = render(utterance, final=False), render(utterance)
    assert contents(partial)[1] == ENGLISH[1].text
    assert contents(final)[1] == ENGLISH[0].text
    stable = render(utterance, {"enable_partial_results_stabilization": "true"}, final=False)
    assert contents(stable)[1] == ENGLISH[0].text


@pytest.mark.parametrize(("level", "certain"), [("high", 4), ("medium", 3), ("low", 1)])
def test_with_stabilisation_only_the_last_words_may_change(level: str, certain: int) -> None:
    utterance = say("right", "knee", "pain", "chest", "cough")
    more = {"enable_partial_results_stabilization": "true", "partial_results_stability": level}
    items = render(utterance, more, final=False)["Alternatives"][0]["Items"]
    assert [item["Stable"] for item in items] == [True] * certain + [False] * (5 - certain)
    assert all(item["Stable"] for item in render(utterance, more)["Alternatives"][0]["Items"])


@pytest.mark.parametrize(
    ("method", "expected", "tagged"),
    [("mask", "Right *** knee.", []), ("remove", "Right knee.", []), ("tag", "Right um knee.", ["um"])],
)
def test_a_vocabulary_filter(method: str, expected: str, tagged: list[str]) -> None:
    more = {"vocabulary_filter_name": "f", "vocabulary_filter_method": method}
    result = render(say("right", "um", "knee"), more, partials=2)
    alternative = result["Alternatives"][0]
    assert alternative["Transcript"] == expected
    assert [item["Content"] for item in alternative["Items"] if item["VocabularyFilterMatch"]] == tagged


def test_nothing_but_a_removed_word_is_still_a_result() -> None:
    more = {"vocabulary_filter_name": "f", "vocabulary_filter_method": "remove"}
    assert contents(render(say("um"), more)) == ["."]
    assert contents(render(say("um"), more, final=False)) == []


def test_pii_is_identified_or_redacted_in_finals() -> None:
    utterance = say("right", "Alice", "Monday")
    found = render(utterance, {"content_identification_type": "PII", "pii_entity_types": "NAME"})[
        "Alternatives"
    ][0]
    assert [(entity["Content"], entity["Type"]) for entity in found["Entities"]] == [("Alice", "NAME")]
    assert found["Transcript"] == "Right Alice Monday."
    redacted = render(utterance, {"content_redaction_type": "PII"}, partials=1)["Alternatives"][0]
    assert (redacted["Transcript"], redacted["Entities"]) == ("Right [PII] [PII].", [])


def test_speakers_are_labelled_when_asked() -> None:
    items = render(say("right", "knee"), {"show_speaker_label": "true"})["Alternatives"][0]["Items"]
    assert {item["Speaker"] for item in items} <= {"0", "1"}
    assert len({item["Speaker"] for item in items}) == 1


def test_languages_are_told_when_identified() -> None:
    options = {"identify_multiple_languages": "true", "language_options": "en-US,ja-JP"}
    result = render(say("right", "knee"), options)
    assert result["LanguageCode"] in {"en-US", "ja-JP"}
    scores = result["LanguageIdentification"]
    assert scores[0]["LanguageCode"] == result["LanguageCode"]
    assert scores[0]["Score"] > scores[1]["Score"]
