"""What is archived is what was said, to the sample, whatever the frames and the connections were like."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random, SystemRandom

import jiwer
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from app.client.session import StreamOptions
from app.protocol.messages import (
    Completed,
    FinalMessage,
    Flush,
    Flushed,
    Notice,
    PartialMessage,
    Pause,
    Ping,
    Stop,
)
from tests.support.server import ServerProcess
from tests.support.speaking import SECOND, Person, Speaking, assert_whole
from tests.support.wire import wire

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

WORD_ACCURACY = 0.80
DROPS = 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(recorder: ServerProcess) -> AsyncIterator[Person]:
    async with await Person.of(recorder) as person:
        yield person


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def transcribed(transcriber: ServerProcess) -> AsyncIterator[Person]:
    async with await Person.of(transcriber) as person:
        yield person


async def speak(person: Person, pcm: bytes, options: StreamOptions, seed: int = 1) -> Speaking:
    speaking = person.speaking(await person.create(), pcm, options, seed)
    await speaking.run()
    return speaking


# Frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_bytes", [320, 3_200, 65_536])
async def test_fast(recorded: Person, sample_pcm: bytes, frame_bytes: int) -> None:
    speaking = await speak(recorded, sample_pcm, StreamOptions(frame_bytes=frame_bytes))
    await assert_whole(recorded, speaking, sample_pcm)


async def test_fast_in_frames_of_one_sample(recorded: Person, sample_pcm: bytes) -> None:
    excerpt = sample_pcm[10 * SECOND : 15 * SECOND]
    speaking = await speak(recorded, excerpt, StreamOptions(frame_bytes=2))
    await assert_whole(recorded, speaking, excerpt)
    assert speaking.client.sent.frames == len(excerpt) // 2


@pytest.mark.long
async def test_in_real_time(recorded: Person, sample_pcm: bytes) -> None:
    excerpt = sample_pcm[20 * SECOND : 30 * SECOND]
    async with asyncio.TaskGroup() as group:
        speakers = [
            group.create_task(speak(recorded, excerpt, StreamOptions(frame_bytes=size, realtime=True)))
            for size in (320, 3_200, 65_536)
        ]
    for speaker in speakers:
        await assert_whole(recorded, speaker.result(), excerpt)


# Dropped connections ----------------------------------------------------------------------------


def drops(seed: int | None, pcm: bytes) -> tuple[int, StreamOptions]:
    """Ten positions; a seed of None is a new one each time."""
    chosen = SystemRandom().getrandbits(32) if seed is None else seed
    print(f"seed {chosen}")
    places = sorted(Random(chosen).sample(range(1, len(pcm) // 2), DROPS))  # noqa: S311
    return chosen, StreamOptions(drop_at=tuple(places))


@pytest.mark.parametrize("seed", [1, 2, 3, None])
async def test_ten_dropped_connections(recorded: Person, sample_pcm: bytes, seed: int | None) -> None:
    seed, options = drops(seed, sample_pcm)
    speaking = await speak(recorded, sample_pcm, options, seed)
    await assert_whole(recorded, speaking, sample_pcm)
    assert speaking.client.sent.connections >= DROPS + 1


@pytest.mark.parametrize("seed", [pytest.param(4, marks=pytest.mark.long), None])
async def test_ten_dropped_connections_while_transcribed(
    transcribed: Person, sample_pcm: bytes, seed: int | None
) -> None:
    excerpt = sample_pcm[: 25 * SECOND]
    seed, options = drops(seed, excerpt)
    speaking = await speak(transcribed, excerpt, options, seed)
    transcript = await assert_whole(transcribed, speaking, excerpt)
    assert len(transcript.finals) >= 3
    assert speaking.client.sent.connections >= DROPS + 1
    assert speaking.rewinds == 0


# Captions ---------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Lower case, words only."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def script_of(sample: Path) -> str:
    """What the sample says, without the labels of who says it."""
    lines = sample.with_suffix(".txt").read_text().splitlines()
    return plain(" ".join(line.partition(":")[2] for line in lines))


@pytest.mark.long
async def test_the_whole_sample_as_captions(transcribed: Person, sample_pcm: bytes, sample_wav: Path) -> None:
    speaking = await speak(transcribed, sample_pcm, StreamOptions())
    transcript = await assert_whole(transcribed, speaking, sample_pcm)
    coverage = transcript.coverage
    assert coverage is not None
    assert coverage.live == [(0, len(sample_pcm) // 2)]
    assert coverage.untranscribed == coverage.missing == []
    first_heard = [type(e) for e in speaking.events if isinstance(e, PartialMessage | FinalMessage)]
    assert first_heard[0] is PartialMessage
    assert {final.id for final in speaking.finals} <= speaking.partial_ids
    accuracy = 1 - jiwer.wer(script_of(sample_wav), plain(" ".join(f.text for f in speaking.finals)))
    print(f"word accuracy {accuracy:.1%}, {len(speaking.finals)} finals")
    assert accuracy >= WORD_ACCURACY
    assert all(f.words and f.start <= f.words[0].start <= f.words[-1].end <= f.end for f in speaking.finals)


async def test_a_flush_is_answered_after_the_finals_before_it(transcribed: Person, sample_pcm: bytes) -> None:
    created = await transcribed.create()
    said = sample_pcm[: 6 * SECOND]
    async with wire(created.stream_url, created.ticket) as (line, _):
        await line.speak(said)
        await line.say(Flush())
        answer = await line.hear(Flushed)
        assert answer.position == len(said) // 2
        finals = [m.seq for m in line.heard if isinstance(m, FinalMessage)]
        assert answer.seq >= 1
        assert finals == list(range(1, answer.seq + 1))
        await line.say(Stop(len(said) // 2))
        completed = await line.hear(Completed)
        assert await line.closed() == 1000
    assert completed.finals == answer.seq
    assert await transcribed.audio(created.session_id) == said


# The rest of the protocol -----------------------------------------------------------------------


async def test_a_pause_makes_durable_and_moves_nothing(recorded: Person, sample_pcm: bytes) -> None:
    created = await recorded.create()
    first, rest = sample_pcm[: 3 * SECOND + 1_234], sample_pcm[3 * SECOND + 1_234 : 8 * SECOND]
    async with wire(created.stream_url, created.ticket) as (line, ready):
        assert ready.position == 0
        await line.speak(first)
        await line.say(Pause())
        ack = await line.hear_durable(len(first) // 2)
        assert ack.received == ack.durable == len(first) // 2
        await line.say(Pause(), Ping(1))
        await line.speak(rest)
        await line.say(Stop((len(first) + len(rest)) // 2))
        completed = await line.hear(Completed)
        assert await line.closed() == 1000
    assert completed.samples == (len(first) + len(rest)) // 2
    assert await recorded.audio(created.session_id) == first + rest


async def test_a_session_without_a_sample(recorded: Person) -> None:
    speaking = await speak(recorded, b"", StreamOptions())
    await assert_whole(recorded, speaking, b"")
    refusal = await recorded.http.get(f"/v1/sessions/{speaking.session_id}/audio")
    assert refusal.status_code == 409


async def test_stop_may_be_said_again_and_the_end_heard_again(recorded: Person, sample_pcm: bytes) -> None:
    created = await recorded.create()
    said = sample_pcm[: 4 * SECOND]
    stop = Stop(len(said) // 2)
    async with wire(created.stream_url, created.ticket) as (line, ready):
        await line.say(stop)
        await line.speak(said)
        await line.say(stop, stop, stop)
        completed = await line.hear(Completed)
        assert await line.closed() == 1000
    assert not [m for m in line.heard if isinstance(m, Notice)]
    for _ in range(2):
        async with wire(created.stream_url, ready.resume_ticket) as (line, again):
            assert (again.position, again.window) == (len(said) // 2, 0)
            with suppress(ConnectionClosed):  # The server may have closed before it heard this.
                await line.say(stop)
            assert await line.closed() == 1000
            assert line.heard[-1] == completed
    assert await recorded.audio(created.session_id) == said
