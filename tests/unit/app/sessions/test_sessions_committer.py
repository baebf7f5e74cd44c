from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.archive.history import Fence
from app.archive.records import Base
from app.sessions.committer import CATCH_UP_SECONDS, Committer
from app.sessions.finals import FinalsBook
from app.sessions.log_tail import Fenced, LogTail
from audio.transcript import CommittedFinal
from tests.support.archives import REF, a_final, finals
from tests.support.inline_loop import in_virtual_time
from tests.support.memory_log import MemoryLog


@dataclass
class Rig:
    """A committer between a log and an archive that is a list of what was drained into it."""

    log: MemoryLog = field(default_factory=MemoryLog)
    book: FinalsBook = field(default_factory=lambda: FinalsBook(epoch=1, seq=0))
    told: list[int] = field(default_factory=list)
    lost: int = 0
    arrived: int = 0
    steps: list[str] = field(default_factory=list)
    newer: bool = False
    archive: asyncio.Event = field(default_factory=asyncio.Event)
    epoch: int = 1
    log_at: int | None = 0
    older: list[CommittedFinal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.archive.set()
        self.tail = LogTail(
            log=self.log,
            ref=REF,
            epoch=self.epoch,
            task="a",
            book=self.book,
            confirm=self.confirm,
            earlier=self.earlier,
            at=self.log_at,
            fence=Fence(()).extended(self.epoch, Base(0, self.book.numbered)),
        )
        self.committer = Committer(
            tail=self.tail,
            book=self.book,
            events=self,
            recorder=self,
            clock=asyncio.get_running_loop().time,
        )

    async def earlier(self, after: int, last: int) -> list[CommittedFinal]:
        await asyncio.sleep(0)
        return [final for final in self.older if after < final.seq <= last]

    # Events

    def on_committed(self, finals: list[CommittedFinal], seconds: float) -> None:
        assert seconds >= 0
        for final in finals:
            assert final.seq <= self.book.committed
            in_log = final in self.log.committed
            in_archive = final.seq <= self.book.archived and self.steps[-1] == "confirmed"
            assert in_log or in_archive, f"{final.seq} was told and nothing holds it"
        self.told += [final.seq for final in finals]

    def on_log_lost(self) -> None:
        self.lost += 1

    # Carrier

    def finals_arrived(self) -> None:
        self.arrived += 1

    async def drain(self) -> None:
        self.steps.append("drain")
        await self.archive.wait()
        # As the recorder does: what is stored counts when nobody newer is there afterwards.
        await self.confirm()
        self.book.mark_archived(self.book.numbered)

    async def confirm(self) -> None:
        await asyncio.sleep(0)
        if self.newer:
            raise Fenced
        self.steps.append("confirmed")

    def say(self, *numbers: int) -> None:
        for n in numbers:
            self.committer.add(a_final(n, n * 10, n * 10 + 5))


@asynccontextmanager
async def committing(rig: Rig | None = None, *, announced: bool = True) -> AsyncIterator[Rig]:
    rig = rig or Rig()
    if announced:
        await rig.log.announce(REF, 1, 0, "a")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(rig.committer.run())
        yield rig
        running.cancel()


async def soon(rig: Rig, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        await rig.committer.settle()


@in_virtual_time
async def test_finals_are_committed_in_the_log_and_told_in_order() -> None:
    async with committing() as rig:
        await soon(rig)
        rig.say(1)
        rig.say(2)
        await soon(rig)
        rig.say(3)
        await soon(rig)
        assert rig.told == [1, 2, 3]
        assert [f.final.id for f in rig.log.committed] == ["u1", "u2", "u3"]
        assert rig.steps == []
        assert rig.lost == 0
        assert rig.book.archived == 0


@in_virtual_time
async def test_what_waits_together_is_committed_together() -> None:
    async with committing() as rig:
        rig.say(*range(1, 11))
        await soon(rig)
        assert rig.told == list(range(1, 11))
        assert rig.arrived == 1


@in_virtual_time
async def test_settling_with_nothing_to_commit_returns_at_once() -> None:
    async with committing() as rig:
        await soon(rig, 0.001)


@in_virtual_time
async def test_settling_may_be_given_up() -> None:
    async with committing() as rig:
        rig.log.away = True
        rig.archive.clear()
        rig.say(1)
        with pytest.raises(TimeoutError):
            await soon(rig, 1)
        rig.archive.set()
        await soon(rig)
        assert rig.told == [1]


@in_virtual_time
async def test_a_newer_owner_fences_and_nothing_is_told() -> None:
    rig = Rig()
    with pytest.RaisesGroup(Fenced):
        async with committing(rig):
            rig.say(1)
            await soon(rig)
            await rig.log.announce(REF, 2, 1, "b")
            rig.say(2)
            await asyncio.sleep(10)
    assert rig.told == [1]
    assert rig.book.numbered == 1


@in_virtual_time
async def test_without_the_log_finals_are_told_when_the_archive_holds_them_and_nobody_is_newer() -> None:
    async with committing() as rig:
        rig.log.away = True
        rig.archive.clear()
        rig.say(1, 2)
        await asyncio.sleep(60)
        assert rig.told == []
        assert rig.lost == 1
        rig.archive.set()
        await soon(rig)
        assert rig.told == [1, 2]
        assert rig.steps == ["drain", "confirmed"]
        assert rig.book.archived == 2


@in_virtual_time
async def test_without_the_log_a_newer_epoch_in_the_archive_fences() -> None:
    rig = Rig(newer=True)
    with pytest.RaisesGroup(Fenced):
        async with committing(rig):
            rig.log.away = True
            rig.say(1)
            await asyncio.sleep(10)
    assert rig.told == []


@in_virtual_time
async def test_a_lost_answer_doubles_nothing() -> None:
    async with committing() as rig:
        rig.log.answers_lost = 1
        rig.say(1)
        await soon(rig)
        rig.say(2)
        await soon(rig)
        assert rig.told == [1, 2]
        assert [f.seq for f in rig.log.committed] == [1, 2]
        assert rig.steps == ["drain", "confirmed"]


@in_virtual_time
async def test_when_the_log_is_back_it_is_told_where_things_stand() -> None:
    async with committing() as rig:
        rig.log.away = True
        rig.say(1, 2)
        await soon(rig)
        rig.log.away = False
        rig.say(3)
        await soon(rig)
        assert rig.told == [1, 2, 3]
        assert [f.seq for f in rig.log.committed] == [1, 2, 3]
        assert rig.steps == ["drain", "confirmed"]


@in_virtual_time
async def test_a_log_that_is_back_gets_what_it_missed_without_another_final() -> None:
    async with committing() as rig:
        rig.log.away = True
        rig.say(1, 2)
        await soon(rig)
        rig.log.away = False
        await asyncio.sleep(CATCH_UP_SECONDS + 0.1)
        assert [f.seq for f in rig.log.committed] == [1, 2]
        assert rig.told == [1, 2]


@in_virtual_time
async def test_an_emptied_log_of_which_the_owner_hears_gets_what_is_in_memory() -> None:
    async with committing() as rig:
        rig.say(1, 2)
        await soon(rig)
        rig.log.forget_everything()
        rig.log.committed.clear()
        rig.committer.log_forgot()
        await asyncio.sleep(CATCH_UP_SECONDS + 0.1)
        assert [f.seq for f in rig.log.committed] == [1, 2]
        assert rig.told == [1, 2]


@in_virtual_time
async def test_a_log_that_lost_its_end_gets_it_again() -> None:
    async with committing() as rig:
        rig.say(1, 2, 3)
        await soon(rig)
        rig.log.forget_after(REF, 1)
        rig.say(4)
        await soon(rig)
        assert rig.told == [1, 2, 3, 4]
        assert [f.seq for f in rig.log.committed] == [1, 2, 3, 4]
        assert rig.steps == ["confirmed"]
        assert "rewound" not in [kind for _, kind in rig.log.events]


@in_virtual_time
async def test_what_older_owners_could_only_archive_goes_into_the_log_first() -> None:
    rig = Rig(book=FinalsBook(epoch=1, seq=250), log_at=2, older=finals(1, 250, 0))
    await rig.log.announce(REF, 0, 0, "old")
    await rig.log.commit(REF, 0, finals(1, 2, 0))
    await rig.log.announce(REF, 1, 250, "a")
    async with committing(rig, announced=False):
        await asyncio.sleep(CATCH_UP_SECONDS)
        assert [f.seq for f in rig.log.committed] == list(range(1, 251))
        rig.say(251)
        await soon(rig)
        assert rig.told == [251]
        assert [f.seq for f in rig.log.committed] == list(range(1, 252))


@in_virtual_time
async def test_an_archive_that_is_away_too_does_not_end_the_catching_up() -> None:
    rig = Rig(book=FinalsBook(epoch=1, seq=3), log_at=None)
    async with committing(rig, announced=False):
        await rig.log.announce(REF, 0, 0, "old")
        await rig.log.commit(REF, 0, finals(1, 1, 0))
        await asyncio.sleep(3 * CATCH_UP_SECONDS)
        assert [f.seq for f in rig.log.committed] == [1]
        rig.older = finals(1, 3, 0)
        await asyncio.sleep(2 * CATCH_UP_SECONDS)
        assert [f.seq for f in rig.log.committed] == [1, 2, 3]


@in_virtual_time
async def test_an_emptied_log_is_announced_to_again() -> None:
    async with committing() as rig:
        rig.say(1)
        await soon(rig)
        rig.log.forget_everything()
        rig.say(2)
        await soon(rig)
        assert rig.told == [1, 2]
        # Observers who were away meanwhile find both again.
        assert [f.seq for f in await rig.log.pending(REF)] == [1, 2]
        assert rig.steps == ["confirmed"]


@in_virtual_time
async def test_an_emptied_log_is_not_announced_to_by_a_fenced_owner() -> None:
    rig = Rig(newer=True)
    with pytest.RaisesGroup(Fenced):
        async with committing(rig):
            rig.log.forget_everything()
            rig.say(1)
            await asyncio.sleep(10)
    assert rig.told == []
    assert rig.log.committed == []


@in_virtual_time
async def test_a_log_that_learns_of_a_newer_owner_while_it_is_announced_to_fences() -> None:
    rig = Rig()

    async def confirm() -> None:
        await rig.log.announce(REF, 2, 0, "b")

    rig.tail._confirm = confirm
    with pytest.RaisesGroup(Fenced):
        async with committing(rig, announced=False):
            rig.say(1)
            await asyncio.sleep(10)
    assert rig.told == []


@in_virtual_time
async def test_a_log_that_goes_away_while_it_is_announced_to_is_done_without() -> None:
    rig = Rig()

    async def confirm() -> None:
        rig.log.away = True
        rig.steps.append("confirmed")

    rig.tail._confirm = confirm
    async with committing(rig, announced=False):
        rig.say(1)
        await soon(rig)
        assert rig.told == [1]
        assert rig.steps == ["confirmed", "drain", "confirmed"]


@in_virtual_time
async def test_what_an_older_owner_left_in_the_log_unread_is_dropped_and_not_taken_for_ours() -> None:
    # The claim was made without the log; the older owner's finals 1 to 3 are still in it.
    rig = Rig(log_at=None)
    await rig.log.announce(REF, 0, 0, "old")
    await rig.log.commit(REF, 0, finals(1, 3, 0))
    async with committing(rig, announced=False):
        rig.say(1)
        await soon(rig)
        assert rig.told == [1]
        assert [(f.seq, f.epoch) for f in await rig.log.pending(REF)] == [(1, 1)]
        assert [kind for _, kind in rig.log.events] == ["rewound"]
        rig.say(2)
        await soon(rig)
        assert [(f.seq, f.epoch) for f in await rig.log.pending(REF)] == [(1, 1), (2, 1)]


@in_virtual_time
async def test_an_emptied_log_is_told_what_stands_of_older_owners_and_not_of_this_one() -> None:
    rig = Rig(book=FinalsBook(epoch=2, seq=3), epoch=2, log_at=3)
    await rig.log.announce(REF, 2, 3, "a")
    async with committing(rig, announced=False):
        rig.say(1, 2)
        await soon(rig)
        rig.log.forget_everything()
        rig.say(3)
        await soon(rig)
        assert rig.told == [4, 5, 6]
        assert rig.log.rewinds == [(REF, 3), (REF, 3)]


@in_virtual_time
async def test_finals_that_come_during_a_commit_are_committed_after_it() -> None:
    async with committing() as rig:
        rig.log.away = True
        rig.archive.clear()
        rig.say(1)
        await asyncio.sleep(1)
        rig.log.away = False
        rig.say(2)
        rig.say(3)
        await asyncio.sleep(1)
        assert rig.told == []
        rig.archive.set()
        await soon(rig)
        assert rig.told == [1, 2, 3]
        assert rig.arrived == 2


@in_virtual_time
async def test_an_owner_that_the_log_has_not_heard_of_announces_itself_before_it_commits() -> None:
    # The answer to its announcement was lost: the log took it, and an older owner's finals with it.
    rig = Rig(log_at=None)
    await rig.log.announce(REF, 0, 0, "old")
    await rig.log.commit(REF, 0, finals(1, 3, 0))
    await rig.log.announce(REF, 1, 0, "a")
    async with committing(rig, announced=False):
        rig.say(1)
        await soon(rig)
        assert rig.told == [1]
        assert rig.steps == ["confirmed"]
        assert [(f.seq, f.epoch) for f in await rig.log.pending(REF)] == [(1, 1)]
        rig.say(2)
        await soon(rig)
        assert rig.steps == ["confirmed"]
