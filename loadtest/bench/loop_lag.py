"""How long the event loop waits while the embedded engine decodes: ``python -m loadtest.bench.loop_lag [--streams 2]``.

Streams the sample in real time into that many streams at once, sleeps 1 ms over and over beside them, and prints how much later than
asked the sleeps ended, beside the same measured without any stream.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from pathlib import Path

import soundfile

from audio.engine import EngineStream, StreamRequest, StreamResult
from audio.engines.pocketsphinx import PocketSphinxEngine
from audio.pcm import SAMPLE_RATE

SAMPLE = Path(__file__).parents[2] / "tests" / "data" / "consultation.wav"
FRAME_SECONDS = 0.1
FRAME_BYTES = round(FRAME_SECONDS * SAMPLE_RATE) * 2
SLEEP_SECONDS = 0.001


async def measure(lags: list[float], seconds: float) -> None:
    """Collect the lateness of each sleep."""
    until = time.perf_counter() + seconds
    while (before := time.perf_counter()) < until:
        await asyncio.sleep(SLEEP_SECONDS)
        lags.append(time.perf_counter() - before - SLEEP_SECONDS)


async def speak(stream: EngineStream, pcm: bytes, offset: float) -> None:
    """Send the sample at the pace of speech."""
    await asyncio.sleep(offset)
    begin = time.perf_counter()
    for count, at in enumerate(range(0, len(pcm), FRAME_BYTES)):
        await asyncio.sleep(max(0.0, begin + count * FRAME_SECONDS - time.perf_counter()))
        await stream.send([memoryview(pcm)[at : at + FRAME_BYTES]])
    await stream.end()


async def listen(stream: EngineStream) -> int:
    """Count the words of the finals."""
    words = 0
    async for event in stream.events():
        if isinstance(event, StreamResult) and event.final:
            words += len(event.words)
    await stream.close()
    return words


def report(name: str, lags: list[float]) -> None:
    """Print percentiles in milliseconds."""
    ordered = sorted(lags)
    p50, p99, p999 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99, 0.999))
    print(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms, max {ordered[-1] * 1000:.2f} ms")


async def run(streams: int, seconds: float) -> None:
    """Measure without and with streams."""
    sound, rate = soundfile.read(SAMPLE, dtype="int16")
    assert rate == SAMPLE_RATE
    pcm = sound.tobytes()[: int(seconds * SAMPLE_RATE) * 2]
    seconds = len(pcm) / 2 / SAMPLE_RATE
    idle: list[float] = []
    await measure(idle, 5.0)
    report("idle", idle)
    engine = PocketSphinxEngine(workers=streams)
    request = StreamRequest(language="en-US", session="bench")
    open_streams = [await engine.open(request) for _ in range(streams)]
    lags: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        heard = [tasks.create_task(listen(stream)) for stream in open_streams]
        for number, stream in enumerate(open_streams):
            tasks.create_task(speak(stream, pcm, number * 0.37))
        tasks.create_task(measure(lags, seconds))
    await engine.close()
    report(f"{streams} streams in real time, {seconds:.0f} s", lags)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"real-time factor of the workers: {(used.ru_utime + used.ru_stime) / seconds / streams:.3f} (model loading included)"
    )
    print(f"words in finals: {[task.result() for task in heard]}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    asyncio.run(run(options.streams, options.seconds))


if __name__ == "__main__":
    main()
