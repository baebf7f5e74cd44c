"""What a session costs the whole server: ``python -m loadtest.bench.server_cpu [--sessions 100] [--seconds 60]``.

Starts the emulator of Amazon Transcribe, a server on it (TLS to the engine, archive on disk, embedded Redis) and a load generator,
each a process of its own; all sessions speak the sample in real time, in frames of 100 ms. Prints, for three windows of so many
seconds and as their median, the CPU time (user and system) of the server process for a second of audio, split into its event
loop's thread and the others, beside what redis-server, the emulator and the load generator took; how late the event loop ran; how
old results were when the client had them, counted from when their last frame was sent, the emulator's 70 ms included; and memory.
Exits 1 when a session broke, was held back or is not archived to the bit. A borrowed machine's neighbours show in the windows' spread.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

from audio.pcm import SAMPLE_RATE
from loadtest.bench.load_client import Window
from tests.support.aws_emulator import KEYS, Emulator, started
from tests.support.processes import children
from tests.support.server import ServerProcess

WINDOWS: Final = 3
SETTLE_SECONDS: Final = 10.0
MIB: Final = 1024 * 1024
EMULATOR_FLAGS: Final = ("--max-streams", "1000", "--max-starts-per-second", "100")
SERVER_SETTINGS: Final = {"engine": "aws", "transcribe_streams": "1000", "transcribe_starts": "100"}
LAG: Final = "kikitori_event_loop_lag_seconds_bucket"
RECEIVED: Final = "kikitori_audio_received_samples_total"


@dataclass(frozen=True)
class Reading:
    """Sums since the start. Seconds of CPU; ``metrics`` by name and ``le``; ``rss`` in bytes."""

    server: float
    loop: float
    redis: float
    emulator: float
    results: float
    rss: int
    metrics: Mapping[tuple[str, str], float]

    @property
    def audio(self) -> float:
        """Seconds of audio that the server received."""
        return self.metrics[RECEIVED, ""] / SAMPLE_RATE


@dataclass(frozen=True)
class Measured:
    """One window: what was read before and after it, and what the client saw."""

    before: Reading
    after: Reading
    client: Window

    @property
    def audio(self) -> float:
        """Seconds of audio."""
        return self.after.audio - self.before.audio

    def cpu(self, whose: str) -> float:
        """CPU milliseconds for a second of audio; ``whose`` is a field of ``Reading``."""
        used: float = getattr(self.after, whose) - getattr(self.before, whose)
        return 1000 * used / self.audio

    def lag(self, share: float) -> float:
        """Upper bound, in ms, of the lateness of that share of the event loop's turns."""
        turns = {
            float(le): self.after.metrics[name, le] - self.before.metrics[name, le]
            for name, le in self.after.metrics
            if name == LAG
        }
        return 1000 * min(bound for bound, count in turns.items() if count >= share * max(turns.values()))

    def age(self, share: float) -> float:
        """The age in ms that this share of results did not exceed."""
        ages = sorted(self.client.ages)
        return ages[min(len(ages) - 1, int(len(ages) * share))] if ages else 0.0

    def __str__(self) -> str:
        results = (self.after.results - self.before.results) / self.audio
        return (
            f"server {self.cpu('server'):.2f} ms/audio-s (loop {self.cpu('loop'):.2f}, "
            f"other threads {self.cpu('server') - self.cpu('loop'):.2f}), redis {self.cpu('redis'):.2f}, "
            f"emulator {self.cpu('emulator'):.2f}, client {1000 * self.client.cpu_seconds / self.audio:.2f}; "
            f"{self.audio / self.client.seconds:.1f} audio-s/s, {results:.1f} results/audio-s; "
            f"loop lag p50 <= {self.lag(0.5):g}, p99 <= {self.lag(0.99):g} ms; "
            f"results' age p50 {self.age(0.5):.0f}, p99 {self.age(0.99):.0f} ms; "
            f"frames at most {self.client.late:.0f} ms late, {self.client.held} held back"
        )


