"""Many sessions for a long time: ``python -m loadtest.bench.soak [--sessions 50] [--minutes 10]``.

Starts a server with the ``null`` engine on a data folder of its own, speaks into all sessions at once in real time, then checks
that each was archived to the sample: the SHA-256 of what was captured is that of what was archived. Prints lost samples, how much
the server's memory (RSS) moved in the second half, per session, and how late its event loop was. Exits 1 when any of it is not as
it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx

from app.client.rest import RestClient
from app.client.session import SpeakerClient, StreamOptions
from app.protocol.messages import ServerMessage
from app.protocol.rest import CreateSession
from audio.codec import read_audio
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of
from tests.support.processes import resident_bytes
from tests.support.server import ServerProcess

SAMPLE = Path(__file__).parents[2] / "tests" / "data" / "consultation.wav"
PIECE_SAMPLES = SAMPLE_RATE
STAGGER_SECONDS = 1.0
WATCH_SECONDS = 1.0
RSS_BYTES_PER_SESSION = 1024 * 1024
_LAG_BUCKET = re.compile(r'kikitori_event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)')


@dataclass(frozen=True)
class Report:
    """What came out. Bytes, seconds; ``lag`` is (share of all loop turns, upper bound of their lateness).

    ``rss`` was taken every second while all sessions spoke; ``lost`` counts samples that are not archived.
    """

    sessions: int
    seconds: float
    samples: int
    lost: int
    differing: int
    rss: Sequence[int]
    lag: Sequence[tuple[float, float]]

    @property
    def second_half(self) -> Sequence[int]:
        """The latter half of ``rss``."""
        return self.rss[len(self.rss) // 2 :]

    @property
    def rss_moved(self) -> float:
        """Bytes per session between the highest and the lowest of the second half."""
        return (max(self.second_half) - min(self.second_half)) / self.sessions

    @property
    def holds(self) -> bool:
        """Whether all is as it must be."""
        return not self.lost and not self.differing and self.rss_moved < RSS_BYTES_PER_SESSION

    def __str__(self) -> str:
        kib, mib = 1024, 1024 * 1024
        low, high = min(self.second_half) / mib, max(self.second_half) / mib
        lags = ", ".join(f"p{share * 100:g} <= {bound * 1000:g} ms" for share, bound in self.lag)
        return "\n".join(
            [
                f"{self.sessions} sessions in real time, {self.seconds:.0f} s each, null engine",
                f"  audio archived     {self.samples} samples ({self.samples / SAMPLE_RATE / 3600:.2f} h)",
                f"  lost samples       {self.lost}",
                f"  differing SHA-256  {self.differing} of {self.sessions}",
                f"  RSS, second half   {low:.1f} to {high:.1f} MiB; moved {self.rss_moved / kib:.1f} KiB per session",
                f"  RSS per session    {max(self.second_half) / kib / self.sessions:.0f} KiB, the server itself included",
                f"  event loop lag     {lags}",
                f"  {'holds' if self.holds else 'DOES NOT HOLD'}",
            ]
        )


class Microphone:
    """``samples`` of the sample consultation, over and over, from a place of its own; ``sha256`` of what was taken."""

    def __init__(self, pcm: bytes, start: int, samples: int) -> None:
        self._pcm, self._start, self._samples = pcm, start, samples
        self.sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        length = samples_of(len(self._pcm))
        for at in range(0, self._samples, PIECE_SAMPLES):
            first = (self._start + at) % length
            count = min(PIECE_SAMPLES, self._samples - at)
            piece = (self._pcm[bytes_of(first) :] + self._pcm)[: bytes_of(count)]
            self.sha256.update(piece)
            yield piece


def ignore(_: ServerMessage) -> None:
    """No captions are expected of the null engine."""


async def speak(rest: RestClient, pcm: bytes, samples: int, number: int) -> tuple[int, bool]:
    """One session; (samples archived, whether they are those that were captured)."""
    random = Random(number)
    microphone = Microphone(pcm, random.randrange(samples_of(len(pcm))), samples)
    await asyncio.sleep(random.uniform(0.0, STAGGER_SECONDS))
    created = await rest.create(CreateSession(language="ja-JP"))
    options = StreamOptions(realtime=True, give_up_seconds=300.0)
    completed = await SpeakerClient(rest, created, microphone, options, ignore, random=random).run()
    return completed.samples, completed.audio_sha256 == microphone.sha256.hexdigest()


async def watch(pid: int, seconds: float) -> list[int]:
    """RSS each second, while all sessions speak."""
    readings, until = [], time.monotonic() + seconds
    await asyncio.sleep(STAGGER_SECONDS)
    while time.monotonic() < until:
        readings.append(resident_bytes(pid))
        await asyncio.sleep(WATCH_SECONDS)
    return readings


async def loop_lag(admin_url: str, shares: Sequence[float] = (0.5, 0.99, 0.999)) -> list[tuple[float, float]]:
    """For each share of the loop's turns the lateness that they did not exceed, as the metrics' buckets tell it."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{admin_url}/metrics")).text
    buckets = [(float(bound), float(count)) for bound, count in _LAG_BUCKET.findall(text)]
    turns = max((count for _, count in buckets), default=0.0)
    return [
        (share, min(bound for bound, count in buckets if count >= share * turns))
        for share in shares
        if buckets
    ]


async def soak(server: ServerProcess, sessions: int, seconds: float) -> Report:
    """Speak ``seconds`` into each of ``sessions`` of a started server."""
    pcm, samples = read_audio(SAMPLE), round(seconds * SAMPLE_RATE)
    async with await server.rest() as rest, asyncio.TaskGroup() as group:
        watching = group.create_task(watch(server.process.pid, seconds))
        speakers = [group.create_task(speak(rest, pcm, samples, number)) for number in range(sessions)]
    ends = [speaker.result() for speaker in speakers]
    return Report(
        sessions=sessions,
        seconds=seconds,
        samples=sum(archived for archived, _ in ends),
        lost=sum(abs(samples - archived) for archived, _ in ends),
        differing=sum(not same for _, same in ends),
        rss=watching.result(),
        lag=await loop_lag(server.admin_url),
    )


async def run(sessions: int, seconds: float) -> Report:
    """The same on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="kikitori-soak-") as folder:
        async with ServerProcess(Path(folder) / "data", engine="null") as server:
            report = await soak(server, sessions, seconds)
            await server.stop()
    return report


def main() -> int:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    report = asyncio.run(run(options.sessions, options.minutes * 60))
    print(report)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
