"""A primary with a replica behind one address: it dies, or hands over, and what was acknowledged may be gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_client import redis_client
from app.adapters.redis_index import RedisSessionIndex
from app.adapters.redis_log import RedisEventLog
from app.events.log import CommitOutcome, LogUnavailable
from app.sessions.index import IndexUnavailable
from tests.support.archives import REF, finals
from tests.support.memory_log import had
from tests.support.redis_cluster import free_ports
from tests.support.redis_logs import event_log
from tests.support.redis_server import RedisServer, running, wheel_program
from tests.support.tcp_switch import TcpSwitch, tcp_switch

COMMITTED, UNKNOWN = CommitOutcome.COMMITTED, CommitOutcome.UNKNOWN


@dataclass
class Pair:
    """A primary and its replica with a client of each, and the address that leads to the primary at first."""

    servers: tuple[RedisServer, RedisServer]
    clients: tuple[Redis, Redis]
    switch: TcpSwitch

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.switch.port}"

    async def promote(self) -> None:
        """The replica becomes a primary of its own; the address still leads where it led."""
        await self.clients[1].execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]

    def turn(self) -> None:
        """The address leads to the replica."""
        self.switch.target = self.servers[1].port


@pytest.fixture(params=["redis 7", "redis 6.2"])
def servers(
    request: pytest.FixtureRequest, need: Callable[[str], Path]
) -> Iterator[tuple[RedisServer, RedisServer]]:
    program = wheel_program() if request.param == "redis 6.2" else str(need("redis-server"))
    first, second = free_ports(2)
    with ExitStack() as stack:
        yield (
            stack.enter_context(running(program, port=first)),
            stack.enter_context(running(program, port=second)),
        )


@pytest.fixture
async def pair(servers: tuple[RedisServer, RedisServer]) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        primary, replica = servers
        clients = (
            await stack.enter_async_context(redis_client(primary.url)),
            await stack.enter_async_context(redis_client(replica.url)),
        )
        await clients[1].execute_command("REPLICAOF", "127.0.0.1", primary.port)  # type: ignore[no-untyped-call]
        await until(lambda: linked(clients[1]))
        yield Pair(servers, clients, await stack.enter_async_context(tcp_switch(primary.port)))


@pytest.fixture
async def log(pair: Pair) -> AsyncIterator[RedisEventLog]:
    async with event_log(pair.url, LocalKeys(bytes(32)), commit_seconds=1.0) as log:
        yield log


async def linked(replica: Redis) -> bool:
    return bool((await replica.info("replication"))["master_link_status"] == "up")


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


async def answers(log: RedisEventLog) -> bool:
    try:
        await log.append(REF, "session.live", {})
    except LogUnavailable:
        return False
    return True


async def test_after_the_primary_died_commits_go_on_by_themselves(pair: Pair, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, finals(1, 3))
    await until(lambda: holds(pair, 3))
    pair.servers[0].kill()
    with pytest.raises(LogUnavailable):
        await log.commit(REF, 1, finals(4, 4))
    await pair.promote()
    pair.turn()
    await until(lambda: answers(log))
    assert await log.epochs([REF]) == [1]
    assert await log.commit(REF, 1, finals(4, 4)) is COMMITTED
    assert await log.pending(REF) == finals(1, 4)


async def holds(pair: Pair, seq: int) -> bool:
    name = f"clinic:{{{REF.clinic_id}}}:session:{REF.session_id}"
    return bool(await pair.clients[1].hget(name, "seq") == str(seq).encode())


async def test_what_the_replica_lacked_is_asked_of_the_owner_again(pair: Pair, log: RedisEventLog) -> None:
    await log.announce(REF, 1, 0, "a")
    await log.commit(REF, 1, finals(1, 3))
    await until(lambda: holds(pair, 3))
    await pair.promote()
    assert await log.commit(REF, 1, finals(4, 5)) is COMMITTED
    pair.turn()
    pair.servers[0].kill()
    await until(lambda: answers(log))
    assert await log.commit(REF, 1, finals(6, 6)) is UNKNOWN
    assert had(await log.announce(REF, 1, 5, "a")) == ([], 3)
    assert had(await log.announce(REF, 1, 3, "a")) == ([], 3)
    assert await log.commit(REF, 1, finals(4, 6)) is COMMITTED


async def test_a_primary_that_became_a_replica_is_left_for_the_one_behind_the_address(
    pair: Pair, log: RedisEventLog
) -> None:
    async with redis_client(pair.url) as client:
        index = RedisSessionIndex(client, LocalKeys(bytes(32)))
        await asyncio.gather(*(index.mark_complete("a.1") for _ in range(20)))
        await log.announce(REF, 1, 0, "a")
        await pair.promote()
        await pair.clients[0].execute_command("REPLICAOF", "127.0.0.1", pair.servers[1].port)  # type: ignore[no-untyped-call]
        pair.turn()
        # Everything is connected still; what is written is refused once, and then goes where the address leads.
        with pytest.raises(LogUnavailable):
            await log.append(REF, "session.live", {})
        await log.append(REF, "session.live", {})
        with pytest.raises(IndexUnavailable):
            await index.mark_complete("a.1")
        await asyncio.gather(*(index.mark_complete("a.1") for _ in range(20)))
    assert await pair.clients[1].xlen(f"clinic:{{{REF.clinic_id}}}:log") == 1


async def test_a_replica_without_its_primary_is_as_good_as_no_log(pair: Pair, log: RedisEventLog) -> None:
    await pair.clients[1].config_set("replica-serve-stale-data", "no")
    pair.turn()
    pair.servers[0].kill()
    await until(lambda: unlinked(pair.clients[1]))
    for call in (log.pending(REF), log.epochs([REF]), log.announce(REF, 1, 0, "a")):
        with pytest.raises(LogUnavailable):
            await call
    await pair.promote()
    assert had(await log.announce(REF, 1, 0, "a")) == ([], None)


async def unlinked(replica: Redis) -> bool:
    return not await linked(replica)
