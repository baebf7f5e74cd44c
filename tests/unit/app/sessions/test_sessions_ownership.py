from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from app.archive.finisher import Finish, finish
from app.archive.reader import load_history, read_epoch
from app.archive.records import Base, epoch_key
from app.archive.store import ObjectMissing, StoreError, StoreUnavailable, VersionConflict
from app.auth.principal import AuthError
from app.auth.tickets import Ticket
from app.events.log import CommitOutcome
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.ownership import Claim, Claimant, claim, confirm, is_lost, judge_serial
from audio.coverage import Ranges
from tests.support.archives import REF, Scribe, WatchedStore, disk, finals, names
from tests.support.inline_loop import run
from tests.support.memory_log import MemoryLog

NOW = "2026-11-20T09:00:00.000Z"


def speaker(serial: int, *, resume: bool = False, task: str = "a") -> Claimant:
    return Claimant(task, "speaker", NOW, serial, f"ticket-{serial}", "dr.a", resume)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[WatchedStore]:
    async with disk(tmp_path) as inner:
        yield WatchedStore(inner)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def spoken(store: WatchedStore, log: MemoryLog, *, serial: int = 10) -> Claim:
    """Epoch 1 wrote 80 samples and finals 1 and 2; final 3 is known to the log alone."""
    await Scribe(store).session()
    first = await claim(store, log, REF, speaker(serial))
    await log.commit(REF, 1, finals(1, 3))
    await Scribe(store).segment(1, 0, 80, carried=finals(1, 2), live=[(0, 150)], settled=150)
    return first


# Serials --------------------------------------------------------------------------------------------------------------


def test_the_newest_ticket_wins() -> None:
    judge_serial(5, 6, resume=False)
    judge_serial(0, 1, resume=False)
    judge_serial(5, 5, resume=True)


def test_an_older_ticket_is_refused_even_for_resuming() -> None:
    for resume in (False, True):
        with pytest.raises(Superseded):
            judge_serial(6, 5, resume=resume)


def test_a_ticket_enters_once() -> None:
    with pytest.raises(AuthError) as caught:
        judge_serial(5, 5, resume=False)
    assert caught.value.code == "ticket_used"


def test_a_claimant_is_made_of_its_ticket() -> None:
    ticket = Ticket(REF.clinic_id, REF.session_id, "dr.a", "speaker", 7, "id", True, 0)
    assert Claimant.speaker(ticket, "t", NOW) == Claimant("t", "speaker", NOW, 7, "id", "dr.a", True)


# A claim --------------------------------------------------------------------------------------------------------------


async def test_a_new_session_is_owned_from_its_beginning(store: WatchedStore, log: MemoryLog) -> None:
    await Scribe(store).session()
    won = await claim(store, log, REF, speaker(10))
    assert (won.epoch, won.base, won.adopted) == (1, Base(0, 0), [])
    record = await read_epoch(store, REF, 1)
    assert (record.base, record.serial, record.subject, record.task) == (Base(0, 0), 10, "dr.a", "a")


async def test_there_is_no_owner_of_no_session(store: WatchedStore, log: MemoryLog) -> None:
    with pytest.raises(SessionNotFound):
        await claim(store, log, REF, speaker(10))
    assert await names(store) == []


