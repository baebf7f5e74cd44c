"""Feeds, observers and the hub on a source in memory: who comes, who goes, and what each is told when the log is not as it was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.events import feed as feed_module
from app.events import hub as hub_module
from app.events.hub import ClinicFull, Hub, HubDraining, HubFull, HubLimits
from app.events.log import LogUnavailable
from app.events.model import START, Cursor, LivePartial, LogEvent
from app.events.observer import Observer
from app.events.outbox import WAITING_MAX, Ending
from app.telemetry.metrics import Metrics
from tenants.clinic import ClinicId
from tests.support.events import HERE, final_event, life_event, live_partial
from tests.support.memory_source import MemorySource

NORTH, SOUTH = ClinicId("north"), ClinicId("south")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_SECONDS", "PACE_SECONDS"):
        monkeypatch.setattr(feed_module, name, 0.001)
    monkeypatch.setattr("app.events.observer.RETRY_SECONDS", 0.001)
    monkeypatch.setattr(hub_module, "READY_SECONDS", 0.05)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def hub(source: MemorySource, metrics: Metrics) -> AsyncIterator[Hub]:
    hub = Hub(source, metrics, lambda: 0.0)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hub.run())
        await asyncio.sleep(0)
        with capture_logs():
            yield hub
        task.cancel()


async def told(observer: Observer, count: int = 1) -> list[dict[str, Any]]:
    """The next messages, ``count`` of them or more."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(5):
        while len(messages) < count:
            texts = await observer.next()
            assert texts, observer.ending
            messages += [json.loads(text) for text in texts]
    return messages


def finals(first: int, last: int, start: int = 0) -> list[LogEvent]:
    return [final_event(start + n, start + n - 1 if n > 1 else 0, n) for n in range(first, last + 1)]


async def test_one_feed_serves_a_clinic_while_it_is_observed(
    hub: Hub, source: MemorySource, metrics: Metrics
) -> None:
    async with hub.observing(NORTH, None, None) as one, hub.observing(NORTH, HERE, None) as two:
        assert list(source.followers) == [NORTH]
        await told(one)
        await told(two)
        source.emit(life_event(5, 0))
        assert await told(one) == await told(two)
        assert metrics.registry.get_sample_value("kikitori_observers") == 2
    assert source.followers == {}
    assert metrics.registry.get_sample_value("kikitori_observers") == 0


async def test_who_observes_nothing_but_waits_keeps_nobody_from_leaving(
    hub: Hub, source: MemorySource
) -> None:
    async def observe() -> None:
        async with hub.observing(NORTH, None, None) as observer:
            await told(observer)
            inside.set()
            await observer.next()

    inside = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(observe())
        await inside.wait()
        waiting.cancel()
    assert source.followers == {}


async def test_a_replay_longer_than_a_page_goes_on_live(hub: Hub, source: MemorySource) -> None:
    source.emit(*finals(1, 450))
    async with hub.observing(NORTH, None, START) as observer:
        messages = await told(observer, 451)
        source.emit(final_event(451, 450, 451))
        messages += await told(observer)
    assert messages[0] == {"type": "subscribed", "cursor": "0-0"}
    assert [m["seq"] for m in messages[1:]] == list(range(1, 452))


async def test_a_gap_is_read_from_the_log(hub: Hub, source: MemorySource) -> None:
    async with hub.observing(NORTH, None, None) as observer:
        await told(observer)
        source.emit(*finals(1, 3), heard=False)
        source.emit(final_event(4, 3, 4))
        assert [m["seq"] for m in await told(observer, 4)] == [1, 2, 3, 4]


async def test_a_log_that_fails_to_be_read_is_told_of_and_tried_again(hub: Hub, source: MemorySource) -> None:
    async with hub.observing(NORTH, None, None) as observer:
        await told(observer)
        source.away = True
        source.emit(*finals(1, 2), heard=False)
        source.emit(final_event(3, 2, 3))
        assert (await told(observer))[0]["code"] == "events_degraded"
        source.away = False
        messages = await told(observer, 4)
        assert [m.get("seq", m.get("code")) for m in messages] == [1, 2, 3, "events_recovered"]


async def test_a_replay_waits_for_a_log_that_is_away(hub: Hub, source: MemorySource) -> None:
    source.emit(*finals(1, 3))
    async with hub.observing(NORTH, None, START) as observer:
        await told(observer)
        source.away = True
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(told(observer, 3))
            reads = source.reads
            while source.reads < reads + 3:  # noqa: ASYNC110 - what is waited for happens beside
                await asyncio.sleep(0)
            source.away = False
        assert [m["seq"] for m in waiting.result()] == [1, 2, 3]


async def test_a_replay_that_the_log_was_trimmed_under_is_expired(hub: Hub, source: MemorySource) -> None:
    source.emit(*finals(1, 450))
    async with hub.observing(NORTH, None, START) as observer:
        await told(observer, 201)
        del source.log[:300]
        assert (await observer.next(), observer.ending) == ([], Ending.EXPIRED)
        assert observer.ended.is_set()


async def test_who_lacks_what_was_trimmed_while_events_were_away_is_sent_away(
    hub: Hub, source: MemorySource
) -> None:
    async with hub.observing(NORTH, None, None) as observer:
        await told(observer)
        source.emit(*finals(1, 1))
        await told(observer)
        source.followers[NORTH].left()
        assert (await told(observer))[0]["code"] == "events_degraded"
        source.emit(*finals(2, 9), heard=False)
        del source.log[:4]
        source.followers[NORTH].joined()
        assert (await observer.next(), observer.ending) == ([], Ending.EXPIRED)
        async with hub.observing(NORTH, None, None) as later:
            assert (await told(later))[0]["cursor"] == "9-0"


