"""What a process asks of Redis in one turn of its loop, in one pipeline.

While a pipeline is under way, what is asked meanwhile makes up the next one; so the slower Redis answers, the more goes in
one, and a Redis that hangs is sent nothing. In a cluster each node has a pipeline of its own, and none waits for another.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError, NoScriptError, ResponseError

from app.adapters.redis_client import FAILURES, RedisScript, Word
from app.adapters.redis_servers import Servers

BATCH_SECONDS: Final = 1.0
"""A pipeline that is not answered by then is given up, and its connection closed."""

BATCH_LENGTH: Final = 1_000
MAX_WAITING: Final = 10_000
"""Calls that wait to be sent. More are refused; posts are dropped."""

MAX_MOVES: Final = 5
REFRESH_SECONDS: Final = 0.5
"""Between two questions which node has what."""


@dataclass(frozen=True, slots=True)
class Command:
    """``words`` for the server that has ``key``; with ``script`` they are the number of its keys, the keys, the arguments."""

    key: str
    words: Sequence[Word]
    script: RedisScript | None = None

    def line(self, known: set[RedisScript]) -> Sequence[Word]:
        """What is sent to a server that has been given the scripts in ``known``, to which this one's is added."""
        if self.script is None:
            return self.words
        if self.script in known:
            return ("EVALSHA", self.script.sha, *self.words)
        known.add(self.script)
        return ("EVAL", self.script.text, *self.words)


def script_call(script: RedisScript, keys: Sequence[str], args: Sequence[Word]) -> Command:
    """A script's run; ``keys`` are not empty and of one slot."""
    return Command(keys[0], (len(keys), *keys, *args), script)


@dataclass(eq=False, slots=True)
class _Entry:
    """Something to be sent. ``make`` is asked when its turn has come; ``answer`` is done when nobody waits for it any more."""

    key: str
    make: Callable[[], Command]
    answer: asyncio.Future[Any]
    moves: int = 0


