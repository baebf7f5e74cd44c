"""Many speakers in one lean process: ``python -m loadtest.bench.load_client --url URL --sessions 100``, driven through its pipes.

The first line of its input is a bearer token. It opens the sessions, prints ``open`` when all of them speak, and goes on in real time,
100 ms to a frame, each session from another place in the sample. For each empty line it prints what came since the line before,
for the line ``stop`` it ends every session and prints the same with what became of them; all of that as JSON (``Window``).
It counts what it hears and decodes no more than that takes, so that a machine's second core can drive a hundred sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import time
from collections import deque
from itertools import count
from pathlib import Path
from typing import Final, cast

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from app.client.rest import RestClient
from app.protocol.messages import PROTOCOL, Stop, encode
from app.protocol.rest import CreateSession, SessionCreated
from audio.codec import read_audio
from audio.pcm import SAMPLE_RATE, samples_of

SAMPLE: Final = Path(__file__).parents[2] / "tests" / "data" / "consultation.wav"
FRAME_BYTES: Final = 3_200
FRAME_SAMPLES: Final = samples_of(FRAME_BYTES)
FRAME_SECONDS: Final = FRAME_SAMPLES / SAMPLE_RATE
OPEN_PER_SECOND: Final = 20
STOP_SECONDS: Final = 60.0
SENT_KEPT: Final = 1024
"""Frames, 102 s: of older ones it is not known when they were sent."""


class Heard(msgspec.Struct, rename="camel"):
    """Any message of the server, as far as it is of interest here."""

    type: str
    position: int = 0
    end: int = 0
    received: int = 0
    window: int = 0
    audio_sha256: str | None = msgspec.field(default=None, name="audioSha256")


class Window(msgspec.Struct):
    """What came between two lines. ``ages`` are milliseconds from when the last frame of a result was sent to when it was here.

    ``held``: frames that the server's window kept back; ``late``: milliseconds by which the latest frame missed its time;
    ``broken``: sessions whose socket closed before their end; ``exact``: of the ended ones those archived to the bit.
    """

    seconds: float = 0.0
    frames: int = 0
    held: int = 0
    late: float = 0.0
    partials: int = 0
    finals: int = 0
    cpu_seconds: float = 0.0
    broken: int = 0
    exact: int = 0
    ages: list[float] = []


class Speaker(WSListener):
    """One session."""

    def __init__(self, frames: list[bytes], start: int, window: Window) -> None:
        self.window = window
        self.ready, self.over = asyncio.Event(), asyncio.Event()
        self.exact = False
        self._frames, self._at = frames, start
        self._sent_at: deque[float] = deque(maxlen=SENT_KEPT)
        self._sent = self._limit = 0
        self._sha256 = hashlib.sha256()
        self._transport: WSTransport | None = None
        self._decode = msgspec.json.Decoder(Heard).decode

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.ready.set()
        self.over.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            return
        heard = self._decode(frame.get_payload_as_memoryview())
        match heard.type:
            case "partial":
                self.window.partials += 1
                self._note_age(heard.end)
            case "final":
                self.window.finals += 1
            case "ack":
                self._limit = heard.received + heard.window
            case "ready":
                self._limit = heard.position + heard.window
                self.ready.set()
            case "completed":
                self.exact = heard.audio_sha256 == self._sha256.hexdigest()
            case _:
                pass

    def speak(self) -> None:
        """Send the next frame, if it may."""
        if self.over.is_set() or self._transport is None:
            return
        if self._sent + FRAME_SAMPLES > self._limit:
            self.window.held += 1
            return
        frame = self._frames[self._at % len(self._frames)]
        self._transport.send(WSMsgType.BINARY, frame)
        self._sha256.update(frame)
        self._sent_at.append(time.perf_counter())
        self._at += 1
        self._sent += FRAME_SAMPLES
        self.window.frames += 1

    def stop(self) -> None:
        """End the session with what was sent."""
        if not self.over.is_set() and self._transport is not None:
            self._transport.send(WSMsgType.TEXT, encode(Stop(self._sent)))

    def _note_age(self, end: int) -> None:
        # The newest frame that was sent reaches to ``_sent``.
        back = 1 + max(0, self._sent - end) // FRAME_SAMPLES
        if back <= len(self._sent_at):
            self.window.ages.append((time.perf_counter() - self._sent_at[-back]) * 1000)


class Load:
    """All speakers, and the clock they speak by."""

    def __init__(self, rest: RestClient, frames: list[bytes]) -> None:
        self._rest, self._frames = rest, frames
        self._window = Window()
        self._since = (time.perf_counter(), time.process_time())
        self._speakers: list[Speaker] = []

    async def open(self, sessions: int) -> None:
        """Open them one after the other; those that are open speak already."""
        for number in range(sessions):
            created = await self._rest.create(CreateSession(language="ja-JP"))
            await self._join(created, number)
            await asyncio.sleep(1 / OPEN_PER_SECOND)

    async def speak(self) -> None:
        """A frame of each session every 100 ms, evenly spread, until cancelled."""
        begin = time.perf_counter()
        for turn in count():
            speakers = [*self._speakers]
            for place, speaker in enumerate(speakers):
                due = begin + (turn + place / len(speakers)) * FRAME_SECONDS
                if (wait := due - time.perf_counter()) > 0.001:
                    await asyncio.sleep(wait)
                self._window.late = max(self._window.late, -wait * 1000)
                speaker.speak()
            await asyncio.sleep(max(0.0, begin + (turn + 1) * FRAME_SECONDS - time.perf_counter()))

    async def stop(self) -> None:
        """End every session, and wait until it is complete."""
        for speaker in self._speakers:
            speaker.stop()
        async with asyncio.timeout(STOP_SECONDS):
            for speaker in self._speakers:
                await speaker.over.wait()

    def take(self) -> Window:
        """What came since the last call."""
        taken, now = self._window, (time.perf_counter(), time.process_time())
        taken.seconds, taken.cpu_seconds = now[0] - self._since[0], now[1] - self._since[1]
        taken.exact = sum(speaker.exact for speaker in self._speakers)
        taken.broken = sum(speaker.over.is_set() and not speaker.exact for speaker in self._speakers)
        self._window, self._since = Window(), now
        for speaker in self._speakers:
            speaker.window = self._window
        return taken

    async def _join(self, created: SessionCreated, number: int) -> None:
        offer = f"{PROTOCOL}, ticket.{created.ticket}"
        _, listener = await ws_connect(
            lambda: Speaker(self._frames, number * 37, self._window),
            created.stream_url,
            extra_headers={"Sec-WebSocket-Protocol": offer},
            max_redirects=0,
        )
        speaker = cast("Speaker", listener)
        await speaker.ready.wait()
        self._speakers.append(speaker)


def cut(pcm: bytes) -> list[bytes]:
    """Whole frames of the sample."""
    return [pcm[at : at + FRAME_BYTES] for at in range(0, len(pcm) - FRAME_BYTES + 1, FRAME_BYTES)]


async def run(url: str, sessions: int) -> None:
    """Obey the lines of standard input until ``stop`` or its end."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    token = (await lines.readline()).decode().strip()
    async with RestClient(url, token) as rest, asyncio.TaskGroup() as group:
        load = Load(rest, cut(read_audio(SAMPLE)))
        speaking = group.create_task(load.speak())
        await load.open(sessions)
        print("open", flush=True)
        while (line := await lines.readline()) == b"\n":
            print(msgspec.json.encode(load.take()).decode(), flush=True)
        speaking.cancel()
        if line:
            await load.stop()
            print(msgspec.json.encode(load.take()).decode(), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--sessions", type=int, default=100)
    given = parser.parse_args()
    uvloop.run(run(given.url, given.sessions))


if __name__ == "__main__":
    main()
