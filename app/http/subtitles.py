"""A transcript as plain text, SubRip and WebVTT. Pure; times come from positions."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from app.protocol.rest import FinalView, TranscriptView
from audio.pcm import SAMPLE_RATE

LINE_CHARS: Final = 42
"""What a line of a cue holds, and two lines a cue: broadcasters' custom for Latin scripts."""

LINES: Final = 2
_SHORTEST: Final = SAMPLE_RATE // 1000
_PIECE: Final = re.compile(rf"\S{{1,{LINE_CHARS - 1}}} ?")
_VTT_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Cue(msgspec.Struct, frozen=True):
    """One caption, in samples; at most two lines."""

    start: int
    end: int
    lines: tuple[str, ...]


class _Unit(msgspec.Struct, frozen=True):
    text: str
    start: int
    end: int


def plain_text(transcript: TranscriptView) -> str:
    """One line for each final: ``[mm:ss] text`` (minutes go on past 59)."""
    return "".join(f"[{_minutes(final.start)}] {_one_line(final.text)}\n" for final in transcript.finals)


def srt(transcript: TranscriptView) -> str:
    """SubRip."""
    blocks = (
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "\n".join(cue.lines).replace("-->", "->")
        + "\n"
        for number, cue in enumerate(cues(transcript.finals), 1)
    )
    return "\n".join(blocks)


def vtt(transcript: TranscriptView) -> str:
    """WebVTT (W3C, section 4): escaped, so that no text can be a tag or an arrow."""
    blocks = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + "\n".join(line.translate(_VTT_ESCAPES) for line in cue.lines)
        + "\n"
        for cue in cues(transcript.finals)
    )
    return "\n".join(["WEBVTT\n", *blocks])


def cues(finals: Sequence[FinalView]) -> Iterator[Cue]:
    """One cue for each final; one that does not fit is split between words, at the words' own times."""
    for final in finals:
        text = _one_line(final.text)
        if len(_wrap(text)) <= LINES:
            pieces = [_Unit(text, final.start, final.end)] if text else []
        else:
            pieces = _packed(_by_words(final, text) or _by_share(final, text))
        start = final.start
        for piece in pieces:
            start = max(start, piece.start)
            end = max(piece.end, start + _SHORTEST)
            yield Cue(start, end, _wrap(piece.text))
            start = end


def _packed(units: Sequence[_Unit]) -> list[_Unit]:
    """As many units into a cue as fit."""
    packed: list[_Unit] = []
    for unit in units:
        joined = _Unit(packed[-1].text + unit.text, packed[-1].start, unit.end) if packed else unit
        if len(_wrap(joined.text)) <= LINES:
            packed[-1:] = [joined]
        else:
            packed.append(unit)
    return packed


def _by_words(final: FinalView, text: str) -> list[_Unit]:
    """The text cut where its words begin; empty where the words are not those of the text."""
    offsets = []
    after = 0
    for word in final.words:
        offset = text.find(word.text, after)
        if offset < 0 or not word.text:
            return []
        offsets.append(offset)
        after = offset + len(word.text)
    cuts = [0, *offsets[1:], len(text)]
    units = [
        _Unit(text[cut:until], word.start, word.end)
        for word, cut, until in zip(final.words, cuts, cuts[1:], strict=False)
    ]
    return units if all(len(unit.text) <= LINE_CHARS for unit in units) else []


def _by_share(final: FinalView, text: str) -> list[_Unit]:
    """The text cut at spaces, or anywhere where there are none for a line; times in proportion to the characters."""
    samples = (final.end - final.start) / len(text)
    return [
        _Unit(
            found.group(),
            final.start + int(found.start() * samples),
            final.start + int(found.end() * samples),
        )
        for found in _PIECE.finditer(text)
    ]


def _wrap(text: str) -> tuple[str, ...]:
    return tuple(textwrap.wrap(text, LINE_CHARS, break_on_hyphens=False))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _minutes(position: int) -> str:
    seconds = position // SAMPLE_RATE
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _clock(position: int, mark: str) -> str:
    milliseconds = position * 1000 // SAMPLE_RATE
    seconds = milliseconds // 1000
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{milliseconds % 1000:03d}"
