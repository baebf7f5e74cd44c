"""Sessions on the emulator of Amazon Transcribe, what is made to go wrong with them, and what must hold of them all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.client.session import StreamOptions
from app.protocol.messages import FinalMessage, Notice
from audio.pcm import SAMPLE_RATE
from loadtest.emulator.problems import TIMED_OUT, TOO_BIG, UNDECODABLE, UNEXPECTED_FRAME, Kind
from tests.support.aws_emulator import KEYS, Emulator, started
from tests.support.processes import connections_to, open_files
from tests.support.server import ServerProcess
from tests.support.speaking import Person, Speaking, running, sha256

TOLERANCE = SAMPLE_RATE // 10
SETTLE_SECONDS = 15.0
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Trouble:
    """One thing that goes wrong once.

    Attributes:
        name: for a failure's text.
        fault: as the emulator's control interface wants it.
        at_start: it strikes the stream that replaces one that was dropped.
    """

    name: str
    fault: dict[str, Any] = field(hash=False)
    at_start: bool = False


def _exception(kind: Kind, message: str | None = None, name: str = "") -> Trouble:
    fault: dict[str, Any] = {"kind": "exception", "exception": kind.value}
    return Trouble(name or kind.value, fault | ({"message": message} if message else {}))


WITHIN: tuple[Trouble, ...] = (
    Trouble("drop", {"kind": "drop"}),
    Trouble("tcp-rst", {"kind": "tcp-rst"}),
    Trouble("rst-stream", {"kind": "rst-stream"}),
    Trouble("goaway", {"kind": "goaway"}),
    Trouble("clean close", {"kind": "close"}),
    Trouble("silence", {"kind": "silence"}),
    Trouble("stall of 3 s", {"kind": "stall", "seconds": 3.0}),
    Trouble("slow", {"kind": "slow", "factor": 20.0, "bytes_per_second": 64_000}),
)
"""What befalls a stream that runs."""

EXCEPTIONS: tuple[Trouble, ...] = (
    *(_exception(kind) for kind in Kind),
    _exception(Kind.BAD_REQUEST, TIMED_OUT, "timed out"),
    _exception(Kind.BAD_REQUEST, TOO_BIG, "too big"),
    _exception(Kind.BAD_REQUEST, UNDECODABLE, "undecodable"),
    _exception(Kind.BAD_REQUEST, UNEXPECTED_FRAME, "unexpected frame"),
)
"""What the service may say in a stream that runs."""

AT_START: tuple[Trouble, ...] = (
    Trouble("drop before the headers", {"kind": "drop-before-headers"}, at_start=True),
    Trouble("hang", {"kind": "hang"}, at_start=True),
    Trouble("throttle", {"kind": "throttle"}, at_start=True),
    Trouble("refuse", {"kind": "refuse", "exception": Kind.SERVICE_UNAVAILABLE.value}, at_start=True),
)
"""What befalls a stream that is about to be opened."""

ALL = (*WITHIN, *EXCEPTIONS, *AT_START)


@dataclass(frozen=True)
class Blow:
    """What goes wrong with a session that begins after ``begin`` seconds, ``moment`` seconds later."""

    trouble: Trouble
    moment: float
    begin: float = 0.0

    def __str__(self) -> str:
        return f"{self.trouble.name} at {self.moment:.1f} s"


class Stage:
    """A server, its emulator, and somebody who speaks."""

    def __init__(self, emulator: Emulator, server: ServerProcess, person: Person) -> None:
        self.emulator, self.server, self.person = emulator, server, person
        self._arming = asyncio.Lock()
        self._files = open_files(server.process.pid)

    async def session(self, pcm: bytes, seed: int = 1) -> Speaking:
        """A new session whose speaker takes as long as the sound."""
        created = await self.person.create()
        return self.person.speaking(created, pcm, StreamOptions(realtime=True), seed)

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """A control call."""
        return await asyncio.to_thread(self.emulator.call, method, path, body)

    async def streams(self, session_id: str) -> list[dict[str, Any]]:
        """The streams of a session, oldest first."""
        # The last twelve digits are each stream's own.
        return [
            entry
            for entry in await self.call("GET", "/sessions")
            if entry["session_id"][:24] == session_id[:24]
        ]

    async def strike(self, speaking: Speaking, trouble: Trouble) -> None:
        """Have it go wrong now, or as soon as the session has a stream; without effect once it has ended."""
        async with self._arming:
            if trouble.at_start:
                await self.call("POST", "/faults", trouble.fault)
                await self._strike_open(speaking, {"kind": "drop"})
                while speaking.completed is None and await self.call("GET", "/faults"):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(POLL_SECONDS)
                await self.call("DELETE", "/faults")
            else:
                await self._strike_open(speaking, trouble.fault)

    async def _strike_open(self, speaking: Speaking, fault: dict[str, Any]) -> None:
        while speaking.completed is None:
            open_ones = [entry for entry in await self.streams(speaking.session_id) if entry["open"]]
            for entry in open_ones:
                if (await self.call("POST", "/faults/now", fault | {"session_id": entry["session_id"]}))[
                    "struck"
                ]:
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def left(self) -> dict[str, int]:
        """What remains of sessions that have ended; returns as soon as nothing does, or when it has waited for long enough."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_SECONDS
        while True:
            pid = self.server.process.pid
            counters = await self.call("GET", "/counters")
            found = {
                "open streams": counters["open_streams"],
                "open connections": counters["open_connections"],
                "connections": connections_to(pid, self.emulator.port),
                "descriptors": max(0, open_files(pid) - self._files),
            }
            if not any(found.values()) or loop.time() > until:
                return {name: count for name, count in found.items() if count}
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def stage(folder: Path, *options: str, **settings: str) -> AsyncIterator[Stage]:
    """An emulator with these options, and a server with these settings that uses it. One session was spoken already."""
    with started(folder, *options) as emulator:
        environment = {
            "SSL_CERT_FILE": str(emulator.authority),
            "AWS_ACCESS_KEY_ID": KEYS.access_key,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret_key,
        }
        settings = {"engine": "aws", "transcribe_endpoint": emulator.endpoint, **settings}
        async with ServerProcess(folder / "data", environment=environment, **settings) as server:
            # What a first session leaves open (pools, files that are read once) is not counted.
            async with await Person.of(server) as person:
                warm = person.speaking(await person.create(), bytes(32_000), StreamOptions())
                await warm.run()
                await person.audio(warm.session_id)
            async with await Person.of(server) as person:
                await person.listed()
                yield Stage(emulator, server, person)


