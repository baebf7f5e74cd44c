from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from audio.breaker import BreakerState
from audio.engine import (
    Engine,
    EngineCapabilities,
    EngineError,
    EngineEvent,
    EngineStream,
    Rejected,
    StreamRequest,
    StreamResult,
    Throttled,
    Unavailable,
)
from audio.engines.regional import CIRCUIT_OPEN, RegionalEngine, RegionalLimits
from audio.pcm import SAMPLE_RATE
from audio.slots import LocalSlots, RegionLimits
from tests.support.scripted_engine import Script, ScriptedEngine, tone
from tests.support.virtual_time import run

A, B, C = "a-1", "b-1", "c-1"
DOWN = Script(open_error=Unavailable("scripted", "away as told"))
SPEECH = tone(1, 2, 3)


def request(session: str = "s", **fields: object) -> StreamRequest:
    return StreamRequest(language="en-US", session=session, **fields)  # type: ignore[arg-type]  # a test's own keywords


class House:
    """A regional engine of scripted ones, one slot in each region unless said otherwise."""

    def __init__(self, *regions: ScriptedEngine, streams: int = 1, grace: float = 10.0) -> None:
        self.regions = dict(zip((A, B, C), regions, strict=False))
        self.slots = LocalSlots({name: RegionLimits(streams, 1000) for name in self.regions}, wall=self.now)
        self.engine = RegionalEngine(
            self.regions,
            self.slots,
            clock=self.now,
            rng=Random(1),  # noqa: S311 - jitter
            wall=self.now,
            limits=RegionalLimits(grace=grace),
        )

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time() + 1.0

    async def open(self, session: str = "s", **fields: object) -> EngineStream:
        return await self.engine.open(request(session, **fields))

    def opened(self) -> dict[str, int]:
        """Tries to open, by region."""
        return {name: len(engine.opened_at) for name, engine in self.regions.items()}

    def taken(self) -> dict[str, bool]:
        return {name: not self.slots.room_hint([name]) for name in self.regions}

    def state(self, region: str = A) -> BreakerState:
        return self.engine.breakers()[region]


def engines(count: int, *scripts: Script) -> list[ScriptedEngine]:
    """``count`` of them; the first follows the scripts."""
    return [ScriptedEngine(*scripts), *(ScriptedEngine() for _ in range(count - 1))]


async def speak(stream: EngineStream, pcm: bytes = SPEECH) -> None:
    for at in range(0, len(pcm), 3200):
        await stream.send([memoryview(pcm)[at : at + 3200]])


async def listen(stream: EngineStream) -> list[EngineEvent]:
    return [event async for event in stream.events()]


async def error_of(call: Awaitable[object]) -> EngineError:
    with pytest.raises(EngineError) as failed:
        await call
    return failed.value


async def finish(stream: EngineStream) -> None:
    await stream.end()
    await listen(stream)
    await stream.close()


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def wrapped() -> None:
        async def main() -> None:
            await test()

        run(main())

    wrapped.__name__ = test.__name__
    return wrapped


@in_virtual_time
async def test_audio_and_results_pass_as_they_are() -> None:
    house = House(*engines(1))
    stream = await house.open()
    await speak(stream)
    await stream.flush()
    await stream.end()
    finals = [event.text for event in await listen(stream) if isinstance(event, StreamResult) and event.final]
    assert finals == ["w1 w2 w3"]
    await stream.close()
    await stream.close()
    assert house.taken() == {A: False}


@in_virtual_time
async def test_the_preferred_region_is_taken_while_it_has_room_and_then_the_next() -> None:
    house = House(*engines(2))
    await house.open("s1")
    assert house.opened() == {A: 1, B: 0}
    await house.open("s2")
    assert house.opened() == {A: 1, B: 1}
    assert not house.engine.has_room()


