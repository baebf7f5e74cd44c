"""What every engine promises. A new engine adds itself to ``KINDS``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from audio.engine import (
    Engine,
    EngineError,
    EngineEvent,
    EngineStream,
    Flushed,
    Rejected,
    Settled,
    StreamRequest,
    StreamResult,
    Unavailable,
)
from audio.engines.null import NullEngine
from audio.engines.pocketsphinx import PocketSphinxEngine
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of
from tests.support.scripted_engine import ScriptedEngine, tone

SAMPLE = Path(__file__).parents[1] / "data" / "consultation.wav"
FRAME = 3200


@dataclass(frozen=True)
class Kind:
    """An engine under test: how to make it with so many places (0: it has no bound), and speech it understands.

    ``speech`` holds two utterances and ends in silence; ``sentence`` one, and the silence after it is short.
    """

    make: Callable[[int], Engine]
    speech: bytes
    sentence: bytes
    bounded: bool = True

    async def open(self, engine: Engine) -> EngineStream:
        return await engine.open(StreamRequest(language="en-US", session="contract"))


def sample(start: float, end: float) -> bytes:
    sound, rate = soundfile.read(SAMPLE, dtype="int16")
    assert rate == SAMPLE_RATE
    return bytes(sound[int(start * rate) : int(end * rate)].tobytes())


def scripted() -> Kind:
    return Kind(lambda places: ScriptedEngine(places=places), tone(1, 2) + tone(3, 4, pause=1.0), tone(1, 2))


def pocketsphinx() -> Kind:
    return Kind(lambda places: PocketSphinxEngine(workers=places), sample(0.0, 9.6), sample(0.0, 3.5))


def null() -> Kind:
    return Kind(lambda _: NullEngine(), bytes(9 * FRAME), bytes(FRAME), bounded=False)


KINDS = {"scripted": scripted, "pocketsphinx": pocketsphinx, "null": null}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.fixture
async def engine(kind: Kind) -> AsyncIterator[Engine]:
    made = kind.make(1)
    yield made
    await made.close()


async def send(stream: EngineStream, pcm: bytes, frame: int = FRAME) -> None:
    for at in range(0, len(pcm), frame):
        await stream.send([memoryview(pcm)[at : at + frame]])


async def collect(stream: EngineStream) -> list[EngineEvent]:
    return [event async for event in stream.events()]


async def converse(stream: EngineStream, pcm: bytes, frame: int = FRAME) -> list[EngineEvent]:
    """Everything a stream reports of ``pcm``."""
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(collect(stream))
        await send(stream, pcm, frame)
        await stream.end()
    await stream.close()
    return listening.result()


def finals_of(events: list[EngineEvent]) -> list[StreamResult]:
    return [event for event in events if isinstance(event, StreamResult) and event.final]


async def test_finals_are_in_order_do_not_overlap_and_lie_in_what_was_sent(
    kind: Kind, engine: Engine
) -> None:
    finals = finals_of(await converse(await kind.open(engine), kind.speech))
    assert bool(finals) is engine.capabilities.transcribes
    edges = [edge for final in finals for edge in (final.start, final.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= samples_of(len(kind.speech)) for edge in edges)
    assert all(final.start < final.end and final.text for final in finals)


async def test_words_lie_in_their_result_in_order_with_a_confidence(kind: Kind, engine: Engine) -> None:
    for final in finals_of(await converse(await kind.open(engine), kind.speech)):
        edges = [edge for word in final.words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert final.start <= edges[0]
        assert edges[-1] <= final.end
        assert all(0.0 <= word.confidence <= 1.0 for word in final.words)
        assert final.text.split() == [word.text for word in final.words]


async def test_partials_come_before_their_final_and_never_after(kind: Kind, engine: Engine) -> None:
    results = [
        event
        for event in await converse(await kind.open(engine), kind.speech)
        if isinstance(event, StreamResult)
    ]
    final_at = {result.id: at for at, result in enumerate(results) if result.final}
    assert len(final_at) == sum(result.final for result in results)
    partials = [(at, result) for at, result in enumerate(results) if not result.final]
    assert bool(partials) is engine.capabilities.transcribes
    assert all(at < final_at.get(partial.id, len(results)) for at, partial in partials)


async def test_settled_never_goes_back_and_no_later_result_begins_before_it(
    kind: Kind, engine: Engine
) -> None:
    settled = 0
    for event in await converse(await kind.open(engine), kind.speech):
        if isinstance(event, Settled):
            assert settled <= event.position <= samples_of(len(kind.speech))
            settled = event.position
        elif isinstance(event, StreamResult):
            assert event.start >= settled
    assert bool(settled) is engine.capabilities.transcribes


@pytest.mark.parametrize("frame", [320, 65_536])
async def test_equal_audio_gives_equal_finals_in_frames_of_any_size(
    kind: Kind, engine: Engine, frame: int
) -> None:
    usual = finals_of(await converse(await kind.open(engine), kind.speech))
    again = finals_of(await converse(await kind.open(engine), kind.speech, frame))
    assert [(f.start, f.end, f.text, f.words) for f in usual] == [
        (f.start, f.end, f.text, f.words) for f in again
    ]


async def test_a_flush_is_answered_after_the_finals_of_all_before_it_and_the_stream_goes_on(
    kind: Kind, engine: Engine
) -> None:
    stream = await kind.open(engine)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(collect(stream))
        await send(stream, kind.sentence)
        await stream.flush()
        await send(stream, kind.sentence)
        await stream.end()
    events = listening.result()
    border = samples_of(len(kind.sentence))
    (at,) = [number for number, event in enumerate(events) if isinstance(event, Flushed)]
    before, after = finals_of(events[:at]), finals_of(events[at:])
    assert all(final.end <= border for final in before)
    assert all(final.start >= border for final in after)
    assert [final.text for final in before] == [final.text for final in after]
    assert bool(before) is engine.capabilities.transcribes
    assert not {final.id for final in before} & {final.id for final in after}
    await stream.close()


async def test_each_flush_is_answered(kind: Kind, engine: Engine) -> None:
    stream = await kind.open(engine)
    for _ in range(3):
        await stream.flush()
    await stream.end()
    assert sum(isinstance(event, Flushed) for event in await collect(stream)) == 3
    await stream.close()


async def test_the_end_brings_the_last_final_although_nobody_paused(kind: Kind, engine: Engine) -> None:
    cut = kind.sentence[: bytes_of(samples_of(len(kind.sentence)) * 3 // 5)]
    stream = await kind.open(engine)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(collect(stream))
        await send(stream, cut)
        await stream.end()
        await stream.end()
    assert bool(finals_of(listening.result())) is engine.capabilities.transcribes
    await stream.close()


async def test_what_was_sent_may_be_overwritten_at_once(kind: Kind, engine: Engine) -> None:
    usual = finals_of(await converse(await kind.open(engine), kind.sentence))
    stream = await kind.open(engine)
    buffer = bytearray(FRAME)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(collect(stream))
        for at in range(0, len(kind.sentence), FRAME):
            piece = kind.sentence[at : at + FRAME]
            buffer[: len(piece)] = piece
            half = samples_of(len(piece)) // 2 * 2
            await stream.send([memoryview(buffer)[:half], memoryview(buffer)[half : len(piece)]])
            buffer[:] = bytes(FRAME)
        await stream.end()
    assert [final.text for final in finals_of(listening.result())] == [final.text for final in usual]
    await stream.close()


async def test_a_closed_stream_takes_nothing_lets_its_listener_go_and_frees_its_place(
    kind: Kind, engine: Engine
) -> None:
    stream = await kind.open(engine)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(outcome(stream))
        await stream.send([memoryview(kind.sentence)[:FRAME]])
        await asyncio.sleep(0)
        await stream.close()
        await stream.close()
    assert isinstance(listening.result(), Unavailable)
    with pytest.raises(Unavailable):
        await stream.send([memoryview(kind.sentence)[:FRAME]])
    assert engine.has_room()
    finals = finals_of(await converse(await kind.open(engine), kind.sentence))
    assert all(final.end <= samples_of(len(kind.sentence)) for final in finals)
    assert bool(finals) is engine.capabilities.transcribes


async def outcome(stream: EngineStream) -> EngineError | None:
    """How a stream's events end."""
    try:
        await collect(stream)
    except EngineError as error:
        return error
    return None


