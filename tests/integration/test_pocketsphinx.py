"""The embedded engine with its processes, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import uvloop

from audio.engine import EngineStream, Settled, StreamRequest, StreamResult, Unavailable
from audio.engines.pocketsphinx import (
    IN_FLIGHT_SAMPLES,
    PIECE_SAMPLES,
    PocketSphinxEngine,
    PocketSphinxLimits,
)
from audio.engines.pocketsphinx_wire import BEGIN, NUMBER, encode_order
from audio.pcm import SAMPLE_RATE, samples_of
from audio.ring import Ring
from audio.transcriber import Transcriber, TranscriberLimits
from audio.transcript import Final, Partial

SAMPLE = Path(__file__).parents[1] / "data" / "consultation.wav"
REQUEST = StreamRequest(language="en-US", session="test")
FRAME = 3200


def sample() -> bytes:
    sound, rate = soundfile.read(SAMPLE, dtype="int16")
    assert rate == SAMPLE_RATE
    return bytes(sound.tobytes())


def script() -> list[str]:
    text = re.sub(r"(?m)^[A-Z]+:", "", SAMPLE.with_suffix(".txt").read_text()).lower()
    return re.sub(r"[^a-z' ]", " ", text.replace("\n", " ")).split()


def accuracy(said: Sequence[str], heard: Sequence[str]) -> float:
    """1 - (substitutions + insertions + deletions) / words said."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        before, row[0] = row[0], number
        for at, other in enumerate(heard, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (word != other))
    return 1 - row[-1] / len(said)


@pytest.fixture
async def engine() -> AsyncIterator[PocketSphinxEngine]:
    made = PocketSphinxEngine(workers=1, limits=PocketSphinxLimits(answer=2.0))
    yield made
    await made.close()
    assert workers() == []


def workers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "audio.engines.pocketsphinx_worker" in " ".join(child.cmdline())
    ]


async def results(stream: EngineStream) -> list[StreamResult]:
    return [event async for event in stream.events() if isinstance(event, StreamResult)]


async def speak(stream: EngineStream, pcm: bytes) -> None:
    for at in range(0, len(pcm), FRAME):
        await stream.send([memoryview(pcm)[at : at + FRAME]])


async def transcribe(engine: PocketSphinxEngine, pcm: bytes) -> list[StreamResult]:
    """The finals."""
    stream = await engine.open(REQUEST)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(results(stream))
        await speak(stream, pcm)
        await stream.end()
    await stream.close()
    return [result for result in listening.result() if result.final]


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_the_sample_is_understood(engine: PocketSphinxEngine) -> None:
    pcm = sample()
    await (await engine.open(REQUEST)).close()
    (worker,) = workers()
    before = sum(worker.cpu_times()[:2])
    finals = await transcribe(engine, pcm)
    used = sum(worker.cpu_times()[:2]) - before
    heard = [word.text for final in finals for word in final.words]
    right = accuracy(script(), heard)
    print(f"word accuracy {right:.1%}, real-time factor {used / (samples_of(len(pcm)) / SAMPLE_RATE):.3f}")
    assert right >= 0.9
    assert all(re.fullmatch(r"[a-z'.]+", word) for word in heard)
    assert 0.5 < np.mean([word.confidence for final in finals for word in final.words]) <= 1.0


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_speech_without_pauses_becomes_final_in_time_and_loses_no_word(
    engine: PocketSphinxEngine,
) -> None:
    samples = np.frombuffer(sample(), np.int16)[: 33 * SAMPLE_RATE]
    frames = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    loud = np.abs(frames).max(axis=1) >= 300
    # A frame of silence stays when one of the four before it was loud: no pause is longer than 0.12 s.
    near = np.convolve(loud, np.ones(5), "full")[: len(loud)] > 0
    pcm = frames[near].tobytes()
    finals = await transcribe(engine, pcm)
    assert max(final.end - final.start for final in finals) <= 10 * SAMPLE_RATE
    heard = [word.text for final in finals for word in final.words]
    usual = await transcribe(engine, samples.tobytes())
    assert accuracy([word.text for final in usual for word in final.words], heard) >= 0.85