async def test_who_does_not_read_is_sent_away_alone(hub: Hub, source: MemorySource, metrics: Metrics) -> None:
    async with hub.observing(NORTH, None, None) as slow, hub.observing(NORTH, None, None) as quick:
        await told(slow)
        await told(quick)
        for event in finals(1, WAITING_MAX + 1):
            source.emit(event)
            await told(quick)
        assert [m["code"] for m in await told(slow)] == ["events_degraded"]
        assert (await slow.next(), slow.ending) == ([], Ending.TOO_SLOW)
        assert quick.ending is None
    assert metrics.registry.get_sample_value("kikitori_events_dropped_total") == 1


async def test_catching_up_waits_for_who_reads(hub: Hub, source: MemorySource) -> None:
    async with hub.observing(NORTH, None, None) as observer:
        await told(observer)
        source.emit(*finals(1, 3 * WAITING_MAX), heard=False)
        source.emit(final_event(3 * WAITING_MAX + 1, 3 * WAITING_MAX, 3 * WAITING_MAX + 1))
        assert len(await told(observer, 3 * WAITING_MAX + 1)) == 3 * WAITING_MAX + 1


async def test_what_says_nothing_to_this_version_is_passed_over(hub: Hub, source: MemorySource) -> None:
    async with hub.observing(NORTH, None, None) as observer:
        await told(observer)
        source.emit(LogEvent(Cursor(1, 0), START, HERE, "later", 0, 0, b"{}"))
        source.publish(LivePartial(HERE, 1, b""))
        source.publish(live_partial("r2"))
        source.emit(final_event(2, 1, 1))
        assert [m["type"] for m in await told(observer, 2)] == ["final", "partial"]


async def test_a_replay_passes_over_pages_that_say_nothing(hub: Hub, source: MemorySource) -> None:
    source.log += [LogEvent(Cursor(n, 0), Cursor(n - 1, 0), HERE, "final", n, 1, b"") for n in range(1, 451)]
    source.log += [final_event(451, 450, 451)]
    async with hub.observing(NORTH, None, START) as observer:
        assert [m.get("seq") for m in await told(observer, 2)] == [None, 451]
        source.emit(final_event(452, 451, 452))
        assert [m["seq"] for m in await told(observer)] == [452]


async def test_nobody_gets_in_while_the_log_is_away_or_nothing_runs(source: MemorySource) -> None:
    hub = Hub(source, Metrics())
    with pytest.raises(LogUnavailable):
        await enter(hub)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hub.run())
        await asyncio.sleep(0)
        source.away = True
        with capture_logs(), pytest.raises(LogUnavailable):
            await enter(hub)
        assert source.followers == {}
        task.cancel()


async def enter(hub: Hub, clinic: ClinicId = NORTH) -> None:
    async with hub.observing(clinic, None, None):
        raise AssertionError


@asynccontextmanager
async def limited(source: MemorySource, observers: int, of_clinic: int) -> AsyncIterator[Hub]:
    hub = Hub(source, Metrics(), limits=HubLimits(observers, of_clinic))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hub.run())
        await asyncio.sleep(0)
        yield hub
        task.cancel()


async def test_one_clinic_takes_the_room_of_no_other(source: MemorySource) -> None:
    async with limited(source, observers=10, of_clinic=2) as hub, hub.observing(NORTH, None, None):
        async with hub.observing(NORTH, HERE, None):
            with pytest.raises(ClinicFull):
                await enter(hub)
            async with hub.observing(SOUTH, None, None):
                pass
        async with hub.observing(NORTH, None, None):
            pass


async def test_a_task_has_only_so_many_observers_of_all_clinics(source: MemorySource) -> None:
    async with limited(source, observers=2, of_clinic=2) as hub, hub.observing(NORTH, None, None):
        async with hub.observing(SOUTH, None, None):
            for clinic in (NORTH, SOUTH, ClinicId("west")):
                with pytest.raises(HubFull):
                    await enter(hub, clinic)
            assert set(source.followers) == {NORTH, SOUTH}
        async with hub.observing(ClinicId("west"), None, None):
            pass


async def test_those_who_wait_for_their_feed_count_as_well(source: MemorySource) -> None:
    source.gate.clear()
    async with limited(source, observers=10, of_clinic=1) as hub, asyncio.TaskGroup() as group:
        waiting = group.create_task(enter(hub))
        await asyncio.sleep(0)
        with pytest.raises(ClinicFull):
            await enter(hub)
        waiting.cancel()
        await asyncio.wait([waiting])
        source.gate.set()
        async with hub.observing(NORTH, None, None):
            pass


async def test_draining_sends_all_away_after_what_waits_and_lets_nobody_in(
    hub: Hub, source: MemorySource
) -> None:
    async with asyncio.TaskGroup() as group, hub.observing(NORTH, None, None) as observer:
        await told(observer)
        source.emit(life_event(5, 0))
        draining = group.create_task(hub.drain())
        await asyncio.sleep(0)
        with pytest.raises(HubDraining):
            await enter(hub)
        assert [m["type"] for m in await told(observer)] == ["session.live"]
        assert (await observer.next(), observer.ending) == ([], Ending.RESTARTING)
        assert not draining.done()
    assert draining.done()


async def test_draining_waits_no_longer_than_it_may(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "DRAIN_SECONDS", 0.01)
    async with hub.observing(NORTH, None, None):
        await hub.drain()


async def test_draining_with_nobody_there_is_over_at_once(hub: Hub) -> None:
    await hub.drain()
