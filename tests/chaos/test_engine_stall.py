"""Amazon Transcribe stalls for a minute under twenty sessions: memory stays, captions come back, the ledger tells what was not heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from app.client.rest import RestClient
from app.client.session import SpeakerClient, StreamOptions
from app.protocol.messages import Completed, FinalMessage, Notice, PartialMessage, ServerMessage
from app.protocol.rest import CreateSession
from audio.codec import read_audio
from audio.coverage import Ranges
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of
from audio.ring import RING_SAMPLES
from loadtest.bench.soak import SAMPLE, Microphone
from tests.support.aws_emulator import KEYS, Emulator, started
from tests.support.processes import resident_bytes
from tests.support.server import ServerProcess

SESSIONS = 20
BEFORE_SECONDS = 20.0
STALL_SECONDS = 60.0
AFTER_SECONDS = 30.0
SAMPLES = round((BEFORE_SECONDS + STALL_SECONDS + AFTER_SECONDS) * SAMPLE_RATE)
RESUMED_SECONDS = 15.0
"""Within so long after the stall each session is shown something that was said after it."""
RINGS = SESSIONS * bytes_of(RING_SAMPLES)
ALLOWANCE = 5 * 1024 * 1024
"""For what the allocator keeps and for the connections that are opened again and again."""
SLACK_SECONDS = 20.0
"""What is not transcribed lies no further than a ring and an utterance away from the stall."""


@dataclass
class Speaker:
    """One session: what it was shown, and when."""

    number: int
    began: float = 0.0
    results: list[tuple[float, int, int]] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    gaps: Ranges = field(default_factory=Ranges)
    notices: list[str] = field(default_factory=list)
    completed: Completed | None = None
    exact: bool = False

    def on_event(self, message: ServerMessage) -> None:
        """Keep times and positions, not what was said."""
        match message:
            case PartialMessage() | FinalMessage():
                self.results.append((time.monotonic(), message.start, message.end))
                if isinstance(message, FinalMessage):
                    self.seqs.append(message.seq)
            case Notice(code="transcript_gap", start=int(start), end=int(end)):
                self.gaps.add(start, end)
                self.notices.append(message.code)
            case Notice():
                self.notices.append(message.code)

    async def run(self, rest: RestClient, pcm: bytes) -> None:
        """Speak in real time, to the end."""
        random = Random(self.number)  # noqa: S311 - where it begins, no secret
        microphone = Microphone(pcm, random.randrange(samples_of(len(pcm))), SAMPLES)
        created = await rest.create(CreateSession(language="ja-JP"))
        self.began = time.monotonic()
        options = StreamOptions(realtime=True, give_up_seconds=60.0)
        client = SpeakerClient(rest, created, microphone, options, self.on_event, random=random)
        self.completed = await client.run()
        self.exact = self.completed.audio_sha256 == microphone.sha256.hexdigest()

    def at(self, moment: float) -> int:
        """The position that was spoken at a moment."""
        return round((moment - self.began) * SAMPLE_RATE)

    def resumed_after(self, moment: float) -> float:
        """Seconds from ``moment`` until something that was said after it was shown."""
        return next((when - moment for when, _, end in self.results if end > self.at(moment)), float("inf"))

    def covered(self, name: str) -> Ranges:
        """A part of the session's ledger."""
        assert self.completed is not None
        return Ranges(self.completed.coverage[name])


async def stall(emulator: Emulator, until: float) -> None:
    """Every stream stalls, those that are opened meanwhile too; all of them go on at ``until``."""
    struck = emulator.call("POST", "/faults/now", {"kind": "stall", "seconds": until - time.monotonic()})
    assert struck == {"struck": SESSIONS}
    while (left := until - time.monotonic()) > 0:
        await asyncio.to_thread(emulator.disarm)
        await asyncio.to_thread(emulator.arm, "stall", seconds=left, times=0)
        await asyncio.sleep(min(0.5, left))
    await asyncio.to_thread(emulator.disarm)


