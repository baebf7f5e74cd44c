"""What a stream costs the emulator: ``python -m loadtest.bench.emulator [--wire http2] [--streams 200] [--chunk-ms 100] [--together]``.

Further options are the emulator's own.

Starts for each wire an emulator of its own, streams the sample into that many streams at once in real time, each from another place
in it, and prints the emulator's CPU time in ms per stream-second, as the process itself counts it: the median of several windows, all
of them in the time in which all streams are open. The client is as lean as can be: messages are made once, and results not decoded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, Protocol

import soundfile
import uvloop

from audio.pcm import SAMPLE_BYTES, SAMPLE_RATE
from loadtest.bench.emulator_client import Http2Client, WebSocketClient
from loadtest.emulator.chunks import AUDIO_HEADERS
from loadtest.emulator.eventstream import encode_headers, frame

SAMPLE: Final = Path(__file__).parents[2] / "tests" / "data" / "consultation.wav"
BYTES_PER_SECOND: Final = SAMPLE_RATE * SAMPLE_BYTES
WIRES: Final = ("websocket", "http2")
OPEN_PER_SECOND: Final = 50
SETTLE_SECONDS: Final = 2.0


class Client(Protocol):
    """One stream as the bench sees it."""

    received: int

    def send(self, message: bytes) -> None:
        """Send one audio message, unsigned."""

    def close(self) -> None:
        """Drop the stream."""


@dataclass(slots=True)
class Load:
    """The streams that are open, and the sample cut into messages of ``chunk`` seconds."""

    messages: list[bytes]
    chunk: float
    clients: list[Client] = field(default_factory=list)
    together: bool = False
    late: float = 0.0

    async def speak(self) -> None:
        """Send a chunk for each client whenever it is time, evenly spread or all together, until cancelled."""
        begin, count = time.perf_counter(), 0
        while True:
            for place, client in enumerate([*self.clients]):
                at = begin + (count + (0 if self.together else place / len(self.clients))) * self.chunk
                wait = at - time.perf_counter()
                if wait > 0.001:
                    await asyncio.sleep(wait)
                self.late = max(self.late, -wait)
                client.send(self.messages[(count + place * 37) % len(self.messages)])
            count += 1
            await asyncio.sleep(max(0.0, begin + count * self.chunk - time.perf_counter()))


@contextlib.asynccontextmanager
async def emulator_process(streams: int, *more: str) -> AsyncIterator[tuple[dict[str, int], ssl.SSLContext]]:
    """An emulator in a process of its own; its ports and a context that trusts it."""
    with tempfile.TemporaryDirectory() as folder:
        ca = Path(folder, "ca.pem")
        limits = ("--max-streams", str(streams), "--max-starts-per-second", "1000")
        ports = ("--h2-port", "0", "--ws-port", "0", "--ca-out", str(ca))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtest.emulator", *ports, *limits, *more, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            ready = (await process.stdout.readline()).decode().split()[1:]
            yield (
                {name: int(port) for name, port in (part.split("=") for part in ready)},
                ssl.create_default_context(cafile=str(ca)),
            )
        finally:
            process.terminate()
            await process.wait()


def counters(port: int) -> dict[str, float]:
    """The emulator's counters."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counters", timeout=10) as answer:
        found: dict[str, float] = json.load(answer)
    return found


def messages(chunk: float) -> list[bytes]:
    """The sample as audio messages of so many seconds."""
    samples, _ = soundfile.read(SAMPLE, dtype="int16")
    pcm, block = samples.tobytes(), encode_headers(AUDIO_HEADERS)
    size = round(chunk * SAMPLE_RATE) * SAMPLE_BYTES
    return [frame(block, pcm[at : at + size]) for at in range(0, len(pcm) - size + 1, size)]


async def measure(wire: str, streams: int, windows: int, seconds: float, load: Load, *more: str) -> None:
    """Print the figures of one wire."""
    connect = Http2Client.connect if wire == "http2" else WebSocketClient.connect
    async with emulator_process(streams, *more) as (ports, trust), asyncio.TaskGroup() as tasks:
        port = ports["h2" if wire == "http2" else "ws"]
        speaking = tasks.create_task(load.speak())
        for _ in range(streams):
            load.clients.append(await connect(port, trust))
            await asyncio.sleep(1 / OPEN_PER_SECOND)
        await asyncio.sleep(SETTLE_SECONDS)
        load.late = 0.0
        counted, begin = [await asyncio.to_thread(counters, ports["control"])], time.perf_counter()
        for _ in range(windows):
            await asyncio.sleep(seconds)
            counted.append(await asyncio.to_thread(counters, ports["control"]))
        passed = time.perf_counter() - begin
        speaking.cancel()
        for client in load.clients:
            client.close()
    report(wire, counted, passed)
    print(f"  {counted[-1]['open_streams']} of {streams} open, sent at most {load.late * 1000:.0f} ms late")


def report(wire: str, counted: list[dict[str, float]], passed: float) -> None:
    """Print what one stream-second cost."""
    costs: list[float] = []
    for before, after in pairwise(counted):
        cpu = after["cpu_seconds"] - before["cpu_seconds"]
        costs.append(1000 * cpu / (after["audio_bytes"] - before["audio_bytes"]) * BYTES_PER_SECOND)
    first, last = counted[0], counted[-1]
    heard = (last["audio_bytes"] - first["audio_bytes"]) / BYTES_PER_SECOND
    results = sum(last[name] - first[name] for name in ("partials", "finals"))
    print(
        f"{wire}: {median(costs):.3f} ms CPU per stream-second, "
        f"median of {len(costs)} windows of {passed / len(costs):.1f} s ({min(costs):.3f} to {max(costs):.3f})"
    )
    print(f"  {heard / passed:.0f} stream-seconds a second, {results / heard:.1f} results per stream-second")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.emulator", description="CPU of the emulator."
    )
    parser.add_argument("--wire", choices=WIRES, action="append", help="one wire only (default: both)")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a window")
    parser.add_argument("--chunk-ms", type=int, default=100, help="of audio in a message, 50 to 200")
    parser.add_argument("--together", action="store_true", help="send for all streams at the same moment")
    given, more = parser.parse_known_args()
    for wire in given.wire or WIRES:
        chunk = given.chunk_ms / 1000
        load = Load(messages(chunk), chunk, together=given.together)
        uvloop.run(measure(wire, given.streams, given.windows, given.seconds, load, *more))


if __name__ == "__main__":
    main()