async def disturbed(stage: Stage, pcm: bytes, plan: Sequence[Blow]) -> list[str]:
    """Speak the same in a session for each blow, and in one that is left alone; what was not as in that one.

    Sessions begin ``Blow.begin`` seconds from now.
    """
    alone = await stage.session(pcm)
    struck = [await stage.session(pcm, seed) for seed, _ in enumerate(plan)]
    async with asyncio.TaskGroup() as group:
        group.create_task(alone.run())
        for speaking, blow in zip(struck, plan, strict=True):
            group.create_task(_suffer(stage, speaking, blow))
    assert len(alone.finals) > 5
    wrong = []
    for name, speaking in [("left alone", alone), *zip(map(str, plan), struck, strict=True)]:
        fault = await fault_of(stage, speaking, pcm, alone.finals)
        told = notices(speaking)
        streams = len(await stage.streams(speaking.session_id))
        print(f"{name}: {fault or 'as undisturbed'}; {streams} streams, {told}")
        if fault or set(told) - {"engine_restarted", "engine_waiting"}:
            wrong.append(f"{name}: {fault} {told}")
    return wrong


async def _suffer(stage: Stage, speaking: Speaking, blow: Blow) -> None:
    await asyncio.sleep(blow.begin)
    async with running(speaking):
        await asyncio.sleep(blow.moment)
        await stage.strike(speaking, blow.trouble)


def notices(speaking: Speaking) -> list[str]:
    """Their codes, in order."""
    return [event.code for event in speaking.events if isinstance(event, Notice)]


def difference(finals: Sequence[FinalMessage], undisturbed: Sequence[FinalMessage]) -> str:
    """How they differ in text, order or time; empty when they do not. Says nothing that was said."""
    if len(finals) != len(undisturbed):
        return f"{len(finals)} finals instead of {len(undisturbed)}"
    for final, right in zip(finals, undisturbed, strict=True):
        if final.text != right.text:
            return f"other text in final {right.seq}, from {right.start / SAMPLE_RATE:.1f} s"
        off = max(abs(final.start - right.start), abs(final.end - right.end))
        if off > TOLERANCE:
            return f"final {right.seq} is off by {off / SAMPLE_RATE:.2f} s"
    return ""


async def fault_of(stage: Stage, speaking: Speaking, pcm: bytes, right: Sequence[FinalMessage]) -> str:
    """What is wrong with a session that ended; empty when it is as if nothing had happened."""
    done = speaking.completed
    whole = [(0, len(pcm) // 2)]
    if (
        done is None
        or done.audio_sha256 != sha256(pcm)
        or await stage.person.audio(speaking.session_id) != pcm
    ):
        return "the archive is not what was said"
    if done.coverage["archived"] != whole or done.coverage["live"] != whole:
        return f"covered live: {done.coverage['live']}"
    return difference(speaking.finals, right)