async def test_a_stream_whose_worker_is_killed_is_unavailable_and_the_next_one_has_a_new_worker(
    engine: PocketSphinxEngine,
) -> None:
    stream = await engine.open(REQUEST)
    (worker,) = workers()
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(unavailable(stream))
        await speak(stream, sample()[: 2 * SAMPLE_RATE])
        worker.kill()
    assert listening.result() == "worker_died"
    with pytest.raises(Unavailable):
        await stream.send([memoryview(bytes(FRAME))])
    await stream.close()
    assert await transcribe(engine, sample()[: 8 * SAMPLE_RATE])


async def unavailable(stream: EngineStream) -> str:
    with pytest.raises(Unavailable) as caught:
        await results(stream)
    return caught.value.code


async def test_an_idle_worker_that_dies_is_replaced(engine: PocketSphinxEngine) -> None:
    await (await engine.open(REQUEST)).close()
    (worker,) = workers()
    worker.kill()
    await asyncio.to_thread(psutil.wait_procs, [worker], 5)
    await asyncio.sleep(0.05)
    assert await transcribe(engine, sample()[: 8 * SAMPLE_RATE])


@pytest.mark.long
async def test_a_worker_that_hangs_holds_the_sender_back_and_is_given_up(engine: PocketSphinxEngine) -> None:
    stream = await engine.open(REQUEST)
    (worker,) = workers()
    worker.suspend()
    sent = 0
    pcm = sample()

    async def send_all() -> None:
        nonlocal sent
        for at in range(0, len(pcm), FRAME):
            try:
                await stream.send([memoryview(pcm)[at : at + FRAME]])
            except Unavailable:
                return
            sent += samples_of(FRAME)

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(unavailable(stream))
        tasks.create_task(send_all())
        await asyncio.sleep(0.5)
        assert IN_FLIGHT_SAMPLES <= sent <= IN_FLIGHT_SAMPLES + PIECE_SAMPLES
    assert listening.result() == "worker_hung"
    await stream.close()
    assert await transcribe(engine, pcm[: 8 * SAMPLE_RATE])


@pytest.mark.parametrize("ask", ["flush", "end"])
async def test_a_worker_that_does_not_answer_is_given_up(engine: PocketSphinxEngine, ask: str) -> None:
    stream = await engine.open(REQUEST)
    (worker,) = workers()
    worker.suspend()
    await (stream.flush() if ask == "flush" else stream.end())
    began = time.monotonic()
    assert await unavailable(stream) == "worker_hung"
    assert 1.5 < time.monotonic() - began < 4
    await stream.close()


async def test_a_silent_speaker_is_no_hung_worker(engine: PocketSphinxEngine) -> None:
    stream = await engine.open(REQUEST)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(results(stream))
        await speak(stream, sample()[: 2 * 4 * SAMPLE_RATE])
        await asyncio.sleep(4.5)
        await speak(stream, bytes(2 * SAMPLE_RATE))
        await stream.end()
    assert listening.result()
    await stream.close()


@pytest.mark.long
async def test_a_worker_serves_one_stream_after_another(engine: PocketSphinxEngine) -> None:
    for _ in range(3):
        assert await transcribe(engine, sample()[: 8 * SAMPLE_RATE])
    assert len(workers()) == 1


async def test_a_stream_abandoned_in_mid_word_leaves_nothing_to_the_next(engine: PocketSphinxEngine) -> None:
    pcm = sample()
    usual = await transcribe(engine, pcm[: 8 * SAMPLE_RATE])
    abandoned = await engine.open(REQUEST)
    await speak(abandoned, pcm[: 3 * SAMPLE_RATE])
    await abandoned.close()
    assert await transcribe(engine, pcm[: 8 * SAMPLE_RATE]) == usual
    assert len(workers()) == 1


async def test_settled_comes_at_least_each_second_of_silence(engine: PocketSphinxEngine) -> None:
    stream = await engine.open(REQUEST)
    settled = [0]

    async def listen() -> None:
        settled.extend([event.position async for event in stream.events() if isinstance(event, Settled)])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listen())
        await speak(stream, bytes(2 * 10 * SAMPLE_RATE))
        await stream.end()
    assert max(after - before for before, after in pairwise(settled)) <= SAMPLE_RATE
    assert settled[-1] == 10 * SAMPLE_RATE
    await stream.close()


