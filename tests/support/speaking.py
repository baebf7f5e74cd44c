"""Speakers of a real server, what they were told, and what must hold of their sessions in the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Self, TypeVar

import httpx
import msgspec

from app.client.outbox import chunks
from app.client.rest import RestClient
from app.client.session import SpeakerClient, StreamOptions
from app.client.speech import REWOUND
from app.protocol.messages import (
    Ack,
    Completed,
    FinalMessage,
    Notice,
    PartialMessage,
    ServerMessage,
)
from app.protocol.rest import (
    CreateSession,
    FinalView,
    SessionCreated,
    SessionPage,
    SessionView,
    TranscriptView,
)
from tests.support.flac import decode_flac
from tests.support.server import ServerProcess

SECOND = 32_000
"""Bytes of PCM in a second."""

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02

_A = TypeVar("_A", bound=msgspec.Struct)


class Person:
    """Somebody of a clinic, with a token. It stays good when the server is started again: the port does too."""

    def __init__(self, server: ServerProcess, clinic: str, token: str) -> None:
        self.server, self.clinic = server, clinic
        self.rest = RestClient(server.url, token)
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30.0, trust_env=False)

    @classmethod
    async def of(cls, server: ServerProcess, clinic: str = "demo") -> Self:
        """Who has a fresh token of the server's own issuer."""
        return cls(server, clinic, await server.token(clinic))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.rest.__aexit__(None, None, None)
        await self.http.aclose()

    async def create(self, title: str | None = None) -> SessionCreated:
        """A new session in English."""
        return await self.rest.create(CreateSession(language="en-US", title=title))

    async def again(self, created: SessionCreated) -> SessionCreated:
        """The same session with a new ticket to speak in it."""
        issued = await self.rest.speaker_ticket(created.session_id)
        return msgspec.structs.replace(
            created, ticket=issued.ticket, ticket_expires_at=issued.ticket_expires_at
        )

    async def get(self, path: str, answer: type[_A]) -> _A:
        """A GET that must succeed."""
        response = await self.http.get(path)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text}"
        return msgspec.json.decode(response.content, type=answer)

    async def view(self, session_id: str) -> SessionView:
        """``GET /v1/sessions/{id}``."""
        return await self.get(f"/v1/sessions/{session_id}", SessionView)

    async def transcript(self, session_id: str) -> TranscriptView:
        """``GET /v1/sessions/{id}/transcript``."""
        return await self.get(f"/v1/sessions/{session_id}/transcript", TranscriptView)

    async def listed(self) -> dict[str, str]:
        """All sessions of the clinic with their states, by id."""
        page = await self.get("/v1/sessions?limit=200", SessionPage)
        return {item.session_id: item.state for item in page.items}

    async def audio(self, session_id: str) -> bytes:
        """The PCM of a finished session: its FLAC, decoded by another program."""
        response = await self.http.get(f"/v1/sessions/{session_id}/audio?format=flac")
        assert response.status_code == 200, response.text
        return await asyncio.to_thread(decode_flac, response.content)

    async def reaches(self, session_id: str, state: str, seconds: float = WAIT_SECONDS) -> SessionView:
        """The view once the session is in ``state``."""
        async with asyncio.timeout(seconds):
            while True:
                view = await self.view(session_id)
                if view.state == state:
                    return view
                await asyncio.sleep(POLL_SECONDS)

    async def verify(self, session_id: str) -> tuple[int, str]:
        """Status and report of the ``verify`` command."""
        status, out, err = await self.server.command("verify", f"{self.clinic}/{session_id}")
        return status, out + err

    def folder(self, session_id: str) -> Path:
        """Where the session lies on the disk."""
        root = self.server.settings.get("KIKITORI_ARCHIVE_URL", f"file:{self.server.data_dir}/archive")
        return Path(root.removeprefix("file:")) / self.clinic / session_id

    def speaking(
        self, created: SessionCreated, pcm: bytes, options: StreamOptions, seed: int = 1
    ) -> Speaking:
        """A speaker of ``pcm``."""
        return Speaking(self.rest, created, chunks(pcm, 50_000), options, seed=seed)


