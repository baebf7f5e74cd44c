"""What every event log promises, asked of Redis 7, of the Redis 6.2 that the wheel carries, of a cluster, and of the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_client import any_client
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_scripts import log_key
from app.events.log import CommitOutcome
from audio.transcript import CommittedFinal, Final, Partial, Word
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.memory_log import MemoryLog, had
from tests.support.redis_cluster import cluster
from tests.support.redis_logs import event_log
from tests.support.redis_server import running, wheel_program

HERE = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8057")
BESIDE = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8058")
ELSEWHERE = SessionRef(ClinicId("south"), HERE.session_id)
COMMITTED, STALE, UNKNOWN = CommitOutcome.COMMITTED, CommitOutcome.STALE, CommitOutcome.UNKNOWN


Log = RedisEventLog | MemoryLog


@pytest.fixture(scope="module", params=["redis 7", "redis 6.2", "cluster", "memory"])
def url(request: pytest.FixtureRequest, need: Callable[[str], Path]) -> Iterator[str | None]:
    if request.param == "memory":
        yield None
        return
    if request.param == "cluster":
        need("redis-server")
        with cluster() as nodes:
            yield nodes.url
        return
    program = wheel_program() if request.param == "redis 6.2" else str(need("redis-server"))
    with running(program) as server:
        yield server.url


@pytest.fixture
async def log(url: str | None) -> AsyncIterator[Log]:
    if url is None:
        yield MemoryLog()
        return
    async with aclosing(any_client(url)) as client:
        await client.flushall()
    async with event_log(url, LocalKeys(bytes(32))) as log:
        yield log


def finals(first: int, last: int, epoch: int = 1) -> list[CommittedFinal]:
    return [
        CommittedFinal(
            seq,
            epoch,
            Final(
                f"r{seq}",
                seq * 100,
                seq * 100 + 50,
                f"痛い {seq}",
                (Word("痛い", seq * 100, 9_999, 0.5),),
                "ja-JP",
            ),
        )
        for seq in range(first, last + 1)
    ]


async def rewinds(log: Log, url: str | None) -> list[tuple[str, int]]:
    """Which session's observers were told how many finals stand."""
    if isinstance(log, MemoryLog):
        return [(ref.session_id, seq) for ref, seq in log.rewinds]
    assert url is not None
    async with aclosing(any_client(url)) as client:
        entries: Any = await client.xrange(log_key(HERE.clinic_id))
    told = [fields for _, fields in entries if fields[b"kind"] == b"rewound"]
    return [(fields[b"session"].decode(), int(fields[b"seq"])) for fields in told]


async def test_nothing_is_committed_before_an_owner_is_announced(log: Log) -> None:
    assert await log.commit(HERE, 1, finals(1, 1)) is UNKNOWN
    assert await log.pending(HERE) == []


async def test_an_announcement_tells_whom_the_log_knew_before(log: Log) -> None:
    first, again = await log.announce(HERE, 1, 0, "a"), await log.announce(HERE, 1, 0, "a")
    newer = await log.announce(HERE, 4, 0, "b")
    assert first is not None
    assert again is not None
    assert newer is not None
    assert (first.owner, again.owner, newer.owner) == (None, 1, 1)
    assert await log.announce(HERE, 3, 0, "a") is None


async def test_finals_that_follow_on_are_committed_and_kept_in_order(log: Log) -> None:
    assert had(await log.announce(HERE, 1, 0, "a")) == ([], None)
    assert await log.commit(HERE, 1, finals(1, 1)) is COMMITTED
    assert await log.commit(HERE, 1, finals(2, 12)) is COMMITTED
    assert await log.pending(HERE) == finals(1, 12)


async def test_a_session_continues_from_what_was_announced(log: Log) -> None:
    await log.announce(HERE, 3, 41, "a")
    assert await log.commit(HERE, 3, finals(42, 43, 3)) is COMMITTED
    assert await log.pending(HERE) == finals(42, 43, 3)


async def test_a_gap_is_refused_whole(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 1))
    assert await log.commit(HERE, 1, finals(3, 4)) is UNKNOWN
    assert await log.pending(HERE) == finals(1, 1)
    assert await log.commit(HERE, 1, finals(2, 2)) is COMMITTED