async def test_a_new_owner_continues_from_the_union_of_archive_and_log(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    won = await claim(store, log, REF, speaker(11))
    assert (won.epoch, won.base, won.adopted) == (2, Base(80, 3), finals(3, 3))
    assert (await read_epoch(store, REF, 2)).finals == finals(3, 3)


async def test_what_was_heard_includes_the_adopted_finals(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    end = finals(3, 3)[0].final.end
    won = await claim(store, log, REF, speaker(11))
    assert (won.history.settled, won.history.live) == (end, [(0, 150), (200, 250)])
    # An owner after one that wrote nothing must not hear it again.
    later = await claim(store, log, REF, speaker(12))
    assert (later.history.settled, later.base, later.adopted) == (end, Base(80, 3), [])


async def test_an_audio_session_goes_on_from_its_audio_a_transcript_from_its_last_final(
    store: WatchedStore, log: MemoryLog
) -> None:
    await Scribe(store).session("transcript")
    await claim(store, log, REF, speaker(10))
    await log.commit(REF, 1, finals(1, 2))
    won = await claim(store, log, REF, speaker(11))
    assert won.base == Base(finals(2, 2)[0].final.end, 2)


async def test_the_steps_come_in_the_order_that_exactly_once_rests_on(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    store.calls.clear()
    told = log.announce

    async def announce(*args: object) -> object:
        store.calls.append(("announce", ""))
        return await told(*args)  # type: ignore[arg-type]

    log.announce = announce  # type: ignore[assignment,method-assign]
    await claim(store, log, REF, speaker(11))
    key = epoch_key(REF, 2)
    steps = store.calls
    fence = steps.index(("create", key))
    read = steps.index(("read", f"north/{REF.session_id}/segments/000000000000-1"), fence)
    announced, base = steps.index(("announce", "")), steps.index(("replace", key))
    confirmed = steps.index(("read", epoch_key(REF, 3)))
    assert fence < read < announced < base < confirmed


async def test_the_log_stops_the_older_owner_before_the_base_says_where_it_is_cut(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    outcomes: list[CommitOutcome] = []

    async def commit_meanwhile(verb: str, key: str) -> None:
        if (verb, key) == ("replace", epoch_key(REF, 2)):
            outcomes.append(await log.commit(REF, 1, finals(4, 4)))

    store.before = commit_meanwhile
    won = await claim(store, log, REF, speaker(11))
    assert outcomes == [CommitOutcome.STALE]
    assert won.base.seq == 3


async def test_what_the_older_owner_commits_before_it_is_stopped_is_adopted(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)

    async def commit_meanwhile(verb: str, key: str) -> None:
        if (verb, key) == ("create", epoch_key(REF, 2)):
            await log.commit(REF, 1, finals(4, 4))
            await Scribe(store.inner).segment(1, 80, 160, seq=2)

    store.after = commit_meanwhile
    won = await claim(store, log, REF, speaker(11))
    assert (won.base, won.adopted) == (Base(160, 4), finals(3, 4))


async def test_without_the_log_the_archive_alone_is_continued(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    log.away = True
    won = await claim(store, log, REF, speaker(11))
    assert (won.base, won.adopted) == (Base(80, 2), [])


async def test_a_log_that_knows_a_newer_owner_is_believed(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    await log.announce(REF, 7, 3, "b")
    with pytest.raises(Superseded):
        await claim(store, log, REF, speaker(11))
    assert (await read_epoch(store, REF, 2)).base is None


async def test_a_finished_session_is_reopened_from_its_end(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    order = Finish(REF, 1, "abandoned", finals(1, 3), Ranges([(0, 80)]), NOW)
    await finish(store, order)
    won = await claim(store, log, REF, speaker(11))
    assert won.base == Base(80, 3)
    history = await load_history(store, REF)
    assert history is not None
    assert not history.finished


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claimant", "error"),
    [(speaker(9), Superseded), (speaker(9, resume=True), Superseded), (speaker(10), AuthError)],
)
async def test_older_and_used_tickets_change_nothing(
    store: WatchedStore, log: MemoryLog, claimant: Claimant, error: type[Exception]
) -> None:
    await spoken(store, log)
    before = await names(store)
    with pytest.raises(error):
        await claim(store, log, REF, claimant)
    assert await names(store) == before
    assert await log.commit(REF, 1, finals(4, 4)) is CommitOutcome.COMMITTED


async def test_a_resume_ticket_comes_back_as_often_as_it_must(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    for epoch in (2, 3, 4):
        assert (await claim(store, log, REF, speaker(10, resume=True))).epoch == epoch


async def test_a_finisher_needs_no_ticket(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    won = await claim(store, log, REF, Claimant("a", "finish", NOW))
    assert won.epoch == 2
    assert (await claim(store, log, REF, speaker(10, resume=True))).epoch == 3


async def test_a_ticket_whose_claim_died_before_its_base_was_not_used(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)

    async def die(verb: str, key: str) -> None:
        if (verb, key) == ("replace", epoch_key(REF, 2)):
            raise ObjectMissing(key, "the process died")

    store.before = die
    with pytest.raises(ObjectMissing):
        await claim(store, log, REF, speaker(11))
    store.before = WatchedStore(store.inner).before
    won = await claim(store, log, REF, speaker(11))
    assert (won.epoch, won.base) == (3, Base(80, 3))


async def test_an_older_ticket_finds_a_newer_one_after_the_fence(store: WatchedStore, log: MemoryLog) -> None:
    # Its first look saw nobody; by the time of its own epoch somebody had entered with a newer ticket.
    await Scribe(store).session()
    beside = WatchedStore(store.inner)

    async def enter_first(verb: str, key: str) -> None:
        if verb == "list" and beside.calls.count((verb, key)) == 2:
            await claim(store.inner, log, REF, speaker(11, task="b"))

    beside.before = enter_first
    with pytest.raises(Superseded):
        await claim(beside, log, REF, speaker(10))


async def test_a_speaker_is_not_turned_away_by_a_finisher_that_comes_in_between(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    once = [Claimant("b", "finish", NOW)]

    async def claim_meanwhile(verb: str, key: str) -> None:
        if verb == "replace" and once:
            await claim(store.inner, log, REF, once.pop())

    store.before = claim_meanwhile
    won = await claim(store, log, REF, speaker(11))
    assert (won.epoch, won.base) == (4, Base(80, 3))
    with pytest.raises(Superseded):
        await claim(store, log, REF, speaker(10, resume=True))


# Answers that are lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable, VersionConflict])
async def test_a_base_whose_answer_was_lost_is_a_base(
    store: WatchedStore, log: MemoryLog, error: type[StoreError]
) -> None:
    await spoken(store, log)

    async def lose(verb: str, key: str) -> None:
        if verb == "replace":
            raise error(key, "no answer")

    store.after = lose
    store.calls.clear()
    won = await claim(store, log, REF, speaker(11))
    assert (won.epoch, won.base) == (2, Base(80, 3))
    assert sum(verb == "replace" for verb, _ in store.calls) == 1


async def test_an_epoch_whose_answer_was_lost_is_passed_over(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)
    lost = False

    async def lose(verb: str, key: str) -> None:
        nonlocal lost
        if verb == "create" and not lost:
            lost = True
            raise StoreUnavailable(key, "no answer")

    store.after = lose
    with pytest.raises(StoreUnavailable):
        await claim(store, log, REF, speaker(11))
    won = await claim(store, log, REF, speaker(11))
    assert (won.epoch, won.base) == (3, Base(80, 3))


async def test_a_store_that_refuses_the_base_refuses_the_claim(store: WatchedStore, log: MemoryLog) -> None:
    await spoken(store, log)

    async def refuse(verb: str, key: str) -> None:
        if verb == "replace":
            raise StoreUnavailable(key, "full")

    store.before = refuse
    with pytest.raises(StoreUnavailable):
        await claim(store, log, REF, speaker(11))
    assert (await read_epoch(store, REF, 2)).base is None


# At once --------------------------------------------------------------------------------------------------------------


def delays(seed: int) -> Callable[[], float]:
    random = Random(seed)  # noqa: S311 - interleavings
    return lambda: random.choice((0.0, 0.001, 0.002, 0.01))


async def race(root: Path, *claimants: Claimant) -> list[Claim | BaseException]:
    async with disk(root) as store:
        log = MemoryLog()
        await Scribe(store).session()
        results = await asyncio.gather(
            *(claim(store, log, REF, claimant) for claimant in claimants), return_exceptions=True
        )
        assert all(isinstance(r, Claim | Superseded | AuthError) for r in results), results
        owner = max((r for r in results if isinstance(r, Claim)), key=lambda won: won.epoch)
        await confirm(store, REF, owner.epoch)
        history = await load_history(store, REF)
        assert history is not None
        assert history.based is not None
        assert history.based.epoch == owner.epoch
        assert await log.commit(REF, owner.epoch, finals(1, 1, owner.epoch)) is CommitOutcome.COMMITTED
        return results


@pytest.mark.parametrize("seed", range(20))
def test_of_two_tickets_at_once_the_newer_owns_the_session_in_the_end(tmp_path: Path, seed: int) -> None:
    older, newer = run(race(tmp_path, speaker(10), speaker(11, task="b")), delays(seed))
    assert isinstance(newer, Claim)
    assert isinstance(older, Superseded) or (isinstance(older, Claim) and older.epoch < newer.epoch)


@pytest.mark.parametrize("seed", range(20))
def test_one_ticket_used_thrice_at_once_leaves_one_owner(tmp_path: Path, seed: int) -> None:
    results = run(race(tmp_path, speaker(10), speaker(10, task="b"), speaker(10, task="c")), delays(seed))
    assert any(isinstance(result, Claim) for result in results)


@pytest.mark.parametrize("seed", range(10))
def test_a_resume_ticket_used_twice_at_once_leaves_one_owner(tmp_path: Path, seed: int) -> None:
    twice = [speaker(10, resume=True), speaker(10, resume=True, task="b")]
    results = run(race(tmp_path, *twice), delays(seed))
    assert any(isinstance(result, Claim) for result in results)


# Confirming -----------------------------------------------------------------------------------------------------------


async def test_an_owner_is_confirmed_until_a_newer_epoch_is_there(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    await confirm(store, REF, 1)
    assert not await is_lost(store, REF, 1)
    await Scribe(store).epoch(2, None)
    with pytest.raises(Superseded):
        await confirm(store, REF, 1)
    assert await is_lost(store, REF, 1)
    await confirm(store, REF, 2)


async def test_the_tenth_epoch_is_newer_than_the_ninth(store: WatchedStore) -> None:
    await Scribe(store).epoch(9, None)
    await Scribe(store).epoch(10, None)
    assert await is_lost(store, REF, 9)
    assert not await is_lost(store, REF, 10)


async def test_an_archive_that_is_away_takes_nobodys_session(store: WatchedStore) -> None:
    async def away(verb: str, key: str) -> None:
        raise StoreUnavailable(key, verb)

    store.before = away
    assert not await is_lost(store, REF, 1)
    with pytest.raises(StoreUnavailable):
        await confirm(store, REF, 1)


# A log that missed something -------------------------------------------------------------------------------------------


async def test_what_an_owner_unknown_to_the_log_has_cut_is_not_adopted(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    log.away = True
    rewound = await claim(store, log, REF, speaker(11))
    assert (rewound.base, rewound.log_at) == (Base(80, 2), None)
    log.away = False
    won = await claim(store, log, REF, speaker(12))
    assert (won.base, won.adopted, won.log_at) == (Base(80, 2), [], None)


async def test_an_announcement_whose_answer_was_lost_is_to_be_repeated(
    store: WatchedStore, log: MemoryLog
) -> None:
    await spoken(store, log)
    log.answers_lost = 1
    won = await claim(store, log, REF, speaker(11))
    assert (won.base, won.adopted, won.log_at) == (Base(80, 2), [], None)