@in_virtual_time
async def test_a_session_goes_only_where_its_clinic_allows() -> None:
    house = House(*engines(3), streams=2)
    await house.open("s1", regions=(C, B))
    await house.open("s2", regions=(C,))
    assert house.opened() == {A: 0, B: 1, C: 1}
    assert isinstance(await error_of(house.open("s3", regions=("elsewhere",))), Rejected)


@in_virtual_time
async def test_a_region_without_the_language_is_passed_over() -> None:
    deaf = ScriptedEngine()
    deaf.capabilities = EngineCapabilities(name="scripted", languages=frozenset({"de-DE"}))
    house = House(deaf, ScriptedEngine())
    await house.open()
    assert house.opened() == {A: 0, B: 1}
    assert isinstance(await error_of(house.open("s2", regions=(A,))), Rejected)
    assert house.taken() == {A: False, B: True}
    assert house.engine.capabilities.languages == {"de-DE", "en-US", "ja-JP"}


@pytest.mark.parametrize(
    "failure", [Unavailable("x", "away"), Throttled("x", "busy"), Rejected("permission", "not here")]
)
def test_a_region_that_fails_or_refuses_is_followed_by_the_next_and_its_slot_is_free_again(
    failure: EngineError,
) -> None:
    async def scenario() -> None:
        house = House(*engines(2, Script(open_error=failure)))
        await house.open()
        assert house.opened() == {A: 1, B: 1}
        assert house.taken() == {A: False, B: True}

    run(scenario())


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([Rejected("a", ""), Unavailable("b", ""), Throttled("c", "")], "c"),
        ([Throttled("a", "", 9.0), Throttled("b", "", 2.0), Throttled("c", "", 5.0)], "b"),
        ([Rejected("a", ""), Unavailable("b", ""), Unavailable("c", "")], "b"),
        ([Rejected("a", ""), Rejected("b", ""), Rejected("c", "")], "a"),
    ],
)
def test_of_all_failures_the_one_that_leaves_most_hope_is_told(
    failures: list[EngineError], expected: str
) -> None:
    async def scenario() -> None:
        house = House(*(ScriptedEngine(Script(open_error=failure)) for failure in failures))
        assert (await error_of(house.open())).code == expected
        assert not any(house.taken().values())

    run(scenario())


@in_virtual_time
async def test_a_region_that_failed_five_times_is_left_alone_and_probed_by_one_session() -> None:
    house = House(*engines(2, *[DOWN] * 5), streams=50)
    for number in range(10):
        await house.open(f"s{number}")
    assert house.opened() == {A: 5, B: 10}
    assert house.state() is BreakerState.OPEN
    await asyncio.sleep(5.0)
    for number in range(10, 20):
        await house.open(f"s{number}")
    assert house.opened() == {A: 6, B: 19}
    assert house.state() is BreakerState.HALF_OPEN
    await asyncio.sleep(10.0)
    assert house.state() is BreakerState.CLOSED
    await house.open("s20")
    assert house.opened() == {A: 7, B: 19}


@in_virtual_time
async def test_while_all_regions_are_left_alone_nothing_is_asked_of_them_nor_of_the_slots() -> None:
    house = House(*engines(1, *[DOWN] * 5))
    for _ in range(5):
        await error_of(house.open())
    assert (await error_of(house.open())).code == CIRCUIT_OPEN
    assert house.opened() == {A: 5}
    assert not house.engine.has_room()


@in_virtual_time
async def test_refusals_do_not_open_the_breaker() -> None:
    house = House(*engines(1, *[Script(open_error=Rejected("vocabulary", ""))] * 9))
    for _ in range(9):
        assert isinstance(await error_of(house.open()), Rejected)
    assert house.state() is BreakerState.CLOSED


async def die_early(house: House) -> None:
    stream = await house.open()
    await error_of(speak(stream))
    await stream.close()


