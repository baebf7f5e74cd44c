"""What must hold of a session that is finished, of plain values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tests.chaos.ward.voice import Final

_PART = re.compile(r"(audio|transcript)-(\d+)\.(flac|json)")
_EPOCH = re.compile(r"epochs/(\d+)\.json")


def first_difference(one: bytes, other: bytes) -> int:
    """The first position at which PCM differs."""
    pairs = zip(range(0, len(one), 2), range(0, len(other), 2), strict=False)
    return next(
        (at // 2 for at, _ in pairs if one[at : at + 2] != other[at : at + 2]), min(len(one), len(other)) // 2
    )


def coverage_faults(coverage: dict[str, list[list[int]]], samples: int) -> list[str]:
    """What does not sum up: all of it archived, each sample transcribed live, filled in later, or not transcribed."""
    whole = [[0, samples]] if samples else []
    wrong = []
    if coverage["archived"] != whole or coverage["missing"]:
        wrong.append(f"archived {coverage['archived']}, missing {coverage['missing']} of {samples}")
    parts = sorted(pair for name in ("live", "filled", "untranscribed") for pair in coverage[name])
    edge = 0
    for start, end in parts:
        if start != edge or end <= start:
            wrong.append(f"coverage breaks at {edge}: {start} to {end}")
            break
        edge = end
    if edge != samples and not wrong:
        wrong.append(f"coverage ends at {edge} of {samples}")
    return wrong


def within(final: Final, ranges: Iterable[Sequence[int]]) -> bool:
    """Whether one of the ranges, which do not touch, has all of it."""
    return any(start <= final.start and final.end <= end for start, end in ranges)


def epochs_in(names: Iterable[str]) -> list[int]:
    """The epochs that were claimed, in order."""
    return sorted(int(found[1]) for name in names if (found := _EPOCH.fullmatch(name)))


def untidy(names: Iterable[str]) -> str:
    """What is too much or too little in the folder of a finished session; empty when nothing is."""
    names = [*names]
    kept = [name for name in names if not name.startswith("epochs/")]
    kinds = sorted(found[1] if (found := _PART.fullmatch(name)) else name for name in kept)
    if kinds != ["audio", "manifest.json", "session.json", "transcript"]:
        return f"holds {sorted(kept)}"
    epochs = epochs_in(names)
    return "" if epochs == [*range(1, len(epochs) + 1)] and epochs else f"has epochs {epochs}"
