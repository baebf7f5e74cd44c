"""Owners, zombies, claims and finishers in any order: what was promised is what the archive and the log tell, no more and no less."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from app.archive.finisher import Finish, FinishLost, finish
from app.archive.history import Fence, merge_finals, pieces_of
from app.archive.reader import load_history, read_finals, read_piece, read_pieces
from app.archive.records import Base, EpochRecord, SegmentHeader, folder
from app.archive.store import Store, StoreUnavailable
from app.archive.verify import verify
from app.events.log import LogUnavailable
from app.sessions.errors import Superseded
from app.sessions.finals import FinalsBook
from app.sessions.log_tail import Fenced, LogTail
from app.sessions.ownership import Claim, Claimant, claim, confirm
from audio.codec import FlacReader
from audio.coverage import Ranges
from audio.transcript import CommittedFinal
from tests.support.archives import REF, Scribe, WatchedStore, a_final, disk, finals, sound
from tests.support.inline_loop import run
from tests.support.memory_log import MemoryLog

# Which records count, sample by sample --------------------------------------------------------------------------------

bases = st.none() | st.tuples(st.integers(0, 30), st.integers(0, 8))
segments = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30), st.integers(1, 12)), max_size=12)
carriers = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(0, 4)), max_size=8)


def fence_of(claims: list[tuple[int, int] | None]) -> Fence:
    records = [
        EpochRecord(n, "t", "speaker", "now", base=Base(*base) if base is not None else None)
        for n, base in enumerate(claims, 1)
    ]
    return Fence(records)


@given(st.lists(bases, max_size=6), segments)
def test_a_sample_counts_if_its_writer_owned_that_position(
    claims: list[tuple[int, int] | None], written: list[tuple[int, int, int]]
) -> None:
    # One epoch's segments follow one another; here any may be anywhere, so each is judged alone.
    fence = fence_of(claims)
    for epoch, first, samples in written:
        header = SegmentHeader(epoch, 0, [], [], 0, first, samples, "")
        found = {at for piece in pieces_of(fence, [header]) for at in range(piece.start, piece.end)}
        owned = {
            at
            for at in range(first, first + samples)
            if 1 <= epoch <= len(claims)
            and (own := claims[epoch - 1]) is not None
            and own[0] <= at
            and all(newer is None or at < newer[0] for newer in claims[epoch:])
        }
        assert found == owned
        assert fence.segment_counts(first, epoch) or not owned


@given(st.lists(bases, max_size=6), carriers, st.integers(0, 9))
def test_a_final_counts_if_no_newer_base_is_below_it(
    claims: list[tuple[int, int] | None], carried: list[tuple[int, int, int]], after: int
) -> None:
    sources = [(epoch, finals(first, first + count, epoch)) for epoch, first, count in carried]
    merged = merge_finals(fence_of(claims), sources, after)
    best: dict[int, int] = {}
    for epoch, found in sources:
        for final in found:
            known = 1 <= epoch <= len(claims) and claims[epoch - 1] is not None
            if known and all(newer is None or final.seq <= newer[1] for newer in claims[epoch:]):
                best[final.seq] = max(epoch, best.get(final.seq, 0))
    expected: list[tuple[int, int]] = []
    while after + len(expected) + 1 in best:
        seq = after + len(expected) + 1
        expected.append((seq, best[seq]))
    assert [(final.seq, final.epoch) for final in merged] == expected


# Whole lives of a session ---------------------------------------------------------------------------------------------


@dataclass
class Owner:
    """A task that took the session: it goes on writing whether or not it has been fenced meanwhile."""

    epoch: int
    head: int
    tail: LogTail
    book: FinalsBook
    unarchived: list[CommittedFinal] = field(default_factory=list)
    alive: bool = True
    finished: bool = False


@dataclass
class Life:
    """A session, and what its owners promised while they owned it."""

    store: Store
    log: MemoryLog = field(default_factory=MemoryLog)
    owners: list[Owner] = field(default_factory=list)
    audio: bytes = b""
    said: list[CommittedFinal] = field(default_factory=list)
    safe: int = 0
    """So many finals are in the archive; the others are in the log alone."""
    serial: int = 0
    ordinal: int = 0
    log_behind: bool = False
    """The log does not know of the newest owner, who came while it was away, or of what it knows."""
    claim_died: bool = False
    """Above the newest owner is the epoch of somebody who died before it promised anything."""

    @property
    def owner(self) -> Owner | None:
        return self.owners[-1] if self.owners and self.owners[-1].alive else None

    async def claim(self, *, log_away: bool = False) -> None:
        if log_away and self.owners:
            # Finals that the log alone has cannot be known: they come again, which the speaker is told.
            del self.said[self.safe :]
        self.log.away = log_away
        self.serial += 1
        won = await claim(self.store, self.log, REF, Claimant("t", "speaker", "now", self.serial))
        self.log.away = False
        self.log_behind = won.log_at is None
        assert won.base == Base(len(self.audio) // 2, len(self.said))
        assert won.adopted == self.said[self.safe :]
        self.safe = len(self.said)
        self._own(won)

    def _own(self, won: Claim, *, head: int | None = None, finished: bool = False) -> None:
        book = FinalsBook(epoch=won.epoch, seq=won.base.seq)

        async def confirmed() -> None:
            try:
                await confirm(self.store, REF, won.epoch)
            except Superseded:
                raise Fenced from None

        async def earlier(after: int, last: int) -> list[CommittedFinal]:
            history = await load_history(self.store, REF)
            assert history is not None
            return [
                final for final in await read_finals(self.store, REF, history, after) if final.seq <= last
            ]

        tail = LogTail(
            log=self.log,
            ref=REF,
            epoch=won.epoch,
            task="t",
            book=book,
            confirm=confirmed,
            earlier=earlier,
            at=won.log_at,
            fence=won.history.fence.extended(won.epoch, won.base),
        )
        self.claim_died = False
        position = won.base.position if head is None else head
        self.owners.append(Owner(won.epoch, position, tail, book, alive=not finished, finished=finished))

    async def die_claiming(self) -> None:
        watched = WatchedStore(self.store)

        async def die(verb: str, key: str) -> None:
            if verb == "replace":
                raise StoreUnavailable(key, "the process died")

        watched.before = die
        log = MemoryLog(away=True)
        try:
            await claim(watched, log, REF, Claimant("t", "speaker", "now", self.serial + 1))
        except StoreUnavailable:
            self.claim_died = True
            return
        raise AssertionError("it was to die")

    async def say(self, owner: Owner, count: int) -> None:
        newest = owner is self.owners[-1]
        if self.log_behind and not newest:
            # Until the newest owner has announced itself the log believes the one before; its client has left it.
            return
        for _ in range(count):
            final = self._spoken(owner)
            try:
                assert await owner.tail.append([final])
            except Fenced:
                # A claim that came to nothing makes an owner let go as well: it cannot know that.
                assert not newest or self.claim_died
                owner.alive = False
                return
            assert newest, "a fenced owner committed"
            self.log_behind = False
            owner.book.keep([final])
            owner.book.mark_committed(final.seq)
            owner.unarchived.append(final)
            self.said.append(final)

    async def say_without_log(self, owner: Owner) -> None:
        """The archive takes the final, and afterwards nobody newer is there."""
        final = self._spoken(owner)
        self.log.away = True
        try:
            await owner.tail.append([final])
        except LogUnavailable:
            self.log.away = False
        assert not self.log.away, "a log that is away took a final"
        owner.book.keep([final])
        owner.unarchived.append(final)
        self.said.append(final)
        await self.write(owner, 0)
        owner.book.mark_committed(final.seq)

    def _spoken(self, owner: Owner) -> CommittedFinal:
        self.ordinal += 1
        return owner.book.number([a_final(self.ordinal, self.ordinal, self.ordinal)])[0]

    async def write(self, owner: Owner, samples: int) -> None:
        """A segment, or finals alone where there is no audio."""
        scribe, end = Scribe(self.store), owner.head + samples
        carried, owner.unarchived = owner.unarchived, []
        if samples:
            await scribe.segment(
                owner.epoch, owner.head, end, carried=carried, seq=owner.book.numbered, voice=owner.epoch
            )
        elif carried:
            await scribe.note(owner.epoch, carried)
        if owner is self.owners[-1]:
            self.audio += sound(owner.head, end, owner.epoch)
            self.safe += len(carried)
            owner.book.mark_archived(self.safe)
            await self.log.archived(REF, owner.epoch, self.safe)
        owner.head = end

    async def finish(self) -> None:
        won = await claim(self.store, self.log, REF, Claimant("t", "finish", "now"))
        self.safe, self.log_behind = len(self.said), won.log_at is None
        history = await load_history(self.store, REF)
        assert history is not None
        said = await read_finals(self.store, REF, history)
        assert said == self.said
        manifest = await finish(self.store, Finish(REF, won.epoch, "abandoned", said, Ranges(), "now"))
        assert manifest.samples == len(self.audio) // 2
        self._own(won, head=manifest.samples, finished=True)
        if manifest.audio is not None:
            stored = await self.store.read(folder(REF) + manifest.audio.name)
            reader = FlacReader(BytesIO(stored.data))
            assert reader.read(0, reader.samples) == self.audio
            reader.close()

    async def finish_as(self, owner: Owner) -> None:
        """A zombie that ends its session as if it owned it."""
        try:
            await finish(self.store, Finish(REF, owner.epoch, "stopped", [], Ranges(), "now"))
        except FinishLost:
            return
        raise AssertionError("a zombie finished a session")

    def forget_log(self) -> None:
        self.log.forget_everything()
        for owner in self.owners[-1:]:
            # The owner holds what it committed until a segment carries it: nothing is lost while it lives.
            owner.alive = owner.alive and not owner.unarchived
            if not owner.alive:
                del self.said[self.safe :]
                owner.unarchived.clear()
        # The one residue: what only the log had was told, and nobody is left to withdraw it.
        told = self.log.followed.get(REF, [])
        self.log.followed[REF] = [a for a, b in zip(told, self.said, strict=False) if a == b]

    async def check(self) -> None:
        history = await load_history(self.store, REF)
        assert history is not None
        assert history.end == len(self.audio) // 2
        assert history.seq == self.safe
        assert await read_finals(self.store, REF, history) == self.said[: self.safe]
        if not self.log_behind:
            pending = await self.log.pending(REF)
            assert pending == self.said[len(self.said) - len(pending) :]
            assert len(pending) >= len(self.said) - self.safe
        if self.owner is not None and self.owner.tail.in_step:
            assert self.log.followed.get(REF, []) == self.said
        begin = (
            history.manifest.samples if history.finished and history.manifest else history.finished_samples
        )
        pieces = [] if history.finished else await read_pieces(self.store, REF, history, begin)
        pcm = b"".join([bytes(await read_piece(self.store, REF, piece)) for piece in pieces])
        skip = begin - pieces[0].start if pieces else 0
        assert pcm[2 * skip :] == self.audio[2 * begin :]
        verdict = await verify(self.store, REF)
        assert verdict is not None
        assert [fault for fault in verdict.faults if "overlap" not in fault] == []
        assert verdict.samples == len(self.audio) // 2


WHICH = st.integers(0, 9)
STEPS = st.one_of(
    st.tuples(st.just("claim")),
    st.tuples(st.just("claim without log")),
    st.tuples(st.just("die claiming")),
    st.tuples(st.just("say"), WHICH, st.integers(1, 3)),
    st.tuples(st.just("say without log")),
    st.tuples(st.just("write"), WHICH, st.integers(0, 40)),
    st.tuples(st.just("own"), st.integers(1, 2), st.integers(0, 40)),
    st.tuples(st.just("finish")),
    st.tuples(st.just("zombie finishes"), WHICH),
    st.tuples(st.just("forget log")),
)


async def step(life: Life, kind: str, *numbers: int) -> None:
    anyone = life.owners[numbers[0] % len(life.owners)] if numbers and life.owners else None
    match kind:
        case "claim" | "claim without log":
            await life.claim(log_away=kind != "claim")
        case "die claiming":
            await life.die_claiming()
        case "own" if life.owner is not None:
            owner = life.owner
            await life.say(owner, numbers[0])
            if owner.alive:
                await life.write(owner, numbers[1])
        case "say" if anyone is not None and anyone.alive:
            await life.say(anyone, numbers[1])
        case "say without log" if life.owner is not None and not life.claim_died:
            await life.say_without_log(life.owner)
        case "write" if anyone is not None and anyone.alive:
            await life.write(anyone, numbers[1])
        case "finish" if life.owners:
            await life.finish()
        case "zombie finishes" if anyone is not None and not (anyone is life.owners[-1] or anyone.finished):
            await life.finish_as(anyone)
        case "forget log":
            life.forget_log()


@settings(max_examples=40)
@given(st.lists(STEPS, min_size=3, max_size=14))
def test_what_owners_promised_is_what_the_archive_tells(steps: list[tuple[str | int, ...]]) -> None:
    async def scenario(root: Path) -> None:
        async with disk(root) as store:
            life = Life(store)
            await Scribe(store).session()
            for kind, *numbers in steps:
                await step(life, str(kind), *(int(n) for n in numbers))
                await life.check()

    with tempfile.TemporaryDirectory() as root:
        run(scenario(Path(root)))
