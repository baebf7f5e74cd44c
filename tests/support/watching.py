"""Observers of a real server that read all the time, and what must hold of what they were told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from websockets.exceptions import ConnectionClosed

from app.client.speech import REWOUND
from app.protocol.messages import FinalMessage
from tests.support.raw_socket import Message, RawSocket, upgraded
from tests.support.speaking import Person

WAIT_SECONDS = 60.0
BEGINNING = "0-0"

Final = tuple[int, str, int, int, str]
"""``seq``, id, start, end, text."""


class Watching:
    """One observer's connection.

    Attributes:
        finals: by session, in the order in which they came, also those that came twice.
        standing: those of them that hold: what was withdrawn is taken out.
        lives: by session, the events of its life.
        notices: the codes of those about the events themselves, in order.
        rewinds: how often finals were withdrawn.
    """

    def __init__(self, socket: RawSocket) -> None:
        self.finals: dict[str, list[Final]] = defaultdict(list)
        self.standing: dict[str, list[Final]] = defaultdict(list)
        self.lives: dict[str, list[str]] = defaultdict(list)
        self.notices: list[str] = []
        self.rewinds = 0
        self.partials: Counter[str] = Counter()
        self._socket = socket.socket
        self._told = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        """Read to the end of the connection."""
        try:
            async for text in self._socket:
                self._hear(json.loads(text))
                self._told.set()
        except ConnectionClosed:
            pass
        self._over = True
        self._told.set()

    async def until(self, reached: Callable[[Watching], bool], seconds: float = WAIT_SECONDS) -> None:
        """Return when ``reached``, which is asked after each message."""
        try:
            async with asyncio.timeout(seconds):
                while not reached(self):
                    assert not self._over, f"closed with {self._socket.close_code}: {self.state()}"
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            raise AssertionError(f"not reached: {self.state()}") from None

    async def until_told(self, session_id: str, finals: Sequence[FinalMessage]) -> None:
        """Return when it has so many finals of the session; they must be ``finals``, each once and in order."""
        await self.until(lambda watching: len(watching.finals[session_id]) >= len(finals))
        assert self.finals[session_id] == as_told(finals), self.state()

    async def until_noticed(self, code: str, times: int = 1) -> None:
        """Return when a notice has come so often."""
        await self.until(lambda watching: watching.notices.count(code) >= times)

    def state(self) -> str:
        """What it has, for a failure's text; nothing that was said."""
        seqs = {session: [final[0] for final in finals] for session, finals in self.finals.items()}
        return f"finals {seqs}, {dict(self.lives)}, {self.rewinds} rewinds, notices {self.notices}"

    def _hear(self, message: Message) -> None:
        match message:
            case {"type": "final", "sessionId": session_id}:
                final = (message["seq"], message["id"], message["start"], message["end"], message["text"])
                self.finals[session_id].append(final)
                self.standing[session_id].append(final)
            case {"type": "partial", "sessionId": session_id}:
                self.partials[session_id] += 1
            case {"type": "notice", "sessionId": session_id, "code": code}:
                if code == REWOUND:
                    self.rewinds += 1
                    del self.standing[session_id][message["seq"] :]
            case {"type": "notice", "code": code}:
                self.notices.append(code)
            case {"type": kind, "sessionId": session_id}:
                self.lives[session_id].append(kind)
            case _:
                pass


def as_told(finals: Sequence[FinalMessage]) -> list[Final]:
    """A speaker's finals as observers have them."""
    return [(final.seq, final.id, final.start, final.end, final.text) for final in finals]


@asynccontextmanager
async def watching(person: Person, after: str | None = None) -> AsyncIterator[Watching]:
    """Somebody who watches the whole clinic, from now on or after a cursor, once the server has said ``subscribed``."""
    answer = await person.http.post("/v1/clinic/tickets")
    assert answer.status_code == 201, answer.text
    url = f"ws{person.server.url.removeprefix('http')}/v1/events"
    query = "" if after is None else f"?after={after}"
    async with upgraded(url + query, answer.json()["ticket"]) as socket:
        await socket.until("subscribed")
        watcher = Watching(socket)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(watcher.run())
            yield watcher
            reading.cancel()