class Speaking:
    """A client, and everything that it was told. ``finals`` are those that hold: what was withdrawn is taken out."""

    def __init__(
        self,
        rest: RestClient,
        created: SessionCreated,
        source: Iterable[bytes],
        options: StreamOptions,
        *,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session_id = created.session_id
        self.events: list[ServerMessage] = []
        self.finals: list[FinalMessage] = []
        self.partial_ids: set[str] = set()
        self.rewinds = 0
        self.acked = Ack(0, 0, 0)
        self.completed: Completed | None = None
        self._told = asyncio.Event()
        self.client = SpeakerClient(
            rest,
            created,
            source,
            options,
            self._hear,
            clock=clock,
            random=Random(seed),  # noqa: S311
        )

    async def run(self) -> Completed:
        """Speak to the end."""
        self.completed = await self.client.run()
        self._told.set()
        return self.completed

    async def until(self, reached: Callable[[Speaking], bool], seconds: float = WAIT_SECONDS) -> None:
        """Return when ``reached``, which is asked after each message."""
        try:
            async with asyncio.timeout(seconds):
                while not reached(self):
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            raise AssertionError(f"not reached: {self.state()}") from None

    async def client_refused(self, seconds: float = WAIT_SECONDS) -> None:
        """Return when the server has refused a connection of it."""
        async with asyncio.timeout(seconds):
            while not self.client.sent.refusals:  # noqa: ASYNC110 - a refusal is no message that would be told
                await asyncio.sleep(POLL_SECONDS)

    def state(self) -> str:
        """Where it is, for a failure's text; nothing that was said."""
        sent, notices = self.client.sent, [e.code for e in self.events if isinstance(e, Notice)]
        return (
            f"{self.session_id}: {self.acked}, {len(self.finals)} finals, {self.rewinds} rewinds, "
            f"{sent.connections} connections, closes {list(sent.close_codes)}, refusals {list(sent.refusals)}, "
            f"notices {notices}"
        )

    def _hear(self, message: ServerMessage) -> None:
        match message:
            case Ack():
                self.acked = message
            case PartialMessage():
                self.partial_ids.add(message.id)
            case FinalMessage():
                self.finals.append(message)
            case Notice(code=code, seq=int(seq)) if code == REWOUND:
                self.rewinds += 1
                del self.finals[seq:]
            case _:
                pass
        self.events.append(message)
        self._told.set()


@asynccontextmanager
async def running(*speakings: Speaking) -> AsyncIterator[list[asyncio.Task[Completed]]]:
    """Let them speak beside what is done inside; those that are not through on leaving are waited for."""
    async with asyncio.TaskGroup() as group:
        yield [group.create_task(speaking.run()) for speaking in speakings]


@asynccontextmanager
async def cut_off(speaking: Speaking) -> AsyncIterator[None]:
    """Let it speak beside what is done inside; on leaving it is gone, as with a browser that was closed."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(speaking.run())
        try:
            yield
        finally:
            task.cancel()


def sha256(pcm: bytes) -> str:
    """In hex."""
    return hashlib.sha256(pcm).hexdigest()


def names(folder: Path) -> list[str]:
    """Files below ``folder``, sorted. Folders may go away meanwhile."""
    return sorted(
        str(Path(above, name).relative_to(folder)) for above, _, files in os.walk(folder) for name in files
    )


async def assert_tidy(person: Person, session_id: str, seconds: float = 10.0) -> None:
    """One audio, one transcript, one manifest; no segment, no half-written file stays.

    What somebody who was killed left behind is swept away behind the scenes, so there are ``seconds`` for it.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not is_tidy(left := left_over(person, session_id)):
        assert loop.time() < until, left
        await asyncio.sleep(POLL_SECONDS)


def left_over(person: Person, session_id: str) -> list[str]:
    """What lies in the folder of a finished session besides its epochs, and what anybody is writing."""
    folder = person.folder(session_id)
    staging = folder.parents[1] / ".staging"
    return [name for name in names(folder) if not name.startswith("epochs/")] + names(staging)


def is_tidy(left: Sequence[str]) -> bool:
    """Whether these are one of each kind, with or without audio."""
    kinds = [name.partition("-")[0] for name in left]
    needed = {".key", "manifest.json", "session.json", "transcript"}
    return needed <= set(kinds) <= needed | {"audio"} and len(kinds) == len(set(kinds))


def assert_finals_hold(finals: Sequence[FinalMessage], stored: Sequence[FinalView]) -> None:
    """What the speaker was told is what is stored: numbered 1 to n, ids unique, in order and without overlap."""
    assert [final.seq for final in finals] == list(range(1, len(finals) + 1))
    assert [(f.seq, f.id, f.start, f.end, f.text) for f in finals] == [
        (f.seq, f.id, f.start, f.end, f.text) for f in stored
    ]
    assert len({final.id for final in finals}) == len(finals)
    ends = [0, *(final.end for final in finals)]
    assert all(end <= f.start <= f.end for f, end in zip(finals, ends, strict=False))


async def assert_whole(person: Person, speaking: Speaking, pcm: bytes) -> TranscriptView:
    """``assert_complete``, and the folder on the disk is tidy."""
    transcript = await assert_complete(person, speaking, pcm)
    await assert_tidy(person, speaking.session_id)
    return transcript


async def assert_complete(person: Person, speaking: Speaking, pcm: bytes) -> TranscriptView:
    """The session ended with exactly ``pcm`` and exactly the finals that its speaker was told; verify finds no fault."""
    completed = speaking.completed
    assert completed is not None, speaking.state()
    whole = [(0, len(pcm) // 2)] if pcm else []
    assert completed.samples == len(pcm) // 2, speaking.state()
    assert completed.audio_sha256 == sha256(pcm)
    assert completed.coverage["archived"] == whole
    assert completed.coverage["missing"] == []
    if pcm:
        assert await person.audio(speaking.session_id) == pcm
    transcript = await person.transcript(speaking.session_id)
    assert (transcript.state, transcript.samples) == ("completed", len(pcm) // 2)
    assert completed.finals == len(transcript.finals)
    assert_finals_hold(speaking.finals, transcript.finals)
    status, report = await person.verify(speaking.session_id)
    assert status == 0, report
    return transcript
