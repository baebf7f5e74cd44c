from __future__ import annotations

import msgspec
import pytest

from audio.transcript import CommittedFinal, Final, Partial, Word


def test_a_word_without_a_speaker_says_nothing_of_one() -> None:
    assert msgspec.to_builtins(Word("fever", 0, 800, 0.9)) == {
        "text": "fever",
        "start": 0,
        "end": 800,
        "confidence": 0.9,
    }


def test_a_word_keeps_its_speaker() -> None:
    assert msgspec.to_builtins(Word("fever", 0, 800, 0.9, "A"))["speaker"] == "A"


def test_a_committed_final_survives_being_stored() -> None:
    final = Final(
        "u3", 100, 900, "a fever", (Word("a", 100, 200, 1.0), Word("fever", 200, 900, 0.5)), "en-US"
    )
    committed = CommittedFinal(3, 1, final)
    stored = msgspec.json.encode(committed)
    assert msgspec.json.decode(stored, type=CommittedFinal) == committed


def test_results_do_not_change() -> None:
    partial = Partial("u1", 0, 10, "a")
    with pytest.raises(AttributeError):
        partial.text = "b"  # type: ignore[misc]
