"""How many words of a script an engine got right: ``python -m scripts.word_accuracy SCRIPT HYPOTHESIS``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jiwer

_SPEAKER = re.compile(r"^[A-Z]+:\s*", re.MULTILINE)
_NO_WORD = re.compile(r"[^a-z0-9' ]+")


def words(text: str) -> str:
    """The words alone: no speaker labels, no case, no punctuation."""
    return " ".join(_NO_WORD.sub(" ", _SPEAKER.sub("", text).lower()).split())


def word_accuracy(script: str, heard: str) -> float:
    """1 - word error rate (substitutions, deletions and insertions over the script's words); below 0 is possible."""
    return 1.0 - float(jiwer.wer(words(script), words(heard)))


if __name__ == "__main__":
    script, heard = (Path(name).read_text() for name in sys.argv[1:3])
    print(f"{word_accuracy(script, heard):.1%}")