@pytest.mark.parametrize("error", [Unavailable("x", "died"), None], ids=["by an error", "by a clean close"])
def test_streams_that_die_young_open_the_breaker(error: EngineError | None) -> None:
    async def scenario() -> None:
        house = House(*engines(1, *[Script(die_after=4000, error=error)] * 5))
        for _ in range(5):
            await die_early(house)
        assert house.state() is BreakerState.OPEN

    run(scenario())


@in_virtual_time
async def test_the_listener_alone_sees_a_stream_die() -> None:
    house = House(*engines(1))
    for _ in range(5):
        stream = await house.open()
        house.regions[A].streams[-1].die()
        await error_of(listen(stream))
        await stream.close()
    assert house.state() is BreakerState.OPEN


@in_virtual_time
async def test_streams_that_take_audio_and_say_nothing_open_the_breaker_when_they_are_given_up() -> None:
    house = House(*engines(1, *[Script(mute=True)] * 5))
    for _ in range(5):
        stream = await house.open()
        await speak(stream, bytes(2 * 5 * SAMPLE_RATE))
        await stream.close()
    assert house.state() is BreakerState.OPEN


@in_virtual_time
async def test_streams_that_we_end_or_close_young_say_nothing_against_their_region() -> None:
    house = House(*engines(1))
    for number in range(20):
        stream = await house.open()
        await speak(stream)
        await (finish(stream) if number % 2 else stream.close())
    assert house.state() is BreakerState.CLOSED


@in_virtual_time
async def test_a_session_whose_stream_died_gets_the_next_one_in_its_slot_past_all_that_wait() -> None:
    house = House(*engines(1))
    stream = await house.open()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(house.open("other", priority="high", since=0.5))
        await asyncio.sleep(1.0)
        await stream.close()
        await asyncio.sleep(9.9)
        again = await asyncio.wait_for(house.open(), 1.0)
        await asyncio.sleep(60.0)
        assert not waiting.done()
        await finish(again)
        await waiting


@in_virtual_time
async def test_a_slot_is_free_at_once_when_its_session_is_through_and_after_the_grace_when_it_is_not() -> (
    None
):
    house = House(*engines(1))
    await finish(await house.open())
    assert house.taken() == {A: False}
    stream = await house.open()
    await stream.close()
    await asyncio.sleep(9.9)
    assert house.taken() == {A: True}
    await asyncio.sleep(0.2)
    assert house.taken() == {A: False}


@in_virtual_time
async def test_an_end_that_the_engine_did_not_honour_leaves_the_slot_for_the_replay() -> None:
    house = House(*engines(1))
    stream = await house.open()
    await stream.end()
    await stream.close()
    assert house.taken() == {A: True}


@in_virtual_time
async def test_failing_to_open_again_does_not_prolong_the_grace() -> None:
    house = House(*engines(1, Script(), *[DOWN] * 3))
    await (await house.open()).close()
    for _ in range(3):
        await asyncio.sleep(3.0)
        await error_of(house.open())
    assert house.taken() == {A: True}
    await asyncio.sleep(1.1)
    assert house.taken() == {A: False}


@in_virtual_time
async def test_a_session_that_moves_to_another_region_gives_its_slot_back() -> None:
    house = House(*engines(2, Script(), DOWN))
    await (await house.open()).close()
    await house.open()
    assert house.opened() == {A: 2, B: 1}
    assert house.taken() == {A: False, B: True}


@in_virtual_time
async def test_a_moved_session_stays_where_it_is() -> None:
    house = House(*engines(2, DOWN))
    await (await house.open()).close()
    await house.open()
    assert house.opened() == {A: 1, B: 2}


@in_virtual_time
async def test_a_stream_that_takes_over_from_one_still_open_shares_its_slot() -> None:
    house = House(*engines(1))
    old = await house.open()
    new = await house.open()
    await finish(old)
    assert house.taken() == {A: True}
    await finish(new)
    assert house.taken() == {A: False}