class RedisBatch:
    """One per process, or per purpose. ``run`` is owned by whoever else runs beside the sessions.

    Calls are carried out in the order in which they were made, as far as they go to the same server; but where a server
    was made to forget a script, its calls come after those of their pipeline. Whatever fails was not repeated, and may have been carried out.

    Args:
        error: what is raised, given the kind of a failure: never its text.
        seconds: see BATCH_SECONDS.
    """

    def __init__(
        self,
        servers: Servers,
        error: Callable[[str], Exception],
        *,
        seconds: float = BATCH_SECONDS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._servers, self._error = servers, error
        self._seconds, self._max_waiting = seconds, max_waiting
        self._waiting: dict[Hashable, _Entry] = {}
        self._busy: set[str] = set()
        self._scripts: defaultdict[str, set[RedisScript]] = defaultdict(set)
        self._wake = asyncio.Event()
        self._lost = asyncio.Event()
        self._failed: str | None = None
        self._closed = False

    @property
    def publish(self) -> str:
        """The command that publishes where subscribers listen."""
        return self._servers.publish

    @property
    def waiting(self) -> int:
        """How many commands wait to be sent."""
        return len(self._waiting)

    async def call(self, command: Command, seconds: float) -> Any:
        """Send a command and return its answer. Cancellation harms no other call; what was sent is carried out.

        Raises:
            error: no answer within ``seconds``, a failure, or too many wait.
        """
        (answer,) = await self.calls([command], seconds)
        return answer

    async def calls(self, commands: Sequence[Command], seconds: float) -> list[Any]:
        """Send commands and return their answers, in order; as ``call``, of whose failures the first is raised."""
        if self._closed or len(self._waiting) + len(commands) > self._max_waiting:
            raise self._error("Closed" if self._closed else "Full")
        entries = [self._enter(command) for command in commands]
        try:
            async with asyncio.timeout(seconds):
                return [await entry.answer for entry in entries]
        except TimeoutError as late:
            raise self._error("TimeoutError") from late
        finally:
            for entry in entries:
                self._waiting.pop(entry, None)
                _drop(entry.answer)

    def post(
        self,
        name: Hashable,
        key: str,
        make: Callable[[], Command],
        answered: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """Send what ``make`` makes when its turn has come, in place of what was posted under ``name`` and still waits.

        Never waits and never fails; ``answered`` is called when and if it was answered.
        """
        replaced = self._waiting.pop(name, None)
        if self._closed or (replaced is None and len(self._waiting) >= self._max_waiting):
            return
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: None if _failed(done) else answered(done.result()))
        self._waiting[name] = _Entry(key, make, answer)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled; then nothing is sent any more, and every call fails."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_map())
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    for server in self._wanted() - self._busy:
                        self._busy.add(server)
                        group.create_task(self._serve(server))
        finally:
            self._closed = True
            for entry in self._waiting.values():
                self._fail(entry, "Closed")

    def _enter(self, command: Command) -> _Entry:
        entry = _Entry(command.key, lambda: command, asyncio.get_running_loop().create_future())
        self._waiting[entry] = entry
        self._wake.set()
        return entry

    def _wanted(self) -> set[str]:
        servers = {self._servers.of(entry.key) for entry in self._waiting.values()}
        if None in servers:
            self._lost.set()
        return {server for server in servers if server is not None}

    async def _keep_map(self) -> None:
        """Learn anew which server has what whenever that turned out to be unknown or wrong."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            with suppress(*FAILURES):
                async with asyncio.timeout(self._seconds):
                    await self._servers.refresh(self._failed)
            await asyncio.sleep(REFRESH_SECONDS)
            self._wake.set()

    async def _serve(self, server: str) -> None:
        try:
            while entries := self._take(server):
                await self._send(server, entries)
        finally:
            self._busy.discard(server)

    def _take(self, server: str) -> list[_Entry]:
        names = [name for name, entry in self._waiting.items() if self._servers.of(entry.key) == server]
        return [self._waiting.pop(name) for name in names[:BATCH_LENGTH]]

    async def _send(self, server: str, entries: list[_Entry]) -> None:
        try:
            async with asyncio.timeout(self._seconds), self._servers.connection(server) as connection:
                forgotten = await self._ask(connection, entries, self._scripts[server])
                if forgotten:
                    await self._ask(connection, forgotten, set())
        except FAILURES as failure:
            for entry in entries:
                self._fail(entry, type(failure).__name__)
            self._scripts.pop(server, None)
            self._failed = server
            self._lost.set()
        except asyncio.CancelledError:
            for entry in entries:
                self._fail(entry, "Closed")
            raise

    async def _ask(
        self, connection: AbstractConnection, entries: list[_Entry], known: set[RedisScript]
    ) -> list[_Entry]:
        """Send all and take the answers; gives those whose scripts the server does not know. Raises the last refusal."""
        lines = [entry.make().line(known) for entry in entries]
        await connection.send_packed_command(connection.pack_commands(lines))
        forgotten: list[_Entry] = []
        refused: ResponseError | None = None
        for entry in entries:
            try:
                answer = await connection.read_response()
            except NoScriptError:
                forgotten.append(entry)
            except MovedError as where:
                await self._move(entry, where)
            except ResponseError as refusal:
                refused = refusal
                self._fail(entry, type(refusal).__name__)
            else:
                _answer(entry, answer)
        if refused is not None:
            # Perhaps this is a replica by now, or has lost its cluster: the next pipeline looks anew.
            raise refused
        return forgotten

    async def _move(self, entry: _Entry, where: MovedError) -> None:
        await self._servers.moved(where)
        entry.moves += 1
        if entry.moves > MAX_MOVES:
            self._fail(entry, type(where).__name__)
        elif not entry.answer.done():
            self._waiting[entry] = entry
            self._wake.set()

    def _fail(self, entry: _Entry, kind: str) -> None:
        if not entry.answer.done():
            entry.answer.set_exception(self._error(kind))


def _answer(entry: _Entry, answer: Any) -> None:
    if not entry.answer.done():
        entry.answer.set_result(answer)


def _failed(answer: asyncio.Future[Any]) -> bool:
    return answer.cancelled() or answer.exception() is not None


def _drop(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, and nobody need hear how it failed."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()