async def watch(pid: int, readings: list[int]) -> None:
    """RSS, four times a second, until cancelled."""
    while True:
        readings.append(resident_bytes(pid))
        await asyncio.sleep(0.25)


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with started(tmp_path, "--max-streams", "200", "--max-starts-per-second", "100") as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, emulator: Emulator) -> ServerProcess:
    return ServerProcess(
        tmp_path / "data",
        environment={
            "SSL_CERT_FILE": str(emulator.authority),
            "AWS_ACCESS_KEY_ID": KEYS.access_key,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret_key,
        },
        engine="aws",
        transcribe_endpoint=emulator.endpoint,
        transcribe_streams="200",
        transcribe_starts="100",
    )


async def run_through(
    server: ServerProcess, emulator: Emulator, speakers: list[Speaker]
) -> tuple[float, float, dict[str, list[int]]]:
    """Speak into all sessions, stall in between; when the stall began and ended, and RSS before, during and after it."""
    pcm, pid = read_audio(SAMPLE), server.process.pid
    rss: dict[str, list[int]] = {"before": [], "during": [], "after": []}
    async with await server.rest() as rest, asyncio.TaskGroup() as group:
        talking = [group.create_task(speaker.run(rest, pcm)) for speaker in speakers]
        await asyncio.sleep(BEFORE_SECONDS)
        rss["before"].append(resident_bytes(pid))
        watching = group.create_task(watch(pid, rss["during"]))
        began = time.monotonic()
        ended = began + STALL_SECONDS
        await stall(emulator, ended)
        # Until just before the sessions end: what ending them takes is no matter of the stall.
        await asyncio.sleep(AFTER_SECONDS - 5.0)
        watching.cancel()
        rss["after"].append(resident_bytes(pid))
        await asyncio.wait(talking)
    return began, ended, rss


def tell(speakers: list[Speaker], ended: float, rss: dict[str, list[int]]) -> None:
    """Print the figures."""
    mib = 1024 * 1024
    during = rss["during"]
    print(
        f"\nRSS {rss['before'][0] / mib:.1f} MiB before, at most {max(during) / mib:.1f} MiB during and after, "
        f"{rss['after'][0] / mib:.1f} MiB {AFTER_SECONDS - 5.0:.0f} s later; "
        f"grew by at most {(max(during) - rss['before'][0]) / mib:.1f} MiB; rings {RINGS / mib:.1f} MiB"
    )
    resumed = sorted(speaker.resumed_after(ended) for speaker in speakers)
    lost = sorted(speaker.covered("untranscribed").total() / SAMPLE_RATE for speaker in speakers)
    print(f"captions again after {resumed[0]:.1f} to {resumed[-1]:.1f} s")
    print(f"not transcribed: {lost[0]:.1f} to {lost[-1]:.1f} s of each session")


@pytest.mark.timeout(300)
async def test_a_minute_without_an_engine(server: ServerProcess, emulator: Emulator) -> None:
    speakers = [Speaker(number) for number in range(SESSIONS)]
    async with server:
        began, ended, rss = await run_through(server, emulator, speakers)
        assert await server.stop() == 0
    tell(speakers, ended, rss)
    for speaker in speakers:
        judge(speaker, began, ended)
    # A stream that took audio all along answers for it when it goes on; the others cannot have heard all of a minute.
    assert any(speaker.covered("untranscribed") for speaker in speakers)
    assert max(rss["during"]) - rss["before"][0] <= RINGS + ALLOWANCE
    assert emulator.call("GET", "/counters")["open_streams"] == 0


def judge(speaker: Speaker, began: float, ended: float) -> None:
    """Nothing is lost, what was not heard is told, and hearing goes on."""
    assert speaker.completed is not None
    assert speaker.exact
    assert speaker.completed.samples == SAMPLES
    assert speaker.covered("archived") == Ranges([(0, SAMPLES)])
    assert not speaker.covered("missing")
    assert speaker.seqs == [*range(1, speaker.completed.finals + 1)]
    assert speaker.resumed_after(ended) <= RESUMED_SECONDS
    slack = round(SLACK_SECONDS * SAMPLE_RATE)
    unheard = speaker.covered("untranscribed")
    first = max(0, speaker.at(began) - slack)
    assert not unheard.subtract(Ranges([(first, min(SAMPLES, speaker.at(ended) + slack))]))
    assert not speaker.gaps.subtract(unheard), "what was called a gap is one"
    assert speaker.covered("live").union(unheard) == Ranges([(0, SAMPLES)])