def test_it_works_on_uvloop() -> None:
    async def main() -> list[StreamResult]:
        engine = PocketSphinxEngine(workers=1)
        finals = await transcribe(engine, sample()[: 8 * SAMPLE_RATE])
        stream = await engine.open(REQUEST)
        await engine.close()
        assert await unavailable(stream) in {"worker_died", "closed"}
        return finals

    assert uvloop.run(main())
    assert workers() == []


@pytest.fixture
def lone_worker() -> subprocess.Popen[bytes]:
    """A worker as the server starts it, its model loaded."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "audio.engines.pocketsphinx_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(encode_order(BEGIN, NUMBER.pack(1)))
    worker.stdin.flush()
    assert worker.stdout.read(4)
    return worker


def test_a_worker_ends_when_its_server_is_gone(lone_worker: subprocess.Popen[bytes]) -> None:
    with lone_worker as worker:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(10) == 0


def test_a_worker_survives_ctrl_c_and_is_in_a_session_of_its_own(
    lone_worker: subprocess.Popen[bytes],
) -> None:
    with lone_worker as worker:
        assert os.getsid(worker.pid) == worker.pid
        worker.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(10) == 0


def test_a_worker_says_nothing_on_standard_error(lone_worker: subprocess.Popen[bytes]) -> None:
    with lone_worker as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(
            b"".join(encode_order(b"A", sample()[at : at + FRAME]) for at in range(0, 256_000, FRAME))
        )
        worker.stdin.close()
        assert worker.stderr.read() == b""
        assert worker.wait(20) == 0


class Finals:
    """Keeps the finals and the codes of the notices."""

    def __init__(self) -> None:
        self.finals: list[Final] = []
        self.codes: list[str] = []

    def on_partial(self, partial: Partial) -> None:
        assert partial.text

    def on_final(self, final: Final) -> None:
        self.finals.append(final)

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        del message, start, end
        self.codes.append(code)


async def test_a_session_survives_the_death_of_its_worker_in_mid_speech(engine: PocketSphinxEngine) -> None:
    pcm = sample()[: 2 * 13 * SAMPLE_RATE]
    ring = Ring()
    sink = Finals()
    transcriber = Transcriber(
        engine=engine,
        request=REQUEST,
        ring=ring,
        reader=ring.add_reader("transcriber", 0),
        sink=sink,
        language="en-US",
        settled=0,
        clock=time.monotonic,
        rng=random.Random(1),  # noqa: S311 - jitter
        limits=TranscriberLimits(end=60.0),
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(transcriber.run())
        for at in range(0, len(pcm), FRAME):
            ring.write(pcm[at : at + FRAME])
            transcriber.audio_arrived()
        while transcriber.sent < 7 * SAMPLE_RATE:  # noqa: ASYNC110 - the second utterance has begun, the first is final
            await asyncio.sleep(0.02)
        (worker,) = workers()
        worker.kill()
        await transcriber.end()
        await running
    # On a busy machine a worker takes more than a second to start, and that is told.
    assert [code for code in sink.codes if code != "engine_waiting"] == ["engine_restarted"]
    edges = [edge for final in sink.finals for edge in (final.start, final.end)]
    assert edges == sorted(edges)
    heard = [word.text for final in sink.finals for word in final.words]
    said = (
        "good morning what can i do for you today good morning doctor i have been coughing all week and i feel very tired "
        "i am sorry to hear that when did it start"
    )
    assert accuracy(said.split(), heard) >= 0.85
    assert list(transcriber.live) == [(0, ring.head)]


async def test_a_warmed_engine_has_a_process_before_anybody_speaks() -> None:
    engine = PocketSphinxEngine(workers=1)
    try:
        await engine.warm()
        assert engine.has_room()
        assert len(engine._idle) == 1
        stream = await engine.open(REQUEST)
        assert not engine._idle
        await stream.close()
    finally:
        await engine.close()