async def test_a_repeat_whose_first_answer_was_lost_is_a_success_and_doubles_nothing(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 3))
    assert await log.commit(HERE, 1, finals(1, 3)) is COMMITTED
    assert await log.commit(HERE, 1, finals(2, 2)) is COMMITTED
    assert await log.pending(HERE) == finals(1, 3)


async def test_a_repeat_with_more_behind_it_appends_the_rest(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 2))
    assert await log.commit(HERE, 1, finals(1, 5)) is COMMITTED
    assert await log.commit(HERE, 1, finals(6, 6)) is COMMITTED
    assert await log.pending(HERE) == finals(1, 6)


async def test_finals_below_the_announced_seq_were_never_committed_here(log: Log) -> None:
    await log.announce(HERE, 1, 5, "a")
    assert await log.commit(HERE, 1, finals(5, 6)) is UNKNOWN
    assert await log.pending(HERE) == []


async def test_a_newer_epoch_fences_the_older_one_and_adopts_its_finals(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 3))
    assert had(await log.announce(HERE, 2, 1, "b")) == (finals(2, 3), 3)
    assert await log.commit(HERE, 1, finals(4, 4)) is STALE
    assert await log.commit(HERE, 1, finals(2, 3)) is STALE
    assert await log.announce(HERE, 1, 3, "a") is None
    assert await log.commit(HERE, 2, finals(4, 4, 2)) is COMMITTED
    assert await log.pending(HERE) == finals(2, 3) + finals(4, 4, 2)


async def test_an_epoch_that_was_not_announced_must_be(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    assert await log.commit(HERE, 2, finals(1, 1, 2)) is UNKNOWN
    assert had(await log.announce(HERE, 2, 0, "b")) == ([], None)
    assert await log.commit(HERE, 2, finals(1, 1, 2)) is COMMITTED


async def test_what_does_not_follow_on_what_the_archive_has_is_dropped(log: Log) -> None:
    await log.announce(HERE, 1, 3, "a")
    await log.commit(HERE, 1, finals(4, 6))
    assert had(await log.announce(HERE, 2, 2, "b")) == ([], 6)
    assert await log.pending(HERE) == []
    assert await log.commit(HERE, 2, finals(3, 3, 2)) is COMMITTED


async def test_what_the_archive_has_by_now_is_not_adopted(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 4))
    assert had(await log.announce(HERE, 2, 9, "b")) == ([], 4)
    assert await log.pending(HERE) == []
    assert await log.commit(HERE, 2, finals(10, 10, 2)) is COMMITTED


async def test_an_owner_may_announce_itself_again_and_repeat_its_commit(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 2))
    assert had(await log.announce(HERE, 1, 1, "a")) == (finals(2, 2), 2)
    assert await log.commit(HERE, 1, finals(2, 3)) is COMMITTED
    assert await log.pending(HERE) == finals(2, 3)


async def test_an_owner_goes_on_after_finals_that_only_the_archive_has(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 1))
    assert await log.commit(HERE, 1, finals(4, 4)) is UNKNOWN
    assert had(await log.announce(HERE, 1, 3, "a")) == ([], 1)
    assert await log.commit(HERE, 1, finals(4, 4)) is COMMITTED


async def test_an_owner_appends_what_only_the_archive_has_before_it_goes_on(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 2))
    assert had(await log.announce(HERE, 3, 5, "b")) == ([], 2)
    assert had(await log.announce(HERE, 3, 2, "b")) == ([], 2)
    assert await log.commit(HERE, 3, finals(3, 4) + finals(5, 6, 3)) is COMMITTED
    assert await log.pending(HERE) == finals(3, 4) + finals(5, 6, 3)
    assert had(await log.announce(HERE, 4, 6, "c")) == ([], 6)


async def test_what_was_announced_and_never_appended_is_known_to_be_lacking(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 2))
    await log.announce(HERE, 2, 7, "b")
    assert had(await log.announce(HERE, 3, 7, "c")) == ([], 2)
    assert had(await log.announce(BESIDE, 1, 7, "a")) == ([], None)
    assert had(await log.announce(BESIDE, 2, 7, "b")) == ([], None)


