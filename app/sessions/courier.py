"""Between the parts of a session: what one reports goes to the speaker, the committer, the metrics."""

from __future__ import annotations

import asyncio

from app.archive.records import RangeList
from app.events.log import Publisher
from app.protocol.messages import Notice
from app.sessions.committer import Committer
from app.sessions.finals import FinalsBook
from app.sessions.link import Link
from app.telemetry.logs import logger
from app.telemetry.metrics import Metrics
from audio.coverage import Ranges
from audio.transcriber import Transcriber
from audio.transcript import CommittedFinal, Final, Partial
from tenants.terms import SessionRef

_log = logger(__name__)


class Courier:
    """Implements the event protocols of transcriber, recorder and committer. Every call is synchronous and quick.

    ``link`` is the speaker's connection while there is one. ``committer`` is set once, before anything runs. ``stored``
    is set after each object that reached the archive; whoever waits for it clears it.

    Args:
        publisher: takes what observers follow, finals excepted: those the committer brings into the log.
        epoch: of the owner. ``durable``: the position up to which audio is safe already.
    """

    committer: Committer

    def __init__(
        self, metrics: Metrics, publisher: Publisher, ref: SessionRef, *, epoch: int, durable: int
    ) -> None:
        self._metrics, self._publisher = metrics, publisher
        self._ref, self._epoch = ref, epoch
        self._durable = durable
        self.link: Link | None = None
        self.stored = asyncio.Event()

    def on_partial(self, partial: Partial) -> None:
        """A hypothesis goes straight to the speaker, and to whoever follows."""
        if self.link is not None:
            self.link.partial(partial)
        self._publisher.partial(self._ref, self._epoch, partial)

    def on_final(self, final: Final) -> None:
        """An engine's final is shown at once and committed as soon as may be."""
        self.on_partial(Partial(final.id, final.start, final.end, final.text, final.words, final.language))
        self.committer.add(final)

    def on_committed(self, finals: list[CommittedFinal], seconds: float) -> None:
        """The speaker may be told; the next segment carries them."""
        self._metrics.finals_committed.inc(len(finals))
        self._metrics.commit_seconds.observe(seconds)
        if self.link is not None:
            self.link.finals_committed([f.final.id for f in finals])

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        """Something that the speaker and the operator should know. ``message`` holds nothing that was said."""
        _log.info("notice", code=code, start=start, end=end)
        if code == "engine_restarted":
            self._metrics.engine_restarts.inc()
        if code == "transcript_gap" and start is not None and end is not None:
            self._metrics.transcript_gap_samples.inc(end - start)
        if self.link is not None:
            self.link.notice(Notice(code, message, start, end))
        where = {"from": start, "to": end}
        told = {name: position for name, position in where.items() if position is not None}
        self._publisher.event(self._ref, "notice", {"code": code, "message": message, **told})

    def on_log_lost(self) -> None:
        """Finals are committed in the archive meanwhile, which is slower and as safe."""
        _log.warning("log_unavailable")

    def on_durable(self, position: int, seconds: float) -> None:
        """Audio is safe up to ``position``; the put took ``seconds``."""
        self._metrics.segment_write_seconds.observe(seconds)
        self._metrics.samples_durable.inc(max(0, position - self._durable))
        self._durable = position
        self.stored.set()
        if self.link is not None:
            self.link.ack()

    def on_archive_degraded(self, reason: str) -> None:
        """The speaker is told; its window closes by itself when the ring is full."""
        self.on_notice(
            "archive_degraded", f"the archive takes nothing now ({reason}): audio waits", None, None
        )

    def on_archive_recovered(self) -> None:
        """The end of the above."""
        self.on_notice("archive_recovered", "the archive takes audio again", None, None)


class SessionNotes:
    """What segments carry beside audio: see ``app.archive.recorder.Notes``."""

    def __init__(self, book: FinalsBook, inherited: Ranges, transcriber: Transcriber | None) -> None:
        self._book, self._inherited, self._transcriber = book, inherited, transcriber

    @property
    def settled(self) -> int:
        """Up to here everything said is in finals; 0 where nothing is transcribed."""
        return self._transcriber.settled if self._transcriber is not None else 0

    @property
    def live(self) -> Ranges:
        """What was transcribed live so far, over the whole session."""
        return self._inherited if self._transcriber is None else self._inherited.union(self._transcriber.live)

    def unarchived(self) -> list[CommittedFinal]:
        """Finals that no object carries yet."""
        return self._book.unarchived()

    def mark_archived(self, seq: int) -> None:
        """Finals up to ``seq`` are durable."""
        self._book.mark_archived(seq)

    def marks(self) -> tuple[int, RangeList, int]:
        """(last seq, ranges transcribed live, settled)."""
        return self._book.numbered, list(self.live), self.settled