@in_virtual_time
async def test_two_first_streams_of_a_session_opened_at_once_end_up_in_one_slot() -> None:
    house = House(*engines(1), streams=2)
    await asyncio.gather(house.open(), house.open())
    assert house.taken() == {A: False}


@in_virtual_time
async def test_the_older_session_goes_first_and_the_one_of_high_priority_before_it() -> None:
    house = House(*engines(1))
    order: list[str] = []

    async def take(name: str, **fields: object) -> None:
        stream = await house.open(name, **fields)
        order.append(name)
        await finish(stream)

    first = await house.open("first")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(take("from now"))
        tasks.create_task(take("old", since=0.2))
        tasks.create_task(take("older", since=0.1))
        tasks.create_task(take("high", since=0.9, priority="high"))
        await asyncio.sleep(1.0)
        await finish(first)
    assert order == ["high", "older", "old", "from now"]


@in_virtual_time
async def test_who_waits_for_a_full_region_is_served_in_one_that_recovers_meanwhile() -> None:
    house = House(*engines(2, *[DOWN] * 5))
    held = await house.open("holder", regions=(B,))
    for _ in range(5):
        await error_of(house.open(regions=(A,)))
    await asyncio.wait_for(house.open("waiting"), 6.0)
    assert house.opened() == {A: 6, B: 1}
    await finish(held)


@in_virtual_time
async def test_a_cancelled_open_leaves_nothing_behind() -> None:
    house = House(*engines(1, *[Script(open_seconds=5.0)] * 2))
    for wait in (1.0, 1.0):
        opening = asyncio.ensure_future(house.open())
        await asyncio.sleep(wait)
        opening.cancel()
        await asyncio.wait([opening])
        assert house.taken() == {A: False}
    assert house.state() is BreakerState.CLOSED


@in_virtual_time
async def test_a_cancelled_probe_lets_the_next_one_probe() -> None:
    house = House(*engines(1, *[DOWN] * 5, Script(open_seconds=60.0)))
    for _ in range(5):
        await error_of(house.open())
    await asyncio.sleep(5.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(house.open(), 1.0)
    assert house.state() is BreakerState.HALF_OPEN
    await house.open()


@in_virtual_time
async def test_closing_ends_streams_waits_and_kept_places() -> None:
    house = House(*engines(2))
    stream = await house.open("s1", regions=(A,))
    await (await house.open("s2", regions=(B,))).close()
    listening = asyncio.ensure_future(error_of(listen(stream)))
    waiting = asyncio.ensure_future(error_of(house.open("s3")))
    await asyncio.sleep(1.0)
    await house.engine.close()
    await house.engine.close()
    assert isinstance(await listening, Unavailable)
    assert isinstance(await waiting, Unavailable)
    assert isinstance(await error_of(house.open("s4")), Unavailable)
    await stream.close()
    assert house.taken() == {A: False, B: False}
    assert not house.engine.has_room()


def test_what_it_promises_holds_in_every_region_that_a_request_can_get_to() -> None:
    class Able(ScriptedEngine):
        def __init__(self, languages: set[str], labels: bool) -> None:
            super().__init__()
            self.capabilities = EngineCapabilities(
                name="aws", languages=frozenset(languages), speaker_labels=labels
            )

    def of(*regions: Engine) -> EngineCapabilities:
        named = dict(zip((A, B), regions, strict=False))
        slots = LocalSlots({name: RegionLimits() for name in named})
        return RegionalEngine(named, slots, clock=lambda: 0.0, rng=Random(1)).capabilities  # noqa: S311 - jitter

    both = of(Able({"ja-JP"}, True), Able({"ja-JP", "en-US"}, False))
    assert both == EngineCapabilities(name="aws", languages=frozenset({"ja-JP", "en-US"}))
    assert of(Able({"ja-JP"}, True), Able(set(), True)) == EngineCapabilities(
        name="aws", languages=frozenset(), speaker_labels=True
    )
