"""What happened in a session, read from the archive alone.

Which segments and finals count is decided by epochs: those of an epoch count from its base up to the lowest
base of any newer epoch. So what a fenced owner still writes changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.archive.records import (
    Base,
    EpochRecord,
    FinalsRecord,
    Manifest,
    RangeList,
    SegmentHeader,
    SessionRecord,
    parse_epoch_name,
    parse_finals_name,
    parse_segment_name,
)
from audio.transcript import CommittedFinal


@dataclass(frozen=True)
class Listing:
    """Names in a session's folder, sorted into kinds. ``segments`` and ``finals``: (first, epoch), ascending."""

    epochs: tuple[int, ...]
    segments: tuple[tuple[int, int], ...]
    finals: tuple[tuple[int, int], ...]
    others: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> Listing:
        """Sort ``names``, which are relative to the session's folder."""
        epochs: list[int] = []
        segments: list[tuple[int, int]] = []
        finals: list[tuple[int, int]] = []
        others: set[str] = set()
        for name in names:
            if (epoch := parse_epoch_name(name)) is not None:
                epochs.append(epoch)
            elif (segment := parse_segment_name(name)) is not None:
                segments.append(segment)
            elif (finals_name := parse_finals_name(name)) is not None:
                finals.append(finals_name)
            else:
                others.add(name)
        return cls(tuple(sorted(epochs)), tuple(sorted(segments)), tuple(sorted(finals)), frozenset(others))


class Fence:
    """The cuts that epochs with a base make in the writing of older ones."""

    def __init__(self, epochs: Iterable[EpochRecord]) -> None:
        self._bases: dict[int, Base] = {e.epoch: e.base for e in epochs if e.base is not None}

    def extended(self, epoch: int, base: Base) -> Fence:
        """The same, and the cut that one more epoch makes."""
        extended = Fence(())
        extended._bases = {**self._bases, epoch: base}
        return extended

    def base(self, epoch: int) -> Base | None:
        """Where ``epoch`` begins, or None where it promised nothing."""
        return self._bases.get(epoch)

    def cut_position(self, epoch: int) -> int | None:
        """The position at which audio of ``epoch`` stops to count; None while none does."""
        return min((b.position for e, b in self._bases.items() if e > epoch), default=None)

    def cut_seq(self, epoch: int) -> int | None:
        """The last ``seq`` of ``epoch`` that counts; None while all do."""
        return min((b.seq for e, b in self._bases.items() if e > epoch), default=None)

    def segment_counts(self, first: int, epoch: int) -> bool:
        """Whether anything of a segment may count, judged by its name."""
        cut = self.cut_position(epoch)
        return epoch in self._bases and (cut is None or first < cut)

    def final_counts(self, final: CommittedFinal, carrier: int) -> bool:
        """Whether a final found in an object of epoch ``carrier`` counts."""
        cut = self.cut_seq(carrier)
        return carrier in self._bases and (cut is None or final.seq <= cut)


@dataclass(frozen=True)
class Piece:
    """Samples ``[start, end)`` of the session, found in the object of segment ``(first, epoch)``."""

    first: int
    epoch: int
    start: int
    end: int


def pieces_of(fence: Fence, headers: Iterable[SegmentHeader]) -> list[Piece]:
    """Which part of which segment makes up the session's audio, in order and without overlap."""
    pieces: list[Piece] = []
    for header in sorted(headers, key=lambda h: (h.first, h.epoch)):
        base = fence.base(header.epoch)
        if base is None:
            continue
        cut = fence.cut_position(header.epoch)
        start = max(header.first, base.position)
        end = header.end if cut is None else min(header.end, cut)
        if start < end:
            pieces.append(Piece(header.first, header.epoch, start, end))
    return pieces


def merge_finals(
    fence: Fence, sources: Iterable[tuple[int, Iterable[CommittedFinal]]], after: int = 0
) -> list[CommittedFinal]:
    """The union of finals from ``(epoch of the carrier, finals)``: those after ``after``, up to the first gap.

    Where two carriers have the same ``seq`` the newer epoch wins.
    """
    best: dict[int, tuple[int, CommittedFinal]] = {}
    for carrier, finals in sources:
        for final in finals:
            if final.seq <= after or not fence.final_counts(final, carrier):
                continue
            held = best.get(final.seq)
            if held is None or carrier > held[0]:
                best[final.seq] = (carrier, final)
    merged: list[CommittedFinal] = []
    while (found := best.get(after + len(merged) + 1)) is not None:
        merged.append(found[1])
    return merged


@dataclass(frozen=True)
class History:
    """A session as the archive tells it.

    Attributes:
        end: position up to which audio (or, where none is kept, transcript) is durable.
        seq: the last final in the archive.
        live, settled: from the newest record that counts.
        newest: header of the newest segment of the newest epoch; None where there is none, or it was not read.
    """

    session: SessionRecord
    listing: Listing
    epochs: tuple[EpochRecord, ...]
    manifest: Manifest | None
    end: int
    seq: int
    live: RangeList = field(default_factory=list)
    settled: int = 0
    newest: SegmentHeader | None = None

    @property
    def fence(self) -> Fence:
        """The cuts of this session's epochs."""
        return Fence(self.epochs)

    @property
    def newest_epoch(self) -> int:
        """The highest epoch ever claimed, with or without a base; 0 where there is none."""
        return self.listing.epochs[-1] if self.listing.epochs else 0

    @property
    def based(self) -> EpochRecord | None:
        """The newest epoch under which anything was promised."""
        return max((e for e in self.epochs if e.base is not None), key=lambda e: e.epoch, default=None)

    @property
    def speaker_serial(self) -> int:
        """The highest serial of a ticket that a speaker entered with; 0 where nobody spoke yet.

        A claim that died before its base promised nothing: its ticket was not used.
        """
        return max((e.serial for e in self.epochs if e.base is not None), default=0)

    @property
    def finished_samples(self) -> int:
        """How much of the audio that the manifest names still counts, from the session's beginning; 0 where it names none."""
        if self.manifest is None or self.manifest.audio is None:
            return 0
        cut = self.fence.cut_position(self.manifest.epoch)
        return self.manifest.samples if cut is None else min(self.manifest.samples, cut)

    @property
    def finished(self) -> bool:
        """Whether the manifest has the last word."""
        if self.manifest is None:
            return False
        based = self.based
        return based is None or self.manifest.epoch >= based.epoch


def newest_note(fence: Fence, notes: Iterable[FinalsRecord]) -> FinalsRecord | None:
    """The newest record of the newest epoch among ``notes`` that counts whole."""
    counting = [n for n in notes if fence.base(n.epoch) is not None]
    return max(counting, key=lambda n: (n.epoch, n.seq, n.settled), default=None)