async def test_places_are_given_in_the_order_of_asking_and_a_cancelled_wait_gives_its_place_up(
    kind: Kind, engine: Engine
) -> None:
    if not kind.bounded:
        assert engine.has_room()
        return
    first = await kind.open(engine)
    assert not engine.has_room()
    order: list[str] = []

    async def wait(name: str) -> None:
        stream = await kind.open(engine)
        order.append(name)
        await stream.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait("a"))
        gone = tasks.create_task(wait("gone"))
        tasks.create_task(wait("b"))
        tasks.create_task(wait("c"))
        await asyncio.sleep(0.05)
        gone.cancel()
        assert order == []
        await first.close()
    assert order == ["a", "b", "c"]
    assert engine.has_room()


async def test_a_language_it_does_not_have_is_rejected_and_costs_no_place(kind: Kind, engine: Engine) -> None:
    if not engine.capabilities.languages:
        return
    assert "en-US" in engine.capabilities.languages
    with pytest.raises(Rejected):
        await engine.open(StreamRequest(language="xx-XX", session="contract"))
    assert engine.has_room()


async def test_a_closed_engine_ends_its_streams_and_opens_no_more(kind: Kind, engine: Engine) -> None:
    stream = await kind.open(engine)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(outcome(stream))
        waiting = tasks.create_task(opened(kind, engine)) if kind.bounded else None
        await asyncio.sleep(0.05)
        await engine.close()
        await engine.close()
    assert isinstance(listening.result(), Unavailable)
    assert waiting is None or isinstance(waiting.result(), Unavailable)
    assert not engine.has_room()
    with pytest.raises(Unavailable):
        await kind.open(engine)


async def opened(kind: Kind, engine: Engine) -> EngineError | None:
    """How opening ends."""
    try:
        await kind.open(engine)
    except EngineError as error:
        return error
    return None
