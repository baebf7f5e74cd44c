"""The ledger of a session's audio: which positions were archived, transcribed live, filled in later, or are missing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Self

Pair = tuple[int, int]


class CoverageError(ValueError):
    """A ledger that contradicts itself. ``field`` names the part that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Ranges:
    """A set of integers >= 0, kept as sorted, disjoint, non-touching, half-open ranges.

    ``add`` changes it in place; everything else gives a new one. Equality is that of the sets; not hashable.
    Appending at the end costs O(1); adding elsewhere and finding O(log n) steps plus what is moved.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in pairs:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Put ``[start, end)`` in; what it overlaps or touches becomes one range with it. Empty is nothing.

        Raises:
            ValueError: ``start`` is negative or past ``end``.
        """
        _check(start, end)
        if start == end:
            return
        starts, ends = self._starts, self._ends
        if not ends or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return
        first = bisect_left(ends, start)
        after = bisect_right(starts, end)
        if first < after:
            start = min(start, starts[first])
            end = max(end, ends[after - 1])
        starts[first:after] = [start]
        ends[first:after] = [end]

    def union(self, other: Ranges) -> Ranges:
        """What is in either, in O(n + m)."""
        return Ranges(merge(self, other))

    def subtract(self, other: Ranges) -> Ranges:
        """What is in this one and not in ``other``."""
        return Ranges(gap for start, end in self for gap in other.gaps(start, end))

    def intersect(self, other: Ranges) -> Ranges:
        """What is in both."""
        return Ranges(piece for start, end in self for piece in other.within(start, end))

    def clip(self, end: int) -> Ranges:
        """What is before ``end``."""
        return Ranges(self.within(0, max(0, end)))

    def total(self) -> int:
        """How many integers are in it."""
        return sum(self._ends) - sum(self._starts)

    def contains(self, start: int, end: int) -> bool:
        """Whether all of ``[start, end)`` is in it; always so for an empty range.

        Raises:
            ValueError: ``start`` is negative or past ``end``.
        """
        return next(self.gaps(start, end), None) is None

    def within(self, start: int, end: int) -> Iterator[Pair]:
        """The parts of ``[start, end)`` that are in it, ascending.

        Raises (from iteration):
            ValueError: ``start`` is negative or past ``end``.
        """
        _check(start, end)
        starts, ends = self._starts, self._ends
        for at in range(bisect_right(ends, start), bisect_left(starts, end)):
            yield max(start, starts[at]), min(end, ends[at])

    def gaps(self, start: int, end: int) -> Iterator[Pair]:
        """The parts of ``[start, end)`` that are not in it, ascending.

        Raises (from iteration):
            ValueError: ``start`` is negative or past ``end``.
        """
        at = start
        for covered, until in self.within(start, end):
            if at < covered:
                yield at, covered
            at = until
        if at < end:
            yield at, end

    def copy(self) -> Ranges:
        """One that changes by itself."""
        return Ranges(self)

    def to_wire(self) -> list[list[int]]:
        """``[[start, end], ...]``, ascending."""
        return [[start, end] for start, end in self]

    @classmethod
    def from_wire(cls, pairs: Iterable[Sequence[int]]) -> Self:
        """Read what ``to_wire`` wrote.

        Raises:
            ValueError: not pairs of whole numbers, or empty, unordered or overlapping ranges.
        """
        ranges = cls()
        last = 0
        for pair in pairs:
            if len(pair) != 2 or any(type(value) is not int for value in pair):
                raise ValueError("a range is a pair of whole numbers")
            start, end = pair
            if not last <= start < end:
                raise ValueError(f"[{start}, {end}) is empty, unordered or overlaps the range before it")
            ranges.add(start, end)
            last = end
        return ranges

    def __iter__(self) -> Iterator[Pair]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._starts)

    def __contains__(self, position: int) -> bool:
        at = bisect_right(self._starts, position) - 1
        return at >= 0 and position < self._ends[at]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"


def _check(start: int, end: int) -> None:
    if not 0 <= start <= end:
        raise ValueError(f"[{start}, {end}) is no range")


@dataclass(frozen=True, slots=True)
class Coverage:
    """What happened to the samples of a session, in positions. The record is fixed, its ``Ranges`` may grow.

    Attributes:
        archived: audio that the archive holds.
        live: audio that the engine heard while the session ran.
        filled: audio that was transcribed afterwards.
        missing: audio that nobody holds any more.
    """

    archived: Ranges = field(default_factory=Ranges)
    live: Ranges = field(default_factory=Ranges)
    filled: Ranges = field(default_factory=Ranges)
    missing: Ranges = field(default_factory=Ranges)

    def untranscribed(self) -> Ranges:
        """Archived audio that no engine has heard."""
        return self.archived.subtract(self.live).subtract(self.filled)

    def fraction_archived(self) -> float:
        """The archived part of archived and missing together, 0..1; 1 for a session without a sample."""
        archived = self.archived.total()
        whole = archived + self.missing.total()
        return archived / whole if whole else 1.0

    def check(self, samples: int, *, keeps_audio: bool = True) -> None:
        """Check that the ledger accounts for each of ``samples`` samples.

        What was kept (archived; without ``keeps_audio``: transcribed) and what is missing are disjoint and together
        exactly ``[0, samples)``; nothing lies outside.

        Raises:
            CoverageError: it does not.
        """
        self._check_within(samples)
        kept = self.archived if keeps_audio else self.live.union(self.filled)
        name = "archived" if keeps_audio else "live and filled"
        if twice := kept.intersect(self.missing):
            raise CoverageError("missing", f"also {name}: {twice.to_wire()}")
        if unknown := list(kept.union(self.missing).gaps(0, samples)):
            raise CoverageError(name, f"neither there nor missing: {unknown}")
        if not keeps_audio and self.archived:
            raise CoverageError("archived", "a session that keeps no audio has archived some")

    def to_wire(self) -> dict[str, list[list[int]]]:
        """The ranges under their names, ``untranscribed`` among them."""
        return {
            "archived": self.archived.to_wire(),
            "live": self.live.to_wire(),
            "filled": self.filled.to_wire(),
            "untranscribed": self.untranscribed().to_wire(),
            "missing": self.missing.to_wire(),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Iterable[Sequence[int]]]) -> Coverage:
        """Read what ``to_wire`` wrote.

        Raises:
            CoverageError: a part is absent or no list of ranges, or ``untranscribed`` does not follow from the others.
        """
        parts = {name: _part(wire, name) for name in ("archived", "live", "filled", "missing")}
        coverage = cls(**parts)
        if _part(wire, "untranscribed") != coverage.untranscribed():
            raise CoverageError("untranscribed", "does not follow from archived, live and filled")
        return coverage

    def _check_within(self, samples: int) -> None:
        for name, ranges in (
            ("archived", self.archived),
            ("live", self.live),
            ("filled", self.filled),
            ("missing", self.missing),
        ):
            if beyond := ranges.subtract(Ranges([(0, samples)])):
                raise CoverageError(name, f"beyond the {samples} samples of the session: {beyond.to_wire()}")


def _part(wire: Mapping[str, Iterable[Sequence[int]]], name: str) -> Ranges:
    if name not in wire:
        raise CoverageError(name, "absent")
    try:
        return Ranges.from_wire(wire[name])
    except (TypeError, ValueError) as error:
        raise CoverageError(name, str(error)) from error