async def test_what_was_withdrawn_is_no_longer_known(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 5))
    await log.archived(HERE, 1, 5)
    assert had(await log.announce(HERE, 2, 3, "b")) == ([], 5)
    assert had(await log.announce(HERE, 3, 3, "c")) == ([], 3)
    assert await log.commit(HERE, 3, finals(4, 4, 3)) is COMMITTED


async def test_a_log_that_knows_no_owner_says_what_stands_of_older_ones_once(
    log: Log, url: str | None
) -> None:
    await log.announce(HERE, 2, 3, "b")
    await log.announce(HERE, 2, 1, "b")
    await log.announce(HERE, 3, 3, "c")
    await log.announce(BESIDE, 2, 9, "b", 5)
    assert had(await log.announce(BESIDE, 2, 7, "b", 5)) == ([], None)
    assert await rewinds(log, url) == [(HERE.session_id, 3), (BESIDE.session_id, 5)]


async def test_a_first_owner_has_nothing_to_withdraw(log: Log, url: str | None) -> None:
    await log.announce(HERE, 1, 3, "a", 0)
    await log.commit(HERE, 1, finals(4, 5))
    assert await rewinds(log, url) == []


async def test_the_board_tells_the_newest_epoch_of_each_session(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.announce(HERE, 3, 0, "b")
    await log.announce(ELSEWHERE, 2, 4, "a")
    await log.announce(ELSEWHERE, 1, 4, "b")
    assert await log.epochs([ELSEWHERE, BESIDE, HERE]) == [2, None, 3]
    assert await log.epochs([]) == []


async def test_what_nobody_waits_for_disturbs_no_commit(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    for end in range(100, 200):
        log.partial(HERE, 1, Partial("r1", 0, end, "痛"))
        log.event(HERE, "notice", {"code": "engine_waiting", "message": "wait"})
    assert await log.commit(HERE, 1, finals(1, 1)) is COMMITTED


async def test_what_the_archive_has_is_no_longer_pending(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 5))
    await log.archived(HERE, 1, 3)
    assert await log.pending(HERE) == finals(4, 5)
    await log.archived(HERE, 1, 5)
    assert await log.pending(HERE) == []
    assert await log.commit(HERE, 1, finals(6, 6)) is COMMITTED


async def test_only_the_owner_says_what_the_archive_has(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    await log.commit(HERE, 1, finals(1, 2))
    await log.announce(HERE, 2, 0, "b")
    await log.archived(HERE, 1, 2)
    assert await log.pending(HERE) == finals(1, 2)


async def test_sessions_and_clinics_are_apart(log: Log) -> None:
    for ref in (HERE, BESIDE, ELSEWHERE):
        await log.announce(ref, 1, 0, "a")
    await log.announce(BESIDE, 7, 0, "b")
    assert await log.commit(HERE, 1, finals(1, 2)) is COMMITTED
    assert await log.pending(BESIDE) == []
    assert await log.pending(ELSEWHERE) == []
    assert await log.commit(ELSEWHERE, 1, finals(1, 1)) is COMMITTED


async def test_of_commits_made_at_once_each_seq_is_committed_once(log: Log) -> None:
    await log.announce(HERE, 1, 0, "a")
    outcomes = await asyncio.gather(*(log.commit(HERE, 1, finals(1, last)) for last in (3, 1, 5, 2, 4)))
    assert outcomes == [COMMITTED] * 5
    assert await log.pending(HERE) == finals(1, 5)


@pytest.mark.parametrize("wrong", [[], finals(1, 1) + finals(3, 3), finals(1, 1, 2)])
async def test_what_cannot_be_one_commit_is_a_mistake_of_the_caller(
    log: Log, wrong: list[CommittedFinal]
) -> None:
    with pytest.raises(ValueError, match="commit"):
        await log.commit(HERE, 1, wrong)


async def test_events_of_a_sessions_life_need_no_owner(log: Log) -> None:
    await log.append(HERE, "session.created", {"language": "ja-JP"})
    assert await log.commit(HERE, 1, finals(1, 1)) is UNKNOWN
