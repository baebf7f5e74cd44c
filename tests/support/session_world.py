"""A task's sessions with everything real but Redis, the engine and the passing of time; and speakers without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from app.archive.history import History
from app.archive.reader import load_history
from app.archive.store import Store
from app.auth.tickets import Ticket, Tickets
from app.protocol.messages import Ack, Ready
from app.protocol.rest import SessionItem, SessionPage
from app.sessions.deps import SessionDeps, SessionLimits
from app.sessions.herald import Herald
from app.sessions.index import IndexUnavailable, Reservation, SessionQuery
from app.sessions.link import Closing, Link
from app.sessions.manager import SessionManager
from app.sessions.session import Session
from app.telemetry.metrics import Metrics
from audio.engine import Engine
from audio.engines.null import NullEngine
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import CREATED_UNIX, REF, Scribe, WatchedStore, disk
from tests.support.memory_log import MemoryLog

_boots = count(1)


@dataclass
class Rows:
    """A list of sessions that can be away. What its pages are like is not asked of it here."""

    away: bool = False
    complete: str | None = None
    rows: dict[str, SessionItem] = field(default_factory=dict)
    states: list[tuple[str, str]] = field(default_factory=list)
    reserved: dict[tuple[str, str], Reservation] = field(default_factory=dict)

    async def put(self, item: SessionItem, *, replace: bool = True) -> None:
        await self._begin()
        if not replace and item.session_id in self.rows:
            return
        self.rows[item.session_id] = item
        self.states.append((item.session_id, item.state))

    async def page(self, clinic_id: ClinicId, query: SessionQuery) -> SessionPage:
        await self._begin()
        mine = [row for row in self.rows.values() if row.clinic_id == clinic_id]
        return SessionPage([row for row in mine if query.state in (None, row.state)], None)

    async def completed_by(self) -> str | None:
        await self._begin()
        return self.complete

    async def mark_complete(self, name: str) -> None:
        await self._begin()
        self.complete = name

    async def reserve(
        self, clinic_id: ClinicId, key: str, reservation: Reservation | None
    ) -> Reservation | None:
        await self._begin()
        known = self.reserved.get((clinic_id, key))
        if reservation is None:
            self.reserved.pop((clinic_id, key), None)
        elif known is None or reservation.session_id is not None:
            self.reserved[clinic_id, key] = reservation
        return known

    async def _begin(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise IndexUnavailable("away")


@dataclass
class World:
    """One task. Several may share ``store``, ``log`` and ``rows``.

    Attributes:
        stood_still: seconds by which the task's clocks went on while nothing of it ran; to be added to.
        seed: of its jitter; 0 is another one for each.
    """

    inner: Store
    engine: Engine = field(default_factory=NullEngine)
    limits: SessionLimits = field(default_factory=SessionLimits)
    task: str = "task-a"
    log: MemoryLog = field(default_factory=MemoryLog)
    rows: Rows = field(default_factory=Rows)
    stood_still: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        loop, boot = asyncio.get_running_loop(), next(_boots)
        self.store = WatchedStore(self.inner)
        self.deps = SessionDeps(
            task=self.task,
            boot=f"{boot:x}",
            store=self.store,
            log=self.log,
            publisher=self.log,
            board=self.log,
            index=self.rows,
            engine=self.engine,
            metrics=Metrics(),
            limits=self.limits,
            clock=lambda: loop.time() + self.stood_still,
            wall=lambda: CREATED_UNIX + loop.time() + self.stood_still,
            rng=Random(self.seed or boot),  # noqa: S311 - jitter
        )
        self.herald = Herald(self.rows, self.log)
        self.tickets = Tickets(bytes(32), self.deps.wall)
        self.manager = SessionManager(self.deps, self.tickets, self.herald)

    @asynccontextmanager
    async def running(self, *beside: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[World]:
        async with self.manager.running(*beside):
            yield self

    def ticket(self, serial: int = 10, ref: SessionRef = REF) -> Ticket:
        issued = self.tickets.issue(
            clinic_id=ref.clinic_id, session_id=ref.session_id, subject="dr.a", role="speaker", serial=serial
        )
        return self.tickets.verify(issued.token)

    async def speaker(self, ticket: Ticket | int | None = None, after: int = 0) -> Speaker:
        """Enter as a speaker."""
        if not isinstance(ticket, Ticket):
            ticket = self.ticket(ticket or 10)
        woken = asyncio.Event()
        place = await self.manager.attach(ticket, after, woken.set)
        return Speaker(self, place.link, place.ready, place.session, woken)

    async def history(self, ref: SessionRef = REF) -> History:
        history = await load_history(self.inner, ref)
        assert history is not None
        return history


@dataclass
class Speaker:
    """A connection as the endpoint makes one: what it is sent is taken as soon as there is something."""

    world: World
    link: Link
    ready: Ready
    session: Session | None
    woken: asyncio.Event
    got: list[dict[str, Any]] = field(default_factory=list)
    closed: int | None = None

    @property
    def resume_ticket(self) -> Ticket:
        return self.world.tickets.verify(self.ready.resume_ticket)

    def send(self, pcm: bytes) -> None:
        """A binary frame; what breaks a rule closes the connection."""
        if self.session is not None and not self.link.closing:
            try:
                self.session.speaker.audio(self.link, pcm, self.world.deps.clock())
            except Closing as closing:
                self.link.close(closing)

    async def say(self, pcm: bytes, frame: int = 3200) -> None:
        """In real time."""
        for at in range(0, len(pcm), frame):
            self.send(pcm[at : at + frame])
            await asyncio.sleep(frame / 32_000)
            self.read()

    def text(self, **message: object) -> None:
        """A text frame."""
        if self.session is not None and not self.link.closing:
            try:
                self.session.speaker.text(
                    self.link, msgspec.json.encode(message).decode(), self.world.deps.clock()
                )
            except Closing as closing:
                self.link.close(closing)

    def read(self) -> list[dict[str, Any]]:
        """What has been sent since the last time."""
        if self.closed is not None:
            return []
        now, nothing = self.world.deps.clock(), Ack(0, 0, 0)
        texts = (
            self.link.take([], nothing, now)
            if self.session is None
            else self.session.speaker.take(self.link, now)
        )
        new = [msgspec.json.decode(text) for text in texts]
        self.got += new
        if self.link.closing and not self.link.waiting:
            self.closed = int(self.link.close_code or 1000)
            if self.session is not None:
                self.session.detach(self.link)
        return new

    async def until(self, kind: str, seconds: float = 100.0) -> dict[str, Any]:
        """Read on until a message of this type came; it may be there already."""
        async with asyncio.timeout(seconds):
            while True:
                self.read()
                for message in self.got:
                    if message["type"] == kind:
                        return message
                await self.woken.wait()
                self.woken.clear()

    async def until_closed(self, seconds: float = 100.0) -> int:
        """Read on until the server closes; the code."""
        async with asyncio.timeout(seconds):
            while self.closed is None:
                self.read()
                if self.closed is None:
                    await self.woken.wait()
                    self.woken.clear()
        return self.closed

    def drop(self) -> None:
        """The connection is gone."""
        if self.session is not None and self.closed is None:
            self.session.detach(self.link)
        self.closed = self.closed or 1006

    def types(self) -> list[str]:
        return [str(message["type"]) for message in self.got]

    def seqs(self) -> list[int]:
        return [message["seq"] for message in self.got if message["type"] == "final"]


@asynccontextmanager
async def one_task(root: Path, *, recording: str = "audio+transcript", **fields: Any) -> AsyncIterator[World]:
    """A running task with one session that waits for its speaker."""
    async with disk(root) as inner:
        await Scribe(inner).session(recording)  # type: ignore[arg-type]  # a test's own word
        world = World(inner, **fields)
        async with world.running():
            yield world