class Bench:
    """The processes, once they run."""

    def __init__(self, server: ServerProcess, emulator: Emulator, client: asyncio.subprocess.Process) -> None:
        self._server, self._emulator, self._client = server, emulator, client
        self._process = psutil.Process(server.process.pid)
        redis = [child.pid for child in children(server.process.pid) if "redis" in child.name]
        self._redis = [psutil.Process(pid) for pid in redis]

    @property
    def rss(self) -> int:
        """The server's memory."""
        return int(self._process.memory_info().rss)

    async def window(self, seconds: float) -> Measured:
        """Measure for so long."""
        await self.ask()
        before = await self._read()
        await asyncio.sleep(seconds)
        after = await self._read()
        return Measured(before, after, await self.ask())

    async def ask(self, line: str = "") -> Window:
        """What the client saw since it was asked last; ``stop`` ends its sessions first."""
        assert self._client.stdin is not None
        self._client.stdin.write(f"{line}\n".encode())
        return msgspec.json.decode(await said(self._client), type=Window)

    async def _read(self) -> Reading:
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{self._server.admin_url}/metrics")).text
        counters = await asyncio.to_thread(self._emulator.call, "GET", "/counters")
        loop = next(thread for thread in self._process.threads() if thread.id == self._process.pid)
        return Reading(
            server=cpu_seconds(self._process),
            loop=loop.user_time + loop.system_time,
            redis=sum(cpu_seconds(process) for process in self._redis),
            emulator=counters["cpu_seconds"],
            results=counters["partials"] + counters["finals"],
            rss=self.rss,
            metrics={
                (sample.name, sample.labels.get("le", "")): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name in {LAG, RECEIVED}
            },
        )


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of one process, its children left out."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def said(process: asyncio.subprocess.Process) -> bytes:
    """The next line of its output."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the load generator is gone; it said why")
    return line


@asynccontextmanager
async def load(url: str, token: str, sessions: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The load generator, all of whose sessions are to be open soon; it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.bench.load_client", "--url", url, "--sessions", str(sessions),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=64 * MIB,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(f"{token}\n".encode())
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run(sessions: int, seconds: float) -> bool:
    """Measure and print; whether all sessions were served as they must be."""
    with (
        tempfile.TemporaryDirectory(prefix="kikitori-cpu-") as folder,
        started(Path(folder), *EMULATOR_FLAGS) as emulator,
    ):
        environment = {
            "SSL_CERT_FILE": str(emulator.authority),
            "AWS_ACCESS_KEY_ID": KEYS.access_key,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret_key,
        }
        settings = {**SERVER_SETTINGS, "transcribe_endpoint": emulator.endpoint}
        async with ServerProcess(Path(folder) / "data", environment=environment, **settings) as server:
            async with load(server.url, await server.token(), sessions) as client:
                bench = Bench(server, emulator, client)
                idle = bench.rss
                assert await said(client) == b"open\n"
                await asyncio.sleep(SETTLE_SECONDS)
                measured = [await one_window(bench, seconds) for _ in range(WINDOWS)]
                end = await bench.ask("stop")
            await server.stop()
    report(sessions, measured, idle)
    print(f"archived to the bit: {end.exact} of {sessions}; broken: {end.broken}")
    return end.exact == sessions and not any(window.client.held for window in measured)


async def one_window(bench: Bench, seconds: float) -> Measured:
    """Measure one window and print it."""
    measured = await bench.window(seconds)
    print(measured, flush=True)
    return measured


def report(sessions: int, measured: Sequence[Measured], idle: int) -> None:
    """Print the medians."""
    server = statistics.median(window.cpu("server") for window in measured)
    grown = measured[-1].after.rss - idle
    print(f"median of {len(measured)}: {server:.2f} ms CPU of the server process per audio-second")
    full = measured[-1].after.rss / MIB
    print(
        f"RSS {idle / MIB:.1f} MiB idle, {full:.1f} MiB with {sessions} sessions, {grown / 1024 / sessions:.0f} KiB a session"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    return 0 if asyncio.run(run(given.sessions, given.seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
